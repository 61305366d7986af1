"""Any Array API namespace, named on the command line: arrays are made by its `asarray`, as the standard says.

Does not guess: whatever this library lacks is reported as a failed prerequisite, without a workaround.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from ..tensors import Tensor
from .base import Backend, Bulk, Unsupported


class Other(Backend):
    """Arrays of one importable module; its dtypes are found by asking for them."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.name = module.__name__  # type: ignore[misc]  # a class attribute in the other backends: here each module is a backend
        self.library = self._root()  # type: ignore[misc]  # likewise
        self.device = "default"
        found = frozenset(d for d in ("float16", "bfloat16", "float64") if self._makes(d))
        self.capabilities = found  # type: ignore[misc]  # likewise

    silent = False
    slow = 10.0

    def _root(self) -> str:
        """The root module of its arrays, which differs from the name of a wrapper."""
        try:
            kind = type(self.make(Tensor((1,), (0.0,), "float32")))
        except Exception:
            return self._module.__name__.partition(".")[0]  # `namespace.make` reports what is wrong
        return kind.__module__.partition(".")[0]

    def _makes(self, dtype: str) -> bool:
        try:
            made = self.make(Tensor((2,), (0.5, 1.0), dtype))
            return self.dtype_of(made) == dtype and self.to_list(made) == [0.5, 1.0]
        except Exception:  # an unknown library without this dtype may raise any exception
            return False

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if layout != "C":
            raise Unsupported(f"the standard has no layouts, and {self.name} is used by the standard only")
        try:
            asarray, reshape = self._module.asarray, self._module.reshape
            dtype = self._module.bool if tensor.dtype == "bool" else getattr(self._module, tensor.dtype)
        except AttributeError as error:
            raise Unsupported(f"{self.name} is not an Array API namespace: {error}") from error
        convert: Any = float
        if tensor.dtype == "bool":
            convert = bool
        elif tensor.dtype.startswith(("int", "uint")):
            convert = int
        return reshape(asarray([convert(v) for v in tensor.values], dtype=dtype), tensor.shape)

    def to_list(self, array: Any) -> list[float]:
        shape = tuple(array.shape)
        read = self._at_once(array, shape)
        if read is not None:
            if self._trusted is None and read:
                self._trusted = _same(read, self._one_by_one(array, shape))
            if self._trusted or not read:
                return read
        return self._one_by_one(array, shape)

    _trusted: bool | None = None
    """Whether NumPy reads these arrays as their elements do; None until both have read one."""

    @staticmethod
    def _at_once(array: Any, shape: tuple[int, ...]) -> list[float] | None:
        """The array as NumPy reads it, or as it converts itself (`unwrap_numpy` of ndonnx, `numpy` of others), if that
        gives numbers of a plain dtype in the right shape."""
        own = (getattr(array, name) for name in ("unwrap_numpy", "numpy") if hasattr(array, name))
        for read_by in (lambda: array, *own):
            try:
                read = np.asarray(read_by())
            except Exception:  # an unknown library may raise any exception
                continue
            if read.shape == shape and read.dtype.kind in "biuf":
                with np.errstate(all="ignore"):
                    return read.astype(np.float64).ravel().tolist()
        return None

    def _one_by_one(self, array: Any, shape: tuple[int, ...]) -> list[float]:
        if not shape:
            return [float(array)]
        if math.prod(shape) == 0:
            return []
        flat = self._module.reshape(array, (-1,))
        return [float(flat[i]) for i in range(math.prod(shape))]

    def namespace(self) -> Any:
        return self._module


def _same(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(p == q or (math.isnan(p) and math.isnan(q)) for p, q in zip(a, b, strict=True))
