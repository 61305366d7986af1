"""array-api-strict, which refuses everything that the Array API standard does not promise.  Makes and reads its
arrays."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import array_api_strict as xp
import numpy as np

from ..tensors import Tensor
from .base import Backend, Bulk, Unsupported
from .numpy import host

STANDARD = frozenset(
    {"bool", "float32", "float64"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""The real dtypes of the Array API standard."""


class Strict(Backend):
    """The default configuration, on its ordinary device."""

    name = "array-api-strict"
    library = "array_api_strict"
    capabilities: ClassVar[frozenset[str]] = frozenset({"float64", "writable", "any_byte"})
    device: str = "CPU_DEVICE"
    slow: ClassVar[float] = 2.0

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if layout != "C":
            raise Unsupported("array-api-strict has no layouts")
        # By name from the namespace, not from NumPy's dtype: a dtype that it does not have must fail here.
        if tensor.dtype not in STANDARD:
            raise Unsupported(f"array-api-strict has no dtype {tensor.dtype}")
        return self.of_numpy(host(tensor.values, tensor.shape, tensor.dtype))

    def of_numpy(self, array: Any) -> Any:
        return xp.asarray(array, dtype=getattr(xp, array.dtype.name), device=xp.Device(self.device))

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(xp.asarray(array, device=xp.Device("CPU_DEVICE")))

    def namespace(self) -> Any:
        return xp

    def elsewhere(self, tensor: Tensor) -> Any:
        return xp.asarray(self.make(tensor), device=xp.Device("device1"))

    def as_bool(self, array: Any) -> Any:
        host_array = np.asarray(xp.asarray(array, device=xp.Device("CPU_DEVICE")))
        return xp.asarray(host_array.view(np.bool_), device=xp.Device(self.device))

    def write(self, array: Any, value: float) -> None:
        array[...] = value


class StrictNoData(Strict):
    """With data-dependent shapes and boolean indexing off, as in libraries that build graphs."""

    name = "array-api-strict-nodata"

    def session(self) -> contextlib.AbstractContextManager[Any]:
        return xp.ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False)


class StrictNoFloat64(Strict):
    """On a device without float64, like MPS and most accelerators."""

    name = "array-api-strict-nofloat64"
    capabilities: ClassVar[frozenset[str]] = Strict.capabilities - {"float64"}
    device: str = "no_float64"

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        try:
            return super().make(tensor, layout)
        except ValueError as error:
            raise Unsupported(str(error)) from error
