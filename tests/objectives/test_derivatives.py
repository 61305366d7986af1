"""`mlsm.objectives.derivatives`: the two derivatives of each element, in every library, layout and option."""

import itertools
import time
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm.objectives import derivatives

from .._support import KERNELS_PRESENT, Library, check, closed, find, identical, needs_kernels, python

KERNELS: list[str | None] = [None, "generic", *(["numpy", "numba"] if KERNELS_PRESENT else [])]
SHAPES: list[tuple[int, ...]] = [(), (0,), (6,), (3, 0), (7, 3), (300, 9), (3, 4, 5)]
# The hand-derived gradient and curvature (4 and 5 u), and a rounding for each of weight, scale and their product.
BUDGET = 12


def _data(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    batch = shape[:-1] if len(shape) > 1 else shape
    data: dict[str, Any] = {"input": 5 * rng.standard_normal(shape), "target": rng.random(shape)}
    data |= {"weight": rng.random(shape) + 0.5, "sample_weight": rng.random(batch) + 0.5}
    data |= {"pos_weight": rng.random(shape[-1:]) + 0.5}
    return {k: np.asarray(v, dtype) for k, v in data.items()} | {"where": np.asarray(rng.random(shape) < 0.7)}


def _exact(data: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Gradient, Hessian and the sum of the sizes of the gradient's two terms, to which its error is relative."""
    shape = data["input"].shape
    scale = np.ones(())
    if data.get("sample_weight") is not None:
        scale = data["sample_weight"].astype(np.float64)
        scale = scale[..., None] if len(shape) > 1 else scale
    rows = []
    names = ("input", "target", "weight", "pos_weight", "where")
    full = [np.broadcast_to(data.get(n, 1.0), shape).ravel() for n in names]
    for x, y, w, p, m in zip(*full, strict=True):
        found = closed(float(x), float(y), float(w), float(p))
        size = float(w) * (abs(1 - float(y)) + float(p) * abs(float(y)))
        rows.append((found.gradient[0], found.hessian[0][0], size) if m else (0.0, 0.0, 0.0))
    table = np.asarray(rows, np.float64).reshape(*shape, 3) * scale[..., None]
    return table[..., 0], table[..., 1], table[..., 2]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_in_both_orders(shape: tuple[int, ...], dtype: str, kernel: str | None) -> None:
    data = _data(shape, dtype)
    u = float(np.finfo(dtype).eps) / 2
    options = ("weight", "sample_weight", "pos_weight", "where")
    for order, *given in itertools.product("CF", *((False, True),) * len(options)):
        own = {k: np.asarray(v, order=order) for k, v in data.items()}
        for name, on in zip(options, given, strict=True):
            if not on:
                del own[name]
        found = derivatives(**own, kernel=kernel)
        *right, size = _exact(own)
        for what, value, exact in zip(("gradient", "hessian"), found, right, strict=True):
            assert value.dtype == dtype
            assert np.asarray(value).strides == np.empty_like(own["input"]).strides, (order, what)
            check(value, exact, BUDGET * u * (size if what == "gradient" else exact), f"{what} {order} {own.keys()}")
        if "where" in own:
            for value in found:
                identical(value[~own["where"]], np.zeros((~own["where"]).sum(), dtype))


def test_every_library(library: Library) -> None:
    data = _data((6, 4), "float32")
    found = [library.read(v) for v in derivatives(**{k: library.make(v) for k, v in data.items()})]
    *right, size = _exact(data)
    for what, value, exact in zip(("gradient", "hessian"), found, right, strict=True):
        assert value.dtype == np.float32
        check(value, exact, BUDGET * 2.0**-24 * (size if what == "gradient" else exact), what)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_special_values(kernel: str | None) -> None:
    inf, nan = np.inf, np.nan
    x = np.asarray([0, -0.0, inf, -inf, inf, -inf, 17, -200, nan, 1])
    y = np.asarray([1, 0.25, 1, 0, 0, 1, 1, 0, 1, nan])
    for dtype in ("float32", "float64"):
        g, h = derivatives(x.astype(dtype), y.astype(dtype), 2.0, kernel=kernel, min_hessian=1e-9)
        check(g[:6], [-1, 0.5, 0, 0, 2, -2], 0)
        check(g[6], -8.2798750947886612018e-8, 16 * float(np.finfo(dtype).eps) * 8.3e-8)
        assert np.isnan(g[8:]).all()
        check(h[:6], [0.5, 0.5, *[2 * float(np.dtype(dtype).type(1e-9))] * 4], 0)
        assert np.isnan(h[8])
        assert np.isfinite(h[9])  # the curvature does not depend on the target without pos_weight


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_floor_applies_to_observed_elements_times_their_weights(kernel: str | None) -> None:
    x, y = np.full((3, 2), 800.0), np.asarray([[1.0, 0.0]] * 3)
    where = np.asarray([[True, True], [True, False], [True, True]])
    options = {"sample_weight": np.asarray([1.0, 2.0, 4.0]), "pos_weight": 8.0, "where": where, "kernel": kernel}
    _, h = derivatives(x, y, min_hessian=2.0**-40, **options)
    check(h, 2.0**-40 * np.asarray([[8, 1], [16, 0], [32, 4]]), 0)
    _, h = derivatives(x, y, **options)
    identical(h, np.zeros((3, 2)))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", ">f4", "float64", "float16"])
def test_labels_of_any_dtype(kind: str, kernel: str | None) -> None:
    data = _data((50, 3), "float32")
    hard = data["target"] > 0.5
    expected = derivatives(data["input"], hard.astype(np.float32), kernel=kernel)
    for a, b in zip(derivatives(data["input"], hard.astype(kind), kernel=kernel), expected, strict=True):
        check(a, b, 4 * 2.0**-24)
        assert a.dtype == np.float32


def test_smoothing_gives_the_derivatives_of_smoothed_targets() -> None:
    data = _data((20, 3), "float64")
    x, y = data["input"], (data["target"] > 0.5) * 1.0
    for kernel in KERNELS:
        found = derivatives(x, y, label_smoothing=0.25, kernel=kernel)
        for a, b in zip(found, derivatives(x, y * 0.75 + 0.125, kernel="generic"), strict=True):
            check(a, b, 16 * 2.0**-53)


def test_derivatives_are_those_of_the_loss_before_its_divisors() -> None:
    data = _data((8, 4), "float64")
    scale = data.pop("sample_weight")
    g, h = derivatives(**data, sample_weight=scale)
    count = np.maximum(data["where"].sum(-1), 1) * scale
    check(mlsm.grad(**data, reduction="none", grad_output=count), g, 32 * 2.0**-53)
    check(mlsm.hessian_diag(**data, reduction="none", grad_output=count), h, 32 * 2.0**-53)


def test_torch_keeps_memory_order_and_differentiates() -> None:
    find("torch")
    import torch

    x = torch.randn(5, 3, dtype=torch.float64).T
    y = (torch.rand(3, 5) < 0.5).double()
    for value in derivatives(x, y, pos_weight=2.0, sample_weight=torch.rand(3)):
        assert value.stride() == x.stride()
    tracked = x.clone().requires_grad_()
    g, h = derivatives(tracked, y)
    (second,) = torch.autograd.grad(g.sum(), tracked)
    check(second, h.detach(), 16 * 2.0**-53 * h.detach().numpy())
    half, _ = derivatives(x.bfloat16(), y)
    assert half.dtype == torch.bfloat16


def test_jax_can_trace_it() -> None:
    find("jax")
    import jax

    data = {k: jax.numpy.asarray(v) for k, v in _data((6, 4), "float32").items()}
    for a, b in zip(jax.jit(lambda d: derivatives(**d))(data), derivatives(**data), strict=True):
        check(a, b, 8 * 2.0**-24)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"target": np.zeros((2, 3))}, ValueError, r"`target`.*\(3, 2\).*\(2, 3\)"),
    ({"sample_weight": np.zeros(2)}, ValueError, r"`sample_weight`.*\(3,\).*\(3, 2\).*\(2,\)"),
    ({"sample_weight": np.zeros((3, 1))}, ValueError, r"`sample_weight`.*\(3, 1\)"),
    ({"sample_weight": 2.0}, ValueError, r"`sample_weight`.*\(\)"),
    ({"sample_weight": np.zeros(3, complex)}, TypeError, r"`sample_weight`.*complex128"),
    ({"sample_weight": "heavy"}, TypeError, "`sample_weight`"),
    ({"weight": np.zeros(3)}, ValueError, r"`weight`.*\(3,\)"),
    ({"min_hessian": -1}, ValueError, "`min_hessian`.*-1"),
    ({"min_hessian": float("nan")}, ValueError, "`min_hessian`"),
    ({"min_hessian": "tiny"}, ValueError, "`min_hessian`"),
    ({"where": np.ones((3, 2))}, TypeError, "`where`"),
    ({"kernel": "nobody"}, ValueError, "`kernel`"),
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED, ids=lambda v: None)
def test_refusals(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        derivatives(**{"input": np.zeros((3, 2)), "target": np.zeros((3, 2))} | given)


def test_submodules_are_imported_on_first_use() -> None:
    code = """
import sys, mlsm
assert "mlsm.objectives" not in sys.modules
assert {"objectives", "integrations"} <= set(dir(mlsm))
mlsm.objectives.derivatives
mlsm.objectives.xgboost.Objective, mlsm.objectives.lightgbm.Objective
mlsm.integrations
assert not {"numpy", "xgboost", "lightgbm", "sklearn", "transformers", "torch"} & set(sys.modules)
"""
    assert python(code) == ""


@needs_kernels
def test_it_is_not_slower_than_naive_numpy() -> None:
    """With the compiled kernel: 2.5 times as fast when measured alone; the test only requires that it is not slower."""
    pytest.importorskip("numba", reason="its kernel is timed")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100_000, 20)).astype(np.float32)
    y = (rng.random(x.shape) < 0.3).astype(np.float32)

    def naive() -> None:
        p = 1 / (1 + np.exp(-x))
        p - y, p * (1 - p)  # only its time matters

    times: dict[Any, list[float]] = {naive: [], derivatives: []}
    derivatives(x, y)
    for _ in range(9):
        for function, arguments in ((naive, ()), (derivatives, (x, y))):
            begin = time.process_time()
            function(*arguments)  # type: ignore[operator]
            times[function].append(time.process_time() - begin)
    assert np.median(times[derivatives]) < np.median(times[naive])
