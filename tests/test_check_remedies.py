"""For each common mistake: the message names a remedy, and the remedy works."""

import re
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import mlsm

X = np.random.default_rng(0).normal(size=(6, 4))
Y = X > 0
loss = mlsm.multilabel_soft_margin_loss


class Column:
    """Replaces a column or a frame of pandas; `na` is the marker of a nullable dtype."""

    def __init__(self, na: bool, frame: bool) -> None:
        dtype = type("Dtype", (), {"na_value": None} if na else {})()
        self.dtypes = [dtype, dtype] if frame else dtype

    def to_numpy(self, **options: Any) -> Any:
        return Y


NULLABLE = "`.to_numpy(dtype=float, na_value=float('nan'))`, and `where=`"
FLOATS = Y.astype(float)
KNOWN = {"target": FLOATS, "where": ~np.isnan(FLOATS)}
# Arguments in addition to, or in place of, right logits and targets; the error and its words; the right arguments.
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str, dict[str, Any]]] = {
    "lists of class indices": (
        {"target": [[0, 2], [1], [], [3], [0], [1]]},
        TypeError,
        "one column per class, for example with `sklearn.preprocessing.MultiLabelBinarizer`",
        {"target": np.eye(4, dtype=bool)[[0, 1, 2, 3, 0, 1]]},
    ),
    "a list of numbers": (
        {"target": Y.tolist()},
        TypeError,
        "`numpy.asarray(...)`",
        {"target": np.asarray(Y.tolist())},
    ),
    "COO target": ({"target": sparse.coo_array(Y)}, TypeError, "`.tocsr()`", {"target": sparse.coo_array(Y).tocsr()}),
    "CSC target": ({"target": sparse.csc_array(Y)}, TypeError, "`.tocsr()`", {"target": sparse.csc_array(Y).tocsr()}),
    "sparse input": (
        {"input": sparse.csr_array(X)},
        TypeError,
        "pass its `.toarray()`",
        {"input": sparse.csr_array(X).toarray()},
    ),
    "sparse weight": (
        {"weight": sparse.coo_array(X)},
        TypeError,
        "pass its `.toarray()`",
        {"weight": sparse.coo_array(X).toarray()},
    ),
    "swapped": (
        {"input": Y.astype(int), "target": X},
        TypeError,
        "Are `input` and `target` swapped?",
        {"target": Y.astype(int)},
    ),
    "weight of rows": (
        {"weight": np.ones(6)},
        ValueError,
        "For one value per row pass `weight[:, None]`",
        {"weight": np.ones((6, 1))},
    ),
    "mask of rows": (
        {"where": X[:, 0] < 9},
        ValueError,
        "For one value per row pass `where[:, None]`",
        {"where": (X[:, 0] < 9)[:, None]},
    ),
    "None": ({"target": None}, TypeError, "got None", {}),
    "objects": (
        {"target": Y.astype(object)},
        TypeError,
        "`.to_numpy(dtype=float, na_value=float('nan'))`",
        {"target": Y.astype(object).astype(float)},
    ),
    "nullable frame": ({"target": Column(na=True, frame=True)}, TypeError, NULLABLE, KNOWN),
    "nullable column": ({"target": Column(na=True, frame=False)}, TypeError, NULLABLE, KNOWN),
    "frame": (
        {"target": Column(na=False, frame=True)},
        TypeError,
        "pass its `.to_numpy()`.",
        {"target": Column(na=False, frame=True).to_numpy()},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_remedy_is_named_and_works(mistake: str) -> None:
    given, expected, words, remedied = MISTAKES[mistake]
    with pytest.raises(expected, match=re.escape(words)):
        loss(**{"input": X, "target": Y, **given})
    assert np.isfinite(loss(**{"input": X, "target": Y, **remedied}))


def test_reduction_as_the_third_argument_is_refused_with_the_keyword() -> None:
    with pytest.raises(TypeError, match="`reduction` is given by keyword: reduction='sum'"):
        loss(X, Y, "sum")  # type: ignore[arg-type]
    assert np.isfinite(loss(X, Y, reduction="sum"))


def test_swapped_arguments_are_not_suspected_for_integers_alone() -> None:
    with pytest.raises(TypeError) as caught:
        loss(Y.astype(int), Y.astype(int))
    assert "swapped" not in str(caught.value)


def test_a_weight_per_row_is_not_suggested_if_it_does_not_fit() -> None:
    with pytest.raises(ValueError, match="must broadcast") as caught:
        loss(X, Y, np.ones(5))
    assert "[:, None]" not in str(caught.value)


def test_the_remedy_converts_labels_to_the_library_of_the_logits() -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax.numpy")
    for make, remedy in ((torch.asarray, "torch.as_tensor"), (jax.asarray, "jax.numpy.asarray")):
        with pytest.raises(TypeError, match=re.escape(f"`{remedy}(target)`")):
            loss(make(X), Y)
    assert np.isfinite(float(loss(torch.asarray(X), torch.as_tensor(Y))))
    with pytest.raises(TypeError, match=re.escape("`numpy.asarray(weight)`")):
        loss(X, Y, torch.ones(4))
    assert np.isfinite(loss(X, Y, np.asarray(torch.ones(4))))


@pytest.mark.parametrize(("option", "value"), [("label_smoothing", 0.1), ("axis", 1)])
def test_an_option_that_jit_traces_is_refused_with_mark_it_static(option: str, value: float) -> None:
    jax = pytest.importorskip("jax")

    def f(x: Any, y: Any, value: Any) -> Any:
        return loss(x, y, **{option: value})

    x, y = jax.numpy.asarray(X), jax.numpy.asarray(Y)
    with pytest.raises((TypeError, ValueError), match="mark it static"):
        jax.jit(f)(x, y, value)
    assert np.isfinite(float(jax.jit(f, static_argnums=2)(x, y, value)))
