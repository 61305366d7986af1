"""Draws one figure: `python docs/figures/boosting.py` writes boosting.svg. It also needs XGBoost and scikit-learn.

The figure shows the scores of a booster on held-out rows when more and more of the training labels are hidden. The
hidden labels are masked by mlsm, or taken as negative, which is the only way without a mask.
"""

from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from make import HERE, ONE, OURS, STYLE, WIDTH, plt, written
from sklearn.metrics import average_precision_score

from mlsm.objectives.xgboost import Objective

ROWS, FEATURES, LABELS, ROUNDS, SEEDS = 1000, 20, 6, 30, 2
HIDDEN = (0.0, 0.3, 0.6, 0.8, 0.9)
PARAMS = {"objective": "binary:logistic", "base_score": 0.5, "nthread": 1, "disable_default_eval_metric": 1}


def scores(hidden: float, seed: int) -> tuple[float, float, float, float]:
    """Average precision and log loss of both models, on rows whose labels are all known."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * ROWS, FEATURES)).astype(np.float32)
    logits = x @ rng.standard_normal((FEATURES, LABELS)) * 0.6 - 1
    y = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    train, test, known = x[:ROWS], xgb.DMatrix(x[ROWS:]), y[ROWS:]
    missing = rng.random((ROWS, LABELS)) < hidden
    masked = xgb.train(
        PARAMS, xgb.DMatrix(train, np.where(missing, np.float32(-1), y[:ROWS])), ROUNDS, obj=Objective(missing=-1)
    )
    filled = xgb.train(PARAMS, xgb.DMatrix(train, np.where(missing, np.float32(0), y[:ROWS])), ROUNDS)
    found: list[float] = []
    for booster in (masked, filled):
        p = np.clip(booster.predict(test).astype(np.float64), 1e-12, 1 - 1e-12)
        found.append(float(average_precision_score(known, p, average="macro")))
        found.append(float(-np.mean(known * np.log(p) + (1 - known) * np.log1p(-p))))
    return found[0], found[1], found[2], found[3]


def drawn() -> Any:
    table = np.asarray([np.mean([scores(h, seed) for seed in range(SEEDS)], axis=0) for h in HIDDEN])
    print(np.round(np.column_stack([HIDDEN, table]), 3))
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8), layout="constrained")
    for place, (axis, what) in enumerate(zip(axes, ("average precision", "log loss"), strict=True)):
        axis.plot(HIDDEN, table[:, place], marker="o", color=OURS, label="mlsm, masked")
        axis.plot(HIDDEN, table[:, 2 + place], marker="s", color=ONE, label="missing as negative")
        axis.set_xlabel("fraction of training labels hidden")
        axis.set_ylabel(what)
    axes[1].legend()
    return figure


def main() -> None:
    caption = "Scores on held-out rows against the fraction of training labels that were hidden, XGBoost."
    with plt.rc_context(STYLE):
        Path(HERE / "boosting.svg").write_text(written(drawn(), caption), encoding="utf-8")


if __name__ == "__main__":
    main()
