"""A library whose lengths are None while a graph is built (as the standard allows): every function builds its graph.

The library is defined here: a recording namespace over NumPy without batch lengths, which runs the graph later.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check

NAME = "unhurried"
U = 2.0**-53


class Lazy:
    """An array that `run(n)` computes for batches of n rows. Its first length is unknown before."""

    def __init__(self, run: Callable[[int], Any]) -> None:
        self.run = run
        two, three = run(2), run(3)  # a length that changes with the number of rows is unknown
        self.shape = tuple(a if a == b else None for a, b in zip(two.shape, three.shape, strict=True))
        self.ndim, self.dtype = two.ndim, two.dtype
        self.device = "unhurried"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules[NAME]

    def __getitem__(self, key: Any) -> "Lazy":
        return Lazy(lambda n: np.asarray(self.run(n)[key]))


def _arithmetic(name: str) -> Any:
    def method(self: Lazy, *others: Any) -> Any:
        return lifted(lambda *v: getattr(v[0], name)(*v[1:]))(self, *others)

    return method


for _name in ["add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg", "ge", "gt", "eq", "and", "or"]:
    setattr(Lazy, f"__{_name}__", _arithmetic(f"__{_name}__"))


def lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy arrays as one of lazy arrays; a length of None is an error."""

    def call(*given: Any, **options: Any) -> Lazy:
        for value in (*given, *options.values()):
            assert not (isinstance(value, tuple) and None in value), "an unknown length was used as a number"
        options.pop("device", None)

        def run(n: int) -> Any:
            with np.errstate(all="ignore"):
                return np.asarray(function(*(v.run(n) if isinstance(v, Lazy) else v for v in given), **options))

        return Lazy(run)

    return call


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = ModuleType(NAME)
    names = "where isinf exp log1p zeros_like ones_like sum any reshape moveaxis full asarray astype permute_dims"
    for name in names.split():
        setattr(made, name, lifted(getattr(np, name)))
    for name in ("bool", "float32", "float64", "int32", "int64"):
        setattr(made, name, np.dtype(name))
    made.result_type = np.result_type
    made.__array_namespace_info__ = lambda: _Info()
    monkeypatch.setitem(sys.modules, NAME, made)
    return made


class _Info:
    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        return {"float32": np.dtype("float32"), "float64": np.dtype("float64")}


def data(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    x, where = rng.standard_normal((n, 4)), rng.random((n, 4)) > 0.4
    where[0] = False
    return {"x": x, "y": (x > 0.3) * 0.75, "where": where, "rows": rng.random((n, 1)) + 0.5, "g": rng.random(n)}


def argument(name: str) -> Lazy:
    return Lazy(lambda n: data(n)[name])


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "where": {"where": "where", "label_smoothing": 0.1},
    "numbers": {"weight": 2.0, "pos_weight": 3.0},
    "lists": {"weight": [1.0, 2.0, 3.0, 4.0], "where": "where"},
    "rows": {"weight": "rows", "pos_weight": [1.0, 2.0, 3.0, 4.0]},
}


def everything(x: Any, y: Any, g: Any, options: dict[str, Any], reduction: Any) -> list[Any]:
    found = [mlsm.multilabel_soft_margin_loss(x, y, reduction=reduction, **options)]
    found += [*mlsm.value_and_grad(x, y, reduction=reduction, **options)]
    found += [mlsm.hessian_diag(x, y, reduction=reduction, **options)]
    g = g if reduction == "none" else 3.0
    for wrt in ("input", "target", "weight", "pos_weight"):
        if wrt in ("input", "target") or wrt in options:
            found.append(mlsm.grad(x, y, wrt=wrt, reduction=reduction, grad_output=g, **options))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("option", OPTIONS)
def test_the_graph_gives_the_values_of_arrays(option: str, reduction: str, namespace: Any) -> None:
    def given(make: Callable[[str], Any]) -> dict[str, Any]:
        return {k: make(v) if isinstance(v, str) else v for k, v in OPTIONS[option].items()}

    graphs = everything(argument("x"), argument("y"), argument("g"), given(argument), reduction)
    for n in (1, 5):
        own = data(n)
        right = everything(own["x"], own["y"], own["g"], given(own.__getitem__), reduction)
        for graph, value in zip(graphs, right, strict=True):
            assert isinstance(graph, Lazy)
            size = np.maximum(np.abs(value), np.abs(value).mean())
            check(graph.run(n), value, 16 * U * size, f"{option}, {reduction}, {n} rows")


def test_an_unknown_number_of_classes_is_refused(namespace: Any) -> None:
    x = Lazy(lambda n: np.zeros((3, n)))
    with pytest.raises(ValueError, match="known number of classes"):
        mlsm.multilabel_soft_margin_loss(x, x)  # type: ignore[type-var]
