"""The XGBoost objective compared with XGBoost's own, trained by the real library."""

import json
import pickle
from typing import Any

import numpy as np
import pytest

from mlsm.objectives.xgboost import Objective

xgb = pytest.importorskip("xgboost", reason="this file tests the objective inside XGBoost")

ROUNDS, N, D, C = 30, 2000, 20, 8
PARAMS: dict[str, Any] = {
    "objective": "binary:logistic",
    "base_score": 0.5,
    "tree_method": "hist",
    "nthread": 1,
    "disable_default_eval_metric": 1,
}
MARGINS = 1e-5


class Data:
    """Features and labels that depend on them, the same each time."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.x = rng.standard_normal((N, D)).astype(np.float32)
        logits = self.x @ rng.standard_normal((D, C)) / 2
        self.probability = 1 / (1 + np.exp(-logits))
        self.y = (rng.random((N, C)) < self.probability).astype(np.float32)
        self.weights = rng.uniform(0.5, 2, N).astype(np.float32)
        self.hidden = rng.random((N, C)) < 0.3


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def margins(booster: Any, matrix: Any) -> Any:
    return booster.predict(matrix, output_margin=True)


def trees(booster: Any) -> list[list[Any]]:
    """The shape of every tree: the feature of each split, and its children."""
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    return [[tree["split_indices"], tree["left_children"], tree["right_children"]] for tree in model]


def close(found: Any, expected: Any, most: float = MARGINS) -> None:
    assert found.shape == expected.shape
    worst = float(np.abs(np.asarray(found, np.float64) - expected).max())
    assert worst <= most, worst


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_agrees_with_binary_logistic(data: Data, strategy: str) -> None:
    matrix = xgb.QuantileDMatrix(data.x, data.y)
    params = PARAMS | {"multi_strategy": strategy}
    theirs = xgb.train(params, matrix, ROUNDS)
    ours = xgb.train(params, matrix, ROUNDS, obj=Objective())
    close(margins(ours, matrix), margins(theirs, matrix))
    assert trees(ours) == trees(theirs)
    close(ours.predict(matrix), theirs.predict(matrix))  # probabilities, because the objective has that name


def test_weights_of_rows(data: Data) -> None:
    matrix = xgb.QuantileDMatrix(data.x, data.y, weight=data.weights)
    close(
        margins(xgb.train(PARAMS, matrix, ROUNDS, obj=Objective()), matrix),
        margins(xgb.train(PARAMS, matrix, ROUNDS), matrix),
    )


def test_scale_pos_weight(data: Data) -> None:
    matrix = xgb.QuantileDMatrix(data.x, data.y)
    close(
        margins(xgb.train(PARAMS, matrix, ROUNDS, obj=Objective(pos_weight=3.0)), matrix),
        margins(xgb.train(PARAMS | {"scale_pos_weight": 3.0}, matrix, ROUNDS), matrix),
    )


def one_a_class(data: Data, matrix: Any, columns: Any, weights: Any = None, **params: Any) -> Any:
    """The margins of a booster for each class, with the bins of the whole data (weights would move them)."""
    found = []
    for k in range(C):
        own = xgb.QuantileDMatrix(data.x, columns[:, k], weight=None if weights is None else weights[:, k], ref=matrix)
        options = {name: value[k] for name, value in params.items()}
        found.append(margins(xgb.train(PARAMS | options, own, ROUNDS), own))
    return np.stack(found, axis=1)


def test_pos_weight_of_each_class(data: Data) -> None:
    matrix = xgb.QuantileDMatrix(data.x, data.y)
    positive = np.linspace(0.5, 4, C)
    ours = xgb.train(PARAMS, matrix, ROUNDS, obj=Objective(pos_weight=positive))
    close(margins(ours, matrix), one_a_class(data, matrix, data.y, scale_pos_weight=positive))


def test_weight_of_each_class(data: Data) -> None:
    matrix = xgb.QuantileDMatrix(data.x, data.y)
    classes = [0.5, 1, 2, 4, 1, 1, 0.25, 3]
    ours = xgb.train(PARAMS, matrix, ROUNDS, obj=Objective(classes))
    close(margins(ours, matrix), one_a_class(data, matrix, data.y, np.broadcast_to(classes, (N, C))))


def test_soft_labels_and_smoothing(data: Data) -> None:
    soft = data.probability.astype(np.float32)
    matrix = xgb.QuantileDMatrix(data.x, soft)
    close(
        margins(xgb.train(PARAMS, matrix, ROUNDS, obj=Objective()), matrix),
        margins(xgb.train(PARAMS, matrix, ROUNDS), matrix),
    )
    hard, smooth = xgb.QuantileDMatrix(data.x, data.y), xgb.QuantileDMatrix(data.x, data.y * 0.75 + 0.125)
    close(
        margins(xgb.train(PARAMS, hard, ROUNDS, obj=Objective(label_smoothing=0.25)), hard),
        margins(xgb.train(PARAMS, smooth, ROUNDS), smooth),
    )


def test_missing_labels(data: Data) -> None:
    """A missing label is a row of weight 0 in a separate booster, with the same bins."""
    labels = np.where(data.hidden, np.float32(-1), data.y)
    matrix = xgb.QuantileDMatrix(data.x, labels)
    ours = xgb.train(PARAMS, matrix, ROUNDS, obj=Objective(missing=-1))
    close(margins(ours, matrix), one_a_class(data, matrix, data.y, (~data.hidden).astype(np.float32)))


def test_missing_labels_are_not_negatives(data: Data) -> None:
    """The test above would fail: missing labels taken as values move the margins by far more than its bound."""
    labels = np.where(data.hidden, np.float32(-1), data.y)
    matrix = xgb.QuantileDMatrix(data.x, labels)
    masked = xgb.train(PARAMS, matrix, 3, obj=Objective(missing=-1))
    negative = xgb.train(PARAMS, xgb.QuantileDMatrix(data.x, np.maximum(labels, 0)), 3)
    assert np.abs(margins(masked, matrix) - margins(negative, matrix)).max() > 0.1


# ---------------------------------------------------------------- the scikit-learn interface


def test_classifier_of_one_label_weighted(data: Data) -> None:
    options = {"n_estimators": ROUNDS, "base_score": 0.5, "n_jobs": 1}
    ours = xgb.XGBClassifier(objective=Objective(), **options)
    theirs = xgb.XGBClassifier(objective="binary:logistic", **options)
    y = data.y[:, 0].astype(int)
    for model in (ours, theirs):
        model.fit(data.x, y, sample_weight=data.weights)
    close(
        ours.predict(data.x, output_margin=True),
        theirs.predict(data.x, output_margin=True),
        1e-6,
    )
    again = pickle.loads(pickle.dumps(ours))
    close(again.predict(data.x, output_margin=True), ours.predict(data.x, output_margin=True), 0)


def test_clone_and_grid_search(data: Data) -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    model = xgb.XGBClassifier(objective=Objective(pos_weight=2.0), n_estimators=5, base_score=0.5, n_jobs=1)
    copy = clone(model)
    assert copy.get_params()["objective"] == model.get_params()["objective"]
    y = data.y[:, 0].astype(int)
    close(
        copy.fit(data.x, y).predict(data.x, output_margin=True),
        model.fit(data.x, y).predict(data.x, output_margin=True),
        0,
    )
    grid = GridSearchCV(model, {"objective": [Objective(), Objective(pos_weight=4.0)], "max_depth": [2, 3]}, cv=2)
    assert grid.fit(data.x[:400], y[:400]).best_score_ > 0.5


def test_classifier_of_several_labels_with_its_metric(data: Data) -> None:
    objective = Objective()
    model = xgb.XGBClassifier(objective=objective, eval_metric=objective.metric, n_estimators=3, n_jobs=1)
    model.fit(data.x, data.y.astype(int), eval_set=[(data.x, data.y.astype(int))], verbose=False)
    history = model.evals_result()["validation_0"]["metric"]
    assert history[0] > history[-1] > 0


def test_cross_validation_with_missing_labels(data: Data) -> None:
    labels = np.where(data.hidden, np.float32(-1), data.y)
    objective = Objective(missing=-1)
    found = xgb.cv(
        PARAMS, xgb.DMatrix(data.x, labels), 5, nfold=3, obj=objective, custom_metric=objective.metric, seed=1
    )
    history = (
        found["test-mlsm_logloss-mean"].to_numpy() if hasattr(found, "to_numpy") else found["test-mlsm_logloss-mean"]
    )
    assert 0 < history[-1] < history[0] < np.log(2) + 0.05


def test_a_reloaded_model_predicts_probabilities(data: Data, tmp_path: Any) -> None:
    matrix = xgb.DMatrix(data.x, data.y)
    booster = xgb.train(PARAMS, matrix, 3, obj=Objective())
    booster.save_model(tmp_path / "model.json")
    again = xgb.Booster(model_file=tmp_path / "model.json")
    close(again.predict(matrix), booster.predict(matrix), 0)
    close(again.predict(matrix), 1 / (1 + np.exp(-margins(booster, matrix).astype(np.float64))), 1e-6)


# ---------------------------------------------------------------- the metric


@pytest.mark.parametrize(("weighted", "most"), [(False, 1e-6), (True, 4e-6)])  # XGBoost sums in float32
def test_metric_agrees_with_logloss(data: Data, weighted: bool, most: float) -> None:
    matrix = xgb.DMatrix(data.x, data.y, weight=data.weights if weighted else None)
    objective, history = Objective(), {}  # type: ignore[var-annotated]
    params = {k: v for k, v in PARAMS.items() if k != "disable_default_eval_metric"} | {"eval_metric": "logloss"}
    xgb.train(
        params, matrix, 5, obj=objective, custom_metric=objective.metric,
        evals=[(matrix, "train")], evals_result=history, verbose_eval=False,
    )  # fmt: skip
    theirs, ours = (np.asarray(history["train"][name]) for name in ("logloss", "mlsm_logloss"))
    assert np.abs(ours / theirs - 1).max() <= most


def test_metric_counts_observed_labels_only() -> None:
    labels = np.asarray([[1, -1], [-1, -1], [0, 1]], np.float32)
    x = np.asarray([[0.0, 9.0], [9.0, 9.0], [1.0, -2.0]], np.float32)
    v, w = np.asarray([1, 5, 2], np.float32), [3.0, 1.0]
    terms = np.asarray([np.log(2), np.log1p(np.e), 2 + np.log1p(np.exp(-2))])
    scale = np.asarray([1 * 3, 2 * 3, 2 * 1])
    found = Objective(w, missing=-1).metric(labels, x, sample_weight=v)
    assert abs(found / ((terms * scale).sum() / scale.sum()) - 1) < 1e-6
    assert Objective(missing=-1).metric(labels[1:2], x[1:2]) == 0


# ---------------------------------------------------------------- the object


def test_equality_hash_and_pickle_are_by_configuration() -> None:
    arrays = [Objective(np.asarray([1.0, 2.0]), missing=-1), Objective(np.asarray([1.0, 2.0]), missing=-1)]
    assert arrays[0] == arrays[1]
    assert hash(arrays[0]) == hash(arrays[1])
    assert Objective(missing=float("nan")) == Objective(missing=float("nan"))
    different = [Objective(), Objective(2.0), Objective(pos_weight=2.0), Objective(missing=-1), *arrays[:1]]
    different += [Objective(min_hessian=1), Objective(label_smoothing=0.5)]
    assert len(set(different)) == len(different)
    for one in different:
        assert pickle.loads(pickle.dumps(one)) == one
        with pytest.raises(AttributeError, match="immutable"):
            one.missing = 3


def test_the_floor_is_that_of_xgboost_and_masked_elements_stay_zero() -> None:
    labels, x = np.asarray([[0, -1, 1]], np.float32), np.full((1, 3), 500, np.float32)
    _, hessian = Objective(missing=-1)(labels, x, sample_weight=np.asarray([4], np.float32))
    assert hessian.tolist() == [[float(np.float32(4e-16)), 0.0, float(np.float32(4e-16))]]


@pytest.mark.parametrize(
    ("given", "error", "name"),
    [
        ({"weight": "heavy"}, TypeError, "weight"),
        ({"pos_weight": 1j}, TypeError, "pos_weight"),
        ({"label_smoothing": 2}, ValueError, "label_smoothing"),
        ({"missing": "none"}, TypeError, "missing"),
        ({"missing": True}, TypeError, "missing"),
        ({"min_hessian": -1}, ValueError, "min_hessian"),
    ],
)
def test_the_constructor_checks_its_options(given: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"`{name}`"):
        Objective(**given)
