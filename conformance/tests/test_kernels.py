"""The suite on every kernel by name, on every library it serves, and on the reference itself."""

from __future__ import annotations

import pytest

import mlsm

from ..backends import find
from ..check import Context
from ..subjects import Mlsm
from ..suite import KernelSuite, by_id, run_check


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


@pytest.mark.parametrize("name", ["transforms.compile", "transforms.compile-gradient"])
def test_a_kernel_by_name_is_not_judged_inside_a_compiler(name: str) -> None:
    pytest.importorskip("torch", reason="the kernel must decline inside its compiler")
    kernel = mlsm.Kernel("bystander", ("torch",), lambda problem: None, lambda operands: None)
    mlsm.register_kernel(kernel)
    try:
        found = run_check(by_id(name), Context(find("torch"), Mlsm("bystander"), "quick"))
    finally:
        mlsm.unregister_kernel("bystander")
    assert (found.status, found.cases) == ("skip", 0)
    assert "a compiler can trace the generic code only" in found.reason
