"""Dask: what the blocks have to see to, because a graph cannot while it is built.

Two unknown lengths cannot be compared before they are computed, and inside a block 5 rows would broadcast against 1
without a word: so each block of logits is tied to its fellows and refuses shapes that disagree. And NumPy sums a
Fortran-ordered block naively: so each block is made contiguous. Computes nothing and changes no value.
"""

from typing import Any

import dask.array as da
import numpy as np

from .._core import Operands


def prepared(o: Operands) -> Operands:
    """The operands, their logits contiguous in every block and tied to every operand of unknown batch lengths."""
    x = o.x
    axes = tuple(range(x.ndim))
    others: dict[str, Any] = {}
    for field, argument in (("y", "target"), ("w", "weight"), ("p", "pos_weight"), ("m", "where")):
        other = getattr(o, field)
        if other is not None and any(n != n for n in other.shape):
            others[field] = chunked_like(other, x, argument)
    arguments = [part for other in others.values() for part in (other, axes[x.ndim - other.ndim :])]
    tied = da.blockwise(  # type: ignore[no-untyped-call]  # Dask ships its types in part
        _agreeing, axes, x, axes, *arguments, dtype=x.dtype, meta=x._meta, align_arrays=False, names=tuple(others)
    )
    return o._replace(x=tied, flat=False, **others)


def chunked_like(other: Any, x: Any, argument: str) -> Any:
    """`other` with the blocks of `x`: rechunked along known axes, refused where an unknown one has another count."""
    chunks = {}
    for axis in range(-other.ndim, 0):
        if other.shape[axis] != other.shape[axis]:
            if other.numblocks[axis] != x.numblocks[axis]:
                raise ValueError(
                    f"`{argument}` must have as many blocks as `input` along an axis of unknown length, "
                    f"{x.numblocks[axis]}; got {other.numblocks[axis]}. Call `compute_chunk_sizes()` on both."
                )
        elif other.shape[axis] != 1 and other.chunks[axis] != x.chunks[axis]:
            chunks[other.ndim + axis] = x.chunks[axis]
    return other.rechunk(chunks) if chunks else other


def _agreeing(x: Any, *others: Any, names: tuple[str, ...]) -> Any:
    """The block of logits, contiguous, if every other block has its lengths (or 1, where it is known to broadcast)."""
    arguments = {"y": "target", "w": "weight", "p": "pos_weight", "m": "where"}
    for name, other in zip(names, others, strict=True):
        if other.shape[:-1] != x.shape[x.ndim - other.ndim : -1] and not _broadcasts(name, other.shape, x.shape):
            raise ValueError(
                f"`{arguments[name]}` must have the shape of `input` in every block, {x.shape}; got {other.shape}. "
                "The lengths were not known while the graph was built."
            )
    return np.ascontiguousarray(x)  # CuPy's blocks answer this call themselves


def _broadcasts(name: str, own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a weight's batch axes fit: a length of 1 is broadcast on purpose, unless there is one axis only."""
    pairs = list(zip(own[:-1], shape[len(shape) - len(own) : -1], strict=True))
    return name != "y" and len(pairs) > 1 and all(a in (1, b) for a, b in pairs)
