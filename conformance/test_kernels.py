"""The suite on every kernel by name, on every library it serves, and on the reference itself."""

from __future__ import annotations

from .suite import KernelSuite


class TestGeneric(KernelSuite):
    kernel = "generic"
    backend = "numpy"


class TestGenericOnTensors(KernelSuite):
    """With the tighter budgets that PyTorch's own exp allows, and PyTorch's own differentiation of the formula."""

    kernel = "generic"
    backend = "torch"
    checks = (*KernelSuite.checks, "transforms")


class TestNumPy(KernelSuite):
    kernel = "numpy"
    backend = "numpy"


class TestNumPyOnTensors(KernelSuite):
    kernel = "numpy"
    backend = "torch"


class TestNumba(KernelSuite):
    kernel = "numba"
    backend = "numpy"


class TestNumbaOnTensors(KernelSuite):
    kernel = "numba"
    backend = "torch"


class TestDask(KernelSuite):
    kernel = "dask"
    backend = "dask"


class TestDaskChunkedClass(KernelSuite):
    kernel = "dask"
    backend = "dask-chunked-class"


class TestDaskUnknown(KernelSuite):
    kernel = "dask"
    backend = "dask-unknown"


class TestCuPy(KernelSuite):
    kernel = "cupy"
    backend = "cupy"
