"""NumPy: the loss in blocks that fit the cache, in place, with nothing but NumPy.

Serves NumPy arrays and CPU tensors (without a copy), so that a loss needs its row losses and a few MiB, whatever the
batch. The common calls (no weight, a class weight) run in place through a handful of scratch blocks; every other
option runs the generic formula of `_core` on one block at a time. It owns its floating-point state, since a tensor's
call has none.

With h = [x >= 0] as 0.0 or 1.0 the contract's t is sign*(h - y), so that t*|x| = x*(h - y) and the slope is
(h - y) - sign*s, to the bit: signs are exact. That leaves no `where` on a data mask, whose branch misses cost more
than the exponential. x*(h - y) is 0*inf where the guard of `_core` would matter; such a block shows in its row sums,
which are then taken from the generic formula.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import array_api_compat.numpy as xp
import numpy as np

from .. import _core
from .._check import Problem
from .._core import Operands
from .._dispatch import Kernel

# Elements of a block: 4 scratch blocks of float32 and the operands' share stay inside 1 MiB of L2. Measured on a Xeon
# with AVX-512 (2 MiB L2), 8192x1000 float32 value_and_grad: 4096: 1.15, 8192: 1.05, 16384: 1.00, 32768: 1.01, 131072: 1.21.
BLOCK = 16384


class _Plan(NamedTuple):
    """The operands as NumPy views of two dimensions, and how to cut them."""

    o: Operands
    scale: Any  # what derivatives are multiplied by, 0-d or (N,): g over the number of observed classes
    divisor: Any  # of the row sums, a number or (N,)
    rows: int  # of a block
    classes: int


def accepts(problem: Problem) -> str | None:
    """None, or why NumPy cannot read these arrays."""
    if problem.library == "torch":
        if problem.device.type != "cpu":
            return f"NumPy reads host memory only; the tensors are on {problem.device}"
        metas = (problem.input, problem.target, problem.weight, problem.pos_weight)
        if any(meta is not None and meta.dtype == "bfloat16" for meta in metas):
            return "NumPy cannot view a bfloat16 tensor"
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


KERNEL = Kernel("numpy", ("numpy", "torch"), accepts, rows, rows_vjp, rows_and_vjp, curvature)


# ---------------------------------------------------------------- views


def _run(o: Operands, g: Any, *, value: bool, derivative: str | None) -> tuple[Any, Any]:
    """Row losses and a derivative, as wanted, in the library that the operands came in."""
    if isinstance(o.x, np.ndarray):
        return _of_arrays(o, g, value, derivative)
    import torch

    dtypes = {torch.float32: np.float32, torch.float64: np.float64}
    host = Operands(xp, *(_array(v) for v in o[1:6]), o.eps, dtypes[o.dtype], dtypes[o.acc])
    found = _of_arrays(host, _array(g), value, derivative)
    return tuple(None if v is None else torch.from_numpy(np.asarray(v)) for v in found)  # type: ignore[return-value]


def _array(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def _of_arrays(o: Operands, g: Any, value: bool, derivative: str | None) -> tuple[Any, Any]:
    batch = o.x.shape[:-1]
    row_losses = np.empty(batch, o.dtype) if value else None
    # K order, as NumPy's own arithmetic would have it: Fortran in, Fortran out.
    slopes = np.empty_like(o.x, subok=False) if derivative else None
    with np.errstate(all="ignore"):
        for part, g_part, row_part, slope_part in _flat(o, g, row_losses, slopes):
            _blocks(_plan(part, g_part), row_part, slope_part, derivative)
    return row_losses, slopes


def _flat(o: Operands, g: Any, rows: Any, slopes: Any) -> Iterator[tuple[Operands, Any, Any, Any]]:
    """Views of two dimensions: all at once where strides allow it, else one index of the leading axis at a time."""
    x = o.x
    if x.ndim == 2:
        yield o, g, rows, slopes
        return
    if x.ndim == 1:
        arrays = (None if v is None else v[None] for v in o[1:6])
        yield Operands(o.xp, *arrays, *o[6:]), g, None if rows is None else rows[None], None if slopes is None else slopes[None]
        return
    merged = [_merged(v, x.shape) for v in o[1:6]]
    g_merged = g if g is None or not g.ndim else _merged(g[..., None], (*x.shape[:-1], 1))
    outs = [_merged(None if rows is None else rows[..., None], (*x.shape[:-1], 1)), _merged(slopes, x.shape)]
    if all(v is not False for v in (*merged, *outs)) and g_merged is not False:
        g_flat = g if g is None or not g.ndim else g_merged[:, 0]
        yield Operands(o.xp, *merged, *o[6:]), g_flat, None if rows is None else outs[0][:, 0], outs[1]
        return
    for i in range(x.shape[0]):
        arrays = (v if v is None or v.ndim < x.ndim else v[i if v.shape[0] > 1 else 0] for v in o[1:6])
        part = Operands(o.xp, *arrays, *o[6:])
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
    view = v.view()
    try:
        view.shape = (-1, v.shape[-1])
    except AttributeError:
        return False
    return view


def _plan(o: Operands, g: Any) -> _Plan:
    n, c = o.x.shape
    divisor: Any = c
    if o.m is not None:
        divisor = np.broadcast_to(np.count_nonzero(o.m, axis=-1) * (c // o.m.shape[-1] if o.m.ndim else c), (n,))
        divisor = np.maximum(divisor, 1)
    scale = None if g is None else (g / divisor).astype(o.dtype)
    classes = min(c, BLOCK)
    return _Plan(o, scale, divisor, max(1, BLOCK // classes), classes)


# ---------------------------------------------------------------- blocks


def _blocks(plan: _Plan, rows: Any, slopes: Any, derivative: str | None) -> None:
    o = plan.o
    n, c = o.x.shape
    simple = o.p is None and o.m is None and not o.eps and (o.w is None or (o.w.ndim == 1 and o.w.shape[0] == c))
    work = _in_place if simple else _generic
    scratch = [np.empty((min(n, plan.rows), plan.classes), o.dtype) for _ in range(5)] if simple else []
    sums = None if rows is None else np.empty((min(n, plan.rows), -(-c // plan.classes)), np.float64)
    for i in range(0, n, plan.rows):
        j = min(n, i + plan.rows)
        scale = None if plan.scale is None else plan.scale if not plan.scale.ndim else plan.scale[i:j, None]
        for b, k in enumerate(range(0, c, plan.classes)):
            l = min(c, k + plan.classes)
            part = o if (i, j, k, l) == (0, n, 0, c) else _cut(o, i, j, k, l)
            room = [s[: j - i, : l - k] for s in scratch]
            out = None if slopes is None else slopes[i:j, k:l]
            work(part, scale, None if sums is None else sums[: j - i, b], out, derivative, room)
        if sums is not None:
            total = sums[: j - i, 0] if sums.shape[1] == 1 else np.add.reduce(sums[: j - i], axis=-1)
            divisor = plan.divisor if o.m is None else plan.divisor[i:j]
            rows[i:j] = total / divisor


def _cut(o: Operands, i: int, j: int, k: int, l: int) -> Operands:
    """The operands of one block; what is broadcast along an axis is not cut there."""

    def cut(v: Any) -> Any:
        if v is None or not v.ndim:
            return v
        classes = slice(k, l) if v.shape[-1] > 1 else slice(None)
        if v.ndim == 1:
            return v[classes]
        return v[i:j, classes] if v.shape[0] > 1 else v[:, classes]

    return Operands(o.xp, *(cut(v) for v in o[1:6]), *o[6:])


def _generic(o: Operands, scale: Any, sums: Any, out: Any, derivative: str | None, room: list[Any]) -> None:
    """Any option: the formula of `_core`, whose intermediate results are of the block's size."""
    if o.x.shape[-1] == 1:
        pass
    f = _core.parts(o)
    if sums is not None:
        np.add.reduce(np.ascontiguousarray(_core.loss(o, f)), axis=-1, dtype=np.float64, out=sums)
    if derivative:
        values = _core.slope(o, f) if derivative == "slope" else _core.bend(o, f)
        values = values * scale
        out[...] = values if o.m is None else np.where(o.m, values, 0)


