"""JAX: it sets no NumPy flag, an array may be on several devices at once, and no array is written to in place.

Imported when an array of JAX is first passed.
"""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from ..many_classes._scratch import Parts
from . import base

_registered: list[type] = []


class Library(base.Library):
    # Not `memorable`: float64 may be switched on or off between two calls, and lengths may be symbols.
    lasting = True

    def _device(self, value: Any) -> Any:
        """None for an array on several devices: array_api_compat returns its sharding, which is not a device for an
        array of another rank. With None JAX places a new array itself, and moves it to the devices of the arrays that
        it is combined with. A tracer's device is None too."""
        device = super()._device(value)
        return None if "Sharding" in type(device).__name__ else device

    def errstate(self, device: Any) -> Any:
        return base.NOTHING

    # ------------------------------------------------------------ labels and the linear head

    def register_labels(self, kind: type) -> None:
        if kind not in _registered:
            _registered.append(kind)
            jax.tree_util.register_pytree_node(kind, _flattened, lambda classes, parts: _joined(kind, classes, parts))

    def traced(self, *arrays: Any) -> bool:
        return any(isinstance(v, jax.core.Tracer) or len(v.sharding.device_set) > 1 for v in arrays)

    def target_blocks(self, labels: Any, device: Any) -> Any:
        return lambda rows, classes: _block(labels, rows, classes)

    def parts(self, shape: tuple[int, ...], dtype: Any, device: Any) -> Parts:
        return _Updated(jnp.empty(shape, dtype=dtype, device=device))


class _Updated(Parts):
    """Parts that are written into one array, whose memory is donated to each update, so that no second one is made."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def add(self, first: int, part: Any) -> None:
        self.out = _updated(self.out, part, first)

    def whole(self) -> Any:
        return self.out


@partial(jax.jit, donate_argnums=0)
def _updated(out: Any, part: Any, first: Any) -> Any:
    return jax.lax.dynamic_update_slice_in_dim(out, part, first, axis=0)


def _flattened(labels: Any) -> tuple[tuple[Any, Any, Any], int]:
    return (labels.indices, labels.indptr, labels.values), labels.num_classes


def _joined(kind: Any, classes: int, parts: Any) -> Any:
    """Labels of the leaves that JAX passes, which need not be arrays: nothing is checked."""
    labels = object.__new__(kind)
    for name, value in zip(("indices", "indptr", "values", "num_classes"), (*parts, classes), strict=True):
        object.__setattr__(labels, name, value)
    return labels


def _block(labels: Any, rows: tuple[slice, ...], classes: slice) -> Any:
    first, end, _ = classes.indices(labels.num_classes)
    width, values = end - first, labels.values
    columns = labels.indices.astype(jnp.promote_types(labels.indices.dtype, jnp.int32))
    if labels.indptr is None:
        columns = columns[rows]
        batch = columns.shape[:-1]
        count = prod(batch)
        columns = columns.reshape(count, columns.shape[-1])
        values = None if values is None else values[rows].reshape(columns.shape)
        row: Any = jnp.arange(count)[:, None]
    else:
        i, j, _ = rows[0].indices(labels.indptr.shape[0] - 1)
        count, batch = j - i, (j - i,)
        row = jnp.searchsorted(labels.indptr[1:], jnp.arange(columns.shape[0], dtype=labels.indptr.dtype), side="right")
        row = jnp.where(row < i, count, row - i)
    # By two indices and not by one, for which 32 bits would be too few; indices outside, and -1, are dropped.
    place = jnp.where(columns < first, width, columns - first)
    values = jnp.ones_like(place, jnp.bool_) if values is None else values
    empty = jnp.zeros((count, width), values.dtype)
    return empty.at[row, place].set(values, mode="drop").reshape(*batch, width)
