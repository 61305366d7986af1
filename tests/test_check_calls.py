"""The checks of whole calls: when a verdict is cached, when a layout is asked for, which `grad_output` fits.

The refusals of single arguments are in test_check_refusals.py, verdicts on forms alone in test_check_forms.py.
"""

from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _check
from mlsm._problem import Layout, State
from mlsm.libraries import library_of

from ._support import check

X = np.asarray([[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]])
Y = np.asarray([[1, 0, 1], [0, 1, 1]])


# ---------------------------------------------------------------- the cache of verdicts


def _asked() -> int:
    """How often the cache was asked for a verdict."""
    info = _check._verdict.cache_info()
    return info.hits + info.misses


def test_a_verdict_is_cached() -> None:
    mlsm.multilabel_soft_margin_loss(X, Y)
    hits = _check._verdict.cache_info().hits
    mlsm.multilabel_soft_margin_loss(X + 1, 1 - Y)  # other values of the same forms
    assert _check._verdict.cache_info().hits == hits + 1


@pytest.mark.parametrize("name", ["jax.numpy", "dask.array", "array_api_strict"])
def test_a_verdict_that_may_change_is_not_cached(name: str) -> None:
    xp = pytest.importorskip(name, reason=f"{name} is not installed")
    x = xp.asarray(X.astype(np.float32))
    before = _asked()
    mlsm.multilabel_soft_margin_loss(x, x)
    assert _asked() == before


def test_verdicts_on_tensors_are_cached_unless_they_are_traced() -> None:
    torch = pytest.importorskip("torch", reason="the type of its arrays does not show that they are traced")
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    for tensor in (x, x.clone().requires_grad_()):
        before = _asked()
        mlsm.multilabel_soft_margin_loss(tensor, y)
        assert _asked() == before + 1
    before = _asked()
    torch.func.grad(mlsm.multilabel_soft_margin_loss)(x, y)
    assert _asked() == before


@pytest.mark.parametrize("state", State)
def test_a_layout_is_not_asked_for_inside_a_trace(state: State) -> None:
    torch = pytest.importorskip("torch", reason="its arrays may be traced")
    x, layout = torch.from_numpy(X), Layout.UNKNOWN if state is State.TRACED else Layout.C
    assert library_of(x, "input").form(x, "input", state).layout is layout
    assert _check._form(x, "input", state).layout is layout
    weight = _check._weight_form(x, "weight", state)
    assert weight is not None
    assert weight.layout is layout


# ---------------------------------------------------------------- grad_output


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_grad_output_has_the_shape_of_the_loss(reduction: Any, axis: int) -> None:
    x = np.zeros((2, 3, 4))
    options: dict[str, Any] = {"reduction": reduction, "axis": axis}
    right = np.shape(mlsm.multilabel_soft_margin_loss(x, x, **options))
    wrong = [(), (1,), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (3, 2), (4, 3), (1, 1), (2, 3, 4), (2, 3, 1)]
    mlsm.grad(x, x, grad_output=np.ones(right), **options)
    for shape in wrong:
        if shape != right:
            with pytest.raises(ValueError, match=f'`grad_output` must have .* for reduction="{reduction}"; got'):
                mlsm.grad(x, x, grad_output=np.ones(shape), **options)
    if reduction == "none":
        with pytest.raises(ValueError, match=r"got the number 2\."):
            mlsm.grad(x, x, grad_output=2, **options)
    else:
        mlsm.grad(x, x, grad_output=2, **options)


def test_grad_output_of_one_dimensional_logits_is_a_number() -> None:
    for reduction in ("none", "mean", "sum"):
        options: dict[str, Any] = {"reduction": reduction}
        gradient = mlsm.grad(X[0], Y[0], **options)
        for one in (1, 1.0, np.ones(()), np.float64(1)):
            check(mlsm.grad(X[0], Y[0], grad_output=one, **options), gradient, 0, reduction)


# ---------------------------------------------------------------- numbers and lists


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (2, ()),
        (2.5, ()),
        (True, ()),
        ([], (0,)),
        ([[]], (1, 0)),
        ([1], (1,)),
        ((1.0, 2), (2,)),
        ([[1], [2]], (2, 1)),
        ([(1, 2, 3), [4, 5, 6]], (2, 3)),
        ([[[1, 2]], [[3, 4]], [[5, 6]]], (3, 1, 2)),
    ],
    ids=str,
)
def test_the_shape_of_a_nested_list(value: Any, shape: tuple[int, ...]) -> None:
    assert _check._nested_shape(value, "weight") == shape
    assert _check.rank(value) == len(shape)
    assert _check.rank(np.zeros(shape)) == len(shape)
    assert _check.floating_dtype(value, library_of(X, "input")) is None


@pytest.mark.parametrize(
    "value", [[1, [2]], [[1], 2], [[1], [2, 3]], [[1, 2], [3]], [[1], [2], []], [[[1]], [[2], [3]]]]
)
def test_a_ragged_list_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`weight` must be a rectangular list; got rows of shapes \[\("):
        _check._nested_shape(value, "weight")


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", "float64"])
def test_the_dtype_of_a_gradient_is_that_of_a_floating_argument(dtype: str) -> None:
    found = _check.floating_dtype(np.zeros(1, dtype=dtype), library_of(X, "input"))
    assert found == (np.dtype(dtype) if dtype.startswith("float") else None)


@pytest.mark.parametrize("value", [2.0, [1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]] * 2, ((1,), (2,))], ids=str)
def test_a_list_gives_the_result_of_an_array(value: Any) -> None:
    for axis in (0, 1):
        if axis == 0 and value == [1.0, 2.0, 3.0]:
            continue  # three numbers do not fit columns of two
        for argument in ("weight", "pos_weight"):
            listed, array = (
                mlsm.value_and_grad(X, Y, axis=axis, **{argument: v}) for v in (value, np.asarray(value, dtype=float))
            )
            check(listed[0], array[0], 0, argument)
            check(listed[1], array[1], 0, argument)


# ---------------------------------------------------------------- recognising


def test_an_argument_of_the_same_type_has_the_same_library() -> None:
    assert _check._form(X, "target").library is library_of(X, "input")
    assert library_of(X, "input").name == "numpy"