def _in_place(o: Operands, scale: Any, sums: Any, out: Any, derivative: str | None, room: list[Any]) -> None:
    """No weight or a class weight, hard or soft targets: some fifteen passes over blocks that stay in the cache."""
    h, e, sign, spare, copy = room
    x = o.x
    if x.dtype != h.dtype or not x.flags.aligned or x.strides[-1] != x.itemsize:
        np.copyto(copy, x, casting="same_kind")
        x = copy
    np.greater_equal(x, 0, out=h)
    if derivative:
        np.multiply(h, -2, out=sign)
        np.add(sign, 1, out=sign)  # minus the contract's sign
        np.multiply(x, sign, out=e)
    else:
        np.negative(np.absolute(x, out=e), out=e)
    np.exp(e, out=e)
    if derivative != "bend":
        np.subtract(h, o.y, out=h, dtype=h.dtype, casting="unsafe")
    if sums is not None:
        np.log1p(e, out=spare)
        # The product last used: in place of x where x is a copy already, it would be lost to the slope.
        losses = np.multiply(x, h, out=copy)
        np.add(losses, spare, out=losses)
        if o.w is not None:
            np.multiply(losses, o.w, out=losses)
        np.add.reduce(losses, axis=-1, dtype=np.float64, out=sums)
        if not np.isfinite(sums).all():
            np.add.reduce(np.ascontiguousarray(_core.loss(o, _core.parts(o))), axis=-1, dtype=np.float64, out=sums)
    if not derivative:
        return
    np.add(e, 1, out=spare)
    np.divide(e, spare, out=e)  # s
    if derivative == "slope":
        np.multiply(e, sign, out=e)
        np.add(h, e, out=e)
    else:
        np.subtract(1, e, out=spare)
        np.multiply(e, spare, out=e)
    if o.w is not None:
        np.multiply(e, o.w, out=e)
    np.multiply(e, scale, out=out, casting="unsafe")
