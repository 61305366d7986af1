"""Derivatives that are summed to a weight's shape keep the bound of sums; blocks change no value; extreme numbers."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _blocks, _check, _core

from ._support import check

U = 2.0**-53
ELEMENTWISE = 10 * U  # the bound of numerics.md, with a factor for the scale and one for the weight


def _elements(x: Any, y: Any, wrt: str) -> Any:
    """The bracket or its positive part, in extended precision."""
    precise = np.longdouble
    a = np.abs(x.astype(precise))
    smooth = np.log1p(np.exp(-a))
    positive = y * (np.where(x < 0, a, 0) + smooth)
    return positive if wrt == "pos_weight" else positive + (1 - y.astype(precise)) * (np.where(x >= 0, a, 0) + smooth)


needs_extended = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= 60, reason="the reference needs a format wider than float64"
)
LIBRARIES = ["numpy", "numpy-generic", "torch", "torch-generic", "torch-backward", "dask"]


def _gradient(library: str, x: Any, y: Any, wrt: Any, weight: Any) -> Any:
    kernel = "generic" if library.endswith("-generic") else None
    options: dict[str, Any] = {wrt: weight, "reduction": "sum", "kernel": kernel}
    if library.startswith("numpy"):
        return mlsm.grad(x, y, wrt=wrt, **options)
    if library == "dask":
        da = pytest.importorskip("dask.array", reason="Dask's sums")
        chunks = tuple(max(1, (2 * n) // 3) for n in x.shape)
        options[wrt] = da.from_array(weight)
        lazy: Any = mlsm.grad(da.from_array(x, chunks=chunks), da.from_array(y, chunks=chunks), wrt=wrt, **options)
        return lazy.compute(scheduler="synchronous")
    torch = pytest.importorskip("torch", reason="PyTorch's sums")
    options[wrt] = torch.from_numpy(np.array(weight))
    # PyTorch has no views with negative strides.
    x, y = (torch.from_numpy(v.copy() if min(v.strides) < 0 else v) for v in (x, y))
    if library != "torch-backward":
        found: Any = mlsm.grad(x, y, wrt=wrt, **options)
        return found.numpy()
    options[wrt].requires_grad_()
    mlsm.multilabel_soft_margin_loss(x, y, **options).backward()
    return options[wrt].grad.numpy()


@needs_extended
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("wrt", ["weight", "pos_weight"])
@pytest.mark.parametrize("layout", ["C", "F", "rows reversed"])
@pytest.mark.parametrize("data", ["random", "equal"])
def test_derivatives_summed_to_a_weights_shape_keep_the_bound(library: str, wrt: str, layout: str, data: str) -> None:
    """Equal terms add up the same rounding error many times if rows are added one after the other."""
    rng = np.random.default_rng(5)
    n, c = 50_000, 2
    x = rng.standard_normal((n, c)) if data == "random" else np.full((n, c), 0.1)
    y = rng.random((n, c)) if data == "random" else np.full((n, c), 0.3)
    terms = _elements(x, y, wrt) / c
    orders: dict[str, Callable[[Any], Any]] = {
        "C": lambda v: v,
        "F": np.asfortranarray,
        "rows reversed": lambda v: v[::-1],
    }
    order = orders[layout]
    x, y, terms = order(x), order(y), order(terms)
    bound = ELEMENTWISE + (math.log2(n * c) + 8) * U
    shapes: list[tuple[int, ...]] = [(), (1,), (c,), (1, c), (1, 1), (n, 1)]
    for shape in shapes:
        weight = np.ones(shape)
        axes = tuple(i for i, m in enumerate((1,) * (2 - len(shape)) + shape) if m == 1)
        exact = terms.sum(axis=axes, keepdims=True).reshape(shape).astype(np.float64)
        found = _gradient(library, x, y, wrt, weight)
        check(found, exact, bound * np.abs(exact), f"{shape}")


@pytest.mark.parametrize("shape", [(3, 40), (70, 1), (3, 5, 19), (40, 9, 3), (41,), (2, 1, 40)])
@pytest.mark.parametrize("library", ["numpy", "torch", "bfloat16"])
def test_blocks_are_the_generic_formula(
    shape: tuple[int, ...], library: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every derivative with every block size, at infinite logits, with masks and weights of every shape."""
    monkeypatch.setattr(_blocks, "BLOCK", 24)
    monkeypatch.setattr(_blocks, "WIDEST", 10)
    x, y = 3 * rng.standard_normal(shape), rng.random(shape)
    x[..., 0], y[..., 0] = np.inf, 1
    each = tuple(itertools.product(*({1, n} for n in shape)))
    masks: list[Any] = [None, (), *each]
    for place, m_shape in enumerate(masks):  # every shape of each, but not combined with every shape of the others
        w_shape, p_shape = each[place % len(each)], each[(3 * place + 1) % len(each)]
        w, p = 0.5 + rng.random(w_shape), 0.5 + rng.random(p_shape)
        m = None if m_shape is None else np.asarray(rng.random(m_shape) < 0.7)
        arrays: list[Any] = [x, y, w, p, m]
        if library != "numpy":
            torch = pytest.importorskip("torch", reason="this part tests tensors")
            kind = torch.float64 if library == "torch" else torch.bfloat16
            arrays = [None if v is None else torch.from_numpy(v) for v in arrays[:4]]
            arrays = [v.to(kind) for v in arrays] + [None if m is None else torch.from_numpy(m)]
        call: Any = _check.problem
        _, o, _ = call(*arrays, "none", 0.0, -1)
        assert o.host
        u = U if library != "bfloat16" else 2.0**-8
        g = o.xp.asarray(rng.random(shape[:-1]) + 0.5)
        for name in ("rows", "rows_vjp", "curvature", "target_vjp", "weight_vjp", "pos_weight_vjp"):
            arguments: list[Any] = [o] if name == "rows" else [o, g]
            arguments += [o.x.dtype] if name.startswith(("target", "weight", "pos")) else []
            with np.errstate(all="ignore"):
                found, right = (getattr(m, name)(*arguments) for m in (_blocks, _core))
            assert (found.shape, found.dtype) == (right.shape, right.dtype), name
            found, right = (
                np.asarray(v.to(o.acc) if library != "numpy" else v, dtype=np.float64) for v in (found, right)
            )
            # All of one sign, except the derivatives for target and logits, which are not summed.
            check(found, right, 64 * u * np.abs(right), f"{name}, weight {w_shape}, where {m_shape}")


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("shape", ["(N, C)", "(N, 1)", "(1, C)", "(C,)", "()"])
def test_mean_counts_observed_rows_by_every_shape_of_where(shape: str, library: str, rng: np.random.Generator) -> None:
    n, c = 5_000, 11
    x, y = rng.standard_normal((n, c)), rng.random((n, c))
    where = rng.random({"(N, C)": (n, c), "(N, 1)": (n, 1), "(1, C)": (1, c), "(C,)": (c,), "()": ()}[shape]) < 0.6
    where = np.asarray(where)
    if shape == "(N, C)":
        where[: n // 2, :] = False
    full = np.broadcast_to(where, (n, c))
    elements = np.where(full, _elements(x, y, "weight"), 0).astype(np.float64)
    counts = full.sum(axis=-1)
    exact = (elements.sum(axis=-1) / np.maximum(counts, 1)).sum() / max(1, (counts > 0).sum())
    arrays: list[Any] = [x, y, where]
    if library == "torch":
        torch = pytest.importorskip("torch", reason="this part tests tensors")
        arrays = [torch.from_numpy(v) for v in arrays]
    for kernel in (None, "generic"):
        found = mlsm.multilabel_soft_margin_loss(arrays[0], arrays[1], where=arrays[2], kernel=kernel)
        check(found, exact, 64 * U * exact, str(kernel))


@pytest.mark.parametrize("first", [0, _blocks.FIRST - 1, _blocks.FIRST, 8 * _blocks.FIRST, 600, None])
def test_a_row_counts_whichever_class_is_observed(first: int | None) -> None:
    where = np.zeros((3, 700), bool)
    where[0, :2] = True
    if first is not None:
        where[1, first] = True
    losses = mlsm.multilabel_soft_margin_loss(np.zeros(where.shape), where, where=where, reduction="none")
    for kernel in (None, "generic"):
        found = mlsm.multilabel_soft_margin_loss(np.zeros(where.shape), where, where=where, kernel=kernel)
        check(found, losses.sum() / (1 if first is None else 2), 8 * U * np.log(2), str(kernel))
    uneven = np.where(where, [[0.0], [3.0], [0.0]], 0.0)
    value, gradient = mlsm.value_and_grad(uneven, np.zeros(where.shape), where=where)
    rows = 1 if first is None else 2
    exact = (np.log(2) + (0 if first is None else np.log1p(np.exp(3.0)))) / rows
    check(value, exact, 16 * U * exact, "value")
    check(gradient[0, 0], 0.25 / rows, 8 * U, "gradient")


def test_a_sum_of_parts_keeps_infinities_and_makes_few_arrays() -> None:
    assert _blocks._added(iter([1.0, np.inf, 2.0, 3.0, 4.0])) == np.inf
    for n in range(1, 70):
        assert _blocks._added(iter(range(n))) == n * (n - 1) // 2


LARGEST = 3.4028235e38  # float32's largest number as it is printed, which is a little larger than the number


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "number", [LARGEST, [LARGEST], np.float64(LARGEST), int(LARGEST), Fraction(int(LARGEST)), -LARGEST], ids=repr
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_float32s_largest_number_as_a_weight(dtype: str, number: Any, library: str) -> None:
    x = np.zeros((1, 1), dtype=dtype)
    arrays: list[Any] = [x, x]
    if library == "torch":
        torch = pytest.importorskip("torch", reason="this part tests tensors")
        arrays = [torch.from_numpy(x)] * 2
    single = np.float32(number[0] if isinstance(number, list) else number)
    assert np.isfinite(single)
    call: Any = _check.problem
    _, o, _ = call(*arrays, number, None, None, "mean", 0.0, -1)
    assert float(o.w.reshape(-1)[0]) == single


@pytest.mark.parametrize("factor", [1, -1])
def test_numbers_are_rounded_as_float32_rounds_them(factor: int) -> None:
    """Below the midpoint to the next power of two: the largest number; from there on: infinity."""
    midpoint = math.ldexp(2 - 2.0**-24, 127)
    x = np.zeros((1, 1), dtype=np.float32)
    for value in (math.nextafter(midpoint, 0), midpoint, math.nextafter(midpoint, math.inf)):
        _, o, _ = _check.problem(x, x, factor * value, None, None, "mean", 0.0, -1)
        with np.errstate(all="ignore"):
            assert o.w == np.float32(factor * value), value
