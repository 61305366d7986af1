"""The Triton kernel, as far as it can be tested without a GPU: in Triton's interpreter, on CPU tensors.

The interpreter computes in NumPy and is slow, so only the checks of values are run; the digits of a device are tested
on a device. Tests that need Triton are skipped with the reason.
"""

import importlib.util
import os
import shutil
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import mlsm
from mlsm._problem import Meta, Problem
from mlsm_conformance.checks import CHECKS
from mlsm_conformance.suite import KernelSuite

from .._support import KERNELS_PRESENT

if not KERNELS_PRESENT:
    pytest.skip("mlsm/kernels/ is deleted: there is no kernel to test", allow_module_level=True)
torch = pytest.importorskip("torch", reason="torch is not installed")
Torch: Any = pytest.importorskip("mlsm_conformance.backends.torch", reason="torch is not installed").Torch

NAME = "triton-interpreted"
ABSENT = importlib.util.find_spec("triton") is None
# Triton reads it when it decorates its own functions, so it must be set before anything imports Triton.
INTERPRETED = not ABSENT and os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(
    not INTERPRETED,
    reason="pip install triton; TRITON_INTERPRET=1 python -m pytest tests/kernels/test_triton.py",
)


def _interpreted() -> Any:
    """The kernel for CPU tensors, executed by the interpreter."""
    import numpy as np

    from mlsm.kernels import _cuda, triton

    def run(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):  # a device has no flags; the interpreter computes in NumPy
            return triton.run(*arguments)

    def accepts(problem: Problem) -> str | None:
        return _cuda.declined(problem)

    return mlsm.Kernel(
        NAME,
        ("torch",),
        accepts,
        lambda o: run(o, None, _cuda.ROWS)[0],
        lambda o, g: run(o, g, _cuda.GRADIENT)[1],
        lambda o, g: run(o, g, _cuda.ROWS | _cuda.GRADIENT),
        lambda o, g: run(o, g, _cuda.HESSIAN)[1],
    )


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    if INTERPRETED:
        mlsm.register_kernel(_interpreted())
    yield
    if INTERPRETED:
        mlsm.unregister_kernel(NAME)


class _WithoutBFloat16(Torch):  # type: ignore[misc]
    """The interpreter truncates a float32 to bfloat16, and a device rounds it: this cannot be judged here."""

    capabilities = Torch.capabilities - {"bfloat16"}


@needs_triton
class TestInterpreted(KernelSuite):
    backend = _WithoutBFloat16()
    kernel = NAME
    # Without values.many-elements: 2^24 elements take the interpreter an hour.
    checks = tuple(
        check.id
        for check in CHECKS
        if check.group in ("values", "special", "types", "purity", "determinism")
        and check.level != "full"
        and check.id != "values.many-elements"
    )


@needs_triton
@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 2, 20), (5, 1000), (2, 2049), (2, 16385)], ids=str)
def test_long_rows_masks_and_layouts(shape: tuple[int, ...]) -> None:
    """Chunks, tails and strides: exact losses, so that a term that is missed or counted twice shows."""
    torch.manual_seed(0)
    x = torch.randint(64, 96, shape).float()
    y, where = torch.rand(shape) < 0.5, torch.rand(shape) < 0.5
    w = torch.randint(1, 9, (*shape[:-1], 1)).float()
    turned = x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    for options in ({}, {"where": where}, {"where": where[..., :1]}, {"weight": w}, {"weight": w[..., :1, :]}):
        given = {"reduction": "none", **options}
        right = mlsm.value_and_grad(x, y, kernel="generic", **given)
        for values in (x, turned):
            found = mlsm.value_and_grad(values, y, kernel=NAME, **given)
            for a, b in zip(found, right, strict=True):
                torch.testing.assert_close(a, b, rtol=2**-21, atol=2.0**-70)  # e of a target's tail is smaller


@needs_triton
def test_bool_bytes_are_true_or_false() -> None:
    bytes_ = torch.tensor([[0, 1, 2, 128, 255]], dtype=torch.uint8)
    odd, even, x = bytes_.view(torch.bool), bytes_ != 0, torch.linspace(-2, 2, 5)[None]
    for a, b in (((x, odd), (x, even)), ((x, even, odd), (x, even, even))):
        assert torch.equal(*(mlsm.grad(*arguments, kernel=NAME) for arguments in (a, b)))
    assert torch.equal(*(mlsm.grad(x, even, where=m, kernel=NAME) for m in (odd, even)))


@needs_triton
def test_the_kernel_checks_lengths_again() -> None:
    from mlsm._core import Operands
    from mlsm.kernels.triton import run

    x = torch.zeros(4, 5)
    o = Operands(torch, x, x[:, :4], None, None, None, 0.0, torch.float32, torch.float64)
    with pytest.raises(ValueError, match="`target` must have exactly the shape"):
        run(o, None, 1)


# ---------------------------------------------------------------- the choice


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file, with an empty `triton` module that can only be found."""
    import importlib.machinery

    if ABSENT:
        found = types.ModuleType("triton")
        found.__spec__ = importlib.machinery.ModuleSpec("triton", None)
        monkeypatch.setitem(sys.modules, "triton", found)
        monkeypatch.delitem(sys.modules, "mlsm.kernels.triton", raising=False)
    import mlsm.kernels.triton as kernel

    kernel._uncompiled.cache_clear()
    yield kernel
    kernel._uncompiled.cache_clear()
    if ABSENT:
        sys.modules.pop("mlsm.kernels.triton", None)


def _problem(device: str) -> Problem:
    meta = Meta("float32", (2, 3), "C")
    return Problem("torch", torch.device(device), meta, meta, *(None,) * 3, 0.0, "mean", 1, "float32", None, "plain")


def test_declined_calls(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the tensors are on cpu" in kernel.accepts(_problem("cpu"))
    monkeypatch.setenv("CC", "cc")
    assert kernel.accepts(_problem("cuda:0")) is None
    assert "compiles by Triton" in kernel.note(_problem("cuda:0"))
    assert "before a CUDA graph is captured" in kernel.note(_problem("cuda:0"))
    monkeypatch.delenv("CC")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    kernel._uncompiled.cache_clear()
    assert "finds none (set CC, or install gcc or clang)" in kernel.accepts(_problem("cuda:0"))


def test_a_first_call_inside_a_capture_raises_with_the_remedy(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from mlsm._core import Operands

    x = torch.zeros(2, 3)
    o = Operands(torch, x, x, None, None, None, 0.0, torch.float32, torch.float64)
    capturing = True
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(kernel, "run", lambda o, g, mode: (mode, mode))
    monkeypatch.setattr(kernel, "_warm", set())
    with pytest.raises(RuntimeError, match="make the same call once before the capture begins"):
        kernel.rows(o)
    capturing = False
    assert kernel.rows(o) == 1
    capturing = True
    assert kernel.rows(o) == 1


def test_without_triton_the_reason_is_given() -> None:
    x = torch.zeros(2, 3)
    reason = dict(mlsm.explain(x, x, kernel="generic").reasons)["triton"]
    assert ("no module named 'triton'" if ABSENT else "the tensors are on cpu") in reason


def test_cupy_comes_first() -> None:
    from mlsm.kernels import present

    order = list(present())
    assert order.index("cupy") < order.index("triton")


# ---------------------------------------------------------------- on a device


class TestOnDevice(KernelSuite):
    backend = "torch-cuda"
    kernel = "triton"
