"""NumPy's arrays, in every layout that memory can have.  Makes and reads them; judges nothing."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..tensors import LAYOUTS, Case, Tensor
from .base import Backend, Bulk, Unsupported, missing


def host(values: Sequence[float], shape: tuple[int, ...], dtype: str) -> Any:
    """Exact values as a C-ordered NumPy array; every other library of the suite starts from it."""
    if dtype == "bfloat16":
        import ml_dtypes

        return np.asarray(values, dtype=np.float64).astype(ml_dtypes.bfloat16).reshape(shape)
    if dtype == "bool" or dtype.startswith(("int", "uint")):
        return np.asarray([int(v) for v in values], dtype=np.dtype(dtype)).reshape(shape)
    with np.errstate(all="ignore"):  # a cast of NaN or of a subnormal that raises a flag is intended test data
        return np.asarray(values, dtype=np.float64).astype(dtype).reshape(shape)


def laid_out(a: Any, layout: str) -> Any:
    """The same values with another memory layout."""
    if layout == "C":
        return a
    if layout == "F":
        return np.asfortranarray(a)
    if layout == "negative_stride":
        return np.ascontiguousarray(a[..., ::-1])[..., ::-1]
    if layout == "broadcast":
        return np.broadcast_to(a[:1].copy(), a.shape)
    if layout == "offset_view":
        flat = np.full(a.size + 1, 1, dtype=a.dtype)
        flat[1:] = a.ravel()
        return flat[1:].reshape(a.shape)
    if layout == "read_only":
        a = a.copy()
        a.flags.writeable = False
        return a
    if layout == "byte_swapped":
        return a.astype(a.dtype.newbyteorder("S"))
    if layout == "unaligned":
        raw = np.zeros(a.nbytes + 1, dtype=np.uint8)
        view = raw[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view
    if layout == "memmap":
        if not a.size:
            return a  # an empty file cannot be mapped
        with tempfile.TemporaryFile() as file:  # the map outlives the file object
            mapped = np.memmap(file, dtype=a.dtype, mode="w+", shape=a.shape)
        mapped[...] = a
        return mapped
    raise Unsupported(f"NumPy has no layout {layout!r}")


class NumPy(Backend):
    """Plain NumPy."""

    name = "numpy"
    library = "numpy"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"float16", "float64", "writable", "layouts", "foreign_layouts", "readonly", "any_byte", "float_flags"}
    )
    layouts: ClassVar[frozenset[str]] = frozenset(LAYOUTS)

    def session(self) -> contextlib.AbstractContextManager[Any]:
        return np.errstate(all="ignore")

    def flags(self) -> contextlib.AbstractContextManager[Any]:
        return np.errstate(all="raise")

    def of_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if "bfloat16" not in self.capabilities and tensor.dtype == "bfloat16":
            raise Unsupported("NumPy itself has no bfloat16; the variant numpy-bfloat16 brings that of ml_dtypes")
        return laid_out(host(tensor.values, tensor.shape, tensor.dtype), layout)

    def dtype_of(self, array: Any) -> str:
        return str(array.dtype.name)

    def as_bool(self, array: Any) -> Any:
        return array.view(np.bool_)

    target_remedies: ClassVar[Any] = {"": (".tocsr()", lambda v: v.tocsr())}

    def formats(self, tensor: Tensor) -> dict[str, tuple[Any, str, Callable[[Any], Any]]]:
        if missing("scipy") or tensor.dtype in ("float16", "bfloat16"):  # SciPy has no matrices of these dtypes
            return {}
        sparse: Any = importlib.import_module("scipy.sparse")  # as Any: it ships no types

        a = self.make(tensor)
        made = {f"{kind} {form}": getattr(sparse, f"{form}_{kind}")(a) for kind in ("array", "matrix")
                for form in ("coo", "csr", "csc", "bsr", "dok", "lil", "dia")}  # fmt: skip
        return {name: (value, ".toarray()", lambda v: v.toarray()) for name, value in made.items()}

    def write(self, array: Any, value: float) -> None:
        array[...] = value


class ReadOnlyNumPy(NumPy):
    """Every array is read-only, like a view of memory that another object owns."""

    name = "numpy-readonly"
    capabilities: ClassVar[frozenset[str]] = NumPy.capabilities - {"writable"}

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        array = super().make(tensor, layout)
        array.flags.writeable = False
        return array

    def write(self, array: Any, value: float) -> None:
        try:
            array[...] = value
        except ValueError as error:
            raise Unsupported(str(error)) from error


class BFloat16NumPy(NumPy):
    """NumPy with the bfloat16 of ml_dtypes, which NumPy itself does not have."""

    name = "numpy-bfloat16"
    capabilities: ClassVar[frozenset[str]] = NumPy.capabilities | {"bfloat16"}
    # ml_dtypes' own casts raise the underflow flag of a value that is subnormal in bfloat16 (the suite reads with
    # flags off).

    def versions(self) -> dict[str, str]:
        from .base import installed_versions

        return installed_versions("numpy", "ml_dtypes")

    @property
    def dtypes(self) -> tuple[str, ...]:
        return ("bfloat16", "float32", "float64")

    def serves(self, case: Case) -> bool:
        # The other cases are judged by the plain NumPy backend.
        arguments = (case.input, case.target, case.weight, case.pos_weight)
        return super().serves(case) and any(isinstance(t, Tensor) and t.dtype == "bfloat16" for t in arguments)
