"""Reports the exhaustive sweeps of `exhaustive.py` to a tally. Contains no check and no bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends import Bulk
from ..check import Ask, Context
from ..record import Worst
from ..reference import exhaustive
from ..run.tally import Question, Tally
from ..tensors import Case, Tensor


def halves(context: Context, tally: Tally, quantity: str) -> None:
    """Every half-precision input with targets 0, 1 and eight soft ones."""
    for dtype in ("float16", "bfloat16"):
        if dtype in context.dtypes:
            _sweep(context, tally, dtype, quantity, 1)


def singles(context: Context, tally: Tally, quantity: str) -> None:
    """Float32 logits with targets 0 and 1."""
    if "float32" not in context.dtypes:
        tally.passed_by("float32 is not among the dtypes of this run")
        return
    _sweep(context, tally, "float32", quantity, 1 if context.level == "exhaustive" else 16)


def _sweep(context: Context, tally: Tally, dtype: str, quantity: str, stride: int) -> None:
    ask = Ask(quantity, "none")
    limits: list[str] = []

    def run(a: Any, b: Any) -> Any:  # one function for the whole sweep, which is traced once
        return context.one(ask, {"input": a, "target": b})

    def evaluate(x: exhaustive.Floats, y: exhaustive.Floats, _: str) -> exhaustive.Floats:
        shape = (len(x), 1)
        arrays = [context.backend.make(Bulk(shape, v, dtype)) for v in (x, y)]
        if not limits:
            limits.append(context.limits_of({"input": arrays[0], "target": arrays[1]}))
        return np.asarray(context.backend.to_list(context.backend.call(run, *arrays)))

    first = next(exhaustive.half_blocks(dtype) if dtype != "float32" else exhaustive.float32_blocks(stride, 1))
    evaluate(first[0][:1], first[1][:1], quantity)
    seen = exhaustive.sweep(evaluate, dtype, quantity, stride=stride, limits=limits[0], flush=context.flush)
    tally.judged += seen.count
    for x, y, got, right in seen.examples:
        logit, target = (Tensor((1, 1), (v,), dtype) for v in (x, y))
        question = Question(Case(f"{dtype}-element", logit, target), quantity, "none")
        tally.wrong(f"{dtype}: {quantity} at {x!r}, {y!r}", got, right, question)
    tally.violated += seen.violations - len(seen.examples)
    if tally.worst is None or seen.ulp / seen.bound > tally.worst.ulp / tally.worst.bound:
        case = f"{dtype}: {quantity} of ({seen.where[0]!r}, {seen.where[1]!r})"
        tally.worst = Worst(seen.ulp, seen.bound, case)
