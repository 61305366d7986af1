"""Sums of very many terms, and their memory. The data are repeated, so that the exact sum is easy to compute."""

import json
import sys
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm_conformance.reference.exhaustive import reference

from ._support import check, needs_kernels, python, spacing

ROWS, CLASSES = 100_000, 1_000
MIB = 1 << 20


def _tile() -> tuple[Any, Any, float]:
    """250 rows of random problems and the exact mean of their losses."""
    rng = np.random.default_rng(1)
    x = (4 * rng.standard_normal((250, CLASSES))).astype(np.float32)
    y = rng.random((250, CLASSES)) < 0.2
    return x, y, float(np.mean(reference(x.astype(np.float64), y.astype(np.float64), "loss")))


@pytest.mark.parametrize("layout", ["C", "F"])
def test_a_hundred_million_terms(layout: Any) -> None:
    """A sequential float32 sum of these is off by a quarter; the bound is 4 ULP, with elementwise errors."""
    tile, labels, exact = _tile()
    x = np.empty((ROWS, CLASSES), dtype=np.float32, order=layout)
    y = np.empty((ROWS, CLASSES), dtype=np.bool_, order=layout)
    for start in range(0, ROWS, len(tile)):
        x[start : start + len(tile)] = tile
        y[start : start + len(tile)] = labels
    value = mlsm.multilabel_soft_margin_loss(x, y)
    assert value.dtype == np.float32
    check(value, exact, 4 * spacing(exact, "float32"), f"mean, {layout} order")
    total = mlsm.multilabel_soft_margin_loss(x, y, reduction="sum")
    check(total, exact * ROWS, 4 * spacing(exact * ROWS, "float32"), f"sum, {layout} order")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["C", "F", "rows reversed"])
@pytest.mark.parametrize("kernel", [None, "generic"], ids=str)
def test_sum_bound(dtype: str, layout: str, kernel: str | None) -> None:
    """The contract's bound for sums: elementwise, and 8u for float32 or (log2(N*C) + 8)u for float64, in any layout."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((3, 400_000)).astype(dtype), rng.random((3, 400_000)) < 0.5
    precise = np.longdouble if np.finfo(np.longdouble).nmant > 60 else np.float64
    a = np.abs(x.astype(precise))
    linear = np.where((x > 0) != y, a, 0)
    exact = float((linear + np.log1p(np.exp(-a))).mean())
    laid_out = {
        "C": (x, y),
        "F": (np.asfortranarray(x), np.asfortranarray(y)),
        "rows reversed": (x[::-1], y[::-1]),
    }[layout]
    u = 2.0**-24 if dtype == "float32" else 2.0**-53
    sums = 8 if dtype == "float32" else np.log2(x.size) + 8
    # Errors of single elements mostly cancel, but the promised bound does not assume that.
    elementwise = 8 * u
    value = mlsm.multilabel_soft_margin_loss(*laid_out, kernel=kernel)
    check(value, exact, (elementwise + sums * u) * exact, layout)


SCRIPT = """
import json, resource, sys, tracemalloc
import numpy as np
import mlsm

kernel, what = sys.argv[1:]
rows, classes = (1 << 30) // 4 // 1000, 1000
# Pages of zeros that are never written: a gibibyte to read that takes almost no memory.
x = np.zeros((rows, classes), dtype=np.float32)
y = np.zeros((rows, classes), dtype=np.bool_)
if what == "tensor":
    import torch
    x, y = torch.from_numpy(x), torch.from_numpy(y)

def call(x, y):
    return mlsm.multilabel_soft_margin_loss(x, y, kernel=kernel)

for _ in range(2):  # compile, start threads, allocate scratch: not part of the measured call
    call(x[:4096], y[:4096])
x.sum(), y.sum()  # read every page before the measurement
tracemalloc.start()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
value = call(x, y)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_, traced = tracemalloc.get_traced_memory()
scale = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"resident": (after - before) * scale, "traced": traced, "value": float(value)}))
"""


@needs_kernels
@pytest.mark.parametrize("what", ["array", "tensor"])
@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_memory_of_the_loss_of_a_gibibyte(kernel: str, what: str) -> None:
    """The row losses and a few MiB, in a separate process: less than 16 MiB, by the system's and by Python's count."""
    _served_by(kernel)
    if sys.platform == "win32":
        pytest.skip("Windows has no getrusage")
    if what == "tensor":
        pytest.importorskip("torch", reason="this part tests CPU tensors")
    seen = json.loads(python(SCRIPT, kernel, what))
    assert seen["value"] == np.float32(np.log(2))
    assert seen["resident"] < 16 * MIB, seen
    assert seen["traced"] < 16 * MIB, seen


@pytest.mark.thread_unsafe(reason="it measures the memory of all threads together")
@needs_kernels
@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_memory_of_a_gradient_is_its_result_and_a_few_mib(kernel: str) -> None:
    import tracemalloc

    _served_by(kernel)
    x = np.zeros((16_777, 1000), dtype=np.float32)  # 64 MiB
    y = np.zeros(x.shape, dtype=np.bool_)
    for function in (mlsm.grad, mlsm.value_and_grad, mlsm.hessian_diag):
        function(x[:64], y[:64], kernel=kernel)
        tracemalloc.start()
        result = function(x, y, kernel=kernel)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del result
        assert peak < x.nbytes + 16 * MIB, function.__name__


@pytest.mark.thread_unsafe(reason="it measures the memory of all threads together")
@needs_kernels
def test_row_losses_are_allocated_once() -> None:
    """With one class they are as large as the logits, so that a copy would show."""
    import tracemalloc

    x = np.zeros((8 * MIB, 1), dtype=np.float32)
    y = np.zeros(x.shape, dtype=np.bool_)
    options: dict[str, Any] = {"reduction": "none", "kernel": "numpy"}
    mlsm.multilabel_soft_margin_loss(x[:64], y[:64], **options)
    tracemalloc.start()
    rows = mlsm.multilabel_soft_margin_loss(x, y, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows.nbytes + 16 * MIB


def _served_by(kernel: str) -> None:
    """Skip if this kernel is not available here, with its own reason."""
    from mlsm import _dispatch

    if kernel not in _dispatch.names():
        pytest.skip(f"there is no kernel {kernel!r}: its file is deleted")
    found = _dispatch._load(kernel)
    if isinstance(found, str):
        pytest.skip(f"{kernel}: {found}")
