"""Dask: what the blocks have to see to, because a graph cannot while it is built.

A graph is built from what its arrays declare, and a block may turn out to be something else: of another shape or dtype,
a masked array, a bare scalar. Inside a block 5 rows would then broadcast against 1 without a word, and a kernel would
read past an end. So every block is compared with what was declared before anything else sees it (`verified`), what was
not declared is compared with the block of logits (`prepared`, `prepared_cotangent`), and everything behind them trusts.
NumPy sums a Fortran-ordered block naively: so each block of logits is made contiguous. Computes nothing while a graph
is built and changes no value.
"""

from numbers import Real
from typing import Any

import dask.array
import numpy as np
from dask.layers import ArrayChunkShapeDep

from .. import _policy
from .._core import Operands
from .._guard import silent
from .._library import library

da: Any = dask.array  # as Any: Dask ships its types in part

_FIELDS = {"y": "target", "w": "weight", "p": "pos_weight", "m": "where"}
_DECLARE = "Whatever made it has to declare it, as in `map_blocks(..., chunks=..., dtype=...)`."


# ---------------------------------------------------------------- while the graph is built


def verified(value: Any, argument: str) -> Any:
    """The Dask array, each block of which is what was declared of it; numbers, lists and None as they are."""
    if not isinstance(value, da.Array):
        return value
    _array(value._meta, argument)  # an array of masked arrays, say, is refused at once where it says so
    axes = tuple(range(value.ndim))
    return da.blockwise(
        _as_declared,
        axes,
        value,
        axes,
        ArrayChunkShapeDep(value.chunks),
        axes,
        argument=argument,
        dtype_=value.dtype,
        dtype=value.dtype,
        meta=value._meta,
        align_arrays=False,
    )


def prepared(o: Operands) -> Operands:
    """The operands with the blocks of the logits; these are contiguous, and tied to every other operand's."""
    x = o.x
    axes = tuple(range(x.ndim))
    others = {
        field: chunked_like(getattr(o, field), x.chunks, argument)
        for field, argument in _FIELDS.items()
        if getattr(o, field) is not None
    }
    fits = {_FIELDS[field]: tuple(n == 1 for n in other.shape) for field, other in others.items()}
    pairs = [part for other in others.values() for part in (other, axes[x.ndim - other.ndim :])]
    tied = da.blockwise(_fitting, axes, x, axes, *pairs, fits=fits, dtype=x.dtype, meta=x._meta, align_arrays=False)
    return o._replace(x=tied, flat=False, **others)


def prepared_cotangent(g: Any, o: Operands) -> Any:
    """`grad_output` with the blocks of the rows, tied to them where their lengths are not declared."""
    g = chunked_like(verified(g, "grad_output"), o.x.chunks[:-1], "grad_output")
    if all(n == n for n in g.shape):
        return g
    axes = tuple(range(g.ndim))
    return da.blockwise(
        *(_fitting_rows, axes, g, axes, o.x[..., 0], axes), dtype=g.dtype, meta=g._meta, align_arrays=False
    )


def chunked_like(other: Any, chunks: tuple[tuple[Any, ...], ...], argument: str) -> Any:
    """`other` in these chunks: rechunked along known axes, refused where an unknown one has another number of them."""
    new = {}
    for axis, wanted in enumerate(chunks[len(chunks) - other.ndim :]):
        if other.shape[axis] != other.shape[axis]:
            if other.numblocks[axis] != len(wanted):
                raise ValueError(
                    f"`{argument}` must have as many blocks as `input` along an axis of unknown length, "
                    f"{len(wanted)}; got {other.numblocks[axis]}. Call `compute_chunk_sizes()` on both."
                )
        elif other.chunks[axis] != wanted:
            new[axis] = (1,) if other.shape[axis] == 1 else wanted  # one block serves all, where it is broadcast
    return other.rechunk(new) if any(other.chunks[axis] != wanted for axis, wanted in new.items()) else other


# ---------------------------------------------------------------- inside a block


def _array(block: Any, argument: str) -> tuple[Any, str, Any]:
    """A block as an array (a reduction over all axes leaves a scalar), and its library; TypeError for what is none."""
    if isinstance(block, np.generic | Real):
        block = np.asarray(block)
    return block, *library(block, argument)


def _as_declared(block: Any, declared: tuple[Any, ...], *, argument: str, dtype_: Any) -> Any:
    """The block, if it has the declared lengths; of another dtype it is cast as an assignment would cast it."""
    block, name, xp = _array(block, argument)
    shape = tuple(block.shape)
    if len(shape) != len(declared) or any(a != b and b == b for a, b in zip(shape, declared, strict=True)):
        raise ValueError(
            f"`{argument}` must have the declared shape in every block, {_spelled(declared)} in this one; got {shape}. "
            f"{_DECLARE} Or call its `compute_chunk_sizes()` first."
        )
    if not isinstance(block.dtype, np.dtype):
        raise TypeError(f"`{argument}` must have arrays with NumPy's dtypes in its blocks; got one of {name}.")
    own, wanted = _policy.name(block.dtype), _policy.name(dtype_)
    if own == wanted:
        return block
    if _rank(own) > _rank(wanted):
        raise TypeError(f"`{argument}` must have the declared dtype in every block, {wanted}; got {own}. {_DECLARE}")
    if wanted not in _policy.FLOATS:
        return block  # an integer of another width is read as well, and a cast might not hold it
    with silent(name):
        return xp.astype(block, dtype_)


def _rank(dtype: str) -> int:
    """Bool, integer, floating, other: a dtype may stand for those of a higher rank."""
    if dtype in _policy.FLOATS:
        return 2
    return int(dtype != "bool") if _policy.is_real(dtype) else 3


def _fitting(x: Any, *others: Any, fits: dict[str, tuple[bool, ...]]) -> Any:
    """The block of logits, contiguous, if every other block has its lengths, or 1 where that was declared."""
    name = library(x, "input").name
    for (argument, once), other in zip(fits.items(), others, strict=True):
        shape = x.shape[x.ndim - other.ndim :]
        if any(a != (1 if one else b) for a, b, one in zip(other.shape, shape, once, strict=True)):
            raise ValueError(
                f"`{argument}` must have the lengths of `input` in every block, {tuple(x.shape)}, or 1 where that was "
                f"declared; got {tuple(other.shape)}. The lengths were not known while the graph was built."
            )
        if library(other, argument).name != name:
            raise TypeError(
                f"`{argument}` must belong to the library of `input`, {name}, in every block; got an array of "
                f"{library(other, argument).name}. Convert one of them explicitly."
            )
    # NumPy's arrays and CuPy's, which answer this call themselves; what is not strided has no order.
    return np.ascontiguousarray(x) if hasattr(x, "flags") else x


def _fitting_rows(g: Any, rows: Any) -> Any:
    if g.shape != rows.shape:
        raise ValueError(
            f"`grad_output` must have the lengths of the rows in every block, {tuple(rows.shape)}; got "
            f"{tuple(g.shape)}. The lengths were not known while the graph was built."
        )
    return g


def _spelled(declared: tuple[Any, ...]) -> str:
    inside = ", ".join(str(n) if n == n else "unknown" for n in declared)
    return f"({inside},)" if len(declared) == 1 else f"({inside})"
