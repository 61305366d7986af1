"""The LightGBM objective compared with LightGBM's own, trained by the real library, one booster per class."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from mlsm.objectives import lightgbm as module
from mlsm.objectives.lightgbm import Objective

lgb = pytest.importorskip("lightgbm", reason="this file tests the objective inside LightGBM")

ROUNDS, N, D, C = 30, 2000, 20, 8
PARAMS: dict[str, Any] = {
    "verbose": -1,
    "num_threads": 1,
    "boost_from_average": False,
    "deterministic": True,
    "force_row_wise": True,
}
# Scores are equal to the bit, unless a build of LightGBM rounds one gradient to float32 differently.
SCORES = 1e-6

_rng = np.random.default_rng(5)
X = _rng.standard_normal((N, D))
PROBABILITY = 1 / (1 + np.exp(-X @ _rng.standard_normal((D, C)) / 2))
Y = (_rng.random((N, C)) < PROBABILITY).astype(np.float32)
WEIGHTS = _rng.uniform(0.5, 2, N)
HIDDEN = _rng.random((N, C)) < 0.3


def ours(objective: Objective, **options: Any) -> Any:
    params = PARAMS | {"objective": objective, "num_class": C}
    return lgb.train(params, objective.dataset(X, **options), ROUNDS).predict(X, raw_score=True)


def theirs(columns: Any, weights: Any = None, **params: Any) -> Any:
    """The scores of one booster per class."""
    found = []
    for k in range(C):
        own = (
            PARAMS
            | {"objective": "binary"}
            | {name: value if isinstance(value, str) else value[k] for name, value in params.items()}
        )
        data = lgb.Dataset(X, label=columns[:, k].copy(), weight=None if weights is None else weights[:, k].copy())
        found.append(lgb.train(own, data, ROUNDS).predict(X, raw_score=True))
    return np.stack(found, axis=1)


def close(found: Any, expected: Any, most: float = SCORES) -> None:
    assert found.shape == expected.shape
    worst = float(np.abs(found - expected).max())
    assert worst <= most, worst


def test_agrees_with_binary() -> None:
    close(ours(Objective(Y)), theirs(Y))


def test_weights_of_rows() -> None:
    close(ours(Objective(Y), weight=WEIGHTS), theirs(Y, np.broadcast_to(WEIGHTS[:, None], Y.shape)))


def test_pos_weight_of_each_class() -> None:
    positive = np.linspace(0.5, 4, C)
    close(ours(Objective(Y, pos_weight=positive)), theirs(Y, scale_pos_weight=positive))


@pytest.mark.parametrize("mark", [-1, float("nan")])
def test_missing_labels(mark: float) -> None:
    """A missing label has gradient and Hessian 0. A separate booster gives it a weight of 0, and counts it for the
    minimum number of rows in a leaf, as ours does."""
    close(ours(Objective(np.where(HIDDEN, mark, Y), missing=mark)), theirs(Y, (~HIDDEN).astype(float)))


def test_soft_labels_agree_with_cross_entropy() -> None:
    close(ours(Objective(PROBABILITY)), theirs(PROBABILITY, objective="cross_entropy"), 1e-6)


def test_one_label() -> None:
    objective = Objective(Y[:, :1])
    found = lgb.train(PARAMS | {"objective": objective}, objective.dataset(X), 5).predict(X, raw_score=True)
    data = lgb.Dataset(X, label=Y[:, 0].copy())
    close(found, lgb.train(PARAMS | {"objective": "binary"}, data, 5).predict(X, raw_score=True))


def test_cross_validation_and_metric() -> None:
    labels = np.where(HIDDEN, -1, Y)
    objective = Objective(labels, missing=-1)
    found = lgb.cv(
        PARAMS | {"objective": objective, "num_class": C, "metric": "None"},
        objective.dataset(X), 5, nfold=3, stratified=False, feval=objective.metric,
    )  # fmt: skip
    history = found["valid mlsm_logloss-mean"]
    assert 0 < history[-1] < history[0] < np.log(2)


def test_a_subset_uses_its_own_rows() -> None:
    objective = Objective(Y)
    rows = list(range(0, N, 2))
    data = objective.dataset(X, free_raw_data=False)
    found = lgb.train(PARAMS | {"objective": objective, "num_class": C}, data.subset(rows), 5)
    alone = Objective(Y[::2])
    expected = lgb.train(
        PARAMS | {"objective": alone, "num_class": C},
        lgb.Dataset(X[::2], label=np.arange(len(rows)), reference=data),
        5,
    )
    close(found.predict(X, raw_score=True), expected.predict(X, raw_score=True))


def test_deepcopy_returns_the_same_object() -> None:
    objective = Objective(Y, missing=-1)
    assert copy.deepcopy({"objective": objective})["objective"] is objective


def test_equality_is_by_configuration_and_array_identity() -> None:
    assert Objective(Y, 2.0, missing=-1) == Objective(Y, 2.0, missing=-1)
    assert hash(Objective(Y)) == hash(Objective(Y))
    assert Objective(Y) != Objective(Y.copy())
    assert Objective(Y) != Objective(Y, 2.0)
    again = pickle.loads(pickle.dumps(Objective(Y, pos_weight=[1.0] * C, missing=-1)))
    assert np.array_equal(again.target, Y)
    assert again.missing == -1
    assert again(np.zeros((N, C)), objective_data(again))[0].shape == (N, C)


def objective_data(objective: Objective) -> Any:
    return objective.dataset(X).construct()


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"`target`.*\(N, C\).*\(2000,\)"):
        Objective(Y[:, 0])
    with pytest.raises(TypeError, match=r"`target`.*list"):
        Objective([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`data`.*2000.*10"):
        Objective(Y).dataset(X[:10])
    with pytest.raises(ValueError, match=r"`dataset`.*Objective\.dataset"):
        Objective(Y)(np.zeros((N, C)), lgb.Dataset(X, label=WEIGHTS).construct())
    with pytest.raises(ValueError, match=r"2\*\*24.*16777217"):
        Objective(np.broadcast_to(np.zeros((1, 1), bool), (2**24 + 1, 1)))
    assert Objective(np.broadcast_to(np.zeros((1, 1), bool), (module.ROWS, 1))).target.shape == (2**24, 1)


def test_scores_keep_their_memory_order() -> None:
    objective = Objective(Y)
    for order in "CF":
        gradient, hessian = objective(np.zeros((N, C), order=order), objective_data(objective))  # type: ignore[call-overload]
        assert gradient.strides == hessian.strides == np.zeros((N, C), order=order).strides  # type: ignore[call-overload]
