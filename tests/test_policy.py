"""The rules about dtypes, one by one: their names, which ones are accepted, and their promotion."""

import enum
import gc
import itertools
import types
import weakref
from typing import Any

import array_api_compat.common._helpers
import ml_dtypes
import numpy as np
import pytest

import mlsm
from mlsm import _policy
from mlsm.libraries import library_of

from ._support import numpy_dtype

REAL = ("bool", "int", "uint", "intc", "uintc", "longlong", "ulonglong", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32", "float64")  # fmt: skip
# In the alphabet before and after each accepted name, and names that contain or begin with one.
NOT_REAL = ("", "bits8", "bcomplex32", "boolean", "complex64", "complex128", "clongdouble", "object", "str", "str128",
            "void", "datetime64[s]", "timedelta64[ns]", "float", "float8_e4m3fn", "float128", "longdouble", "double",
            "ints", "int8x", "xint8", "point8", "hint", "qint8", "quint8", "uuint8", "uint64_t",
            "int1", "int2", "uint4", "uint7", "int81")  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_accepted_dtype(name: str) -> None:
    assert _policy.is_real(name)


@pytest.mark.parametrize("name", NOT_REAL)
def test_refused_dtype(name: str) -> None:
    assert not _policy.is_real(name)


class Dtype:
    """A dtype whose name only `str` shows, of a library after PyTorch in the alphabet."""

    def __str__(self) -> str:
        return "zarray.dtypes.float32"


Dtype.__module__ = "zarray.dtypes"


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        pytest.param(np.dtype("float32"), "float32", id="NumPy"),
        pytest.param(np.dtype(">f4").newbyteorder("S"), "float32", id="NumPy, one byte order"),
        pytest.param(np.dtype("<f4").newbyteorder("S"), "float32", id="NumPy, the other"),
        pytest.param(np.float16, "float16", id="a scalar type"),
        pytest.param(np.dtype(ml_dtypes.bfloat16), "bfloat16", id="ml_dtypes"),
        pytest.param(Dtype(), "float32", id="an unknown library"),
    ],
)
def test_name(dtype: Any, name: str) -> None:
    assert _policy.spelled(dtype) == name
    assert _policy.name(dtype) == name
    assert _policy.name(dtype) == name  # and from the cache


@pytest.mark.parametrize("library", ["numpy", "torch", "jax-x64", "array-api-strict"], indirect=True)
def test_names_are_the_same_in_every_library(library: Any) -> None:
    for name in library.dtypes:
        array = library.make(np.zeros(1, dtype=numpy_dtype(name)))
        assert _policy.name(array.dtype) == library_of(array, "input").dtype_name(array.dtype) == name


@pytest.mark.parametrize("library", ["numpy", "torch", "jax-x64", "array-api-strict"], indirect=True)
@pytest.mark.parametrize("many", [1, 2, 3])
def test_promotion_is_the_librarys_and_never_narrower_than_float32(library: Any, many: int) -> None:
    arrays = {name: library.make(np.zeros(1, dtype=numpy_dtype(name))) for name in library.dtypes}
    found = library_of(arrays["float32"], "input")
    xp = found.xp
    for names in itertools.product(arrays, repeat=many):
        dtypes = [arrays[name].dtype for name in names]
        try:
            expected = xp.result_type(*dtypes)
        except TypeError:
            with pytest.raises(TypeError):
                _policy.promoted(found, dtypes)
            continue
        loss, compute = _policy.promoted(found, dtypes)
        assert loss == expected, names
        assert compute == xp.result_type(expected, xp.float32), names


def test_accumulator_is_float64_where_the_device_has_it() -> None:
    xp = pytest.importorskip("array_api_strict", reason="one of its devices has no float64")
    try:
        small = xp.Device("no_float64")
    except ValueError as error:
        pytest.skip(f"this array_api_strict has no such device: {error}")
    everywhere = xp.zeros(1).device
    strict = library_of(xp.zeros(1), "input")
    assert _policy.accumulator(strict, everywhere, xp.float64) == xp.float64
    assert _policy.accumulator(strict, everywhere, xp.float32) == xp.float64
    assert _policy.accumulator(strict, small, xp.float32) == xp.float32


def test_accepted_dtypes_are_real() -> None:
    assert _policy.HALVES < _policy.FLOATS
    assert all(_policy.is_real(name) for name in _policy.FLOATS)


# ---------------------------------------------------------------- the caches


def test_caches_keep_no_foreign_type() -> None:
    """Temporary types (subclasses, of a foreign library, an enum of reductions) can be collected."""

    def use() -> list[Any]:
        class Sub(np.ndarray[Any, Any]):
            pass

        class DType:
            name = "float32"

        class Foreign:
            dtype = DType()

            def __array_namespace__(self, api_version: str | None = None) -> Any:
                return space

        class Reduction(enum.StrEnum):
            MEAN = "mean"

        space: Any = types.ModuleType("passing")
        space.Foreign = Foreign
        x = np.zeros((2, 3)).view(Sub)
        mlsm.multilabel_soft_margin_loss(x, x, reduction=Reduction.MEAN.value)
        mlsm.multilabel_soft_margin_loss(x, x, reduction=Reduction.MEAN)  # type: ignore[arg-type]
        found = library_of(Foreign(), "input")
        assert found.name == "passing"
        assert found.dtype_name(Foreign.dtype) == "float32"
        return [weakref.ref(kind) for kind in (Sub, DType, Foreign, Reduction)]

    alive = use()
    for function in vars(array_api_compat.common._helpers).values():
        if hasattr(function, "cache_clear"):  # the library's own caches keep a hundred types each
            function.cache_clear()
    gc.collect()
    assert [found() for found in alive] == [None] * len(alive)


def test_the_cache_of_dtypes_is_bounded() -> None:
    for n in range(500):
        assert _policy.name(np.dtype(f"S{n + 1}")).startswith("bytes")
        _policy.name(np.dtype([(f"field{n}", "f4")]))
    assert len(_policy._names) < 100
