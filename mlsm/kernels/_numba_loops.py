"""What the numba kernel compiles: one pass over host memory for the row losses, their pullback and the curvature.

Everything that is compiled stands in this one file, because Numba's cache on disk notices a change only in the file
that holds the function it loads. Knows arrays of two axes, contiguous and native; validates nothing, starts no thread.

exp and log1p are our own, without a branch, so that the compiler can take several elements at a time. Nothing may be
reassociated: every sum is taken in the order in which it is written, so that the row losses have the same bits
whether the slope is wanted beside them or not. `_fma` is "fused where the machine can, else a product and a sum", a
choice that is made once per machine.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numba.extending
import numpy as np
from llvmlite import binding, ir
from numba import types

# Numba's decorators. Their own types are of a part of them only, and what they return is called from compiled code.
_intrinsic: Callable[[Any], Any] = numba.extending.intrinsic
_overload: Callable[..., Callable[[Any], Any]] = numba.extending.overload
_njit: Callable[..., Callable[[Any], Any]] = numba.njit

# Tuning, measured on one core with AVX-512, float32, ns an element of loss and gradient of 8192x1000, medians beside
# busy neighbours: PIECE 64 0.86, 128 0.79, 256 0.86, and 1.20 with a whole block asked for at once, since the processor
# has few requests under way; AHEAD 0 0.97, 1024 0.84, 2048 0.84, 4096 0.85 (with PIECE 256), and 0.90 where the memory
# of the gradient is not asked for. In the second cache (64x1000) BLOCK 256 0.67, 1024 0.62, and registers of 256 bits
# 1.03 where those of 512 take 0.84. Loss and gradient of 32x20 with NARROW 1 6.2 us, 64 2.2. That was Intel's Sapphire
# Rapids. AMD's Zen 4 fetches well by itself: AHEAD 0 0.74, 2048 0.88, and 47 and 58 ms for 65536x1000.
BLOCK: Final = 1024  # elements whose losses wait in the first cache for their sum
PIECE: Final = 128  # elements between two requests for what comes next
AHEAD: Final = 0 if binding.get_host_cpu_name().startswith("znver") else 2048  # elements by which it is asked for early
NARROW: Final = 64  # classes up to which a block holds several rows, since a row's tail is taken one at a time

# float32 losses are summed eight at a time, an error of at most 3 u, before they meet a float64.
LANES: Final = 32
RUN: Final = 8 * LANES

_F32 = np.float32
_LIFT32, _LIFT64 = 64, 512  # 2^n of the smallest result is lifted into the normal range by so much
# Adding it moves n into the last bits of the sum, beside what `_times_power` adds to it.
_SHIFTER32, _SHIFTER64 = _F32(1.5 * 2**23 + _LIFT32 + 127), np.float64(1.5 * 2**52 + _LIFT64 + 1023)
_WIDE: Final = '"prefer-vector-width"="512"'


# ---------------------------------------------------------------- instructions that Numba has no word for


def _fmuladd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    function = builder.module.declare_intrinsic("llvm.fmuladd", [a.type], ir.FunctionType(a.type, [a.type] * 3))
    return builder.call(function, (a, b, c))


@_intrinsic
def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a*b + c."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fmuladd(builder, *args)

    return a(a, a, a), codegen


def _polynomial(*coefficients: float) -> Any:
    """The polynomial with these coefficients, the constant one first, in the dtype of its argument, by Horner."""

    @_intrinsic
    def horner(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            c = [context.get_constant(x, value) for value in coefficients]
            value = c.pop()
            while c:
                value = _fmuladd(builder, value, args[0], c.pop())
            return value

        return x(x), codegen

    return horner


@_intrinsic
def _times_power(typingctx: Any, value: Any, shift: Any) -> Any:
    """value * 2^n, for the n that stands in the last bits of `shift`, the sum of n and the dtype's `_SHIFTER`.

    The shifter holds `_LIFT` and the exponent's bias besides, so that those bits, moved up, are the number 2^(n+_LIFT)
    already. Every such product is a normal number; what undoes the lift rounds a subnormal result, once.
    (As one instruction, because Numba widens every integer to 64 bits and so halves the elements at a time.)
    """
    integer, fraction, lift = {types.float32: (types.int32, 23, _LIFT32), types.float64: (types.int64, 52, _LIFT64)}[
        value
    ]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = context.get_value_type(integer)
        power = builder.bitcast(builder.shl(builder.bitcast(args[1], bits), bits(fraction)), args[0].type)
        return builder.fmul(builder.fmul(args[0], power), context.get_constant(value, 2.0**-lift))

    return value(value, shift), codegen


@_intrinsic
def _item(typingctx: Any, array: Any, i: Any) -> Any:
    """The element i of the array as it lies in memory.

    Not array[i], whose negative i would count from the end: with that choice in its way, the compiler does not see
    consecutive addresses, and a slice of the array, which would help, is counted by an atomic instruction.
    Of a bool any byte but 0 is true, where Numba itself reads the last bit.
    """
    if array.layout != "C":
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = builder.load(_address(context, builder, array, *args))
        return builder.icmp_unsigned("!=", found, found.type(0)) if array.dtype == types.boolean else found

    return array.dtype(array, i), codegen


@_intrinsic
def _put(typingctx: Any, array: Any, i: Any, value: Any) -> Any:
    """Write the element i of the array as it lies in memory, in the array's dtype."""
    if array.layout != "C":
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rounded = context.cast(builder, args[2], value, array.dtype)
        builder.store(rounded, _address(context, builder, array, *args[:2]))
        return context.get_dummy_value()

    return types.void(array, i, value), codegen


