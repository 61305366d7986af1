"""NumPy: the loss in blocks that fit the cache, in place, with NumPy alone.

Serves NumPy arrays and CPU tensors (without a copy) with all options, shapes and layouts. A loss needs memory for its
row losses and a few MiB: each block is read in place, and its arithmetic is done in contiguous scratch. Tensors that
NumPy cannot view (bfloat16) run the generic formula block by block in PyTorch's own arithmetic. The kernel sets NumPy's
error state itself for tensors, because their calls do not.

With h = [x >= 0] as 0.0 or 1.0 the contract's t is sign*(h - y), so that t*|x| = x*(h - y) and the gradient is
(h - y) - sign*s, to the bit, because signs are exact. So no `where` on a data mask is needed, whose branch misses cost
more than the exponential; where the mask is false, results are set to 0 by their bits. x*(h - y) is 0*inf where the
guard of `_core` matters; the row sums of such a block are not finite, and are computed again with the guard.
"""

import math
import sys
from functools import cache
from itertools import product
from typing import Any, Final

import array_api_compat.numpy as xp
import numpy as np

from .. import _blocks as _blocked
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Problem
from . import _derivatives

# Elements of a block: 128 KiB of float32, of which five scratch blocks and the operands' share fit a 1 MiB L2. Measured
# on a Xeon with AVX-512 and 2 MiB of L2, 8192x1000 float32, time over that of 16384, value_and_grad / loss:
# 4096: 1.66 / 1.67, 8192: 1.22 / 1.20, 32768: 0.91 / 0.89, 65536: 0.90 / 0.83, 131072: 0.98 / 0.85. With less L2 the
# curve turns earlier, so the smaller of the two good sizes.
BLOCK: Final = 32768
WHOLE: Final = 3 * BLOCK // 2  # elements up to which a call is one block, because a second block costs 10 us
# Classes of a block at most, so that it has eight rows: in Fortran order one row would use 4 bytes of each 64 read.
WIDEST: Final = 4096
# Elements from which `_log1p` takes less time than a scalar log1p: its thirteen calls cost as much as a thousand.
SMALL: Final = 1024

FEW: Final = 4096  # elements up to which fresh scratch takes no page fault
SHORT: Final = 8  # classes up to which NumPy adds one by one too, but takes 20 ns to begin a row: 2 classes 12 ns, 4 ns
ROOMS: Final = 4  # scratch buffers that are kept for later calls, of 1 to 3 MiB each

NORMAL: Final = 2.0**-14  # the smallest float16 that is not subnormal


def accepts(problem: Problem) -> str | None:
    """None, or why NumPy cannot read these arrays."""
    if problem.library == "torch" and problem.device.type != "cpu":
        return f"NumPy reads host memory only; the tensors are on {problem.device}"
    return None


# ---------------------------------------------------------------- the seam


def rows(o: Operands) -> Any:
    return _run(o, None, value=True, derivative=None)[0]


def rows_vjp(o: Operands, g: Any) -> Any:
    return _run(o, g, value=False, derivative="gradient")[1]


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return _run(o, g, value=True, derivative="gradient")


def curvature(o: Operands, g: Any) -> Any:
    return _run(o, g, value=False, derivative="hessian")[1]


def derivatives(o: Operands, scale: Any, least: float) -> tuple[Any, Any]:
    arrays = _derivatives.host(o)
    scale = scale if scale is None or arrays is o else _array(scale)
    with np.errstate(all="ignore"):
        block = _derivatives.BLOCK >> (o.p is not None)  # the coefficients of pos_weight take three more arrays
        found = _derivatives.derivatives(arrays, scale, least, _derivatives.by_numpy({}), block)
    if arrays is o:
        return found
    import torch

    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def accepts_derivatives(problem: Problem) -> str | None:
    return accepts(problem) or (_derivatives.unreadable(problem) if problem.library == "torch" else None)


KERNEL = Kernel(
    "numpy",
    ("numpy", "torch"),
    accepts,
    rows,
    rows_vjp,
    rows_and_vjp,
    curvature,
    derivatives=derivatives,
    accepts_derivatives=accepts_derivatives,
)


