"""The functions that the Numba kernel compiles: one pass over host memory for row losses, their pullback and curvature.

All compiled code is in this one file, because Numba's cache on disk notices changes only in the file of the function
that it loads. Arrays are passed as addresses, and dtypes and strides as numbers, so that one compilation serves them
all. Validates nothing, starts no thread.

The loops over neighbouring elements are written as formulas and built as LLVM functions, because Numba takes seconds to
compile such loops, and because LLVM can then be told that the arrays of a loop never overlap. exp and log1p are our
own, without a branch, so that the compiler can process several elements at a time. Nothing may be reassociated: every
sum is taken in the order in which it is written, so that row losses have the same bits with and without the gradient.
`_fma` is a fused multiply-add if the machine has one, else a product and a sum; the choice is made once per machine.
"""

import gc
import inspect
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numba.extending
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

# Numba's decorators. Their type hints are incomplete, and compiled code calls the functions that they return.
_intrinsic: Callable[[Any], Any] = numba.extending.intrinsic
_njit: Callable[..., Callable[[Any], Any]] = numba.njit

# Tuning, measured on one core with AVX-512, float32, ns per element of loss and gradient of 8192x1000, medians on a
# busy machine. Intel Sapphire Rapids, with earlier loops that took a logarithm for each element and summed rows of
# NARROW classes one by one: PIECE 64 0.86, 128 0.79, 256 0.86, and 1.20 if a whole block is prefetched at once, because
# the processor has few requests in flight; AHEAD 0 0.97, 1024 0.84, 2048 0.84, 4096 0.85 (with PIECE 256), and 0.90 if
# the memory of the gradient is not prefetched. In the L2 cache (64x1000): BLOCK 256 0.67, 1024 0.62; registers of 256
# bits 1.03, of 512 bits 0.84. Loss and gradient of 32x20: NARROW 1 6.2 us, 64 2.2 us. AMD Zen 4 prefetches well by
# itself: AHEAD 0 0.74, 2048 0.88, and for 65536x1000 47 ms and 58 ms. The present loops and the earlier ones on Zen 4,
# in one interleaved run, bool targets, loss: 100000x20 2.10 ms and 3.08, 512x80 66 us and 83, 8192x1000 5.6 ms and 6.1;
# loss and gradient: 2.45 ms and 3.34, 88 us and 102, 8.1 ms and 7.5 (the targets are copied).
BLOCK: Final = 1024  # elements whose losses stay in the L1 cache until they are summed
APART: Final = BLOCK + 48  # from one scratch block to the next: 4 KiB apart, all would share the same cache lines
PIECE: Final = 128  # elements between two prefetches
AHEAD: Final = 0 if binding.get_host_cpu_name().startswith("znver") else 2048  # elements by which a prefetch is ahead
SPARE: Final = 64  # bytes of a vector, by which `_spread` may write past the last row
NARROW: Final = 64  # largest number of classes with a logarithm for each element
SILENCE: Final = 0.5  # seconds of compiling after which a message is logged

# float32 losses are summed eight at a time, with an error of at most 3 u, and these sums are added in float64.
LANES: Final = 32
RUN: Final = 8 * LANES

_WIDE: Final = '"prefer-vector-width"="512"'
# Whether the processor converts float16 itself; if it does not, LLVM would call a function that may not exist.
_F16C: Final = "+f16c" in binding.get_host_cpu_features().flatten().split(",")


# ---------------------------------------------------------------- numbers of a formula


_SINGLE, _DOUBLE = ir.FloatType(), ir.DoubleType()


class _Number:
    """A float32 or float64 of LLVM, or a vector of them, in a formula: `a * b + 1` emits the instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value, self.type = builder, value, value.type

    def of(self, value: Any) -> Any:
        """The LLVM value of another number, or of a constant, of this one's dtype."""
        return value.value if isinstance(value, _Number) else _same(self.type, float(value))

    def const(self, value: float) -> "_Number":
        return _Number(self.builder, self.of(value))

    def __add__(self, other: Any) -> "_Number":
        return _Number(self.builder, self.builder.fadd(self.value, self.of(other)))

    def __sub__(self, other: Any) -> "_Number":
        return _Number(self.builder, self.builder.fsub(self.value, self.of(other)))

    def __rsub__(self, other: Any) -> "_Number":
        return _Number(self.builder, self.builder.fsub(self.of(other), self.value))

    def __mul__(self, other: Any) -> "_Number":
        return _Number(self.builder, self.builder.fmul(self.value, self.of(other)))

    def __truediv__(self, other: Any) -> "_Number":
        return _Number(self.builder, self.builder.fdiv(self.value, self.of(other)))

    def __neg__(self) -> "_Number":
        return _Number(self.builder, self.builder.fneg(self.value))

    def __abs__(self) -> "_Number":
        return self._called("fabs")

    def is_(self, relation: str, other: Any) -> Any:
        """A comparison, false where one of the two is NaN."""
        return self.builder.fcmp_ordered(relation, self.value, self.of(other))

    def if_(self, condition: Any, other: Any) -> "_Number":
        """This number where the condition holds, else the other."""
        return _Number(self.builder, self.builder.select(condition, self.value, self.of(other)))

    def fma(self, factor: Any, summand: Any) -> "_Number":
        """self*factor + summand."""
        return self._called("fmuladd", factor, summand)

    def to(self, kind: Any) -> "_Number":
        """In another dtype, rounded to it."""
        if kind == _element(self.type):
            return self
        cast = self.builder.fpext if kind == _DOUBLE else self.builder.fptrunc
        return _Number(self.builder, cast(self.value, _as_many(self.type, kind)))

    def bits(self) -> Any:
        return self.builder.bitcast(self.value, _as_many(self.type, ir.IntType(32 if self.single else 64)))

    def from_bits(self, value: Any) -> "_Number":
        return _Number(self.builder, self.builder.bitcast(value, self.type))

    @property
    def single(self) -> bool:
        return bool(_element(self.type) == _SINGLE)

    def _called(self, name: str, *others: Any) -> "_Number":
        lanes = f"v{self.type.count}" if isinstance(self.type, ir.VectorType) else ""
        kind = ir.FunctionType(self.type, [self.type] * (1 + len(others)))
        name = f"llvm.{name}.{lanes}{'f32' if self.single else 'f64'}"
        function = _declared(self.builder.module, kind, name)
        return _Number(self.builder, self.builder.call(function, [self.value, *map(self.of, others)]))


def _declared(module: Any, kind: Any, name: str) -> Any:
    """An intrinsic function of LLVM, by its full name, because llvmlite does not form the names for vectors."""
    return module.globals[name] if name in module.globals else ir.Function(module, kind, name)


def _element(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind


def _as_many(like: Any, kind: Any) -> Any:
    """A vector of `kind` with as many lanes as `like`, or `kind` itself if `like` is not a vector."""
    return ir.VectorType(kind, like.count) if isinstance(like, ir.VectorType) else kind


def _same(kind: Any, value: Any) -> Any:
    """A constant, the same in all lanes of a vector."""
    one = ir.Constant(_element(kind), value)
    return ir.Constant(kind, [one] * kind.count) if isinstance(kind, ir.VectorType) else one


def _function(formula: Callable[..., _Number]) -> Any:
    """A formula of numbers of one dtype as a function that compiled code can call."""

    def call(typingctx: Any, *arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return formula(*(_Number(builder, value) for value in args)).value

        return arguments[0](*arguments), codegen

    return _counted(call, len(inspect.signature(formula).parameters))


def _counted(call: Any, count: int) -> Any:
    """An intrinsic with `count` arguments; Numba needs each of them in the signature."""
    names = ["typingctx", *(f"a{k}" for k in range(count))]
    call.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names])
    return _intrinsic(call)


# ---------------------------------------------------------------- exp(-a) and log1p(e)

