"""CuPy: right values on the device, nothing copied to the host and no synchronisation. Needs a CUDA device."""

import importlib.util
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm_conformance import oracle

from .._support import answer, case, check


def _reason() -> str | None:
    """Why CuPy cannot be tested here; None if it can."""
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return None if count else "no CUDA device"


REASON = _reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
KERNELS = [None, "generic"]


@pytest.fixture
def cp() -> Any:
    import cupy

    return cupy


def _data(dtype: str) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(3)
    x, y = (4 * rng.standard_normal((6, 5))).astype(dtype), rng.random((6, 5)).astype(dtype)
    x[0, 0], y[0, 0], x[1, 1], y[1, 1] = 0, 1, np.inf, 1
    return x, y, rng.random(5).astype(dtype), rng.random((6, 5)) < 0.7


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_derivatives(cp: Any, dtype: str, reduction: Any, masked: bool, kernel: str | None) -> None:
    x, y, w, m = _data(dtype)
    where = m if masked else None
    c = case(x, y, w, m=where)
    a, b, v = (cp.asarray(k) for k in (x, y, w))
    options: dict[str, Any] = {"reduction": reduction, "kernel": kernel}
    if masked:
        options["where"] = cp.asarray(m)
    u = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}[dtype]
    for result, exact in (
        (mlsm.multilabel_soft_margin_loss(a, b, v, **options), oracle.loss(c, reduction)),
        (mlsm.grad(a, b, v, **options), oracle.grad(c, reduction)),
        (mlsm.value_and_grad(a, b, v, **options)[1], oracle.grad(c, reduction)),
        (mlsm.hessian_diag(a, b, v, **options), oracle.hessian_diag(c, reduction)),
        (mlsm.grad(a, b, v, wrt="weight", **options), oracle.grad(c, reduction, "weight")),
    ):
        assert isinstance(result, cp.ndarray)
        right = answer(exact)
        check(cp.asnumpy(result), right, 24 * u * np.maximum(np.abs(right), np.abs(right).max(initial=0)), "result")


@pytest.fixture
def no_host_copies(cp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every copy from the device to the host raise."""

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("an array was copied to the host, or the host waited for the device")

    memory = cp.cuda.runtime
    to_host = memory.memcpyDeviceToHost
    for name in ("memcpy", "memcpyAsync", "deviceSynchronize", "streamSynchronize"):
        original = getattr(memory, name)

        def guarded(*args: Any, _original: Any = original, _name: str = name, **options: Any) -> Any:
            if "Synchronize" in _name or to_host in args[3:4]:
                never()
            return _original(*args, **options)

        monkeypatch.setattr(memory, name, guarded)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.usefixtures("no_host_copies")
def test_no_copy_to_the_host(cp: Any, kernel: str | None) -> None:
    x = cp.zeros((64, 10), dtype=cp.float32)
    y = cp.ones((64, 10), dtype=cp.float32)
    w = cp.ones(10, dtype=cp.float32)
    mlsm.multilabel_soft_margin_loss(x, y, w, pos_weight=2.0, where=y > 0, label_smoothing=0.1, kernel=kernel)
    mlsm.value_and_grad(x, y, w, kernel=kernel)
    mlsm.hessian_diag(x, y, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_runs_on_the_current_stream(cp: Any, kernel: str | None) -> None:
    x = cp.zeros((1 << 14, 100), dtype=cp.float32)
    y = cp.ones_like(x)
    mlsm.multilabel_soft_margin_loss(x, y, kernel=kernel)  # compile outside the capture
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        value = mlsm.multilabel_soft_margin_loss(x, y, kernel=kernel)
    stream.synchronize()
    check(cp.asnumpy(value), np.log(2), 4 * 2.0**-24, "value")


def test_special_values_are_exact(cp: Any) -> None:
    x = cp.asarray([[np.inf], [-np.inf], [np.inf], [-np.inf], [0.0], [-0.0]])
    y = cp.asarray([[1.0], [0.0], [0.0], [1.0], [1.0], [1.0]])
    for kernel in KERNELS:
        rows = cp.asnumpy(mlsm.multilabel_soft_margin_loss(x, y, reduction="none", kernel=kernel))
        check(rows[:4], [0, 0, np.inf, np.inf], 0, "loss")
        gradient = cp.asnumpy(mlsm.grad(x, y, reduction="none", kernel=kernel))[:, 0]
        check(gradient, [0, 0, 1, -1, -0.5, -0.5], 0, "gradient")
