"""The scikit-learn estimator: compared with one LogisticRegression per label, and in scikit-learn's own checks."""

import pickle
from typing import Any

import numpy as np
import pytest

from .._support import find

pytest.importorskip("sklearn", minversion="1.6", reason="this file tests the estimator inside scikit-learn")

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from mlsm.integrations.sklearn import MultiLabelLogisticRegression

N, D, C = 500, 6, 4
TIGHT: dict[str, Any] = {"tol": 1e-10, "max_iter": 10_000}
COEFFICIENTS = 1e-5

_rng = np.random.default_rng(0)
X = _rng.standard_normal((N, D))
PROBABILITY = 1 / (1 + np.exp(-X @ _rng.standard_normal((D, C))))
Y = (_rng.random((N, C)) < PROBABILITY).astype(float)
MISSING = np.where(_rng.random((N, C)) < 0.3, np.nan, Y)
ROWS, ELEMENTS = _rng.random(N) + 0.5, _rng.random((N, C)) + 0.5
POSITIVE = [1.0, 2.0, 3.0, 0.5]


def one_a_label(y: Any, sample_weight: Any, pos_weight: Any) -> tuple[Any, Any]:
    coef, intercept = [], []
    for k in range(C):
        kept = ~np.isnan(y[:, k])
        weight = None
        if sample_weight is not None:
            weight = (sample_weight if sample_weight.ndim == 1 else sample_weight[:, k])[kept]
        classes = None if pos_weight is None else {0: 1.0, 1: pos_weight[k]}
        model = LogisticRegression(class_weight=classes, **TIGHT).fit(X[kept], y[kept, k], weight)
        coef.append(model.coef_[0])
        intercept.append(model.intercept_[0])
    return np.asarray(coef), np.asarray(intercept)


@pytest.mark.parametrize(
    ("y", "sample_weight", "pos_weight"),
    [
        (Y, None, None),
        (MISSING, None, None),
        (Y, ROWS, None),
        (MISSING, ELEMENTS, None),
        (Y, None, POSITIVE),
        (MISSING, ROWS, POSITIVE),
    ],
    ids=["plain", "missing", "rows", "elements", "pos_weight", "all"],
)
def test_agrees_with_logistic_regression(y: Any, sample_weight: Any, pos_weight: Any) -> None:
    coef, intercept = one_a_label(y, sample_weight, pos_weight)
    model = MultiLabelLogisticRegression(pos_weight=pos_weight, **TIGHT).fit(X, y, sample_weight)
    assert np.abs(model.coef_ - coef).max() <= COEFFICIENTS
    assert np.abs(model.intercept_ - intercept).max() <= COEFFICIENTS


def test_soft_labels_are_two_weighted_rows() -> None:
    model = MultiLabelLogisticRegression(**TIGHT).fit(X, PROBABILITY)
    for k in range(C):
        weight = np.concatenate([PROBABILITY[:, k], 1 - PROBABILITY[:, k]])
        labels = np.repeat([1, 0], N)
        peer = LogisticRegression(**TIGHT).fit(np.concatenate([X, X]), labels, weight)
        # Its row weights sum to N, as ours do.
        assert np.abs(model.coef_[k] - peer.coef_[0]).max() <= COEFFICIENTS


@pytest.mark.filterwarnings("ignore")  # its checks cause warnings: no convergence, a skipped check
def test_check_estimator() -> None:
    skipped = {  # by scikit-learn itself: pandas and array API dispatch are not installed
        "check_sample_weights_pandas_series",
        "check_classifier_data_not_an_array",
        "check_estimators_data_not_an_array",
        "check_array_api_input",
        "check_array_api_input_and_values",
    }
    found = check_estimator(MultiLabelLogisticRegression(), on_fail=None, on_skip=None)
    assert {c["check_name"] for c in found if c["status"] == "skipped"} <= skipped
    assert [(c["check_name"], c["exception"]) for c in found if c["status"] == "failed"] == []
    assert sum(c["status"] == "passed" for c in found) > 50


