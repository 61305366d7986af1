"""Dask: lengths may be unknown, and some checks can run only inside the blocks, not while the graph is built.

A graph is built from what its arrays declare, and a block may differ from that: it may have another shape or dtype, or
be a masked array or a bare scalar. Inside a block 5 rows would then broadcast against 1 without an error, and a kernel
would read past an end. So every block is compared with its declaration before other code uses it (`verified`), lengths
that are not declared are compared with the block of logits (`prepared`, `prepared_cotangent`), and later code does not
check again. NumPy sums a Fortran-ordered block naively, so each block of logits is made contiguous. Computes nothing
while a graph is built and changes no value.
"""

import math
import sys
from numbers import Real
from typing import Any

import dask.array
import numpy as np
from dask.base import tokenize
from dask.blockwise import blockwise
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayChunkShapeDep

from .. import _policy
from .._core import Operands
from .._format import plain
from ..many_classes import _linear
from ..many_classes._labels import Labels
from . import base, library_of

da: Any = dask.array  # as Any: Dask ships its types in part

_FIELDS = {"y": "target", "w": "weight", "p": "pos_weight", "m": "where"}
_DECLARE = "Declare it where the array is made, as in `map_blocks(..., chunks=..., dtype=...)`."


class Library(base.Library):
    lasting = True
    lazy = sys.modules[__name__]

    def dense_target(self, labels: Any, device: Any, traced: bool) -> Any:
        indices, values = labels.indices, labels.values
        axes = tuple(range(indices.ndim))
        arrays = [indices.rechunk({-1: -1}), axes]
        if values is not None:
            arrays += [values.rechunk({-1: -1}), axes]
        return da.blockwise(
            *(_dense, (*axes[:-1], indices.ndim), *arrays),
            new_axes={indices.ndim: labels.num_classes},
            concatenate=True,
            num_classes=labels.num_classes,
            dtype=bool if values is None else values.dtype,
            meta=da.utils.meta_from_array(indices, dtype=bool if values is None else values.dtype),
        )

    def target_blocks(self, labels: Any, device: Any) -> Any:
        """None: the labels themselves are passed to the chunks, and each chunk makes its own target."""
        return None

    def run_head(self, by_blocks: Any, head: Any, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
        if not head.lean:
            return super().run_head(by_blocks, head, scale, wanted)
        o, (classes, features) = head.rest, head.W.shape
        h = head.h.rechunk({-1: -1})
        batch = tuple(range(h.ndim - 1))
        c, d, k = h.ndim - 1, h.ndim, h.ndim + 1
        labels = getattr(o.y, "labels", None)
        arrays: list[Any] = [h, (*batch, d), head.W.rechunk(-1), (c, d)]
        arrays += [None, None] if head.b is None else [head.b.rechunk(-1), (c,)]
        whole = (*h.chunks[:-1], (classes,))
        for name, value in (
            ("target", o.y if labels is None else None),
            ("weight", o.w),
            ("pos_weight", o.p),
            ("where", o.m),
        ):
            cut = None if value is None else chunked_like(value, whole, name)
            arrays += [cut, None if cut is None else (*batch, c)[h.ndim - cut.ndim :]]
        for value in (None, None) if labels is None else (labels.indices, labels.values):
            cut = None if value is None else chunked_like(value, (*h.chunks[:-1], (value.shape[-1],)), "target")
            arrays += [cut, None if cut is None else (*batch, k)]
        if scale is not None and scale.ndim:
            scale = chunked_like(scale + da.zeros_like(head.h[..., 0], dtype=o.acc), h.chunks[:-1], "grad_output")
        arrays += [scale, None if scale is None else batch[: scale.ndim]]
        found = da.blockwise(
            *(_chunk, batch, *arrays),
            classes=classes,
            smoothing=o.eps,
            kernel=head.kernel,
            wanted=tuple(sorted(wanted)),
            align_arrays=False,
            dtype=object,
            meta=da.utils.meta_from_array(h, ndim=len(batch), dtype=object),
        )

        def item(name: str, axes: tuple[int, ...], dtype: Any, **options: Any) -> Any:
            meta = da.utils.meta_from_array(h, ndim=len(axes), dtype=dtype)
            return da.blockwise(_item, axes, found, batch, which=name, dtype=dtype, meta=meta, **options)

        results = {"rows": item("rows", batch, o.dtype)}
        if "h" in wanted:
            results["h"] = item("h", (*batch, d), h.dtype, new_axes={d: features})
        for name, own, lengths in (("W", (c, d), {c: classes, d: features}), ("b", (c,), {c: classes})):
            if name in wanted:
                like = getattr(head, name)
                once = dict.fromkeys(batch, 1)
                parts = item(name, (*batch, *own), like.dtype, new_axes=lengths, adjust_chunks=once)
                results[name] = parts.sum(axis=batch, dtype=o.acc).astype(like.dtype)
        return results


# ---------------------------------------------------------------- while the graph is built


def verified(value: Any, argument: str) -> Any:
    """The Dask array, with each block compared with its declaration; numbers, lists and None unchanged.

    For an array that is rechunked or transposed before its blocks are combined with the logits'. It adds a layer to the
    graph, which costs a scheduler 0.15 ms per block; `prepared` compares all other arrays in one layer.
    """
    if not isinstance(value, da.Array):
        return value
    return _over_blocks(_as_declared, (value,), value.chunks, argument=argument, dtype=value.dtype)


def prepared(o: Operands) -> Operands:
    """The operands in the blocks of the logits, which are contiguous and compared with every other operand's."""
    x, given = o.x, {field: name for field, name in _FIELDS.items() if getattr(o, field) is not None}
    _array(x._meta, "input")  # a graph that declares masked arrays is refused at once
    others = {}
    for field, argument in given.items():
        other = getattr(o, field)
        _array(other._meta, argument)
        cut = chunked_like(other, x.chunks, argument)
        # Verified alone: an array that is rechunked, one with fewer axes than the logits (whose scalar blocks become
        # arrays), and `where`, whose observed classes are counted without the logits.
        if cut is not other or other.ndim < x.ndim or field == "m":
            other = chunked_like(verified(other, argument), x.chunks, argument)
        others[field] = other
    kinds = tuple(
        (argument, other.dtype, tuple(n == 1 for n in other.shape))
        for argument, other in zip(given.values(), others.values(), strict=True)
    )
    tied = _over_blocks(_fitting, (x, *others.values()), x.chunks, dtype=x.dtype, kinds=kinds)
    return o._replace(x=tied, xp=_Namespace(o.xp), flat=False, **others)


def prepared_cotangent(g: Any, o: Operands) -> Any:
    """`grad_output` in the blocks of the rows, compared with these if their lengths are not declared."""
    _array(g._meta, "grad_output")
    g = chunked_like(verified(g, "grad_output"), o.x.chunks[:-1], "grad_output")
    return g if all(n == n for n in g.shape) else _over_blocks(_fitting_rows, (g, o.x[..., 0]), g.chunks)


def _over_blocks(function: Any, arrays: tuple[Any, ...], chunks: Any, **options: Any) -> Any:
    """function(*blocks, the declared shape of the first, **options) for each block of the first array.

    Not by `dask.array.blockwise`, which does not accept an `ArrayChunkShapeDep` in Dask's older releases.
    """
    first = arrays[0]
    parts: list[Any] = []
    for array in arrays:
        parts += [array.name, tuple(range(first.ndim - array.ndim, first.ndim))]
    axes = tuple(range(first.ndim))
    name = f"mlsm-{tokenize(function.__name__, [a.name for a in arrays], str(chunks), str(options))}"
    graph = blockwise(  # type: ignore[no-untyped-call]  # Dask ships its types in part
        *(function, name, axes, *parts, ArrayChunkShapeDep(chunks), axes),
        numblocks={array.name: array.numblocks for array in arrays},
        **options,
    )
    layers = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    return da.Array(layers, name, chunks, meta=first._meta, dtype=first.dtype)


def chunked_like(other: Any, chunks: tuple[tuple[Any, ...], ...], argument: str) -> Any:
    """`other` in these chunks: rechunked along known axes, refused if an unknown axis has another number of chunks."""
    new = {}
    for axis, wanted in enumerate(chunks[len(chunks) - other.ndim :]):
        if other.shape[axis] != other.shape[axis]:
            if other.numblocks[axis] != len(wanted):
                raise ValueError(
                    f"`{argument}` must have as many blocks as `input` along an axis of unknown length, "
                    f"{len(wanted)}; got {other.numblocks[axis]}. Call `compute_chunk_sizes()` on both."
                )
        elif other.chunks[axis] != wanted:
            new[axis] = (1,) if other.shape[axis] == 1 else wanted  # a broadcast axis has one block for all
    return other.rechunk(new) if any(other.chunks[axis] != wanted for axis, wanted in new.items()) else other


# ---------------------------------------------------------------- inside a block


def _array(block: Any, argument: str) -> tuple[Any, base.Library]:
    """A block as an array (a reduction over all axes leaves a scalar), and its library; TypeError if it is neither."""
    if isinstance(block, np.generic | Real):
        block = np.asarray(block)
    return block, library_of(block, argument)


def _as_declared(block: Any, declared: tuple[Any, ...], *, argument: str, dtype: Any) -> Any:
    """The block as an array, if it has the declared lengths; another dtype is cast as an assignment casts it."""
    block, own = _array(block, argument)
    shape = tuple(block.shape)
    if len(shape) != len(declared) or any(a != b and b == b for a, b in zip(shape, declared, strict=True)):
        wanted = plain(tuple(n if n == n else None for n in declared))
        raise ValueError(
            f"`{argument}` must have the declared shape in every block, {wanted} in this one; got {shape}. "
            f"{_DECLARE} Or call its `compute_chunk_sizes()` first."
        )
    if _of_dtype(block, dtype, argument):
        return block
    with own.errstate(own.form(block, argument).device):
        return own.xp.astype(block, dtype)


def _of_dtype(block: Any, dtype: Any, argument: str) -> bool:
    """Whether the block needs no cast; TypeError for a dtype of higher rank than the declared one."""
    if not isinstance(block.dtype, np.dtype):
        raise TypeError(f"`{argument}` must have arrays with NumPy's dtypes in its blocks; got one of {block.dtype}.")
    own, wanted = _policy.name(block.dtype), _policy.name(dtype)
    if own != wanted and _rank(own) > _rank(wanted):
        raise TypeError(f"`{argument}` must have the declared dtype in every block, {wanted}; got {own}. {_DECLARE}")
    return own == wanted or wanted not in _policy.FLOATS  # a cast could truncate an integer of another width


def _rank(dtype: str) -> int:
    """The rank of bool, integer, floating and other dtypes: a block may have a lower rank than is declared."""
    if dtype in _policy.FLOATS:
        return 2
    return int(dtype != "bool") if _policy.is_real(dtype) else 3


def _fitting(x: Any, *rest: Any, dtype: Any, kinds: tuple[tuple[str, Any, tuple[bool, ...]], ...]) -> Any:
    """The block of logits, contiguous, if it is as declared and the others have its lengths, or 1 where declared."""
    *others, declared = rest
    x = _as_declared(x, declared, argument="input", dtype=dtype)
    name = library_of(x, "input").name
    for (argument, other_dtype, once), other in zip(kinds, others, strict=True):
        other, other_library = _array(other, argument)
        shape = tuple(other.shape)
        wanted = tuple(1 if one else n for n, one in zip(x.shape[x.ndim - len(once) :], once, strict=True))
        if shape != wanted:
            raise ValueError(
                f"`{argument}` must have the shape of `input` in every block, {tuple(x.shape)}, or a length of 1 where "
                f"that was declared, so {wanted} in this one; got {shape}. {_DECLARE} Or call its "
                "`compute_chunk_sizes()` first."
            )
        if other_library.name != name:
            raise TypeError(
                f"`{argument}` must belong to the library of `input`, {name}, in every block; got an array of "
                f"{other_library.name}. Convert one of them explicitly."
            )
        _of_dtype(other, other_dtype, argument)
    # For NumPy's arrays and CuPy's, which implement this call themselves; other blocks have no memory order.
    return np.ascontiguousarray(x) if hasattr(x, "flags") else x


def _fitting_rows(g: Any, rows: Any, declared: tuple[Any, ...]) -> Any:
    if g.shape != rows.shape:
        raise ValueError(
            f"`grad_output` must have the lengths of the rows in every block, {tuple(rows.shape)}; got "
            f"{tuple(g.shape)}. The lengths were not known while the graph was built."
        )
    return g


# ---------------------------------------------------------------- labels and the linear head, a chunk of rows at a time


def _only(block: Any) -> Any:
    """A block; Dask passes a list of blocks along an axis that the result does not have."""
    while isinstance(block, list):
        block = block[0]
    return block


def _chunk(*blocks: Any, classes: int, smoothing: float, kernel: Any, wanted: tuple[str, ...]) -> Any:
    h, W, b, target, w, p, m, indices, values, scale = map(_only, blocks)
    if indices is not None:
        target = Labels(indices, num_classes=classes, values=values)
    head = _linear._head(h, W, target, w, b, "none", p, m, smoothing, kernel)
    with head.library.errstate(head.problem.device):
        return _linear.run(head, None if scale is None else head.rest.xp.asarray(scale), frozenset(wanted))


def _item(found: Any, which: str) -> Any:
    found = _only(found)
    return found[which][(None,) * found["rows"].ndim] if which in ("W", "b") else found[which]


def _dense(indices: Any, values: Any = None, *, num_classes: int) -> Any:
    _array(indices, "target")
    return Labels(indices, num_classes=num_classes, values=values).toarray()


# ---------------------------------------------------------------- sums


class _Namespace:
    """Dask's namespace with another sum, because Dask's own adds the rows of a block one after the other."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    @staticmethod
    def sum(values: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
        return da.reduction(values, _summed, _summed, axis=axis, keepdims=keepdims, dtype=dtype or values.dtype)


def _summed(block: Any, axis: Any, keepdims: bool, dtype: Any = None) -> Any:
    """A block's sums over axes that are first joined and made contiguous, because NumPy then adds pairwise."""
    spread = tuple(a % block.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
    kept = tuple(i for i in range(block.ndim) if i not in spread)
    shape = tuple(block.shape[i] for i in kept)
    lined = block.transpose((*kept, *spread)).reshape((*shape, math.prod(block.shape[i] for i in spread)))
    if hasattr(lined, "flags"):  # other blocks have no memory order
        lined = np.ascontiguousarray(lined)
    sums = lined.sum(axis=-1, dtype=dtype)
    return sums.reshape(tuple(1 if i in spread else n for i, n in enumerate(block.shape))) if keepdims else sums
