"""NumPy: the loss in blocks that fit the cache, in place, with nothing but NumPy.

Serves NumPy arrays and CPU tensors (without a copy), so that a loss needs its row losses and a few MiB, whatever the
batch. The common calls (no weight, a class weight) run in place through a handful of scratch blocks; every other
option runs the generic formula of `_core` on one block at a time, and tensors that NumPy cannot view (bfloat16) do so
in PyTorch's own arithmetic. It owns its floating-point state, since a tensor's call has none.

With h = [x >= 0] as 0.0 or 1.0 the contract's t is sign*(h - y), so that t*|x| = x*(h - y) and the slope is
(h - y) - sign*s, to the bit: signs are exact. That leaves no `where` on a data mask, whose branch misses cost more
than the exponential. x*(h - y) is 0*inf where the guard of `_core` would matter; such a block shows in its row sums,
which are then taken from the generic formula.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from .. import _blocks as _blocked
from .. import _core
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Problem
from . import _derivatives

# Elements of a block: 128 KiB of float32, of which five scratch blocks and the operands' share fit a 1 MiB L2. Measured
# on a Xeon with AVX-512 and 2 MiB of L2, 8192x1000 float32, time over that of 16384, value_and_grad / loss:
# 4096: 1.66 / 1.67, 8192: 1.22 / 1.20, 32768: 0.91 / 0.89, 65536: 0.90 / 0.83, 131072: 0.98 / 0.85. With less L2 the
# curve turns earlier, so the smaller of the two good sizes.
BLOCK = 32768

NORMAL = 2.0**-14  # the least float16 that is not subnormal


def accepts(problem: Problem) -> str | None:
    """None, or why NumPy cannot read these arrays."""
    if problem.library == "torch" and problem.device.type != "cpu":
        return f"NumPy reads host memory only; the tensors are on {problem.device}"
    return None


# ---------------------------------------------------------------- the seam


def rows(o: Operands) -> Any:
    return _run(o, None, value=True, derivative=None)[0]


def rows_vjp(o: Operands, g: Any) -> Any:
    return _run(o, g, value=False, derivative="slope")[1]


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return _run(o, g, value=True, derivative="slope")


def curvature(o: Operands, g: Any) -> Any:
    return _run(o, g, value=False, derivative="bend")[1]


def derivatives(o: Operands, scale: Any, least: float) -> tuple[Any, Any]:
    arrays = _derivatives.host(o)
    scale = scale if scale is None or arrays is o else _array(scale)
    with np.errstate(all="ignore"):
        found = _derivatives.derivatives(arrays, scale, least, _derivatives.by_numpy({}))
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
        return _of_arrays(o, g, value, derivative)  # under the caller's guard already
    import torch

    # NumPy can view neither: PyTorch's own arithmetic, block by block.
    if any(v is not None and (v.dtype is torch.bfloat16 or v.is_neg()) for v in o[1:6]):
        if derivative == "bend":
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
    row_losses = np.empty(o.x.shape[:-1], o.dtype) if value else None
    # K order, as NumPy's own arithmetic would have it: Fortran in, Fortran out.
    slopes = np.empty_like(o.x, subok=False) if derivative else None
    if o.x.ndim == 2:
        _blocks(o, g, row_losses, slopes, derivative)
    else:
        for part, g_part, row_part, slope_part in _flat(o, g, row_losses, slopes):
            _blocks(part, g_part, row_part, slope_part, derivative)
    return row_losses, slopes


def _flat(o: Operands, g: Any, rows: Any, slopes: Any) -> Iterator[tuple[Operands, Any, Any, Any]]:
    """Views of two dimensions: all at once where strides allow it, else one index of the leading axis at a time."""
    x = o.x
    if x.ndim == 2:
        yield o, g, rows, slopes
        return
    if x.ndim == 1:
        arrays = (None if v is None else v[None] for v in o[1:6])
        row, slope = (None if v is None else v[None] for v in (rows, slopes))
        yield o.holding(*arrays), g, row, slope
        return
    merged = [_merged(v, x.shape) for v in o[1:6]]
    g_merged = g if g is None or not g.ndim else _merged(g[..., None], (*x.shape[:-1], 1))
    outs = [_merged(None if rows is None else rows[..., None], (*x.shape[:-1], 1)), _merged(slopes, x.shape)]
    if all(v is not False for v in (*merged, *outs)) and g_merged is not False:
        g_flat = g if g is None or not g.ndim else g_merged[:, 0]
        yield o.holding(*merged), g_flat, None if rows is None else outs[0][:, 0], outs[1]
        return
    for i in range(x.shape[0]):
        arrays = (v if v is None or v.ndim < x.ndim else v[i if v.shape[0] > 1 else 0] for v in o[1:6])
        part = o.holding(*arrays)
        yield from _flat(
            part,
            g if g is None or not g.ndim else g[i],
            None if rows is None else rows[i],
            None if slopes is None else slopes[i],
        )


def _merged(v: Any, shape: tuple[int, ...]) -> Any:
    """A view with the batch axes merged into one; False where only a copy would do. None and small shapes pass."""
    if v is None or v.ndim < 2:
        return v
    if v.ndim < len(shape) or v.shape[:-1] != shape[:-1]:
        if all(n == 1 for n in v.shape[:-1]):
            return v.reshape((1, v.shape[-1])) if v.flags.c_contiguous else False
        v = np.broadcast_to(v, (*shape[:-1], v.shape[-1]))
    # Asked of the strides: NumPy 2.5 deprecates to set a shape, and 2.0 has no `reshape(copy=False)` yet.
    batch = [(n, step) for n, step in zip(v.shape[:-1], v.strides[:-1], strict=True) if n != 1]
    if v.size and any(step != n * inner for (_, step), (n, inner) in pairwise(batch)):
        return False
    return v.reshape((-1, v.shape[-1]))


# ---------------------------------------------------------------- blocks


def _blocks(o: Operands, g: Any, rows: Any, slopes: Any, derivative: str | None) -> None:
    """Fill `rows` and `slopes`, block by block: whole rows where they fit, else pieces of one row."""
    n, c = o.x.shape
    divisor = c if o.m is None else _observed(o, n, c)
    scale = None if g is None else (g / divisor).astype(o.dtype)
    simple = o.p is None and o.m is None and not o.eps and (o.w is None or o.w.shape == (c,))
    work = _in_place if simple else _generic
    if n * c <= BLOCK:  # one block, as in every small call: nothing to cut
        room: Any = np.empty((5 if derivative else 3, n, c), o.dtype) if simple else ()
        column = scale if scale is None or not scale.ndim else scale[:, None]
        total = work(o, column, rows is not None, slopes, derivative, room)
        if rows is not None:
            rows[...] = total / divisor  # cheaper than a division that casts
        return
    width = min(c, BLOCK)
    height = min(n, BLOCK // width)
    room = [np.empty((height, width), o.dtype) for _ in range(5 if derivative else 3)] if simple else []
    sums = np.empty((-(-c // width), height))
    for i in range(0, n, height):
        rows_here = slice(i, min(n, i + height))
        count = rows_here.stop - i
        scale_here = scale if scale is None or not scale.ndim else scale[rows_here, None]
        for b, k in enumerate(range(0, c, width)):
            classes = slice(k, min(c, k + width))
            total = work(
                _cut(o, rows_here, classes),
                scale_here,
                rows is not None,
                None if slopes is None else slopes[rows_here, classes],
                derivative,
                [block[:count, : classes.stop - k] for block in room],
            )
            if rows is not None:
                sums[b, :count] = total
        if rows is not None:
            total = sums[0, :count] if len(sums) == 1 else np.add.reduce(sums[:, :count].T.copy(), axis=-1)
            np.divide(total, divisor if o.m is None else divisor[rows_here], out=rows[rows_here], casting="same_kind")


def _observed(o: Operands, n: int, c: int) -> Any:
    """The number of observed classes of each row, and 1 where there is none."""
    count = np.count_nonzero(o.m, axis=-1) * (1 if o.m.ndim and o.m.shape[-1] == c else c)
    return np.maximum(np.broadcast_to(count, (n,)), 1)


def _cut(o: Operands, rows: slice, classes: slice) -> Operands:
    """The operands of one block; what is broadcast along an axis is not cut there."""

    def cut(v: Any) -> Any:
        if v is None or not v.ndim:
            return v
        along = classes if v.shape[-1] > 1 else slice(None)
        return v[along] if v.ndim == 1 else v[rows if v.shape[0] > 1 else slice(None), along]

    return o.holding(cut(o.x), cut(o.y), cut(o.w), cut(o.p), cut(o.m))


def _generic(o: Operands, scale: Any, value: bool, out: Any, derivative: str | None, room: Any) -> Any:
    """Any option: the formula of `_core`, whose intermediate results are of the block's size. Returns the row sums."""
    f = _core.parts(o)
    if derivative:
        values = (_core.slope(o, f) if derivative == "slope" else _core.bend(o, f)) * scale
        values = values if o.m is None else np.where(o.m, values, 0)
        if out.dtype == np.float16:
            _settle(values, np.empty_like(values))
        np.copyto(out, values, casting="unsafe")
    return _guarded_sums(o, f) if value else None