@pytest.mark.parametrize("name", ["torch", "jax-x64"])
def test_arrays_of_another_library(name: str) -> None:
    library = find(name)
    expected = MultiLabelLogisticRegression(pos_weight=POSITIVE, **TIGHT).fit(X, MISSING, ROWS)
    with library.session():
        x, y, w = (library.make(v) for v in (X, MISSING, ROWS))
        model = MultiLabelLogisticRegression(pos_weight=POSITIVE, **TIGHT).fit(x, y, w)
        assert isinstance(model.coef_, np.ndarray)
        assert np.abs(model.coef_ - expected.coef_).max() <= 1e-6
        probability = model.predict_proba(x)
        assert type(probability) is type(x)
        assert np.abs(library.read(probability) - expected.predict_proba(X)).max() <= 1e-6
        assert np.array_equal(library.read(model.predict(x)), expected.predict(X))


def test_predictions_and_probabilities() -> None:
    model = MultiLabelLogisticRegression().fit(X, MISSING)
    z = model.decision_function(X)
    assert z.shape == model.predict_proba(X).shape == (N, C)
    assert np.abs(model.predict_proba(X) - 1 / (1 + np.exp(-z))).max() < 4 * 2.0**-53
    assert np.array_equal(model.predict(X), (z > 0).astype(int))
    assert model.score(X, Y) > 0.3


def test_two_classes_of_one_dimension() -> None:
    names = np.where(Y[:, 0] == 1, "yes", "no")
    model = MultiLabelLogisticRegression(**TIGHT).fit(X, names)
    peer = LogisticRegression(**TIGHT).fit(X, names)
    assert model.decision_function(X).shape == (N,)
    assert np.abs(model.predict_proba(X) - peer.predict_proba(X)).max() <= COEFFICIENTS
    assert np.array_equal(model.predict(X), peer.predict(X))


def test_options() -> None:
    free = MultiLabelLogisticRegression(fit_intercept=False, **TIGHT).fit(X, Y)
    peer = LogisticRegression(fit_intercept=False, **TIGHT).fit(X, Y[:, 1])
    assert np.abs(free.coef_[1] - peer.coef_[0]).max() <= COEFFICIENTS
    assert not free.intercept_.any()
    smooth = MultiLabelLogisticRegression(label_smoothing=0.2, **TIGHT).fit(X, Y)
    soft = MultiLabelLogisticRegression(**TIGHT).fit(X, Y * 0.8 + 0.1)
    assert np.abs(smooth.coef_ - soft.coef_).max() <= COEFFICIENTS
    weak = MultiLabelLogisticRegression(C=0.01, **TIGHT).fit(X, Y)
    assert np.abs(weak.coef_).max() < np.abs(free.coef_).max() / 2


def test_warm_start_continues() -> None:
    model = MultiLabelLogisticRegression(warm_start=True).fit(X, Y)
    first = model.n_iter_
    assert model.fit(X, Y).n_iter_ < first
    with pytest.warns(ConvergenceWarning, match="`max_iter` = 1"):
        MultiLabelLogisticRegression(max_iter=1).fit(X, Y)


def test_clone_pickle_and_search() -> None:
    model = MultiLabelLogisticRegression(C=2.0, pos_weight=[1.0, 2.0, 3.0, 4.0])
    assert clone(model).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(model.fit(X, Y)))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    grid = GridSearchCV(MultiLabelLogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
    assert grid.best_params_["C"] in (0.1, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": Y * 2}, r"`y`.*\[0, 1\]"),
        ({"y": Y[:10]}, r"`y`.*500.*10"),
        ({"y": np.arange(N) % 3}, "two classes"),
        ({"sample_weight": np.ones((N, 2))}, r"`sample_weight`.*\(500, 4\).*\(500, 2\)"),
        ({"C": 0}, "`C`"),
        ({"label_smoothing": 2}, "`label_smoothing`"),
        ({"pos_weight": [1.0, 2.0]}, "`pos_weight`"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    options = {k: v for k, v in given.items() if k in ("C", "label_smoothing", "pos_weight")}
    with pytest.raises(ValueError, match=message):
        MultiLabelLogisticRegression(**options).fit(X, given.get("y", Y), given.get("sample_weight"))
