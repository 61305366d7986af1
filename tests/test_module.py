"""The module-like class: the function with its options fixed; immutable, final, picklable, hashed by identity."""

import copy
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import MultiLabelSoftMarginLoss

from ._support import Library, identical

X = np.asarray([[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]])
Y = np.asarray([[1, 0, 1], [0, 1, 1]])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"weight": [1.0, 2.0, 0.5], "reduction": "none"},
    {"pos_weight": 3.0, "label_smoothing": 0.1},
    {"weight": np.asarray([[2.0], [1.0]]), "axis": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_object_gives_the_results_of_the_functions(options: dict[str, Any]) -> None:
    criterion = MultiLabelSoftMarginLoss(**options)
    where = X < 2.5
    for masked in ({}, {"where": where}, {"where": where, "kernel": "generic"}):
        given: dict[str, Any] = {**options, **masked}
        expected = mlsm.multilabel_soft_margin_loss(X, Y, **given)
        identical(criterion(X, Y, **masked), expected, "call")
        identical(criterion.forward(X, Y, **masked), expected, "forward")
        for wrt in ("input", "target"):
            gradient = mlsm.grad(X, Y, **given, wrt=wrt)
            identical(criterion.grad(X, Y, wrt=wrt, **masked), gradient, "grad")
            identical(criterion.backward(X, Y, wrt=wrt, **masked), gradient, "backward")
        g = np.full(np.shape(expected), 2.0)
        gradient = mlsm.grad(X, Y, **given, grad_output=g)
        identical(criterion.grad(X, Y, grad_output=g, **masked), gradient, "grad of a cotangent")
        identical(criterion.backward(X, Y, g, **masked), gradient, "backward of a cotangent")
        for seed in (None, g):
            both = criterion.value_and_grad(X, Y, grad_output=seed, **masked)
            for a, b in zip(both, mlsm.value_and_grad(X, Y, **given, grad_output=seed), strict=True):
                identical(a, b, "value_and_grad")
            hessian = criterion.hessian_diag(X, Y, grad_output=seed, **masked)
            identical(hessian, mlsm.hessian_diag(X, Y, **given, grad_output=seed), "hessian")


def test_positional_arguments_are_those_of_the_contract() -> None:
    weight = [1.0, 2.0, 0.5]
    criterion = MultiLabelSoftMarginLoss(weight, "sum")
    assert (criterion.weight, criterion.reduction) == (weight, "sum")
    with pytest.raises(TypeError, match="positional"):
        MultiLabelSoftMarginLoss(None, "mean", None)  # type: ignore[misc]  # refused: pos_weight is keyword-only
    for method in (criterion, criterion.forward, criterion.value_and_grad, criterion.hessian_diag, criterion.grad):
        with pytest.raises(TypeError, match="positional"):
            method(X, Y, X < 1)  # type: ignore[operator]  # refused: where is keyword-only


def test_attributes_are_readable() -> None:
    criterion = MultiLabelSoftMarginLoss(2.0, "none", pos_weight=[1.0], label_smoothing=0.5, axis=1)
    shown = (criterion.weight, criterion.reduction, criterion.pos_weight, criterion.label_smoothing, criterion.axis)
    assert shown == (2.0, "none", [1.0], 0.5, 1)


@pytest.mark.parametrize("name", ["weight", "reduction", "pos_weight", "label_smoothing", "axis", "anything"])
def test_immutable(name: str) -> None:
    criterion = MultiLabelSoftMarginLoss()
    with pytest.raises(AttributeError, match=f"`{name}`"):
        setattr(criterion, name, "sum")
    with pytest.raises(AttributeError, match=f"`{name}`"):
        delattr(criterion, name)
    assert criterion.reduction == "mean"


def test_final() -> None:
    with pytest.raises(TypeError, match="final"):
        type("Own", (MultiLabelSoftMarginLoss,), {})


def test_hashed_and_compared_by_identity() -> None:
    one, other = MultiLabelSoftMarginLoss([1.0]), MultiLabelSoftMarginLoss([1.0])
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
    assert hash(MultiLabelSoftMarginLoss(np.ones(3))) is not None  # an array would not be hashable
    assert weakref.ref(one)() is one


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(options: dict[str, Any], protocol: int) -> None:
    criterion = MultiLabelSoftMarginLoss(**options)
    other = pickle.loads(pickle.dumps(criterion, protocol))
    assert type(other) is MultiLabelSoftMarginLoss
    assert repr(other) == repr(criterion)
    identical(other(X, Y), criterion(X, Y))
    with pytest.raises(AttributeError):
        other.axis = 3
    for copied in (copy.copy(criterion), copy.deepcopy(criterion)):
        identical(copied(X, Y), criterion(X, Y))


def _unpickled(state: dict[str, Any]) -> MultiLabelSoftMarginLoss:
    """The object that pickle restores from this state."""
    made = MultiLabelSoftMarginLoss.__new__(MultiLabelSoftMarginLoss)
    made.__setstate__(state)
    return made


def test_a_pickle_without_an_option_gets_its_default() -> None:
    for missing in ("weight", "reduction", "pos_weight", "label_smoothing", "axis"):
        state = MultiLabelSoftMarginLoss().__getstate__()
        del state[missing]
        identical(_unpickled(state)(X, Y), MultiLabelSoftMarginLoss()(X, Y))


@pytest.mark.parametrize(
    ("state", "error", "match"),
    [
        ({"reduction": "average"}, ValueError, "`reduction`"),
        ({"axis": 1.5}, TypeError, "`axis`"),
        ({"label_smoothing": 2}, ValueError, "`label_smoothing`"),
        ({"weight": "heavy"}, TypeError, "`weight`"),
        ({"gamma": 2}, TypeError, "'gamma'"),
    ],
)
def test_a_pickle_is_checked_as_the_constructor_checks(state: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        _unpickled(state)


def _deep(levels: int) -> Any:
    value: Any = 1.0
    for _ in range(levels):
        value = [value]
    return value


def test_a_list_that_contains_itself_is_refused() -> None:
    own: list[Any] = [1.0]
    own.append(own)
    twice: list[Any] = []
    twice += [twice, (twice,)]
    for value in (own, twice, [[1.0], twice]):
        for argument in ("weight", "pos_weight"):
            with pytest.raises(ValueError, match=f"`{argument}` must .* contains itself"):
                MultiLabelSoftMarginLoss(**{argument: value})
            with pytest.raises(ValueError, match=f"`{argument}` must .* contains itself"):
                mlsm.multilabel_soft_margin_loss(X, Y, **{argument: value})
    row = [2.0]
    MultiLabelSoftMarginLoss([row, row])  # the same list twice is not a cycle


def test_a_list_that_is_nested_too_deeply_is_refused() -> None:
    for levels in (65, 5000):
        with pytest.raises(ValueError, match="`weight` must be a list of at most 64 levels"):
            MultiLabelSoftMarginLoss(_deep(levels))
    with pytest.raises(ValueError, match="`weight` must broadcast"):
        mlsm.multilabel_soft_margin_loss(X, Y, _deep(64))
    for option in ("reduction", "axis", "label_smoothing"):  # their messages show the given value
        with pytest.raises((TypeError, ValueError), match=f"`{option}`.*a list"):
            MultiLabelSoftMarginLoss(**{option: _deep(100_000)})


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "reduction='mean'"),
        ({"reduction": "sum"}, "reduction='sum'"),
        ({"label_smoothing": 0, "axis": np.int64(-1)}, "reduction='mean'"),
        ({"axis": -2}, "reduction='mean', axis=-2"),
        ({"axis": 1, "label_smoothing": 1}, "reduction='mean', label_smoothing=1.0, axis=1"),
        ({"weight": 0, "pos_weight": -1}, "reduction='mean', weight=0, pos_weight=-1"),
        ({"weight": True, "pos_weight": (1, 2)}, "reduction='mean', weight=True, pos_weight=(1, 2)"),
        ({"weight": 2.0}, "reduction='mean', weight=2.0"),
        ({"weight": [1.0, 2.0]}, "reduction='mean', weight=[1.0, 2.0]"),
        ({"weight": np.ones(3)}, "reduction='mean', weight=<numpy array of shape (3,), float64>"),
        ({"pos_weight": 3, "label_smoothing": 0.1, "axis": 0},
         "reduction='mean', pos_weight=3, label_smoothing=0.1, axis=0"),
    ],
)  # fmt: skip
def test_repr_shows_the_configuration(options: dict[str, Any], shown: str) -> None:
    criterion = MultiLabelSoftMarginLoss(**options)
    assert criterion.extra_repr() == shown
    assert repr(criterion) == f"MultiLabelSoftMarginLoss({shown})"


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"reduction": "average"}, ValueError, "reduction"),
        ({"reduction": None}, TypeError, "reduction"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing"),
        ({"axis": 1.5}, TypeError, "axis"),
        ({"axis": None}, TypeError, "axis"),
        ({"weight": "heavy"}, TypeError, "weight"),
        ({"weight": [1.0, "2"]}, TypeError, "weight"),
        ({"weight": [[1.0], [1.0, 2.0]]}, ValueError, "weight"),
        ({"weight": np.ones(3, dtype=complex)}, TypeError, "weight"),
        ({"pos_weight": 1j}, TypeError, "pos_weight"),
        ({"pos_weight": object()}, TypeError, "pos_weight"),
    ],
)
def test_the_constructor_checks_its_options(options: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"`{name}`"):
        MultiLabelSoftMarginLoss(**options)


def test_where_is_not_an_option_of_the_object() -> None:
    with pytest.raises(TypeError, match="where"):
        MultiLabelSoftMarginLoss(where=X < 1)  # type: ignore[call-arg]  # refused: it belongs to each call


def test_one_object_serves_every_library(library: Library) -> None:
    criterion = MultiLabelSoftMarginLoss([1.0, 2.0, 0.5], label_smoothing=0.125)
    x, y = (library.make(v.astype(np.float32)) for v in (X, Y))
    found = library.read(criterion(x, y))
    assert abs(float(found) - float(criterion(X, Y))) < 8 * 2.0**-24