def _address(context: Any, builder: Any, array: Any, value: Any, i: Any) -> Any:
    return builder.gep(context.make_array(array)(context, builder, value).data, [i], inbounds=True)


@_intrinsic
def _wide(typingctx: Any) -> Any:
    """Let the compiler use registers as wide as the machine has them: it stops at half of AVX-512 by itself."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        set.add(builder.function.attributes, _WIDE)  # the set's own `add`: that of llvmlite knows a few names only
        return context.get_dummy_value()

    return types.void(), codegen


@_intrinsic
def _prefetch(typingctx: Any, array: Any, i: Any) -> Any:
    """Ask for the line of array[i], which may lie behind the end: a prefetch never faults."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        record = context.make_array(array)(context, builder, args[0])
        address = builder.bitcast(builder.gep(record.data, [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [address.type], ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        )
        builder.call(function, [address, i32(0), i32(2), i32(1)])  # for reading, into the second cache, as data
        return context.get_dummy_value()

    return types.void(array, i), codegen


# ---------------------------------------------------------------- exp(-a) and log1p(e)

# exp(-a) = 2^n * exp(r) with r = -a - n*log(2), log(2) in two pieces of which n times the first is exact, and
# exp(r) = 1 + (r + r^2*Q(r)) for |r| <= log(2)/2. log1p(e) = e + e^2*R(e) on [0, 1]: no division, and the larger part
# of the sum that rounds is exact. Q and R are minimax fits (Remez, at 200 bits); the relative error of what they stand
# in for is 2^-28.3 and 2^-57.9 for exp, 2^-27.4 and 2^-59.0 for log1p. A wrong digit of any shows in
# tests/test_kernel_numba.py.
_Q32 = _polynomial(
    0.49999993413621063,
    0.16666520106827512,
    0.04166839389522632,
    0.008368780553090566,
    0.001381448613103384,
)
_Q64 = _polynomial(
    0.5000000000000011,
    0.1666666666666641,
    0.04166666666652919,
    0.008333333333495436,
    0.0013888888943921912,
    0.00019841269505186347,
    2.4801492764037963e-05,
    2.755758695695997e-06,
    2.763037807074101e-07,
    2.500008929190688e-08,
)
_R32 = _polynomial(
    -0.4999994542422248,
    0.3333081857516269,
    -0.24961388861426395,
    0.19708424636843788,
    -0.15390024129399507,
    0.10735419822300372,
    -0.05817676099329838,
    0.020464828168909144,
    -0.0033739365911547533,
)
_R64 = _polynomial(
    -0.49999999999999983,
    0.33333333333324533,
    -0.24999999999172703,
    0.19999999965264248,
    -0.16666665831718738,
    0.14285701298326914,
    -0.12499859334809882,
    0.11109997515654242,
    -0.09993331889089016,
    0.09059938039393903,
    -0.08219584645370416,
    0.07356854454874355,
    -0.06338104677759317,
    0.050768289350711863,
    -0.03628943520729547,
    0.022157012415927664,
    -0.011031873187088226,
    0.004245247720404078,
    -0.0011739322638603788,
    0.00020633090805066898,
    -1.724146608631894e-05,
)

_LOWEST32, _LOWEST64 = _F32(-104), np.float64(-746)  # below, the result is 0
_LOG2E32, _LOG2E64 = _F32(1.4426950408889634), np.float64(1.4426950408889634)
_HIGH32, _HIGH64 = _F32(-0.693145751953125), np.float64(-0.6931471803691238)
_LOW32, _LOW64 = _F32(-1.4286068203094172e-06), np.float64(-1.9082149292705877e-10)
_ONE32, _ONE64 = _F32(1), np.float64(1)


def _decay(a: Any) -> Any:
    """exp(-a) for a >= 0; NaN for NaN."""
    raise NotImplementedError  # compiled only


@_overload(_decay)
def _compile_decay(a: Any) -> Any:
    lowest, log2e, shifter, high, low, one, q_of = (
        (_LOWEST32, _LOG2E32, _SHIFTER32, _HIGH32, _LOW32, _ONE32, _Q32)
        if a == types.float32
        else (_LOWEST64, _LOG2E64, _SHIFTER64, _HIGH64, _LOW64, _ONE64, _Q64)
    )

    def decay(a: Any) -> Any:
        z = lowest if -a < lowest else -a  # this way round, a NaN stays
        shift = _fma(z, log2e, shifter)
        whole = shift - shifter
        r = _fma(whole, low, _fma(whole, high, z))
        return _times_power(_fma(q_of(r), r * r, r) + one, shift)

    return decay


def _log1p(e: Any) -> Any:
    """log1p(e) for 0 <= e <= 1."""
    raise NotImplementedError  # compiled only


@_overload(_log1p)
def _compile_log1p(e: Any) -> Any:
    r_of = _R32 if e == types.float32 else _R64

    def log1p(e: Any) -> Any:
        return _fma(r_of(e), e * e, e)

    return log1p


# ---------------------------------------------------------------- operands that are there or not


def _at(values: Any, i: Any) -> Any:
    """values[i] of an array; a number is the same for every i."""
    raise NotImplementedError  # compiled only


@_overload(_at)
def _compile_at(values: Any, i: Any) -> Any:
    def item(values: Any, i: Any) -> Any:
        return _item(values, i)

    def number(values: Any, i: Any) -> Any:
        return values

    return item if isinstance(values, types.Array) else number


def _real(value: Any, like: Any) -> Any:
    """The value in the dtype of `like`, an array or a number."""
    raise NotImplementedError  # compiled only


@_overload(_real)
def _compile_real(value: Any, like: Any) -> Any:
    to = _dtype(like)

    def real(value: Any, like: Any) -> Any:
        return to(value)

    return real


def _block(like: Any) -> Any:
    """Scratch for the losses of a block, in the dtype of `like`."""
    raise NotImplementedError  # compiled only


@_overload(_block)
def _compile_block(like: Any) -> Any:
    to = _dtype(like)

    def block(like: Any) -> Any:
        return np.zeros(BLOCK, to)

    return block


def _dtype(like: Any) -> Any:
    narrow = (like.dtype if isinstance(like, types.Array) else like) == types.float32
    return np.float32 if narrow else np.float64


def _repeated(values: Any, times: int) -> Any:
    """An array as often after itself; a number or None as it is."""
    raise NotImplementedError  # compiled only


@_overload(_repeated)
def _compile_repeated(values: Any, times: Any) -> Any:
    def repeated(values: Any, times: Any) -> Any:
        if times == 1:
            return values
        out = np.empty(times * values.size, values.dtype)
        for i in range(out.size):
            out[i] = values[i % values.size]
        return out

    def same(values: Any, times: Any) -> Any:
        return values

    return repeated if isinstance(values, types.Array) else same


def _factors(scale: Any, room: Any, first: Any, many: Any, width: Any) -> Any:
    """The scale of each element of `many` rows from `first` on, `width` of each, in `room`; a number as it is."""
    raise NotImplementedError  # compiled only


@_overload(_factors, inline="always")
def _compile_factors(scale: Any, room: Any, first: Any, many: Any, width: Any) -> Any:
    def factors(scale: Any, room: Any, first: Any, many: Any, width: Any) -> Any:
        for r in range(many):
            for j in range(width):
                _put(room, r * width + j, _item(scale, first + r))
        return room

    def same(scale: Any, room: Any, first: Any, many: Any, width: Any) -> Any:
        return scale

    return factors if isinstance(scale, types.Array) else same


@_njit(inline="always")
def _ask(array: Any, start: int, stop: int) -> None:
    """Ask early for what will be wanted after array[start:stop]."""
    if AHEAD:  # known when this is compiled, and the cache on disk tells processors apart
        for i in range(start + AHEAD, stop + AHEAD, 64 // array.itemsize):
            _prefetch(array, i)


# ---------------------------------------------------------------- sums in a fixed order


@_njit(error_model="numpy", inline="always")
def _tree(lanes: Any) -> Any:
    for j in range(LANES // 2):
        _put(lanes, j, _item(lanes, j) + _item(lanes, j + LANES // 2))
    for j in range(LANES // 4):
        _put(lanes, j, _item(lanes, j) + _item(lanes, j + LANES // 4))
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))


@_njit(error_model="numpy", inline="always")
def _total(v: Any, stop: int, lanes: Any) -> Any:
    """The sum of v[:stop], some runs of losses, in float64, always by the same tree; `lanes` is scratch."""
    for j in range(LANES):
        _put(lanes, j, 0.0)
    for start in range(0, stop, RUN):
        for j in range(LANES):
            k = start + j
            a = (_item(v, k) + _item(v, k + LANES)) + (_item(v, k + 2 * LANES) + _item(v, k + 3 * LANES))
            k += 4 * LANES
            b = (_item(v, k) + _item(v, k + LANES)) + (_item(v, k + 2 * LANES) + _item(v, k + 3 * LANES))
            _put(lanes, j, _item(lanes, j) + np.float64(a + b))
    total = _tree(lanes)
    if not np.isfinite(total):
        total = _wider_total(v, stop)
    return total


@_njit(error_model="numpy")
def _wider_total(v: Any, stop: int) -> Any:
    """The same in float64 from the first: finite losses may have left the range of float32 together."""
    total = 0.0
    for k in range(stop):
        total += v[k]
    return total


@_njit(error_model="numpy")
def _short_total(v: Any, start: int, width: int) -> Any:
    """The sum of v[start:start+width] in float64, of at most NARROW terms, in eight interleaved sums."""
    a = b = c = d = e = f = g = h = 0.0
    even = start + width - width % 8
    for j in range(start, even, 8):
        a += v[j]
        b += v[j + 1]
        c += v[j + 2]
        d += v[j + 3]
        e += v[j + 4]
        f += v[j + 5]
        g += v[j + 6]
        h += v[j + 7]
    rest = 0.0
    for j in range(even, start + width):
        rest += v[j]
    return (((a + b) + (c + d)) + ((e + f) + (g + h))) + rest


# ---------------------------------------------------------------- the passes


def fused(x: Any, y: Any, w: Any, p: Any, smooth: Any, scale: Any, rows: Any, slope: Any) -> None:
    """The row losses into `rows` and, times `scale`, their slope into `slope`, each unless it is None.

    x, y and slope have shape (N, C), rows (N,). `scale`, a number or an array of shape (N,), has the dtype of the
    arithmetic even where no slope is wanted. w and p are None, a number, or an array of shape (C,) of that dtype;
    smooth is None or (1-eps, eps/2).
    """
    _wide()
    count, classes = x.shape
    zero, one = _real(0, scale), _real(1, scale)
    losses, room, lanes = _block(scale), _block(scale), np.empty(LANES, np.float64)
    # Elements are taken as they lie, a piece of one row or several whole rows at a time.
    group = BLOCK // classes if classes <= NARROW else 1
    all_w, all_p = _repeated(w, group), _repeated(p, group)
    for i in range(0, count, group):
        many = min(group, count - i)
        sum_, rest = 0.0, 0.0
        for start in range(0, many * classes, BLOCK):
            width = min(BLOCK, many * classes - start)
            first = i * classes + start
            factors = _factors(scale, room, i, many, width // many)
            for piece in range(0, width, PIECE):
                stop = min(piece + PIECE, width)
                _ask(x, first + piece, first + stop)
                _ask(y, first + piece, first + stop)
                if slope is not None:
                    _ask(slope, first + piece, first + stop)
                for j in range(piece, stop):
                    logit, on = _real(_item(x, first + j), scale), _real(_item(y, first + j), scale)
                    off = one - on
                    if smooth is not None:
                        keep, add = _real(smooth[0], scale), _real(smooth[1], scale)
                        on, off = _fma(on, keep, add), _fma(off, keep, add)
                    if p is not None:
                        on = _real(_at(all_p, start + j), scale) * on
                    right = logit >= zero
                    a = abs(logit)
                    e = _decay(a)
                    t = off if right else on
                    if rows is not None:
                        loss = _log1p(e)
                        if p is not None:
                            loss = (off + on) * loss
                        loss = _fma(t, zero if t == zero else a, loss)
                        if w is not None:
                            loss = _real(_at(all_w, start + j), scale) * loss
                        _put(losses, j, loss)
                    if slope is not None:
                        s = e / (one + e)
                        d = t - s if p is None else _fma(-(off + on), s, t)
                        d = d if right else -d
                        if w is not None:
                            d = _real(_at(all_w, start + j), scale) * d
                        _put(slope, first + j, d * _at(factors, j))
            if rows is not None:
                if classes <= NARROW:
                    for r in range(many):
                        rows[i + r] = _short_total(losses, r * classes, classes) / classes
                else:
                    whole = (width + RUN - 1) // RUN * RUN
                    for j in range(width, whole):
                        _put(losses, j, zero)
                    # What each addition of a block rounds away is summed beside it: no error grows with C.
                    part = _total(losses, whole, lanes)
                    new = sum_ + part
                    back = new - sum_
                    rest += (sum_ - (new - back)) + (part - back)
                    sum_ = new
        if rows is not None and classes > NARROW:
            rows[i] = (sum_ + rest if np.isfinite(rest) else sum_) / classes


def bent(x: Any, y: Any, w: Any, p: Any, smooth: Any, scale: Any, out: Any) -> None:
    """The diagonal of the second derivative, times `scale`; the arguments are those of `fused`."""
    _wide()
    count, classes = x.shape
    one, room = _real(1, scale), _block(scale)
    group = BLOCK // classes if classes <= NARROW else 1
    all_w, all_p = _repeated(w, group), _repeated(p, group)
    for i in range(0, count, group):
        many = min(group, count - i)
        for start in range(0, many * classes, BLOCK):
            width = min(BLOCK, many * classes - start)
            first = i * classes + start
            factors = _factors(scale, room, i, many, width // many)
            for piece in range(0, width, PIECE):
                stop = min(piece + PIECE, width)
                _ask(x, first + piece, first + stop)
                _ask(out, first + piece, first + stop)
                for j in range(piece, stop):
                    e = _decay(abs(_real(_item(x, first + j), scale)))
                    s = e / (one + e)
                    h = s * (one - s)
                    if p is not None:
                        on = _real(_item(y, first + j), scale)
                        off = one - on
                        if smooth is not None:
                            keep, add = _real(smooth[0], scale), _real(smooth[1], scale)
                            on, off = _fma(on, keep, add), _fma(off, keep, add)
                        h = (off + _real(_at(all_p, start + j), scale) * on) * h
                    if w is not None:
                        h = _real(_at(all_w, start + j), scale) * h
                    _put(out, first + j, h * _at(factors, j))


def elements(x: Any, y: Any, w: Any, p: Any, m: Any, smooth: Any, least: Any, slope: Any, bend: Any) -> None:
    """Slope and curvature of every element of flat arrays: w, p and m (bytes) are None or of the same length.

    All floating arguments have one dtype. The factor s*(1-s) of the curvature is no less than `least`.
    """
    _wide()
    zero, one = _real(0, least), _real(1, least)
    for start in range(0, x.size, PIECE):
        stop = min(start + PIECE, x.size)
        _ask(x, start, stop)
        _ask(y, start, stop)
        _ask(slope, start, stop)
        _ask(bend, start, stop)
        for i in range(start, stop):
            logit, on = _item(x, i), _item(y, i)
            off = one - on
            if smooth is not None:
                keep, add = _real(smooth[0], least), _real(smooth[1], least)
                on, off = _fma(on, keep, add), _fma(off, keep, add)
            if p is not None:
                on = _item(p, i) * on
            right = logit >= zero
            e = _decay(abs(logit))
            s = e / (one + e)
            t = off if right else on
            h = s * (one - s)
            h = least if h < least else h
            d = t - s if p is None else _fma(-(off + on), s, t)
            d = d if right else -d
            if p is not None:
                h = (off + on) * h
            if w is not None:
                factor = _item(w, i)
                d, h = factor * d, factor * h
            if m is not None:
                seen = _item(m, i) != 0
                d, h = d if seen else zero, h if seen else zero
            _put(slope, i, d)
            _put(bend, i, h)


# ---------------------------------------------------------------- half precision

# NumPy's own conversion takes 160 ns for a result that is subnormal in float16, since it raises the flag each time, and
# the gradient of a mean mostly is. (Not `fpext half`: without F16C it would call a function that may not be there.)


@_intrinsic
def _widened(typingctx: Any, bits: Any) -> Any:
    """The float32 whose float16 has these bits, exactly."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, f32 = ir.IntType(32), ir.FloatType()
        h = builder.zext(args[0], i32)
        a = builder.shl(builder.and_(h, i32(0x7FFF)), i32(13))
        exponent = builder.and_(h, i32(0x7C00))
        least = i32(113 << 23)  # 2^-14: a subnormal number is put behind its point, which is subtracted again
        subnormal = builder.fsub(builder.bitcast(builder.add(a, least), f32), builder.bitcast(least, f32))
        wide = builder.add(a, i32(112 << 23))
        special = builder.add(a, i32(0x70000000))
        wide = builder.select(builder.icmp_unsigned("==", exponent, i32(0x7C00)), special, wide)
        wide = builder.select(builder.icmp_unsigned("==", exponent, i32(0)), builder.bitcast(subnormal, i32), wide)
        return builder.bitcast(builder.or_(wide, builder.shl(builder.and_(h, i32(0x8000)), i32(16))), f32)

    return types.float32(bits), codegen


@_intrinsic
def _narrowed(typingctx: Any, value: Any) -> Any:
    """The bits of the float16 next to a float32, ties to even."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, f32 = ir.IntType(32), ir.FloatType()
        bits = builder.bitcast(args[0], i32)
        a = builder.and_(bits, i32(0x7FFFFFFF))
        odd = builder.and_(builder.lshr(a, i32(13)), i32(1))
        normal = builder.lshr(builder.add(builder.sub(a, i32((112 << 23) - 0xFFF)), odd), i32(13))
        half = i32(126 << 23)  # 0.5, whose spacing is the smallest float16: the sum rounds to a multiple of it
        sum_ = builder.fadd(builder.bitcast(a, f32), builder.bitcast(half, f32))
        subnormal = builder.sub(builder.bitcast(sum_, i32), half)
        found = builder.select(builder.icmp_unsigned("<", a, i32(113 << 23)), subnormal, normal)
        found = builder.select(builder.icmp_unsigned(">=", a, i32(0x47800000)), i32(0x7C00), found)
        found = builder.select(builder.icmp_unsigned(">", a, i32(0x7F800000)), i32(0x7E00), found)
        return builder.trunc(builder.or_(found, builder.and_(builder.lshr(bits, i32(16)), i32(0x8000))), ir.IntType(16))

    return types.uint16(value), codegen


def widen(bits: Any, out: Any) -> None:
    """The float32 of the float16 whose bits these are; both flat."""
    for i in range(bits.size):
        out[i] = _widened(bits[i])


def narrow(values: Any, out: Any) -> None:
    """The bits of the float16 next to each float32; both flat."""
    for i in range(values.size):
        out[i] = _narrowed(values[i])


# ---------------------------------------------------------------- compiled


def _compiled(function: Any) -> Any:
    """Compiled on the first call of each combination of dtypes and options, and kept on disk where that is possible.

    Numba keeps it beside this file, or where that cannot be written in the user's own cache folder; where there is
    neither, every process compiles for itself.
    """
    dispatcher = _njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
    else:
        dispatcher._cache = _Optional(dispatcher._cache)
    return dispatcher


class _Optional:
    """Numba's cache on disk, of which no failure (a disk that is full or read-only, a damaged file) ends a call.

    Numba itself lets them through. It has no public place for this; a test notices if it moves.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._cache.load_overload(*arguments)
        except Exception:  # a damaged pickle may fail in any way
            return None

    def save_overload(self, *arguments: Any) -> None:
        with suppress(Exception):  # likewise: an index is read before it is written
            self._cache.save_overload(*arguments)


fused, bent, elements, widen, narrow = map(_compiled, (fused, bent, elements, widen, narrow))