# exp(-a) = 2^n * exp(r) with r = -a - n*log(2), log(2) in two pieces so that n times the first is exact, and
# exp(r) = 1 + (r + r^2*Q(r)) for |r| <= log(2)/2. log1p(e) = e + e^2*R(e) on [0, 1]: no division, and the larger term
# of the sum that rounds is exact. Q and R are minimax fits (Remez, at 200 bits). Before rounding, exp has a relative
# error of 2^-28.3 (float32) or 2^-57.9 (float64), log1p one of 2^-27.4 or 2^-59.0. tests/kernels/test_numba.py notices
# a wrong digit in any coefficient.
_Q32 = (
    0.49999993413621063,
    0.16666520106827512,
    0.04166839389522632,
    0.008368780553090566,
    0.001381448613103384,
)
_Q64 = (
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
_R32 = (
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
_R64 = (
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

_LOWEST32, _LOWEST64 = -104.0, -746.0  # below, the result is 0
_LOG2E: Final = 1.4426950408889634
_HIGH32, _HIGH64 = 0.693145751953125, 0.6931471803691238
_LOW32, _LOW64 = 1.4286068203094172e-06, 1.9082149292705877e-10
_LIFT32, _LIFT64 = 64, 512  # the lift: 2^(n+lift) of the smallest result is a normal number
# Adding a shifter puts n, plus the lift and the exponent's bias, into the last bits of the sum. Those bits, shifted up,
# are the number 2^(n+lift). Every product with it is a normal number; the product with 2^-lift rounds once.
_SHIFTER32, _SHIFTER64 = 1.5 * 2**23 + _LIFT32 + 127, 1.5 * 2**52 + _LIFT64 + 1023


def _polynomial(x: _Number, coefficients: tuple[float, ...]) -> _Number:
    """By Horner; the constant coefficient comes first."""
    value = x.const(coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value.fma(x, c)
    return value


def decay(a: _Number) -> _Number:
    """exp(-a) for a >= 0; NaN for NaN."""
    one = a.single
    lowest, shifter, fraction = (_LOWEST32, _SHIFTER32, 23) if one else (_LOWEST64, _SHIFTER64, 52)
    z = -a
    z = z.const(lowest).if_(z.is_("<", lowest), z)  # in this order, a NaN stays NaN
    shift = z.fma(_LOG2E, shifter)
    whole = shift - shifter
    r = whole.fma(-(_LOW32 if one else _LOW64), whole.fma(-(_HIGH32 if one else _HIGH64), z))
    value = _polynomial(r, _Q32 if one else _Q64).fma(r * r, r) + 1
    bits = shift.bits()
    power = shift.from_bits(a.builder.shl(bits, _same(bits.type, fraction)))
    return value * power * 2.0 ** -(_LIFT32 if one else _LIFT64)


def log1p(e: _Number) -> _Number:
    """log1p(e) for 0 <= e <= 1."""
    return _polynomial(e, _R32 if e.single else _R64).fma(e * e, e)


def joined(a: _Number, b: _Number) -> _Number:
    """(1 + a)(1 + b) - 1, whose log1p is log1p(a) + log1p(b). All terms are positive, so that nothing cancels."""
    return a.fma(b, a + b)


def log1p_of_many(q: _Number) -> _Number:
    """log1p(q) for 0 <= q <= 255, the range of eight joined e of at most 1: docs/numerics.md has the bound.

    With 1 + q = 2^n * (1 + f) it is n*log(2) + log1p(f), and f = q*2^-n + (2^-n - 1) keeps every digit of a small q,
    for which n is 0.
    """
    b, one = q.builder, q.single
    fraction, bias, top = (23, 127, 0x7F800000) if one else (52, 1023, 0x7FF << 52)
    bits = (q + 1).bits()
    back = q.from_bits(b.sub(_same(bits.type, 2 * bias << fraction), b.and_(bits, _same(bits.type, top))))  # 2^-n
    # With the exponent of 2^fraction the last bit of a number stands for 1.
    counted = b.or_(b.lshr(bits, _same(bits.type, fraction)), _same(bits.type, (bias + fraction) << fraction))
    n = q.from_bits(counted) - float(2**fraction + bias)
    low, high = (_LOW32, _HIGH32) if one else (_LOW64, _HIGH64)
    return n.fma(high, n.fma(low, log1p(q.fma(back, back - 1))))


# ---------------------------------------------------------------- loops over neighbouring elements


class _Loop:
    """One iteration of a loop: v[k] reads the element of the k-th array, v[k] = value writes it, v.n[k] is a number."""

    def __init__(self, builder: Any, real: Any, letters: str, arrays: Any, index: Any, numbers: Any) -> None:
        self.builder, self.real, self.letters, self.arrays, self.index = builder, real, letters, arrays, index
        self.n = [_Number(builder, value) for value in numbers]

    def __getitem__(self, k: int) -> Any:
        """For a byte, whether it is not 0."""
        found = self.builder.load(self.builder.gep(self.arrays[k], [self.index], inbounds=True), align=1)
        if self.letters[k] == "b":
            return self.builder.icmp_unsigned("!=", found, found.type(0))
        if self.letters[k] in _HALVES:
            found = _from(self.builder, _HALVES[self.letters[k]], found, self.real)
        return _Number(self.builder, found)

    def __setitem__(self, k: int, value: _Number) -> None:
        array, stored = self.arrays[k], value.value
        if self.letters[k] in _HALVES:
            stored = _into(self.builder, _HALVES[self.letters[k]], stored)
        self.builder.store(stored, self.builder.gep(array, [self.index], inbounds=True), align=1)


_HALVES: Final = {"h": "float16", "g": "bfloat16"}  # the letters of `_loop` for them
_ADDRESS: Final = ir.IntType(64)
_I32: Final = ir.IntType(32)


def _loop(arrays: str, numbers: int = 0, prefetched: tuple[int, ...] = ()) -> Callable[[Callable[[_Loop], None]], Any]:
    """A formula as loop(n, address of each array, numbers, one), for arrays that do not overlap.

    `arrays` has a letter for each: r for the dtype of the arithmetic, b for bytes, h for float16, g for bfloat16.
    `prefetched` has the indices of the arrays to prefetch. The loop is a separate function: inlined, it would be
    compiled again in every caller.
    """

    def build(formula: Callable[[_Loop], None]) -> Any:
        def loop(typingctx: Any, *arguments: Any) -> Any:
            real = _SINGLE if arguments[-1] == types.float32 else _DOUBLE
            half = ir.IntType(16)
            kinds = [{"r": real, "b": ir.IntType(8), "h": half, "g": half}[letter] for letter in arrays]

            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                function = _made(builder.module, formula, real, arrays, kinds, numbers, prefetched)
                pointers = [
                    builder.inttoptr(value, kind.as_pointer())
                    for value, kind in zip(args[1 : 1 + len(kinds)], kinds, strict=True)
                ]
                builder.call(function, [args[0], *pointers, *args[1 + len(kinds) : -1]])
                return context.get_dummy_value()

            wanted = [*[types.int64] * (1 + len(arrays)), *[arguments[-1]] * (numbers + 1)]
            return types.void(*wanted), codegen

        return _counted(loop, len(arrays) + numbers + 2)

    return build


def _made(
    module: Any, formula: Any, real: Any, letters: str, kinds: Any, numbers: int, prefetched: tuple[int, ...]
) -> Any:
    """The loop as a function of the module that is being compiled."""
    name = f"mlsm.{formula.__name__}.{real}"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(ir.VoidType(), [_ADDRESS, *(k.as_pointer() for k in kinds), *[real] * numbers])
    function = _private(ir.Function(module, kind, name))
    builder = ir.IRBuilder(function.append_basic_block())
    n, *rest = function.args
    pointers, values = rest[: len(kinds)], rest[len(kinds) :]
    for pointer in pointers:
        pointer.add_attribute("noalias")

    def turns(first: Any, last: Any) -> None:
        with cgutils.for_range(builder, last, first) as found:
            formula(_Loop(builder, real, letters, pointers, found.index, values))

    if prefetched and AHEAD:
        with cgutils.for_range_slice(builder, _ADDRESS(0), n, _ADDRESS(PIECE)) as (first, _):
            last = builder.add(first, _ADDRESS(PIECE))
            last = builder.select(builder.icmp_signed("<", last, n), last, n)
            for k in prefetched:
                _prefetch_ahead(builder, pointers[k], first, last, 64 // _bytes(kinds[k]))
            turns(first, last)
    else:
        turns(_ADDRESS(0), n)
    builder.ret_void()
    return function


def _bytes(kind: Any) -> int:
    return kind.width // 8 if isinstance(kind, ir.IntType) else 4 if kind == _SINGLE else 8


def _private(function: Any) -> Any:
    """Make a function local to its module, never inlined, and compiled for the machine's widest registers: by itself
    LLVM uses half the width of AVX-512."""
    function.linkage = "internal"
    function.attributes.add("noinline")
    set.add(function.attributes, _WIDE)  # `set.add`, because llvmlite's `add` accepts only a few names
    return function


def _prefetch_ahead(builder: Any, array: Any, first: Any, last: Any, step: int) -> None:
    """Prefetch the elements AHEAD places after first:last, even after the end: a prefetch does not fault."""
    with cgutils.for_range_slice(builder, first, last, _ADDRESS(step)) as (index, _):
        address = builder.gep(array, [builder.add(index, _ADDRESS(AHEAD))])
        _prefetch(builder, builder.bitcast(address, ir.IntType(8).as_pointer()))


def _prefetch(builder: Any, address: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
    builder.call(prefetch, [address, _I32(0), _I32(2), _I32(1)])  # for reading, into the L2 cache, as data


@_loop("r", numbers=1)
def filled(v: Any) -> None:
    v[0] = v.n[0]


def _linear(t: _Number, a: _Number) -> _Number:
    """t*a, and 0 where t is 0, even for an infinite a."""
    return t * t.const(0).if_(t.is_("==", 0), a)


def _signed(right: Any, d: _Number) -> _Number:
    return d.if_(right, -d)


@_loop("rrrr", prefetched=(0, 1))
def line(v: Any) -> None:
    """exp(-|x|), and the linear part of the loss."""
    x, y = v[0], v[1]
    a = abs(x)
    v[2] = decay(a)
    v[3] = _linear((1 - y).if_(x.is_(">=", 0), y), a)


@_loop("rrrr", prefetched=(0, 1, 3))
def gradient(v: Any) -> None:
    """The gradient of the loss, times a factor."""
    x, y = v[0], v[1]
    right, e = x.is_(">=", 0), decay(abs(x))
    v[3] = _signed(right, (1 - y).if_(right, y) - e / (e + 1)) * v[2]


def _both(v: Any) -> None:
    x, y = v[0], v[1]
    right, a = x.is_(">=", 0), abs(x)
    e, t = decay(a), (1 - y).if_(right, y)
    v[3] = e
    v[4] = _linear(t, a)
    v[5] = _signed(right, t - e / (e + 1)) * v[2]


@_loop("rrrrrr", prefetched=(0, 1, 5))
def both(v: Any) -> None:
    """`line` and `gradient` in one pass."""
    _both(v)


@_loop("hhrrrh", prefetched=(0, 1, 5))
def both_float16(v: Any) -> None:
    """`both`, of logits, targets and gradients in float16, which are converted in registers."""
    _both(v)


@_loop("ggrrrg", prefetched=(0, 1, 5))
def both_bfloat16(v: Any) -> None:
    """Likewise in bfloat16."""
    _both(v)


@_loop("rrr", prefetched=(0, 2))
def hessian(v: Any) -> None:
    """s*(1 - s), times a factor."""
    e = decay(abs(v[0]))
    s = e / (e + 1)
    v[2] = s * (1 - s) * v[1]


@_loop("rrr")
def times(v: Any) -> None:
    v[2] = v[0] * v[1]


@_loop("rb")
def observed_only(v: Any) -> None:
    v[0] = v[0].if_(v[1], v[0].const(0))


def _loss(x: _Number, y: _Number) -> _Number:
    """The loss of an element, with a logarithm of its own."""
    a = abs(x)
    return _linear((1 - y).if_(x.is_(">=", 0), y), a) + log1p(decay(a))


@_loop("rrr")
def loss(v: Any) -> None:
    v[2] = _loss(v[0], v[1])


@_loop("rrrrr", prefetched=(0, 1, 4))
def loss_and_gradient(v: Any) -> None:
    x, y = v[0], v[1]
    right, a = x.is_(">=", 0), abs(x)
    e, t = decay(a), (1 - y).if_(right, y)
    v[3] = _linear(t, a) + log1p(e)
    v[4] = _signed(right, t - e / (e + 1)) * v[2]


def _parts(v: Any, x: int, y: int, p: int) -> Any:
    """The common parts of the loops with options: whether x >= 0, |x|, exp(-|x|), t and q; v.n has the two numbers that
    smooth targets, and one that is 0 without a pos_weight, so that q is 1."""
    logit, target = v[x], v[y]
    right, a = logit.is_(">=", 0), abs(logit)
    on, off = target.fma(v.n[0], v.n[1]) * v[p], (1 - target).fma(v.n[0], v.n[1])
    return right, a, decay(a), off.if_(right, on), (on + off).if_(v.n[2].is_("!=", 0), 1)


# The arrays of the loops below are x, y, w, p, the mask, the factor of derivatives, and the results. Absent options are
# arrays of ones.


@_loop("rrrrbrr", numbers=3)
def line_of(v: Any) -> None:
    """`line` with a mask and with smoothed targets."""
    _, a, e, t, _ = _parts(v, 0, 1, 3)
    zero = a.const(0)
    v[5] = e.if_(v[4], zero)
    v[6] = _linear(t, a).if_(v[4], zero)


@_loop("rrrrbrrrr", numbers=3)
def both_of(v: Any) -> None:
    """`line_of`, which has no weight, and `gradient_of` in one pass."""
    right, a, e, t, q = _parts(v, 0, 1, 3)
    zero = a.const(0)
    v[6] = e.if_(v[4], zero)
    v[7] = _linear(t, a).if_(v[4], zero)
    v[8] = (_signed(right, (-q).fma(e / (e + 1), t)) * v[2] * v[5]).if_(v[4], zero)


@_loop("rrbrrr", numbers=1)
def both_masked(v: Any) -> None:
    """`both_of` for the elements of one row, whose factor is a number, with a mask as the only option."""
    x, y, zero = v[0], v[1], v[0].const(0)
    right, a = x.is_(">=", 0), abs(x)
    e, t = decay(a), (1 - y).if_(right, y)
    v[3] = e.if_(v[2], zero)
    v[4] = _linear(t, a).if_(v[2], zero)
    v[5] = (_signed(right, t - e / (e + 1)) * v.n[0]).if_(v[2], zero)


@_loop("rrrrbr", numbers=3)
def loss_of(v: Any) -> None:
    """Losses, with one logarithm for each element."""
    _, a, e, t, q = _parts(v, 0, 1, 3)
    v[5] = (q.fma(log1p(e), _linear(t, a)) * v[2]).if_(v[4], a.const(0))


@_loop("rrrrbrr", numbers=3)
def gradient_of(v: Any) -> None:
    right, a, e, t, q = _parts(v, 0, 1, 3)
    v[6] = (_signed(right, (-q).fma(e / (e + 1), t)) * v[2] * v[5]).if_(v[4], a.const(0))


@_loop("rrrrbrrr", numbers=3)
def loss_and_gradient_of(v: Any) -> None:
    right, a, e, t, q = _parts(v, 0, 1, 3)
    zero = a.const(0)
    v[6] = (q.fma(log1p(e), _linear(t, a)) * v[2]).if_(v[4], zero)
    v[7] = (_signed(right, (-q).fma(e / (e + 1), t)) * v[2] * v[5]).if_(v[4], zero)


@_loop("rrrrbrr", numbers=3)
def hessian_of(v: Any) -> None:
    _, a, e, _, q = _parts(v, 0, 1, 3)
    s = e / (e + 1)
    v[6] = (q * (s * (1 - s)) * v[2] * v[5]).if_(v[4], a.const(0))


@_loop("rrrr", numbers=3, prefetched=(0, 1, 2, 3))
def pair(v: Any) -> None:
    """The gradient, and s*(1 - s) but at least the first number, for targets smoothed by the other two."""
    x, on = v[0], v[1].fma(v.n[1], v.n[2])
    off, right, e = (1 - v[1]).fma(v.n[1], v.n[2]), x.is_(">=", 0), decay(abs(x))
    s = e / (e + 1)
    h = s * (1 - s)
    v[2] = _signed(right, off.if_(right, on) - s)
    v[3] = v.n[0].if_(h.is_("<", v.n[0]), h)


@_loop("rrrrbrr", numbers=4)
def pair_of(v: Any) -> None:
    """`pair` with a factor for both, pos_weight and a mask; the last number is 0 without a pos_weight."""
    x, on = v[0], v[1].fma(v.n[1], v.n[2]) * v[3]
    off, right, e = (1 - v[1]).fma(v.n[1], v.n[2]), x.is_(">=", 0), decay(abs(x))
    s = e / (e + 1)
    h = s * (1 - s)
    q = (on + off).if_(v.n[3].is_("!=", 0), 1)
    zero = x.const(0)
    v[5] = (_signed(right, (-q).fma(s, off.if_(right, on))) * v[2]).if_(v[4], zero)
    v[6] = (q * v.n[0].if_(h.is_("<", v.n[0]), h) * v[2]).if_(v[4], zero)


_decay, _log1p = _function(decay), _function(log1p)
_fma = _function(lambda a, b, c: a.fma(b, c))


# ---------------------------------------------------------------- memory by its address


@_intrinsic
def _at(typingctx: Any, address: Any, i: Any, like: Any) -> Any:
    """The element i of an array of the dtype of `like`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_place(context, builder, like, *args[:2]), align=1)

    return like(types.int64, types.int64, like), codegen


@_intrinsic
def _put_at(typingctx: Any, address: Any, i: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _place(context, builder, value, *args[:2]), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), codegen


def _place(context: Any, builder: Any, kind: Any, address: Any, i: Any) -> Any:
    return builder.gep(builder.inttoptr(address, context.get_value_type(kind).as_pointer()), [i], inbounds=True)


@_intrinsic
def _real(typingctx: Any, value: Any, one: Any) -> Any:
    """The number in the dtype of `one`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], value, one)

    return one(value, one), codegen


@_intrinsic
def _size(typingctx: Any, one: Any) -> Any:
    """The bytes of a number of the arithmetic."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ADDRESS(one.bitwidth // 8)

    return types.int64(one), codegen


@_intrinsic
def _min(typingctx: Any, a: Any, b: Any) -> Any:
    """The smaller of two integers. Numba compiles its own `min` as a function, again for each kind of constant."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.int64(types.int64, types.int64), codegen


@_intrinsic
def _spread(typingctx: Any, rows: Any, width: Any, values: Any, step: Any, to: Any, one: Any) -> Any:
    """Copy the number of each row, which are `step` bytes apart, to all `width` elements of the row.

    By whole vectors: the last one of a row may reach into the next row, which is written afterwards, or into the SPARE
    bytes that follow the last row.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = _SINGLE if one == types.float32 else _DOUBLE
        name, byte = f"mlsm.spread.{real}", ir.IntType(8).as_pointer()
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [_ADDRESS, _ADDRESS, byte, _ADDRESS, real.as_pointer()])
            function = _private(ir.Function(builder.module, kind, name))
            b = ir.IRBuilder(function.append_basic_block())
            many, each, source, apart, target = function.args
            lanes = SPARE * 8 // one.bitwidth
            vector = ir.VectorType(real, lanes)
            with cgutils.for_range(b, many) as outer:
                place = b.gep(source, [b.mul(outer.index, apart)])
                value = b.load(b.bitcast(place, real.as_pointer()), align=1)
                single = b.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
                same = b.shuffle_vector(single, single, ir.Constant(ir.VectorType(_I32, lanes), None))
                first = b.gep(target, [b.mul(outer.index, each)])
                with cgutils.for_range_slice(b, _ADDRESS(0), each, _ADDRESS(lanes)) as (start, _):
                    b.store(same, b.bitcast(b.gep(first, [start]), vector.as_pointer()), align=1)
            b.ret_void()
        pointers = builder.inttoptr(args[2], byte), builder.inttoptr(args[4], real.as_pointer())
        builder.call(function, [args[0], args[1], pointers[0], args[3], pointers[1]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, one), codegen


@_intrinsic
def _observed(typingctx: Any, rows: Any, width: Any, m: Any, step: Any, counts: Any) -> Any:
    """Add the number of bytes of each row that are not 0 to the count of the row, a float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name, byte = "mlsm.observed", ir.IntType(8)
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(
                ir.VoidType(), [_ADDRESS, _ADDRESS, byte.as_pointer(), _ADDRESS, _DOUBLE.as_pointer()]
            )
            function = _private(ir.Function(builder.module, kind, name))
            b = ir.IRBuilder(function.append_basic_block())
            found = b.alloca(_ADDRESS)
            many, each, source, apart, target = function.args
            with cgutils.for_range(b, many) as outer:
                b.store(_ADDRESS(0), found)
                first = b.gep(source, [b.mul(outer.index, apart)])

                def add(start: Any, lanes: int) -> None:
                    flags, bits = ir.VectorType(byte, lanes), ir.IntType(lanes)
                    some = b.load(b.bitcast(b.gep(first, [start], inbounds=True), flags.as_pointer()), align=1)
                    on = b.ctpop(b.bitcast(b.icmp_unsigned("!=", some, ir.Constant(flags, None)), bits))
                    b.store(b.add(b.load(found), on if lanes == 64 else b.zext(on, _ADDRESS)), found)

                with cgutils.for_range_slice(b, _ADDRESS(0), b.and_(each, _ADDRESS(-64)), _ADDRESS(64)) as (start, _):
                    add(start, 64)
                for lanes in (32, 16, 8, 4, 2, 1):  # the rest, by the binary digits of its length
                    with b.if_then(b.icmp_unsigned("!=", b.and_(each, _ADDRESS(lanes)), _ADDRESS(0))):
                        add(b.and_(each, _ADDRESS(-2 * lanes)), lanes)
                place = b.gep(target, [outer.index], inbounds=True)
                b.store(b.fadd(b.load(place), b.uitofp(b.load(found), _DOUBLE)), place)
            b.ret_void()
        pointers = builder.inttoptr(args[2], byte.as_pointer()), builder.inttoptr(args[4], _DOUBLE.as_pointer())
        builder.call(function, [args[0], args[1], pointers[0], args[3], pointers[1]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


# ---------------------------------------------------------------- any dtype, any stride

# A dtype as a number: its kind times KIND, plus its number of bytes, plus SWAPPED if their order is swapped.
KINDS: Final = {
    name: k
    for k, name in enumerate(
        (
            "bool",
            "float16",
            "bfloat16",
            "float32",
            "float64",
            *(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)),
        )
    )
}
BYTE: Final = len(KINDS)  # for masks, whose bytes are only copied
KIND: Final = 64
SWAPPED: Final = 16
F16, F32, F64 = KINDS["float16"], KINDS["float32"], KINDS["float64"]


def _widened(b: Any, bits: Any) -> Any:
    """The float32 whose float16 has these bits, exactly."""
    i32 = ir.IntType(32)
    if _F16C:
        return b.fpext(b.bitcast(bits, ir.HalfType()), _SINGLE)
    h = b.zext(bits, i32)
    a = b.shl(b.and_(h, i32(0x7FFF)), i32(13))
    exponent = b.and_(h, i32(0x7C00))
    least = i32(113 << 23)  # 2^-14, whose fraction a subnormal number becomes before 2^-14 is subtracted again
    subnormal = b.fsub(b.bitcast(b.add(a, least), _SINGLE), b.bitcast(least, _SINGLE))
    wide = b.add(a, i32(112 << 23))
    wide = b.select(b.icmp_unsigned("==", exponent, i32(0x7C00)), b.add(a, i32(0x70000000)), wide)
    wide = b.select(b.icmp_unsigned("==", exponent, i32(0)), b.bitcast(subnormal, i32), wide)
    return b.bitcast(b.or_(wide, b.shl(b.and_(h, i32(0x8000)), i32(16))), _SINGLE)


def _narrowed(b: Any, value: Any) -> Any:
    """The bits of the float16 nearest to a float32, ties to even."""
    i16, i32 = ir.IntType(16), ir.IntType(32)
    if _F16C:
        return b.bitcast(b.fptrunc(value, ir.HalfType()), i16)
    bits = b.bitcast(value, i32)
    a = b.and_(bits, i32(0x7FFFFFFF))
    odd = b.and_(b.lshr(a, i32(13)), i32(1))
    normal = b.lshr(b.add(b.sub(a, i32((112 << 23) - 0xFFF)), odd), i32(13))
    half = i32(126 << 23)  # 0.5, where the spacing is the smallest float16: the sum rounds to a multiple of it
    subnormal = b.sub(b.bitcast(b.fadd(b.bitcast(a, _SINGLE), b.bitcast(half, _SINGLE)), i32), half)
    found = b.select(b.icmp_unsigned("<", a, i32(113 << 23)), subnormal, normal)
    found = b.select(b.icmp_unsigned(">=", a, i32(0x47800000)), i32(0x7C00), found)
    found = b.select(b.icmp_unsigned(">", a, i32(0x7F800000)), i32(0x7E00), found)
    return b.trunc(b.or_(found, b.and_(b.lshr(bits, i32(16)), i32(0x8000))), i16)


def _lengthened(b: Any, bits: Any) -> Any:
    """The float32 with these bits as its upper half: the value of a bfloat16."""
    return b.bitcast(b.shl(b.zext(bits, ir.IntType(32)), ir.IntType(32)(16)), _SINGLE)


def _shortened(b: Any, value: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32, ties to even. (The processor's instruction drops subnormals.)"""
    i32 = ir.IntType(32)
    bits = b.bitcast(value, i32)
    upper = b.lshr(bits, i32(16))
    near = b.lshr(b.add(b.add(bits, i32(0x7FFF)), b.and_(upper, i32(1))), i32(16))
    found = b.select(b.fcmp_unordered("uno", value, value), b.or_(upper, i32(0x40)), near)
    return b.trunc(found, ir.IntType(16))


def _from(b: Any, name: str, value: Any, real: Any) -> Any:
    """A stored element in the dtype of the arithmetic."""
    if name == "bool":
        return b.uitofp(b.icmp_unsigned("!=", value, value.type(0)), real)  # any byte but 0 is true
    if "int" in name:
        return (b.uitofp if name.startswith("u") else b.sitofp)(value, real)
    if name in ("float16", "bfloat16"):
        value = (_widened if name == "float16" else _lengthened)(b, value)
    return _Number(b, value).to(real).value


def _into(b: Any, name: str, value: Any) -> Any:
    if name == "float64":
        return _Number(b, value).to(_DOUBLE).value
    value = _Number(b, value).to(_SINGLE).value
    return value if name == "float32" else (_narrowed if name == "float16" else _shortened)(b, value)


def _bits_of(name: str) -> Any:
    """The LLVM type of a stored element."""
    if name in ("float32", "float64"):
        return _SINGLE if name == "float32" else _DOUBLE
    return ir.IntType(8 if name == "bool" else 16 if name == "bfloat16" else int(name.lstrip("uintfloa")))


def _conversion(reading: bool) -> Any:
    """convert(kind, source, n, to, one): convert n neighbouring elements to the dtype of the arithmetic, or back."""

    @_intrinsic
    def convert(typingctx: Any, kind: Any, source: Any, n: Any, to: Any, one: Any) -> Any:
        real = _SINGLE if one == types.float32 else _DOUBLE

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = _converter(builder.module, real, reading)
            bytes_ = ir.IntType(8).as_pointer()
            pointers = [builder.inttoptr(args[k], bytes_) for k in (1, 3)]
            builder.call(function, [args[0], pointers[0], args[2], pointers[1]])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64, one), codegen

    return convert


def _converter(module: Any, real: Any, reading: bool) -> Any:
    name = f"mlsm.{'read' if reading else 'write'}.{real}"
    if name in module.globals:
        return module.globals[name]
    bytes_ = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [_ADDRESS, bytes_, _ADDRESS, bytes_])
    function = _private(ir.Function(module, kind, name))
    which, source, n, to = function.args
    source.add_attribute("noalias")
    to.add_attribute("noalias")
    b = ir.IRBuilder(function.append_basic_block())
    end = function.append_basic_block()
    choice = b.switch(which, end)
    for dtype, k in KINDS.items():
        stored = _bits_of(dtype)
        if not reading and dtype not in ("float16", "bfloat16", "float32", "float64"):
            continue
        block = function.append_basic_block()
        choice.add_case(_ADDRESS(k), block)
        b.position_at_end(block)
        before = b.bitcast(source, (stored if reading else real).as_pointer())
        after = b.bitcast(to, (real if reading else stored).as_pointer())
        with cgutils.for_range(b, n) as loop:
            value = b.load(b.gep(before, [loop.index], inbounds=True), align=1)
            value = _from(b, dtype, value, real) if reading else _into(b, dtype, value)
            b.store(value, b.gep(after, [loop.index], inbounds=True), align=1)
        b.branch(end)
    b.position_at_end(end)
    b.ret_void()
    return function


_read, _write = _conversion(True), _conversion(False)


@_intrinsic
def _move(
    typingctx: Any, size: Any, swapped: Any, rows: Any, width: Any, source: Any, down: Any, right: Any, to: Any,
    to_down: Any, to_right: Any,
) -> Any:  # fmt: skip
    """Copy rows x width elements of `size` bytes, in reversed order if `swapped`; all steps are in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = "mlsm.move"
        function = builder.module.globals.get(name)
        if function is None:
            function = _private(ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [_ADDRESS] * 10), name))
            _build_move(function)
        builder.call(function, args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), codegen


def _build_move(function: Any) -> None:
    b = ir.IRBuilder(function.append_basic_block())
    size, swapped, rows, width, source, down, right, to, to_down, to_right = function.args
    end = function.append_basic_block()
    with b.if_then(b.icmp_signed("!=", swapped, _ADDRESS(0))):
        with cgutils.for_range(b, size) as loop:  # one byte of every element at a time
            place = b.sub(b.sub(size, _ADDRESS(1)), loop.index)
            _nest(
                b,
                ir.IntType(8),
                rows,
                width,
                b.add(source, loop.index),
                down,
                right,
                b.add(to, place),
                to_down,
                to_right,
            )
        b.branch(end)
        b.position_at_end(function.append_basic_block())
    # The inner loop follows the shorter steps of source and target, so that each cache line is fetched once.
    along = [b.add(b.mul(i, i), b.mul(j, j)) for i, j in ((down, to_down), (right, to_right))]
    transposed = b.icmp_signed("<", *along)
    rows, width = b.select(transposed, width, rows), b.select(transposed, rows, width)
    down, right = b.select(transposed, right, down), b.select(transposed, down, right)
    to_down, to_right = b.select(transposed, to_right, to_down), b.select(transposed, to_down, to_right)
    choice = b.switch(size, end)
    for n in (1, 2, 4, 8):
        block = function.append_basic_block()
        choice.add_case(_ADDRESS(n), block)
        b.position_at_end(block)
        _nest(b, ir.IntType(8 * n), rows, width, source, down, right, to, to_down, to_right)
        b.branch(end)
    b.position_at_end(end)
    b.ret_void()


def _nest(
    b: Any, cell: Any, rows: Any, width: Any, source: Any, down: Any, right: Any, to: Any, to_down: Any, to_right: Any
) -> None:
    with cgutils.for_range(b, rows) as outer:
        first, second = b.add(source, b.mul(outer.index, down)), b.add(to, b.mul(outer.index, to_down))
        with cgutils.for_range(b, width) as inner:
            before = b.inttoptr(b.add(first, b.mul(inner.index, right)), cell.as_pointer())
            after = b.inttoptr(b.add(second, b.mul(inner.index, to_right)), cell.as_pointer())
            b.store(b.load(before, align=1), after, align=1)


# ---------------------------------------------------------------- sums in a fixed order


# Private attributes of Numba that `_Linked` uses: if one of them is missing, Numba compiles in its usual way.
_LINKING = ("_linking_libraries", "_final_module", "_get_module_for_linking", "_optimize_functions", "_finalized")


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
class _Linked(NativeLowering):
    """Leave the code of a function unoptimised: its callers link it, and all of it is optimised together.

    Numba would also compile each such function to machine code, with all that it calls, which takes a sixth of the
    whole time. It has no public interface for this.
    """

    _name = "mlsm_linked"

    def run_pass(self, state: Any) -> bool:
        library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
        if not all(hasattr(library, name) for name in _LINKING):
            return bool(super().run_pass(state))  # type: ignore[no-untyped-call]
        state.library = library

        def finalize() -> None:
            for other in dict.fromkeys(library._linking_libraries):
                library._final_module.link_in(other._get_module_for_linking(), preserve=True)
            library._finalized = True

        library.finalize, library._optimize_functions = finalize, lambda module: None
        state.flags.no_compile = True
        super().run_pass(state)  # type: ignore[no-untyped-call]
        key: Any = [].append  # the dispatcher requires a builtin function, and this one equals no other
        state.targetctx.insert_user_function(key, state["cr"].fndesc, [library])
        state["cr"] = state["cr"]._replace(cfunc=key)
        return True


class _Pipeline(CompilerBase):
    """Numba's passes without two that have nothing to do here: there are no closures and no array expressions."""

    def define_pipelines(self) -> list[Any]:
        made = DefaultPassBuilder.define_nopython_pipeline(self.state)  # type: ignore[no-untyped-call]
        passes = [p for p in made.passes if p[0] not in (InlineClosureLikes, NopythonRewrites)]
        made.passes = [(self.lowered(step), name) for step, name in passes]
        made._finalized = False
        made.finalize()
        return [made]

    def lowered(self, step: Any) -> Any:
        return step


class _InnerPipeline(_Pipeline):
    def lowered(self, step: Any) -> Any:
        return _Linked if step is NativeLowering else step


# For functions that only compiled code calls; for every other function Numba compiles a wrapper for Python.
_inner = _njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_InnerPipeline)


def _row_sum(joint: bool) -> Any:
    """sum(n, losses, e, one): the sum of n losses in float64, always by the same tree, whatever follows them in memory.

    If `joint`, a loss is its entry in `losses` plus log1p(e); eight of them, LANES apart, share one logarithm.
    (Written with vectors, because in a loop with float64 the compiler would process half as many float32 at a time.)
    """

    @_intrinsic
    def total(typingctx: Any, n: Any, losses: Any, e: Any, one: Any) -> Any:
        real = _SINGLE if one == types.float32 else _DOUBLE

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            name = f"mlsm.{'joint' if joint else 'sum'}.{real}"
            function = builder.module.globals.get(name)
            if function is None:
                kind = ir.FunctionType(_DOUBLE, [_ADDRESS, real.as_pointer(), real.as_pointer()])
                function = _private(ir.Function(builder.module, kind, name))
                _build_row_sum(function, real, joint)
            pointers = [builder.inttoptr(value, real.as_pointer()) for value in args[1:3]]
            return builder.call(function, [args[0], *pointers])

        return types.float64(types.int64, types.int64, types.int64, one), codegen

    return total


def _build_row_sum(function: Any, real: Any, joint: bool) -> None:
    b = ir.IRBuilder(function.append_basic_block())
    n, losses, e = function.args
    some, wide = ir.VectorType(real, LANES), ir.VectorType(_DOUBLE, LANES)
    load = _masked_load(b.module, real, LANES)
    sums = b.alloca(wide)
    b.store(_same(wide, 0.0), sums)

    def turn(start: Any, count: int, whole: bool) -> None:
        def many(array: Any, join: Callable[[_Number, _Number], _Number]) -> _Number:
            values: list[_Number] = []
            for k in range(count):
                first = b.add(start, _ADDRESS(k * LANES))
                pointer = b.bitcast(b.gep(array, [first], inbounds=True), some.as_pointer())
                if whole:
                    value = b.load(pointer, align=1)
                else:  # zeros after the last one
                    left = _below(b, b.sub(n, first), LANES)
                    value = b.call(load, [pointer, _I32(1), left, _same(some, 0.0)])
                values.append(_Number(b, value))
            while len(values) > 1:
                values = [join(left, right) for left, right in zip(values[::2], values[1::2], strict=True)]
            return values[0]

        found = many(losses, lambda left, right: left + right)
        if joint:
            found = found + log1p_of_many(many(e, joined))
        b.store(b.fadd(b.load(sums), found.to(_DOUBLE).value), sums)

    whole = b.and_(n, _ADDRESS(-RUN))
    with cgutils.for_range_slice(b, _ADDRESS(0), whole, _ADDRESS(RUN)) as (start, _):
        turn(start, 8, True)
    rest = b.sub(n, whole)
    half = b.icmp_signed(">", rest, _ADDRESS(RUN // 2))
    with b.if_then(half):
        turn(whole, 8, False)
    # Absent elements are 0, which changes no sum: four vectors give the same bits as eight.
    with b.if_then(b.and_(b.not_(half), b.icmp_signed(">", rest, _ADDRESS(0)))):
        turn(whole, 4, False)
    b.ret(_halved(b, b.load(sums)))


def _masked_load(module: Any, real: Any, lanes: int) -> Any:
    some, flags = ir.VectorType(real, lanes), ir.VectorType(ir.IntType(1), lanes)
    kind = ir.FunctionType(some, [some.as_pointer(), _I32, flags, some])
    return _declared(module, kind, f"llvm.masked.load.v{lanes}{'f32' if real == _SINGLE else 'f64'}.p0")


def _below(b: Any, n: Any, lanes: int) -> Any:
    """Flags that are true in the first n lanes."""
    kind = ir.VectorType(_I32, lanes)
    value = b.insert_element(ir.Constant(kind, ir.Undefined), b.trunc(n, _I32), _I32(0))
    value = b.shuffle_vector(value, value, _same(kind, 0))
    return b.icmp_signed("<", ir.Constant(kind, [_I32(j) for j in range(lanes)]), value)


def _part(b: Any, value: Any, first: int, lanes: int) -> Any:
    """Neighbouring lanes of a vector, from the lane `first` on."""
    kind = ir.VectorType(_I32, lanes)
    return b.shuffle_vector(value, value, ir.Constant(kind, [_I32(first + j) for j in range(lanes)]))


def _halved(b: Any, value: Any) -> Any:
    """The sum of all lanes: the second half is added to the first until one lane is left."""
    lanes = value.type.count
    while lanes > 1:
        lanes //= 2
        value = b.fadd(_part(b, value, 0, lanes), _part(b, value, lanes, lanes))
    return b.extract_element(value, _I32(0))


plain_sum, joint_sum = _row_sum(False), _row_sum(True)


@_inner
def _total(n: int, losses: int, e: int, joint: int, one: Any) -> Any:
    """`_row_sum`, or a sum of float64 alone if that is not finite: float32 sums of finite losses may overflow."""
    total = joint_sum(n, losses, e, one) if joint else plain_sum(n, losses, losses, one)
    if not np.isfinite(total):
        total = 0.0
        for k in range(n):
            total += np.float64(_at(losses, k, one))
            if joint:
                total += np.float64(_log1p(_at(e, k, one)))
    return total


@_intrinsic
def short_rows(typingctx: Any, rows: Any, width: Any, losses: Any, divisors: Any, to: Any, one: Any) -> Any:
    """The losses of rows of at most NARROW classes: eight interleaved sums in float64, divided by the row's divisor."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = _SINGLE if one == types.float32 else _DOUBLE
        name = f"mlsm.short.{real}"
        function = builder.module.globals.get(name)
        kinds = [real.as_pointer(), _DOUBLE.as_pointer(), real.as_pointer()]
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [_ADDRESS, _ADDRESS, *kinds])
            function = _private(ir.Function(builder.module, kind, name))
            _build_short_rows(function, real)
        pointers = [builder.inttoptr(value, kind) for value, kind in zip(args[2:5], kinds, strict=True)]
        builder.call(function, [*args[:2], *pointers])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, one), codegen


def _build_short_rows(function: Any, real: Any) -> None:
    b = ir.IRBuilder(function.append_basic_block())
    rows, width, losses, divisors, to = function.args
    load = _masked_load(b.module, real, 8)
    sums = b.alloca(ir.VectorType(_DOUBLE, 8))
    whole = b.and_(width, _ADDRESS(-8))
    left = _below(b, b.sub(width, whole), 8)
    with cgutils.for_range(b, rows) as outer:
        first = b.gep(losses, [b.mul(outer.index, width)], inbounds=True)
        pointer = b.bitcast(b.gep(first, [whole], inbounds=True), load.args[0].type)
        rest = b.call(load, [pointer, _I32(1), left, _same(ir.VectorType(real, 8), 0.0)])
        b.store(_Number(b, rest).to(_DOUBLE).value, sums)
        with cgutils.for_range_slice(b, _ADDRESS(0), whole, _ADDRESS(8)) as (start, _):
            pointer = b.bitcast(b.gep(first, [start], inbounds=True), load.args[0].type)
            value = _Number(b, b.load(pointer, align=1)).to(_DOUBLE).value
            b.store(b.fadd(b.load(sums), value), sums)
        value = b.fdiv(_halved(b, b.load(sums)), b.load(b.gep(divisors, [outer.index], inbounds=True), align=1))
        b.store(_Number(b, value).to(real).value, b.gep(to, [outer.index], inbounds=True), align=1)
    b.ret_void()


# ---------------------------------------------------------------- where an operand is in memory

# The plan of a call, made in Python and cached: the indices of its entries, in an array of int64.
CLASSES, BATCH_AXES, UNIT, SLAB, PITCH, ROOM, JOINT, BY_ROW, SMOOTH, HALF = range(10)
HEAD: Final = 10  # the first index of the lengths of the batch axes, outermost first; the operands follow
X, Y, W, P, M, G, OUT = range(7)
# Of an operand; its steps along the batch axes follow. DOWN is the step from row to row where `_loaded` puts them, STEP
# that from class to class. All steps are in bytes.
TYPE, DIRECT, FIXED, STEP, DOWN = range(5)
OPERAND: Final = 5

ROWS, GRADIENT, HESSIAN, TOTAL, MEAN, COUNT = 1, 2, 4, 8, 16, 32  # the bits of `mode`: the results that are wanted
FEW: Final = 8192  # numbers that NumPy casts to float64 and adds at a time


@_inner
def _offset(plan: Any, operand: int, row: int) -> Any:
    """The offset of a row in the operand, in bytes."""
    axes = plan[BATCH_AXES]
    if axes == 1:
        return row * plan[operand + OPERAND]
    offset = 0
    for axis in range(axes - 1, -1, -1):
        n = plan[HEAD + axis]
        offset += row % n * plan[operand + OPERAND + axis]
        row //= n
    return offset


@_intrinsic
def _prefetch_bytes(typingctx: Any, address: Any, size: Any) -> Any:
    """Prefetch `size` bytes, which may be after the end of an array, because a prefetch does not fault."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with cgutils.for_range_slice(builder, _ADDRESS(0), args[1], _ADDRESS(64)) as (offset, _):
            _prefetch(builder, builder.inttoptr(builder.add(args[0], offset), ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@_inner
def _loaded(
    plan: Any, operand: int, base: int, row: int, many: int, start: int, width: int, tile: int, raw: int, one: Any
) -> Any:
    """The address of `many` rows of an operand, from the class `start` on: in place, or copied into `tile`."""
    axes, pitch = plan[BATCH_AXES], plan[PITCH]
    step, inner, down = plan[operand + STEP], plan[HEAD + axes - 1], plan[operand + OPERAND + axes - 1]
    if plan[operand + DIRECT]:
        return base + _offset(plan, operand, row) + start * step
    kind, size, swapped = plan[operand] // KIND, plan[operand] % SWAPPED, plan[operand] // SWAPPED % 2
    cell = 1 if kind == BYTE else _size(one)
    same = kind == BYTE or (kind == F32 and cell == 4) or (kind == F64 and cell == 8)
    done = 0
    while done < many:  # as many rows at a time as have equal distances
        take = _min(many - done, inner - (row + done) % inner) if axes > 1 else many
        source, to = base + _offset(plan, operand, row + done) + start * step, tile + done * pitch * cell
        if same and step == 0 and not swapped and kind != BYTE and pitch == width:
            _spread(take, width, source, down, to, one)  # a weight of each row: a quarter of the time of `_move`
        elif same:
            _move(size, swapped, take, width, source, down, step, to, pitch * cell, cell)
        elif step == size and not swapped and down == width * size and pitch == width:
            _read(kind, source, take * width, to, one)
            # Prefetch the next block while this one is computed, because the loops read only the copy.
            _prefetch_bytes(source + take * width * size, take * width * size)
        elif step == size and not swapped and width >= 16:
            for r in range(take):
                _read(kind, source + r * down, width, to + r * pitch * cell, one)
            _prefetch_bytes(source + take * down, width * size)
        else:
            _move(size, swapped, take, width, source, down, step, raw, pitch * size, size)
            _read(kind, raw, (take - 1) * pitch + width, to, one)
        done += take
    return tile


@_inner
def _stored(
    plan: Any, operand: int, base: int, row: int, many: int, start: int, width: int, tile: int, raw: int, one: Any
) -> None:
    """The reverse of `_loaded`: write the results in `tile` to the operand."""
    axes, pitch = plan[BATCH_AXES], plan[PITCH]
    step, inner, down = plan[operand + STEP], plan[HEAD + axes - 1], plan[operand + OPERAND + axes - 1]
    kind, size, swapped = plan[operand] // KIND, plan[operand] % SWAPPED, plan[operand] // SWAPPED % 2
    cell = _size(one)
    same = (kind == F32 and cell == 4) or (kind == F64 and cell == 8)
    done = 0
    while done < many:
        take = _min(many - done, inner - (row + done) % inner) if axes > 1 else many
        source, to = tile + done * pitch * cell, base + _offset(plan, operand, row + done) + start * step
        if same:
            _move(size, swapped, take, width, source, pitch * cell, cell, to, down, step)
        elif step == size and not swapped and down == width * size and pitch == width:
            _write(kind, source, take * width, to, one)
        else:
            _write(kind, source, (take - 1) * pitch + width, raw, one)
            _move(size, swapped, take, width, raw, pitch * size, size, to, down, step)
        done += take


@_inner
def _count(plan: Any, operand: int, m: int, row: int, many: int, tile: int, raw: int, divisors: int, one: Any) -> Any:
    """Write the number of observed classes of each row to `divisors`; return where the mask or its last block is."""
    classes, am = plan[CLASSES], m
    for r in range(many):
        _put_at(divisors, r, np.float64(0))
    for start in range(0, classes, BLOCK):
        width = _min(BLOCK, classes - start)
        am = _loaded(plan, operand, m, row, many, start, width, tile, raw, one)
        _observed(many, width, am, plan[operand + DOWN], divisors)
    return am


@_inner
def _any(m: int, n: int) -> Any:
    """1 if one of n bytes is not 0, else 0."""
    for k in range(n):
        if _at(m, k, np.uint8(0)) != 0:
            return 1
    return 0


def _interleaved(leaves: int) -> Any:
    """sum(n, values, one): the sum of `leaves` blocks of n numbers in float64, n a multiple of 8 and at most 128.

    Each block has eight interleaved sums. These are added pairwise, and then the sums of the blocks.
    """

    @_intrinsic
    def total(typingctx: Any, n: Any, values: Any, one: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b, real = builder, _SINGLE if one == types.float32 else _DOUBLE
            wide: Any = _same(ir.VectorType(_DOUBLE, 8), 0.0)
            sums = [cgutils.alloca_once_value(b, wide) for _ in range(leaves)]  # type: ignore[no-untyped-call]
            first = b.inttoptr(args[1], real.as_pointer())
            with cgutils.for_range_slice(b, _ADDRESS(0), args[0], _ADDRESS(8)) as (start, _):
                for leaf, held in enumerate(sums):
                    place = b.gep(first, [b.add(start, b.mul(args[0], _ADDRESS(leaf)))])
                    part = b.load(b.bitcast(place, ir.VectorType(real, 8).as_pointer()), align=1)
                    b.store(b.fadd(b.load(held), _Number(b, part).to(_DOUBLE).value), held)
            found = [_neighbours(b, b.load(held)) for held in sums]
            while len(found) > 1:
                found = [b.fadd(left, right) for left, right in zip(found[::2], found[1::2], strict=True)]
            return found[0]

        return types.float64(types.int64, types.int64, one), codegen

    return total


def _neighbours(b: Any, value: Any) -> Any:
    """The sum of all lanes, by pairs of neighbours."""
    while value.type.count > 1:
        kind = ir.VectorType(_I32, value.type.count // 2)
        lanes = [ir.Constant(kind, [_I32(2 * j + k) for j in range(kind.count)]) for k in (0, 1)]
        value = b.fadd(*(b.shuffle_vector(value, value, some) for some in lanes))
    return b.extract_element(value, _I32(0))


_leaf, _eight_leaves = _interleaved(1), _interleaved(8)


@_inner
def _numpys_sum(n: int, values: int, one: Any) -> Any:
    """The sum of numbers in float64, in the order of NumPy's sum, so that it has the same bits."""
    if n == 1024:  # the code below takes twice the time, because each of its additions waits for the one before
        return _eight_leaves(128, values, one)
    if n > 128:
        half = n // 2 & -8
        return _numpys_sum(half, values, one) + _numpys_sum(n - half, values + half * _size(one), one)
    whole = n & -8
    total = _leaf(whole, values, one)
    for k in range(whole, n):
        total += np.float64(_at(values, k, one))
    return total


@_intrinsic
def _loss_sum(typingctx: Any, x: Any, y: Any, one: Any) -> Any:
    """The sum of the losses of BLOCK neighbouring elements, in the order of NumPy's sum. The losses are not stored."""
    real = _SINGLE if one == types.float32 else _DOUBLE

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"mlsm.losses.{real}"
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(_DOUBLE, [real.as_pointer()] * 2)
            function = _private(ir.Function(builder.module, kind, name))
            _build_loss_sum(function, real)
        return builder.call(function, [builder.inttoptr(value, real.as_pointer()) for value in args[:2]])

    return types.float64(types.int64, types.int64, one), codegen


def _build_loss_sum(function: Any, real: Any) -> None:
    b, some, eight = ir.IRBuilder(function.append_basic_block()), ir.VectorType(real, LANES), ir.VectorType(_DOUBLE, 8)
    leaf = 128  # elements that are added by eight interleaved sums
    # LANES elements at a time. With 16, 2M elements took 0.95 of the time with AVX-512, and 1.14 without it (Zen 4).
    found, sums = b.alloca(ir.VectorType(_DOUBLE, BLOCK // leaf)), b.alloca(eight)
    with cgutils.for_range_slice(b, _ADDRESS(0), _ADDRESS(BLOCK), _ADDRESS(leaf)) as (first, _):
        b.store(_same(eight, 0.0), sums)
        with cgutils.for_range_slice(b, first, b.add(first, _ADDRESS(leaf)), _ADDRESS(LANES)) as (start, _):
            places = [b.bitcast(b.gep(v, [start], inbounds=True), some.as_pointer()) for v in function.args]
            losses = _loss(*(_Number(b, b.load(place, align=1)) for place in places)).to(_DOUBLE).value
            for k in range(0, LANES, 8):
                b.store(b.fadd(b.load(sums), _part(b, losses, k, 8)), sums)
        place = b.gep(b.bitcast(found, _DOUBLE.as_pointer()), [b.udiv(first, _ADDRESS(leaf))], inbounds=True)
        b.store(_neighbours(b, b.load(sums)), place)
    b.ret(_neighbours(b, b.load(found)))


# ---------------------------------------------------------------- the pass

# Scratch buffers of one block each, in addition to the copies of operands.
E, LINE, LOSSES, SCALES, WEIGHTS, OF_ROWS, APART_W, ONES, SEEN, PRODUCTS = range(10)
BUFFERS: Final = 10


@_inner
def _formula(
    one: Any, mode: int, n: int, x: int, y: int, w: int, p: int, m: int, smooth: int, keep: Any, add: Any, f: int,
    joint: int, plain: int, losses: int, out: int, room: int,
) -> None:  # fmt: skip
    """Compute the results that `mode` selects for n neighbouring elements, derivatives times f.

    Losses are written to `losses`, or, if `joint`, in two parts to the buffers E and LINE. `plain`: there is no option
    except a weight, which f includes already, or a mask, by which the results are set to 0, or both.
    """
    work = APART * _size(one)
    e, linear, ones = room + E * work, room + LINE * work, room + ONES * work
    given = one if p != 0 else one - one
    if not plain:
        y, w, p = y if y != 0 else ones, w if w != 0 else ones, p if p != 0 else ones
        m = m if m != 0 else room + SEEN * work
    if mode & HESSIAN:
        if plain:
            hessian(n, x, f, out, one)
        else:
            hessian_of(n, x, y, w, p, m, f, out, keep, add, given, one)
    elif plain:
        single = e if w != 0 else losses
        if mode == GRADIENT:
            gradient(n, x, y, f, out, one)
        elif joint:
            if mode == ROWS:
                line(n, x, y, e, linear, one)
            else:
                both(n, x, y, f, e, linear, out, one)
        elif mode == ROWS:
            loss(n, x, y, single, one)
        else:
            loss_and_gradient(n, x, y, f, single, out, one)
        if mode & ROWS and w != 0:
            times(n, single, w, losses, one)
        if mode & ROWS and m != 0:
            observed_only(n, losses, m, one)
    elif mode == GRADIENT:
        gradient_of(n, x, y, w, p, m, f, out, keep, add, given, one)
    elif mode == ROWS:
        if joint:
            line_of(n, x, y, w, p, m, e, linear, keep, add, given, one)
        else:
            loss_of(n, x, y, w, p, m, losses, keep, add, given, one)
    elif joint:
        both_of(n, x, y, w, p, m, f, e, linear, out, keep, add, given, one)
    else:
        loss_and_gradient_of(n, x, y, w, p, m, f, losses, out, keep, add, given, one)
    if plain and m != 0 and mode != ROWS:
        observed_only(n, out, m, one)


@_inner
def _observed_rows(
    plan: Any, m_at: int, m: int, first: int, last: int, tile: int, raw: int, divisors: int, one: Any
) -> Any:
    """How many of the rows first:last have an observed class."""
    classes, found, nothing = plan[CLASSES], np.float64(0), np.float64(0)
    at_hand = plan[m_at + DIRECT] != 0 and classes > NARROW
    if at_hand:  # a row counts if one label is known, and most rows show one at once
        for i in range(first, last):
            found += _any(m + _offset(plan, m_at, i), classes)
    # Rows of at most NARROW classes that are read in place have one batch axis, and so an equal distance.
    together = BLOCK if plan[m_at + DIRECT] else plan[SLAB]  # rows; the buffer for copies holds a slab
    for start in range(last if at_hand else first, last, together):
        many = _min(together, last - start)
        _count(plan, m_at, m, start, many, tile, raw, divisors, one)
        for r in range(many):
            found += _at(divisors, r, nothing) > 0
    return found


@_inner
def _loss_of_elements(
    plan: Any, x_at: int, x: int, y_at: int, y: int, end: int, x_tile: int, y_tile: int, raw: int, sums: int, one: Any
) -> Any:
    """The sum of the first `end` losses of one class, a multiple of FEW, in the order of NumPy's sum."""
    total, many, start, width = 0.0, np.int64(BLOCK), np.int64(0), np.int64(1)
    for i in range(0, end, BLOCK):
        ax = _loaded(plan, x_at, x, i, many, start, width, x_tile, raw, one)
        ay = _loaded(plan, y_at, y, i, many, start, width, y_tile, raw, one)
        _put_at(sums, i % FEW // BLOCK, _loss_sum(ax, ay, one))
        if (i + BLOCK) % FEW == 0:
            total += _leaf(FEW // BLOCK, sums, np.float64(0))
    return total


def fused(
    one: Any, mode: int, first: int, last: int, plan: Any, x: int, y: int, w: int, p: int, m: int, g: int,
    rows: int, out: int, value: int, scale: float, keep: float, add: float,
) -> None:  # fmt: skip
    """Compute the results that `mode` selects for the rows first:last: their losses are written to `rows`, and their
    gradient or Hessian times a scale to `out`.

    Operands are addresses, 0 if absent; `plan` describes their memory. `one` has the dtype of the arithmetic and of
    `rows`. The scale of a row is its entry of g, or `scale`, divided by the number of its observed classes. With TOTAL
    or MEAN these are all rows: their sum or mean is written to `value`, the scale is that of the loss, and `rows` is 0;
    there are at most FEW rows, or more if they are float32 losses of one class. With COUNT alone, only the number of
    rows with an observed class is written to `value`, a float64.
    """
    size = _size(one)
    classes, unit, slab, joint, by_row = plan[CLASSES], plan[UNIT], plan[SLAB], plan[JOINT], plan[BY_ROW]
    derived, nothing = mode & (GRADIENT | HESSIAN) != 0, np.float64(0)
    work, tile = APART * size, plan[ROOM] * 8 + SPARE
    around = FEW if mode & (TOTAL | MEAN) else last  # rows after which `rows` is filled from its start again
    own = _min(last, around) * size if rows == 0 and mode & ROWS else 0
    space = np.empty(7 * tile + BUFFERS * work + 3 * 8 * BLOCK + own, np.uint8)
    tiles = np.int64(space.ctypes.data)
    room, raw = tiles + 7 * tile, tiles + 6 * tile
    sums = room + BUFFERS * work
    rests, divisors = sums + 8 * BLOCK, sums + 16 * BLOCK
    if own != 0:
        rows = sums + 24 * BLOCK
    of_rows, weights = room + OF_ROWS * work, room + WEIGHTS * work
    shift, shrink = _real(add, one), _real(keep, one)
    each = OPERAND + plan[BATCH_AXES]
    x_at = HEAD + plan[BATCH_AXES]
    y_at, w_at, p_at, m_at, g_at, out_at = (
        x_at + each, x_at + 2 * each, x_at + 3 * each, x_at + 4 * each, x_at + 5 * each, x_at + 6 * each,
    )  # fmt: skip
    half = plan[HALF] if size == 4 else 0  # the dtype that is converted in registers, 0 if there is none
    if w != 0 or p != 0 or m != 0 or plan[SMOOTH]:
        filled(BLOCK, room + ONES * work, one, one)
        for j in range(BLOCK // 8):
            _put_at(room + SEEN * work, j, np.int64(0x0101010101010101))
    absent = np.int64(0)  # for a constant 0, Numba would compile the called function again
    averaged: Any = np.float64(last)
    if m != 0 and mode & (MEAN | COUNT):
        averaged = _observed_rows(plan, m_at, m, first, last, tiles + M * tile, raw, divisors, one)
        if mode & COUNT:
            _put_at(value, 0, averaged)
            space[0] = 0
            return
        averaged = averaged if averaged > 1 else np.float64(1)
    if mode & MEAN:
        scale /= averaged
    alike = g == 0 and m == 0 and by_row == 0  # whether all rows have the same scale
    f, late = room + SCALES * work, absent
    # A weight that is the only option is multiplied by the scale first, unless the product might leave the range or the
    # weight is as large as the logits: a loop that reads these together takes 0.74 of the time at 8192x1000.
    large = w != 0 and plan[w_at + DIRECT] != 0 and plan[w_at + FIXED] == 0
    # With a mask, the results are computed as if there were none, and then set to 0 where it is False: 0.8 of the time
    # of the loops that serve all options.
    alone = p == 0 and (m == 0 or joint == 0) and plan[SMOOTH] == 0 and not large
    within = not derived or not alike or abs(scale / classes) <= 1
    products = room + PRODUCTS * work
    # Loss and gradient with a mask alone need no copies of each row's factor: 0.75 of the time at 8192x1000.
    both = ROWS | GRADIENT
    bare = joint != 0 and m != 0 and w == 0 and p == 0 and plan[SMOOTH] == 0 and mode & both == both
    if alike and derived:
        filled(BLOCK, f, _real(scale / classes, one), one)
    # Derivatives without options, of rows that lie one after the other, are computed element by element: no sum over a
    # row and no factor of a row is needed.
    end, each_row = first, classes * size
    x_lies = plan[x_at + DIRECT] != 0 and plan[x_at + DOWN] == each_row
    y_lies = y == 0 or (plan[y_at + DIRECT] != 0 and plan[y_at + DOWN] == each_row)
    out_lies = plan[out_at + DIRECT] != 0 and plan[out_at + DOWN] == each_row and plan[BATCH_AXES] == 1
    if x_lies and y_lies and out_lies and alone and alike and w == 0 and derived and mode & ROWS == 0:
        for start in range(first * each_row, last * each_row, BLOCK * size):
            n = _min(BLOCK, (last * each_row - start) // size)
            _formula(
                one, mode, n, x + start, y + start, absent, absent, absent, absent, shrink, shift, f, joint, alone,
                absent, out + start, room,
            )  # fmt: skip
        end = last
    # Losses of one class without options are added while they are computed, FEW at a time, and the loop below adds the
    # rest. For 2M elements this takes 0.8 to 0.9 of the time of storing them first; if all fit the cache, as long.
    total = 0.0
    if classes == 1 and alone and w == 0 and m == 0 and not derived and mode & (TOTAL | MEAN):
        end = last // FEW * FEW
        total = _loss_of_elements(plan, x_at, x, y_at, y, end, tiles + X * tile, tiles + Y * tile, raw, sums, one)
    ax, ay, aw, ap, am, aout = x, y, w, p, m, out
    for r in range(_min(slab, last - first)):
        _put_at(divisors, r, np.float64(classes))
    for i in range(end, last, slab):
        many = _min(slab, last - i)
        if m != 0 and classes > 1:  # one class is divided by 1, observed or not
            am = _count(plan, m_at, m, i, many, tiles + M * tile, raw, divisors, one)
            for r in range(many):
                count = _at(divisors, r, nothing)
                _put_at(divisors, r, count if count > 1 else np.float64(1))
        if by_row:
            aw = _loaded(plan, w_at, w, i, many, absent, np.int64(1), tiles + W * tile, raw, one)
        if derived and not alike and g == 0 and not by_row:  # one loop without a branch, which is compiled to vectors
            within = abs(scale) <= 1
            for r in range(many):
                _put_at(of_rows, r, _real(scale / _at(divisors, r, nothing), one))
        elif derived and not alike:
            within = True  # whether no product of scale and weight leaves the range
            for r in range(many):
                s = scale if g == 0 else _at(g + _offset(plan, g_at, i + r), 0, nothing)
                s /= _at(divisors, r, nothing)
                within &= abs(s) <= 1
                _put_at(of_rows, r, _real(s, one))
            late = absent
            if by_row:
                late |= not within
                for r in range(many):
                    s, weight = np.float64(_at(of_rows, r, one)), _at(aw, r * plan[PITCH], one)
                    together = abs(s) <= 1
                    _put_at(of_rows, r, _real(s * weight if together else s, one))
                    _put_at(room + APART_W * work, r, one if together else weight)
        for start in range(0, classes, BLOCK):
            width = _min(BLOCK, classes - start)
            again = i > first or start > 0
            ax = _loaded(plan, x_at, x, i, many, start, width, tiles + X * tile, raw, one)
            if y != 0:
                ay = _loaded(plan, y_at, y, i, many, start, width, tiles + Y * tile, raw, one)
            if w != 0 and not by_row and not (again and plan[w_at + FIXED]):
                aw = _loaded(plan, w_at, w, i, many, start, width, tiles + W * tile, raw, one)
            if p != 0 and not (again and plan[p_at + FIXED]):
                ap = _loaded(plan, p_at, p, i, many, start, width, tiles + P * tile, raw, one)
            if m != 0 and (classes == 1 or classes > BLOCK):
                am = _loaded(plan, m_at, m, i, many, start, width, tiles + M * tile, raw, one)
            straight = plan[out_at + DIRECT]
            aout = out + _offset(plan, out_at, i) + start * plan[out_at + STEP]
            if not straight:
                if derived and slab == unit and plan[out_at + STEP] == plan[out_at] % SWAPPED:
                    # 0.93 of the time of float16 with a mask, 4096x1000, and 0.86 of its gradient's.
                    _prefetch_bytes(aout, many * width * plan[out_at + STEP])
                aout = tiles + OUT * tile
            for u in range(0, many, unit):
                k = _min(unit, many - u)
                n = k * width
                x_here, out_here = ax + u * plan[x_at + DOWN], aout + u * plan[out_at + DOWN]
                y_here = ay + u * plan[y_at + DOWN] if y != 0 else absent
                p_here = ap + u * plan[p_at + DOWN] if p != 0 else absent
                m_here = am + u * plan[m_at + DOWN] if m != 0 else absent
                if derived and not alike and not bare:
                    if classes == 1:
                        f = of_rows + u * size
                    else:
                        _spread(k, width, of_rows + u * size, size, room + SCALES * work, one)
                if late != 0:
                    _spread(k, width, room + APART_W * work + u * size, size, weights, one)
                own_w = aw + u * plan[w_at + DOWN] if w != 0 and not by_row else weights if late != 0 else 0
                plain = alone and (within or own_w == 0)
                factors = f
                if plain and derived and own_w != 0:
                    factors = products
                    if not (alike and plan[w_at + FIXED] and (again or u > 0)):
                        times(n, f, own_w, products, one)
                losses = rows + (i + u) % around * size if classes == 1 else room + LOSSES * work
                e, linear = room + E * work, room + LINE * work
                if half == F16:
                    both_float16(n, x_here, y_here, f, e, linear, out_here, one)
                elif half != 0:
                    both_bfloat16(n, x_here, y_here, f, e, linear, out_here, one)
                elif bare:
                    for r in range(k):
                        here = r * width * size
                        both_masked(
                            width, x_here + here, y_here + here, m_here + r * width, e + here, linear + here,
                            out_here + here, _at(of_rows, u + r, one), one,
                        )  # fmt: skip
                else:
                    _formula(
                        one, mode & (ROWS | GRADIENT | HESSIAN), n, x_here, y_here, own_w, p_here, m_here, plan[SMOOTH],
                        shrink, shift, factors, joint, plain, losses, out_here, room,
                    )  # fmt: skip
                if mode & ROWS and 1 < classes <= NARROW:
                    short_rows(k, width, losses, divisors + u * 8, rows + (i + u) * size, one)
                elif mode & ROWS and classes > 1:
                    for r in range(k):
                        here = r * width * size
                        part = _total(width, (linear if joint else losses) + here, e + here, joint, one)
                        if classes > BLOCK:
                            # The rounding error of each addition is summed separately: no error grows with C.
                            before = _at(sums, u, nothing) if start > 0 else nothing
                            lost = _at(rests, u, nothing) if start > 0 else nothing
                            after = before + part
                            back = after - before
                            lost += (before - (after - back)) + (part - back)
                            _put_at(sums, u, after)
                            _put_at(rests, u, lost)
                            part = after + lost if np.isfinite(lost) else after
                        if start + width == classes:
                            part /= _at(divisors, u + r, nothing)
                            if by_row:
                                part *= _at(aw, (u + r) * plan[PITCH], one)
                            _put_at(rows + (i + u + r) * size, 0, _real(part, one))
            if derived and not straight:
                _stored(plan, out_at, out, i, many, start, width, aout, raw, one)
        if mode & (TOTAL | MEAN) and ((i + many) % FEW == 0 or i + many == last):
            total += _numpys_sum((i + many - 1) % FEW + 1, rows, one)
    if mode & (TOTAL | MEAN):
        _put_at(value, 0, _real(total / averaged if mode & MEAN else total, one))
    space[0] = 0  # keeps the memory alive until here: Numba sees only its address


def elements(
    one: Any,
    n: int,
    x: int,
    y: int,
    w: int,
    p: int,
    m: int,
    gradient: int,
    hessian: int,
    least: float,
    keep: float,
    add: float,
) -> None:
    """Gradient and curvature of n neighbouring elements, not averaged; w, p and m (bytes) are 0 if absent.

    All other arrays have the dtype of `one`. The factor s*(1-s) of the curvature is at least `least`.
    """
    size, floor, shrink, shift = _size(one), _real(least, one), _real(keep, one), _real(add, one)
    if w == 0 and p == 0 and m == 0:
        pair(n, x, y, gradient, hessian, floor, shrink, shift, one)
        return
    space = np.ones(BLOCK * (size + 1), np.uint8)
    ones = np.int64(space.ctypes.data)
    seen = ones + BLOCK * size
    filled(BLOCK, ones, one, one)
    for start in range(0, n, BLOCK):
        here = start * size
        pair_of(
            _min(BLOCK, n - start), x + here, y + here, w + here if w != 0 else ones, p + here if p != 0 else ones,
            m + start if m != 0 else seen, gradient + here, hessian + here, floor, shrink, shift,
            one if p != 0 else one - one, one,
        )  # fmt: skip
    space[0] = 0  # keeps the memory alive until here: Numba sees only its address


# ---------------------------------------------------------------- compiled


def _compiled(function: Any) -> Any:
    """The function, compiled on the first call in each dtype of the arithmetic and stored on disk if possible.

    Numba stores the code next to this file, or, if it cannot write there, in the user's cache folder. If it can write
    to neither, every process compiles again.
    """
    dispatcher = _njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, pipeline_class=_Pipeline)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
    else:
        dispatcher._cache = _Optional(dispatcher._cache)
    _announced(dispatcher)
    return dispatcher


def _announced(dispatcher: Any) -> None:
    """Log each compilation that a user might take for a hang, and pause the garbage collector for it.

    A compilation makes millions of objects. The collector would then visit all objects of PyTorch and JAX again and
    again, which would take a seventh of the processor's time.
    """
    compile_ = dispatcher.compile

    def compile(signature: Any) -> Any:
        started, collects = time.perf_counter(), gc.isenabled()
        gc.disable()
        try:
            found = compile_(signature)
        finally:
            if collects:
                gc.enable()
        taken = time.perf_counter() - started
        if taken > SILENCE:
            logging.getLogger("mlsm").info("Numba compiled %s in %.1f s", dispatcher.__name__, taken)
        return found

    dispatcher.compile = compile


class _Optional:
    """Numba's cache on disk, whose failures (a full or read-only disk, a damaged file) do not end a call.

    Numba itself would raise the error. It has no public interface for this; a test notices if it changes.
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
        with suppress(Exception):  # a damaged index fails here too: it is read before it is written
            self._cache.save_overload(*arguments)


fused, elements = map(_compiled, (fused, elements))
