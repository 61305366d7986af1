"""Dask: the row losses block by block, each block by the best kernel for its own library, and sums over the blocks.

One task per block does the work; the reductions are Dask's own trees over the row losses. Nothing is computed while the
graph is built. The options of a block are names and numbers, so that every scheduler can send them. Holds no formula: a
block is an ordinary call across the row seam.
"""

from typing import Any

import dask.array
import dask.array.utils
import numpy as np

from .. import _check, _core, _dispatch
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Problem
from ..libraries import library_of

da: Any = dask.array  # as Any: Dask ships its types in part


def accepts(problem: Problem) -> str | None:
    return None


# ---------------------------------------------------------------- the seam


def rows(o: Operands) -> Any:
    return _mean(o, _mapped(o, None, "rows"))


def rows_vjp(o: Operands, g: Any) -> Any:
    return _mapped(o, _shared(o, g), "gradient")


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    both = _mapped(o, _shared(o, g), "both")
    axes = tuple(range(o.x.ndim))
    parts = _blockwise(_item, axes[:-1] if _whole(o) else axes, (both, axes), o, _row_dtype(o), place=0)
    return _mean(o, parts), _blockwise(_item, axes, (both, axes), o, o.x.dtype, place=1)


def curvature(o: Operands, g: Any) -> Any:
    return _mapped(o, _shared(o, g), "hessian")


# ---------------------------------------------------------------- over the blocks


def _whole(o: Operands) -> bool:
    """Whether every block has all classes of its rows, so that its row losses are final."""
    return bool(o.x.numblocks[-1] == 1)


def _row_dtype(o: Operands) -> Any:
    return o.dtype if _whole(o) else o.acc


def _counts(o: Operands) -> Any:
    """The number of observed classes of each row, 1 for a row that has none; the number of classes without a mask."""
    if o.m is None:
        return o.x.shape[-1]
    count = da.sum(_core.observed(o), axis=-1, dtype=o.acc)
    return da.where(count == 0, 1, count)


def _mean(o: Operands, parts: Any) -> Any:
    """The row losses from the results of the blocks: row losses already, or sums over each block's classes."""
    return parts if _whole(o) else (parts.sum(axis=-1) / _counts(o)).astype(o.dtype)


def _shared(o: Operands, g: Any) -> Any:
    """What a block multiplies by its own number of observed classes, which cancels its division: g over all classes."""
    return g if _whole(o) else g / _counts(o)


def _mapped(o: Operands, g: Any, want: str) -> Any:
    """`_block` over all blocks of the logits; row losses have no class axis if final, else one sum per block."""
    axes = tuple(range(o.x.ndim))
    arrays: list[Any] = [o.x, axes]
    for other in (o.y, o.w, o.p, o.m):  # in the blocks of the logits, with which they are compared
        arrays += [other, None if other is None else axes[o.x.ndim - other.ndim :]]
    arrays += [g, None if g is None else axes[: g.ndim]]
    options = {
        "want": want,
        "eps": o.eps,
        "compute": np.dtype(o.dtype).name,
        "acc": np.dtype(o.acc).name,
        "whole": _whole(o),
    }
    out = axes[:-1] if want == "rows" and _whole(o) else axes
    dtype = {"rows": _row_dtype(o), "both": object}.get(want, o.x.dtype)
    return _blockwise(_block, out, arrays, o, dtype, **options)


def _blockwise(function: Any, out: tuple[int, ...], arrays: Any, o: Operands, dtype: Any, **options: Any) -> Any:
    rows_only = options.get("want") == "rows" or options.get("place") == 0
    return da.blockwise(
        function,
        out,
        *arrays,
        adjust_chunks={out[-1]: 1} if rows_only and len(out) == o.x.ndim else None,
        align_arrays=False,
        dtype=dtype,
        meta=da.utils.meta_from_array(o.x, ndim=len(out), dtype=dtype),
        **options,
    )


# ---------------------------------------------------------------- inside a block


def _item(both: Any, place: int) -> Any:
    return _only(both)[place]


def _only(block: Any) -> Any:
    """A block; Dask passes a list of blocks along an axis that the result does not have."""
    while isinstance(block, list):
        block = block[0]
    return block


def _block(
    x: Any, y: Any, w: Any, p: Any, m: Any, g: Any, *, want: str, eps: float, compute: str, acc: str, whole: bool
) -> Any:
    """One block by the best kernel of its own library; class sums instead of row losses if it lacks some classes."""
    x, y, w, p, m = map(_only, (x, y, w, p, m))
    if not x.size:  # no row, or no class, over which there is no mean
        xp = library_of(x, "input").xp
        shape, dtype = (x.shape[:-1], compute) if whole else ((*x.shape[:-1], 1), acc)
        empty, gradient = xp.zeros(shape, dtype=getattr(xp, dtype)), xp.zeros_like(x)
        return {"rows": empty, "both": (empty, gradient)}.get(want, gradient)
    problem, o, library = _check.problem(x, y, w, p, m, "none", eps, -1)
    xp, kernel = o.xp, _dispatch.select(problem)
    with library.errstate(problem.device):
        g = None if g is None else xp.asarray(g)  # arithmetic may have made it a scalar
        count: Any = 1
        if not whole:
            count = x.shape[-1] if m is None else xp.sum(xp.astype(_core.observed(o), o.acc), axis=-1)
            g = None if g is None else g * count
        if want == "gradient":
            return kernel.rows_vjp(o, g)
        if want == "hessian":
            return kernel.curvature(o, g)
        found, gradient = (kernel.rows(o), None) if want == "rows" else kernel.value_and_gradient(o, g)
        if not whole:
            found = (xp.astype(found, o.acc) * count)[..., None]
        return found if want == "rows" else (found, gradient)


KERNEL = Kernel("dask", ("dask",), accepts, rows, rows_vjp, rows_and_vjp, curvature)
