"""Dask: the dense target is lazy itself, and a linear head is one task for each chunk of rows.

A chunk is an ordinary call of the head on the arrays inside it, so that whatever they turn out to be is checked there.
"""

from typing import Any

import dask.array

from .._library import library
from ..lazy.dask import chunked_like
from .base import Base

da: Any = dask.array  # as Any: Dask ships its types in part


class _Dask(Base):
    def whole(self, xp: Any, labels: Any, device: Any, traced: bool) -> Any:
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

    def blocks(self, xp: Any, labels: Any, device: Any) -> Any:
        """None: labels travel into the chunks as they are, and the target of a chunk is made there."""
        return None

    def run(self, by_blocks: Any, head: Any, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
        if not head.lean:
            return super().run(by_blocks, head, scale, wanted)
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


def _only(block: Any) -> Any:
    """A block; Dask hands over a list of them along an axis that the result has not."""
    while isinstance(block, list):
        block = block[0]
    return block


def _chunk(*blocks: Any, classes: int, smoothing: float, kernel: Any, wanted: tuple[str, ...]) -> Any:
    from .. import _linear  # here, since these files ask for this one
    from .._guard import silent
    from .._labels import Labels

    h, W, b, target, w, p, m, indices, values, scale = map(_only, blocks)
    if indices is not None:
        target = Labels(indices, num_classes=classes, values=values)
    head = _linear._head(h, W, target, w, b, "none", p, m, smoothing, kernel)
    with silent(head.problem.library, head.problem.device):
        xp = head.rest.xp
        return _linear.run(head, None if scale is None else xp.asarray(scale), frozenset(wanted))


def _item(found: Any, which: str) -> Any:
    found = _only(found)
    return found[which][(None,) * found["rows"].ndim] if which in ("W", "b") else found[which]


def _dense(indices: Any, values: Any = None, *, num_classes: int) -> Any:
    from .._labels import Labels  # here, since that file asks for this one

    library(indices, "indices")
    return Labels(indices, num_classes=num_classes, values=values).toarray()


MANY = _Dask()