def _in_place(o: Operands, scale: Any, value: bool, out: Any, derivative: str | None, room: Any) -> Any:
    """No weight or a class weight: some fifteen passes over blocks that stay in the cache. Returns the row sums."""
    x, h, e, copy, total = o.x, room[0], room[1], room[2], None
    if x.dtype != h.dtype or not x.flags.aligned or x.strides[-1] != x.itemsize:
        np.copyto(copy, x)
        x = copy
    np.greater_equal(x, 0, h)
    if derivative:
        sign, spare = room[3], room[4]
        np.multiply(h, -2, sign)
        np.add(sign, 1, sign)  # minus the contract's sign
        np.multiply(x, sign, e)
    else:
        np.absolute(x, e)
        np.negative(e, e)
    np.exp(e, e)
    if derivative != "bend":
        np.subtract(h, o.y, h, dtype=h.dtype, casting="unsafe")
    if value:
        # Into fresh blocks where a derivative still needs h and e; x is read for the last time.
        smooth, losses = (spare, copy) if derivative else (e, h)
        np.log1p(e, smooth)
        np.multiply(x, h, losses)
        np.add(losses, smooth, losses)
        if o.w is not None:
            np.multiply(losses, o.w, losses)
        total = np.add.reduce(losses, -1, np.float64)
        # A square sum is finite only if every sum is; one call into BLAS is a fifth of isfinite and all.
        if not math.isfinite(total.dot(total)):
            total = _guarded_sums(o, _core.parts(o))
    if not derivative:
        return total
    np.add(e, 1, spare)
    np.divide(e, spare, e)  # s
    if derivative == "slope":
        np.multiply(e, sign, e)
        np.add(h, e, e)
    else:
        np.subtract(1, e, spare)
        np.multiply(e, spare, e)
    if o.w is not None:
        np.multiply(e, o.w, e)
    if out.dtype == np.float16:
        np.multiply(e, scale, e)
        _settle(e, spare)
        np.copyto(out, e, casting="unsafe")
    else:
        np.multiply(e, scale, out, casting="unsafe")
    return total


def _settle(values: Any, spare: Any) -> None:
    """Round what will be subnormal in float16 to a float16, in place and in float32.

    NumPy casts to the same bits by itself, but raises the flag of underflow for each of them, 150 ns a time, and the
    gradient of a mean is full of them. In float32, numbers next to 0.75 are as far apart as subnormal float16 are, so
    the sum rounds where the cast would.
    """
    small = np.absolute(values, spare) < NORMAL
    np.add(values, 0.75, spare)
    np.subtract(spare, 0.75, spare)
    np.copysign(spare, values, spare)
    np.copyto(values, spare, where=small)


def _guarded_sums(o: Operands, f: _core.Parts) -> Any:
    """Row sums of the generic formula, guarded at infinite logits; contiguous, so that NumPy sums pairwise."""
    return np.add.reduce(np.ascontiguousarray(_core.loss(o, f)), -1, np.float64)
