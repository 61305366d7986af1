"""Dask: the dense target is lazy itself, one block for each block of rows of the indices."""

from typing import Any

import dask.array

from .._library import library
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


def _dense(indices: Any, values: Any = None, *, num_classes: int) -> Any:
    from .._labels import Labels  # here, since that file asks for this one

    library(indices, "indices")
    return Labels(indices, num_classes=num_classes, values=values).toarray()


MANY = _Dask()
