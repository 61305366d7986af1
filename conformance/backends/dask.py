"""Dask's arrays of NumPy chunks: cut along the batch, cut along the classes, or of unknown length.  Judges nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import dask
import dask.array
import numpy as np
from dask.delayed import delayed

from ..tensors import Case, Tensor, shape_of
from .base import Backend, Bulk, Unsupported
from .numpy import host

da: Any = dask.array  # untyped


class Dask(Backend):
    """Cut along the batch, computed by the threaded scheduler."""

    name = "dask"
    library = "dask"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"float16", "float64", "any_byte", "lazy", "unknown_sizes", "watched"}
    )
    slow: ClassVar[float] = 30.0

    def session(self) -> contextlib.AbstractContextManager[Any]:
        return dask.config.set(scheduler="threads", num_workers=2)

    def chunks(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How long a chunk is along each axis: two or three pieces of the first axis, uneven where it is odd."""
        return tuple(
            max(1, math.ceil(n / 2)) if axis == 0 and len(shape) > 1 else max(n, 1) for axis, n in enumerate(shape)
        )

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if layout != "C":
            raise Unsupported("a Dask array has no memory layout")
        if tensor.dtype == "bfloat16":
            raise Unsupported("bfloat16 is NumPy's by ml_dtypes only: the variant numpy-bfloat16 judges it")
        return self.of_numpy(host(tensor.values, tensor.shape, tensor.dtype))

    def of_numpy(self, array: Any) -> Any:
        return da.from_array(array, chunks=self.chunks(array.shape))

    def to_numpy(self, array: Any) -> Any:
        with np.errstate(all="ignore"):  # a lazy graph runs under the state of the thread that computes it
            return np.asarray(array.compute())

    def owns(self, array: Any) -> bool:
        return isinstance(array, da.Array)

    def device_of(self, array: Any) -> str:
        return "cpu"

    def shape_of(self, array: Any) -> tuple[int, ...]:
        # A length that is unknown while the graph is built is known once it has run.
        return tuple(array.shape) if all(n == n for n in array.shape) else tuple(array.compute().shape)

    def as_bool(self, array: Any) -> Any:
        return array.map_blocks(lambda block: block.view(np.bool_), dtype=np.bool_)

    def versions(self) -> dict[str, str]:
        from .base import installed_versions

        return installed_versions("dask", "numpy")

    def unknown(self, tensor: Tensor) -> Any:
        if not tensor.shape or tensor.shape[0] < 2:
            return self.make(tensor)
        data = host(tensor.values, tensor.shape, tensor.dtype)
        cut = math.ceil(tensor.shape[0] / 2)
        blocks = [
            da.from_delayed(delayed(part), shape=(math.nan, *tensor.shape[1:]), dtype=part.dtype)
            for part in (data[:cut], data[cut:])
        ]
        return da.concatenate(blocks, axis=0, allow_unknown_chunksizes=True)

    def lying(self, tensor: Tensor, actual: Tensor) -> Any:
        data = host(actual.values, actual.shape, actual.dtype)
        return da.from_delayed(delayed(data), shape=tensor.shape, dtype=host((), (0,), tensor.dtype).dtype)

    def pieces(self, tensor: Tensor, chunks: Sequence[Sequence[int]]) -> Any:
        return da.from_array(host(tensor.values, tensor.shape, tensor.dtype), chunks=tuple(map(tuple, chunks)))

    def summed(self, tensor: Tensor) -> Any:
        return self.make(tensor).sum()

    def unseen(self, function: Callable[..., Any], *arrays: Any) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("something was computed while the graph was built")

        with dask.config.set(scheduler=refuse):
            return function(*arrays)


class DaskChunkedClass(Dask):
    """Cut along every axis, the classes included."""

    name = "dask-chunked-class"

    def chunks(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, math.ceil(n / 2)) for n in shape)


class DaskUnknown(Dask):
    """Every batch length is unknown until the graph runs."""

    name = "dask-unknown"

    def serves(self, case: Case) -> bool:
        # The class axis must be known (contract). A single row has no length to hide. A list with a weight for each
        # row is refused, because its length cannot be compared with an unknown one.
        rank = len(case.input.shape)
        lists = (shape_of(w) for w in (case.weight, case.pos_weight) if isinstance(w, list))
        rows = any(len(shape) == rank and shape[0] > 1 for shape in lists)
        return super().serves(case) and rank > 1 and case.axis % rank != 0 and case.input.shape[0] > 1 and not rows

    def arguments(self, case: Case) -> dict[str, Any]:
        out = {"input": self.unknown(case.input), "target": self.unknown(case.target)}
        for name, value in (("weight", case.weight), ("pos_weight", case.pos_weight), ("where", case.where)):
            if isinstance(value, Tensor):
                # Only an argument that reaches the batch axis shares its length.
                reaches = len(value.shape) == len(case.input.shape)
                out[name] = self.unknown(value) if reaches else self.make(value)
        return out

    def cotangent(self, tensor: Tensor, case: Case) -> Any:
        return self.unknown(tensor)