# ---------------------------------------------------------------- views


def _run(o: Operands, g: Any, *, value: bool, derivative: str | None) -> tuple[Any, Any]:
    """Row losses and a derivative, as wanted, in the library that the operands came in."""
    if isinstance(o.x, np.ndarray):
        return _of_arrays(o, g, value, derivative)  # under the caller's `errstate` already
    import torch

    # NumPy can view neither bfloat16 nor a negated tensor: PyTorch's own arithmetic, block by block.
    if any(v is not None and (v.dtype is torch.bfloat16 or v.is_neg()) for v in o[1:6]):
        if derivative == "hessian":
            return None, _blocked.curvature(o, g)
        if derivative is None:
            return _blocked.rows(o), None
        return _blocked.rows_and_vjp(o, g) if value else (None, _blocked.rows_vjp(o, g))
    dtype = np.float32 if o.dtype is torch.float32 else np.float64
    host = Operands(xp, _array(o.x), _array(o.y), _array(o.w), _array(o.p), _array(o.m), o.eps, dtype, np.float64)
    with np.errstate(all="ignore"):
        found = _of_arrays(host, _array(g), value, derivative)
    value_found, derivative_found = (None if v is None else torch.from_numpy(v) for v in found)
    return value_found, derivative_found


def _array(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def _of_arrays(o: Operands, g: Any, value: bool, derivative: str | None) -> tuple[Any, Any]:
    x = o.x
    rows = np.empty(x.shape[:-1], o.dtype) if value else None
    # K order, as NumPy's own arithmetic would have it: Fortran in, Fortran out.
    gradients = np.empty_like(x, subok=False) if derivative else None
    # Without a mask the divisor is known and divides `grad_output` once; with a mask, row by row.
    scale = g if g is None or o.m is not None else (g / x.shape[-1]).astype(o.dtype)
    work = _Work(o, value, derivative)
    if x.size > FEW:
        work.room = _taken(work.count * min(x.size, WHOLE) * np.dtype(o.dtype).itemsize)
        _fill(work, o, scale, rows, gradients)
        _given_back(work.room)
    else:
        work.rows(o, scale, rows, gradients, _EVERY)
    return rows, gradients


def _fill(work: "_Work", o: Operands, scale: Any, rows: Any, gradients: Any) -> None:
    """The results of a call, block by block."""
    x = o.x
    if x.size <= WHOLE and x.shape[-1] <= WIDEST:  # one block, as in every small call: nothing to cut
        work.rows(o, scale, rows, gradients, _EVERY)
        return
    if x.ndim == 1:
        o = o.holding(x[None], o.y[None], o.w, o.p, o.m)
    row_parts, gradient_parts = (v if v is None or x.ndim > 1 else v[None] for v in (rows, gradients))
    batch, classes = _cuts(o.x)
    shape = o.x.shape
    for index in product(*batch):
        whole = (*index, _ALL)
        work.rows(
            o.holding(*[v if v is None else v[whole] if v.shape == shape else _blocked.at(v, whole) for v in o[1:6]]),
            scale if scale is None or not scale.ndim else _blocked.at(scale, index),
            None if row_parts is None else row_parts[index],
            None if gradient_parts is None else gradient_parts[whole],
            classes,
        )


_ALL: Final = slice(None)
_EVERY: Final = [_ALL]


def _by_memory(x: Any) -> list[int] | None:
    """The axes from the largest stride to the smallest, as in results and scratch; None for C order."""
    axes = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return None if axes == list(range(x.ndim)) else axes


def _cuts(x: Any) -> tuple[list[list[slice]], list[slice]]:
    """The slices of each batch axis, of which axes with small strides get the longest, and those of the class axis."""
    *batch, c = x.shape
    width = min(c, WIDEST)
    room = BLOCK // width
    cuts: list[list[slice]] = [[]] * len(batch)
    for axis in sorted(range(len(batch)), key=lambda axis: abs(x.strides[axis])):
        step = max(1, min(batch[axis], room))
        cuts[axis] = _slices(batch[axis], step)
        room //= step
    return cuts, _slices(c, width)


# Scratch of earlier calls. A block of fresh memory costs a page fault for each of its pages, which is as much time as
# 512x80 logits take. Removed from the list while in use, so that neither another thread nor a nested call can use it.
_rooms: list[Any] = []


def _taken(nbytes: int) -> Any:
    try:
        room = _rooms.pop()
    except IndexError:
        room = None
    return room if room is not None and room.nbytes >= nbytes else np.empty(nbytes, np.uint8)


def _given_back(room: Any) -> None:
    if len(_rooms) < ROOMS:
        _rooms.append(room)


def _slices(n: int, step: int) -> list[slice]:
    return [slice(i, min(n, i + step)) for i in range(0, n, step)]


# ---------------------------------------------------------------- blocks


class _Work:
    """The arithmetic of every block of a call, and its scratch."""

    def __init__(self, o: Operands, value: bool, derivative: str | None) -> None:
        self.value, self.derivative = value, derivative
        self.dtype = o.dtype
        self.zero, self.one, self.minus_two = _derivatives.numbers(o.dtype)
        self.signs = derivative is not None or o.eps != 0
        self.own_log1p = value and o.x.size >= SMALL and o.dtype == np.float32 and not _log1p_is_fast()
        self.count = (5 if self.signs else 3) + (3 if self.own_log1p else 0) + (0 if o.p is None else 3)
        self.axes = None if o.x.flags.c_contiguous else _by_memory(o.x)
        self.room: Any = None
        self.kept: dict[Any, Any] = {}

    def rows(self, o: Operands, scale: Any, rows: Any, gradients: Any, pieces: Any) -> None:
        """Fill the row losses and derivatives of whole rows, in pieces of their class axis."""
        divisor: Any = o.x.shape[-1]
        keep = None
        if o.m is not None:
            keep = self._keep(o.m) if len(pieces) == 1 else None
            divisor = np.maximum(self._observed(o, keep, pieces), 1)
            scale = None if scale is None else (scale / divisor).astype(self.dtype)
        scale = scale if scale is None or not scale.ndim else scale[..., None]
        if len(pieces) == 1:
            total = self._block(o, keep, scale, gradients)
        else:
            sums = np.empty((*o.x.shape[:-1], len(pieces)))
            for b, classes in enumerate(pieces):
                part = o.holding(*(_piece(v, classes) for v in o[1:6]))
                out = None if gradients is None else gradients[..., classes]
                sums[..., b] = self._block(part, None if part.m is None else self._keep(part.m), scale, out)
            total = np.add.reduce(sums, -1)
        if rows is not None:
            rows[...] = total / divisor if o.x.shape[-1] > 1 else total  # cheaper than a division that casts

    def _scratch(self, shape: tuple[int, ...]) -> Any:
        found = self.kept.get(shape)
        if found is None:
            axes = self.axes
            full = (self.count, *(shape if axes is None else [shape[axis] for axis in axes]))
            if self.room is None:
                blocks = np.empty(full, self.dtype)
            else:
                blocks = self.room.view(self.dtype)[: math.prod(full)].reshape(full)
            found = tuple(blocks if axes is None else [block.transpose(np.argsort(axes)) for block in blocks])
            self.kept[shape] = found
        return found

    def _contiguous(self, values: Any) -> Any:
        found = self.kept.get(("contiguous", values.shape))
        if found is None:
            found = self.kept["contiguous", values.shape] = np.empty(values.shape, self.dtype)
        np.copyto(found, values)
        return found

    def _keep(self, m: Any) -> Any:
        """The mask as integers of the results' size: all bits where it is true (any byte but 0), else none."""
        found = self.kept.get(("mask", m.shape))
        if found is None:
            bits = np.int32 if self.dtype == np.float32 else np.int64
            found = self.kept["mask", m.shape] = np.empty_like(m, np.int8), np.empty_like(m, bits)
        narrow, keep = found
        np.not_equal(m.view(np.int8), 0, narrow.view(np.bool_))
        np.negative(narrow, narrow)
        np.copyto(keep, narrow)
        return keep

    def _observed(self, o: Operands, keep: Any, pieces: Any) -> Any:
        """The number of observed classes of each row, of the batch shape of the mask, which broadcasts."""
        m, c = o.m, o.x.shape[-1]
        if not m.ndim or m.shape[-1] == 1:
            return (m if not m.ndim else m[..., 0]).astype(np.bool_) * c
        if keep is not None:
            return -np.add.reduce(keep, -1, keep.dtype)
        kept = (self._keep(m[..., classes]) for classes in pieces)
        return -sum(np.add.reduce(keep, -1, keep.dtype) for keep in kept)

    def _block(self, o: Operands, keep: Any, scale: Any, out: Any) -> Any:
        """Some fifteen passes over blocks that stay in the cache. Fills `out`; returns the row sums if wanted."""
        h, e, copy, *more = self._scratch(o.x.shape)
        sign, spare, *more = more if self.signs else (None, None, *more)
        x, total, q = o.x, None, None
        if x.dtype != self.dtype or not (x if self.axes is None else x.transpose(self.axes)).flags.carray:
            np.copyto(copy, x)
            x = copy
        np.greater_equal(x, self.zero, h)
        if self.signs:
            np.multiply(h, self.minus_two, sign)
            np.add(sign, self.one, sign)  # minus the contract's sign
            np.multiply(x, sign, e)
        else:
            np.absolute(x, e)
            np.negative(e, e)
        np.exp(e, e)
        if o.p is not None:
            q = self._coefficients(o, h, *more[-3:])
        elif self.derivative != "hessian":
            np.subtract(h, o.y, h, dtype=self.dtype, casting="unsafe")
            if o.eps:
                np.multiply(h, 1 - o.eps, h)
                np.multiply(sign, o.eps / 2, spare)
                np.subtract(h, spare, h)
        if self.value:
            smooth = spare if self.derivative else e  # a derivative still needs e
            if self.own_log1p:
                _log1p(e, smooth, *more[:3])
            else:
                np.log1p(e, smooth)
            if q is not None:
                np.multiply(smooth, q, smooth)
            total = self._sums(o, x, h, smooth, copy, keep)
            # The sum of squares is finite only if every sum is; one call of BLAS takes a fifth of the time of isfinite
            # and all. For more elements BLAS would use threads.
            if not math.isfinite(total.dot(total) if total.size <= FEW else np.add.reduce(total)):
                np.copyto(copy, o.x)
                np.copyto(copy, 0, where=(h == 0) & np.isinf(copy))
                total = self._sums(o, copy, h, smooth, copy, keep)
            if o.x.ndim != 2:
                total = total.reshape(o.x.shape[:-1])
        if not self.derivative:
            return total
        np.add(e, self.one, spare)
        np.divide(e, spare, e)  # s
        if self.derivative == "gradient":
            np.multiply(e, sign, e)
            if q is not None:
                np.multiply(e, q, e)
            np.add(h, e, e)
        else:
            np.subtract(self.one, e, spare)
            np.multiply(e, spare, e)
            if q is not None:
                np.multiply(e, q, e)
        if o.w is not None:
            np.multiply(e, o.w, e)
        if keep is None and out.dtype != np.float16:
            np.multiply(e, scale, out, casting="unsafe")
            return total
        np.multiply(e, scale, e)
        if keep is not None:
            _clear(e, keep)
        if out.dtype == np.float16:
            _settle(e, spare)
        np.copyto(out, e, casting="unsafe")
        return total

    def _coefficients(self, o: Operands, h: Any, on: Any, off: Any, q: Any) -> Any:
        """With pos_weight: the contract's q; h is overwritten with its sign*t."""
        np.subtract(self.one, o.y, off, dtype=self.dtype, casting="unsafe")
        np.copyto(on, o.y, casting="unsafe")
        if o.eps:
            for coefficient in (on, off):
                np.multiply(coefficient, 1 - o.eps, coefficient)
                np.add(coefficient, o.eps / 2, coefficient)
        np.multiply(on, o.p, on)
        np.add(on, off, q)
        if self.derivative != "hessian":
            np.multiply(off, h, off)
            np.subtract(h, self.one, h)
            np.multiply(on, h, h)
            np.add(off, h, h)
        return q

    def _sums(self, o: Operands, x: Any, t: Any, smooth: Any, losses: Any, keep: Any) -> Any:
        """The sums of the rows, flat, in the accumulation dtype; for rows of one class, the losses themselves."""
        np.multiply(x, t, losses)
        np.add(losses, smooth, losses)
        if o.w is not None:
            np.multiply(losses, o.w, losses)
        if keep is not None:
            _clear(losses, keep)
        c = x.shape[-1]
        if c == 1:
            total = losses[..., 0]
        elif c < SHORT:
            total = losses[..., 0].astype(np.float64)
            for k in range(1, c):
                np.add(total, losses[..., k], total)
        else:  # NumPy adds pair by pair along the contiguous axis, and one by one along others
            if self.axes is not None:
                losses = self._contiguous(losses)
            total = np.add.reduce(losses, -1, np.float64)
        return total if total.ndim == 1 else total.reshape(-1)


def _piece(v: Any, classes: slice) -> Any:
    """A piece of the class axis of an operand; an axis of length 1, which broadcasts, is not cut."""
    return v if v is None or not v.ndim or v.shape[-1] == 1 else v[..., classes]


def _clear(values: Any, keep: Any) -> None:
    """Set masked values to exactly 0, by their bits, because NaN * 0 is NaN and a selection is slower."""
    found = values.view(keep.dtype)
    np.bitwise_and(found, keep, found)


@cache
def _log1p_is_fast() -> bool:
    """Whether NumPy's float32 log1p is vectorised here: only if it was built with Intel's SVML, for AVX-512."""
    if sys.platform != "linux" or not hasattr(np.lib, "introspect"):
        return False
    found = np.lib.introspect.opt_func_info(func_name="^log1p$", signature="^f")
    return any("AVX512" in way["current"] or "V4" in way["current"] for way in found.get("log1p", {}).values())


# atanh(z)/z = 1 + z²/3 + z⁴/5 + … in z² on [0, 1/9], a minimax fit of the relative error, which is at most 2⁻²⁷·⁷.
_ATANH: Final = tuple(np.asarray([2, 0.2801199, 0.28001803, 0.40021527, 0.6666642], np.float32).reshape(5, 1))


def _log1p(e: Any, out: Any, z: Any, w: Any, r: Any) -> None:
    """log1p of float32 in [0, 1], by whole arrays: 1.3 ULP, and a fifth to a tenth of the time of a scalar log1p.

    With z = e/(2+e), log1p(e) is 2*atanh(z) = 2z + z*r, and 2z is e - z*e. The part that is subtracted from e is the
    smaller part of the result, so every digit of a small e is kept, and the error of the quotient is halved.
    """
    two, leading, *others = _ATANH
    np.add(e, two, z)
    np.divide(e, z, z)
    np.multiply(z, z, w)
    np.multiply(w, leading, r)
    for coefficient in others:
        np.add(r, coefficient, r)
        np.multiply(r, w, r)
    np.subtract(e, r, r)
    np.multiply(r, z, r)
    np.subtract(e, r, out)


def _settle(values: Any, spare: Any) -> None:
    """Round values that are subnormal in float16 to float16 values, in place and in float32.

    NumPy's cast gives the same bits, but raises the underflow flag for each of these values, 150 ns each, and the
    gradient of a mean has many. In float32, numbers next to 0.75 are as far apart as subnormal float16 numbers, so the
    sum rounds where the cast would.
    """
    small = np.absolute(values, spare) < NORMAL
    np.add(values, 0.75, spare)
    np.subtract(spare, 0.75, spare)
    np.copysign(spare, values, spare)
    np.copyto(values, spare, where=small)
