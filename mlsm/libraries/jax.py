"""JAX: sets no NumPy flag, an array may lie on several devices at once, and none is written to in place.

Imported when an array of JAX has arrived.
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
    # Its verdicts are not kept: float64 is a switch that may be thrown between two calls, and lengths may be symbols.
    lasting = True

    def _device(self, value: Any) -> Any:
        """None where an array lies on several devices, for which array_api_compat names their sharding: that is no
        device for an array of another rank. None lets JAX put a new array where it likes, and move it to those that it
        meets; a tracer's device is None too."""
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
    """Parts that are written into memory which is given away and taken back, so that no second array is needed."""

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
    """Labels of whatever JAX has put in place of the arrays: nothing is checked."""
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
    # By two indices and not by one, for which 32 bits would be too few; what is outside is dropped, and so is -1.
    place = jnp.where(columns < first, width, columns - first)
    values = jnp.ones_like(place, jnp.bool_) if values is None else values
    empty = jnp.zeros((count, width), values.dtype)
    return empty.at[row, place].set(values, mode="drop").reshape(*batch, width)
