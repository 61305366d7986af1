"""The reductions: each a linear map and its adjoint, so <Ru, v> = <u, R*v>, and none -> sum -> mean."""

from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _check, _reduce

from ._support import check

SHAPES: dict[str, tuple[int, ...]] = {"one row": (3,), "rows": (5, 3), "two batch axes": (4, 2, 3), "many": (300, 2)}
U = 2.0**-53


def _operands(shape: tuple[int, ...], mask: Any, reduction: str) -> Any:
    x = np.zeros(shape)
    return _check.problem(x, x, None, None, mask, reduction, 0.0, -1)


def _mask(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if kind == "no mask":
        return None
    mask = rng.random(shape) < 0.5
    if kind == "rows without a class":
        mask[..., :] &= (rng.random(shape[:-1]) < 0.7)[..., None]
    return mask


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["no mask", "mask", "rows without a class"])
def test_adjoint(reduction: str, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> None:
    _, o, _ = _operands(shape, _mask(kind, shape, rng), reduction)
    r = _reduce.REDUCE[reduction]
    u = rng.standard_normal(shape[:-1])
    forward = np.asarray(r.apply(o, u))
    v = rng.standard_normal(forward.shape)
    back = np.broadcast_to(r.adjoint(o, v), u.shape)
    terms = np.abs(u * back).sum()
    check((forward * v).sum(), (u * back).sum(), (u.size + 4) * U * terms, "<Ru, v>")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["no mask", "mask", "rows without a class"])
def test_reductions_follow_from_the_rows(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(shape), rng.random(shape)
    where = _mask(kind, shape, rng)
    rows = mlsm.multilabel_soft_margin_loss(x, y, reduction="none", where=where)
    count = rows.size if where is None else int(where.any(axis=-1).sum())
    total = float(rows.sum())
    # Each of the two sums may be off by rows * u.
    allowed = 2 * (rows.size + 2) * U * total
    check(mlsm.multilabel_soft_margin_loss(x, y, reduction="sum", where=where), total, allowed, "sum")
    mean = total / count if count else 0.0
    check(mlsm.multilabel_soft_margin_loss(x, y, where=where), mean, allowed / max(count, 1), "mean")


class Lazy:
    """An array with some unknown lengths."""

    def __init__(self, values: Any, shape: tuple[Any, ...]) -> None:
        self.values, self.shape = values, shape

    def __getitem__(self, key: Any) -> Any:
        return self.values[key]


@pytest.mark.parametrize("unknown", [None, float("nan")], ids=str)
@pytest.mark.parametrize("classes", [1, 3])
def test_a_mean_over_an_unknown_length_counts_it(unknown: Any, classes: int) -> None:
    _, o, _ = _operands((4, 2, classes), None, "mean")
    lazy = o._replace(x=Lazy(o.x, (unknown, 2, classes)))
    assert _reduce.REDUCE["mean"].apply(lazy, np.full((4, 2), 3.0)) == 3.0


def test_a_mean_over_a_known_length_does_not_read_the_array() -> None:
    """The divisor is a number: no array of ones is summed."""
    _, o, _ = _operands((4, 2, 3), None, "mean")
    blind = o._replace(x=Lazy(None, (4, 2, 3)))
    assert _reduce.REDUCE["mean"].adjoint(blind, 16.0) == 2.0


def test_sum_is_the_sum_of_class_means(rng: np.random.Generator) -> None:
    x = np.zeros((4, 8))
    assert mlsm.multilabel_soft_margin_loss(x, np.ones((4, 8)), reduction="sum") == 4 * np.log(2)


def test_weighted_mean_divides_by_the_number_of_classes_not_by_the_weights() -> None:
    x, y = np.zeros((2, 4)), np.ones((2, 4))
    assert mlsm.multilabel_soft_margin_loss(x, y, [8.0, 0.0, 0.0, 0.0]) == 2 * np.log(2)


def test_the_table_has_the_public_reductions() -> None:
    from mlsm import _policy

    assert set(_reduce.REDUCE) == set(_policy.REDUCTIONS)
