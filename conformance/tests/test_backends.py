"""The whole suite on every installed backend: one class each, as a third party would write it."""

from __future__ import annotations

import pytest

from ..backends import NAMES
from ..suite import BackendSuite


class TestNumPy(BackendSuite):
    backend = "numpy"


class TestNumPyReadOnly(BackendSuite):
    backend = "numpy-readonly"


class TestNumPyBFloat16(BackendSuite):
    backend = "numpy-bfloat16"


class TestStrict(BackendSuite):
    backend = "array-api-strict"


class TestStrictNoData(BackendSuite):
    backend = "array-api-strict-nodata"


class TestStrictNoFloat64(BackendSuite):
    backend = "array-api-strict-nofloat64"


class TestTorch(BackendSuite):
    backend = "torch"


class TestTorchCUDA(BackendSuite):
    backend = "torch-cuda"


class TestTorchDTensor(BackendSuite):
    backend = "torch-dtensor"


class TestTorchDTensorClass(BackendSuite):
    backend = "torch-dtensor-class"


@pytest.mark.slow  # level smoke here; `make conformance` has run level quick
class TestJAX(BackendSuite):
    backend = "jax"


@pytest.mark.slow  # level smoke here; `make conformance` has run level quick
class TestJAXX64(BackendSuite):
    backend = "jax-x64"


@pytest.mark.slow  # level smoke here; `make conformance` has run level quick
class TestJAXJit(BackendSuite):
    backend = "jax-jit"


class TestJAXSharded(BackendSuite):
    backend = "jax-sharded"


class TestJAXShardedExplicit(BackendSuite):
    backend = "jax-sharded-explicit"


class TestDask(BackendSuite):
    backend = "dask"


class TestDaskChunkedClass(BackendSuite):
    backend = "dask-chunked-class"


class TestDaskUnknown(BackendSuite):
    backend = "dask-unknown"


class TestCuPy(BackendSuite):
    backend = "cupy"


def test_every_variant_has_a_class() -> None:
    here = {c.backend for c in globals().values() if isinstance(c, type) and issubclass(c, BackendSuite) and c.backend}
    assert here == set(NAMES)
