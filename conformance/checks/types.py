"""Dtype, shape, device and library of every result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ..cases import dense_cases
from ..check import FAILURES, Ask, Context, check, result_dtype
from ..formats import promote
from ..run.tally import Tally
from ..tensors import Case, Nested, Number, Tensor, shape_of
from .values import themed

QUANTITIES = ("loss", "gradient", "hessian")


def _answers(context: Context, tally: Tally, case: Case, *reductions: str) -> Iterator[tuple[Ask, Any]]:
    """Every quantity that the subject offers, by these reductions, as arrays."""
    if not context.concerns(tally, case):
        return
    asks = context.offered([Ask(q, r) for q in QUANTITIES for r in reductions if r in context.reductions], tally)
    if asks:
        found = zip(asks, context.tried(tally, case, asks, read=False), strict=True)
        yield from ((ask, array) for ask, array in found if array is not None)


def _told(of: Callable[[Any], Any], array: Any) -> Any:
    """What the backend reads from an array, or the class of an object that is not an array."""
    try:
        return of(array)
    except FAILURES:
        return f"a {type(array).__module__}.{type(array).__qualname__}"


@check("types.dtype", "The loss has the promotion of the floating arrays, each derivative its own argument's dtype.")
def dtype(context: Context, tally: Tally) -> None:
    cases = [c for theme in ("plain", "dtypes", "weight") for c in themed(context, theme)]
    for case in context.subsample(cases, 12):
        for ask, array in _answers(context, tally, case, "none", "mean"):
            seen = _told(context.backend.dtype_of, array)
            tally.equal(seen, result_dtype(case, ask), f"{case.name}: dtype of {ask}")


@check("types.promotion", "One call may use any two floating dtypes that the library promotes together.", anybody=False)
def promotion(context: Context, tally: Tally) -> None:
    for mine, other in itertools.product(context.dtypes, repeat=2):
        if mine == other and len(context.dtypes) > 1:
            continue  # judged by `types.dtype`
        pair = {mine, other}
        if pair == {"float16", "bfloat16"} and context.backend.library not in ("torch", "jax"):
            continue  # NumPy has no promotion of the two; the refusal is checked by `refusals.promotion`
        x = dense_cases.plain(mine)
        case = Case(f"{mine}-{other}-promotion", x.input, dense_cases.plain(other).target)
        weighted = Case(f"{mine}-{other}-weight", x.input, x.target, weight=Tensor((4,), (0.5, 1.0, 2.0, 4.0), other))
        for c in (case, weighted):
            if context.backend.serves(c):
                for ask, array in _answers(context, tally, c, "mean"):
                    expected = promote(pair) if ask.quantity == "loss" else mine
                    tally.equal(context.backend.dtype_of(array), expected, f"{c.name}: dtype of {ask}")


@check("types.number", "A Python number or list as weight takes no part in promotion.", anybody=False)
def number(context: Context, tally: Tally) -> None:
    for d in context.dtypes:
        base = dense_cases.plain(d)
        numbers: tuple[Number | Nested, ...] = (2.5, [1.0, 2.0, 0.5, 3.0])
        for weight in numbers:
            case = Case(f"{d}-number", base.input, base.target, weight=weight, pos_weight=weight)
            if context.backend.serves(case):
                got = context.answers(case, [Ask("loss", "mean"), Ask("gradient", "mean")])
                for array in got:
                    tally.equal(context.backend.dtype_of(array), d, f"{case.name} with weight {weight}")


@check("types.shape", "`none` has the batch's shape, `sum` and `mean` are 0-d, a derivative has its argument's shape.")
def shape(context: Context, tally: Tally) -> None:
    cases = [
        c
        for theme in ("plain", "axis")
        for c in themed(context, theme)
        if c.axis == -1 or "axis" in context.subject.options
    ]
    for case in context.subsample(cases, 12):
        for ask, array in _answers(context, tally, case, "none", "mean", "sum"):
            expected = case.input.shape if ask.quantity != "loss" else (case.batch if ask.reduction == "none" else ())
            tally.equal(_told(context.backend.shape_of, array), expected, f"{case.name}: shape of {ask}")


@check(
    "types.arguments",
    "A derivative for an argument has that argument's shape and dtype.",
    offers=("arguments",),
    anybody=False,
)
def arguments(context: Context, tally: Tally) -> None:
    cases = [c for theme in ("dtypes", "weight", "pos_weight") for c in themed(context, theme)]
    for case in context.subsample(cases, 12):
        for wrt in ("target", "weight", "pos_weight"):
            argument = getattr(case, wrt)
            if argument is None:
                continue
            ask = Ask("gradient", "mean", wrt)
            array = context.answer(case, ask)
            tally.equal(context.backend.dtype_of(array), result_dtype(case, ask), f"{case.name}: dtype of {ask}")
            expected = argument.shape if isinstance(argument, Tensor) else shape_of(argument)
            tally.equal(context.backend.shape_of(array), expected, f"{case.name}: shape of {ask}")


@check("types.library", "Every result is an array of the input's library, on the input's device.")
def library(context: Context, tally: Tally) -> None:
    for d in context.dtypes:
        case = dense_cases.plain(d)
        if not context.backend.serves(case):
            continue
        device = context.backend.device_of(context.arrays(case)["input"])
        for ask, array in _answers(context, tally, case, "none", "mean"):
            kind = f"{type(array).__module__}.{type(array).__qualname__}"
            owned = _told(context.backend.owns, array) is True
            tally.equal(kind if not owned else "an array", "an array", f"{case.name}: {ask}, of its library")
            if owned:
                tally.equal(context.backend.device_of(array), device, f"{case.name}: device of {ask}")
