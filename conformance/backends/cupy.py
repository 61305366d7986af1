"""CuPy's arrays on the current CUDA device.  Makes and reads them; judges nothing."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import cupy
import numpy as np

from ..tensors import Tensor
from .base import Backend, Bulk, NotInstalled, Unsupported
from .numpy import host


class CuPy(Backend):
    """Arrays on the current device and stream."""

    name = "cupy"
    library = "cupy"
    capabilities: ClassVar[frozenset[str]] = frozenset({"float16", "float64", "writable", "layouts", "any_byte"})
    layouts: ClassVar[frozenset[str]] = frozenset({"C", "F", "negative_stride", "broadcast", "offset_view"})
    slow: ClassVar[float] = 4.0

    def __init__(self) -> None:
        try:
            devices = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise NotInstalled(f"cupy: no usable CUDA device: {error}") from error
        if not devices:
            raise NotInstalled("cupy: this machine has no CUDA device")
        self.device = str(cupy.cuda.Device())

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if tensor.dtype == "bfloat16":
            raise Unsupported("CuPy arrays have no bfloat16")
        a = self.of_numpy(host(tensor.values, tensor.shape, tensor.dtype))
        if layout == "C":
            return a
        if layout == "F":
            return cupy.asfortranarray(a)
        if layout == "negative_stride":
            return cupy.ascontiguousarray(a[..., ::-1])[..., ::-1]
        if layout == "broadcast":
            return cupy.broadcast_to(a[:1].copy(), a.shape)
        if layout == "offset_view":
            flat = cupy.ones(a.size + 1, dtype=a.dtype)
            flat[1:] = a.ravel()
            return flat[1:].reshape(a.shape)
        raise Unsupported(f"CuPy has no layout {layout!r}")

    def of_numpy(self, array: Any) -> Any:
        return cupy.asarray(array)

    def to_numpy(self, array: Any) -> Any:
        return cupy.asnumpy(array)

    def dtype_of(self, array: Any) -> str:
        return str(array.dtype.name)

    def force(self, result: Any) -> Any:
        cupy.cuda.get_current_stream().synchronize()
        return result

    def as_bool(self, array: Any) -> Any:
        return array.view(np.bool_)

    def write(self, array: Any, value: float) -> None:
        array[...] = value

    def session(self) -> contextlib.AbstractContextManager[Any]:
        device: contextlib.AbstractContextManager[Any] = cupy.cuda.Device()
        return device
