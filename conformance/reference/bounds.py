"""How far a right result may be from the exact one, and the only helper that compares them.

For each value of the oracle, `bound_loss`, `bound_grad` and `bound_hessian` add the errors that `budget` allows for
its elements, sums, factors and final rounding. There are no absolute tolerances, and no comparison returns a verdict
that could be ignored: `judge` raises or returns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..formats import FORMATS, ulp
from ..tensors import Case, shape_of
from . import oracle
from .budget import LIMITS, Budget, Limits, bound_sum, inexact, sum_roundings
from .oracle import Element, GradOutput

__all__ = [
    "LIMITS",
    "Limits",
    "Violation",
    "bound_grad",
    "bound_hessian",
    "bound_loss",
    "bound_sum",
    "judge",
    "judge_all",
    "overflows",
    "sum_roundings",
    "ulp",
    "ulp_error",
]
NOTHING: frozenset[str] = frozenset()
Elementwise: TypeAlias = Callable[[Element, float, int], float]


class Violation(AssertionError):
    """A result that is further from the exact one than its bound, or a special value that is not exactly right."""


def ulp_error(observed: float, exact: float, dtype: str, flush: bool = False) -> float:
    """|observed - exact| in ULP of `dtype` at `exact`; 0 for equal special values, inf if only one is special.

    With `flush`, a library that flushes subnormal numbers may give 0 for anything below the smallest normal number.
    """
    if math.isnan(exact) or math.isnan(observed) or math.isinf(exact) or math.isinf(observed):
        same = observed == exact or (math.isnan(exact) and math.isnan(observed))
        return 0.0 if same or (math.isinf(observed) and overflows(exact, observed, dtype)) else math.inf
    if flush and observed == 0 and abs(exact) < FORMATS[dtype].min_normal:
        return 0.0
    return abs(observed - exact) / ulp(exact, dtype)


def overflows(exact: float, observed: float, dtype: str, allowed: float = 0.0) -> bool:
    """Whether the infinity `observed` is right in `dtype` for a finite `exact` that may be off by `allowed`."""
    form = FORMATS[dtype]
    return math.copysign(1.0, observed) * exact + allowed >= form.max + ulp(form.max, dtype) / 2


def judge(observed: float, exact: float, allowed: float, what: str, dtype: str = "float64") -> None:
    """Raise `Violation` unless `observed` lies within `allowed` of `exact`; NaN and infinities must be exactly right.

    `dtype` is that of the observed value: an infinity is right if the exact value leaves the range of this format.
    Zeros of either sign are equal.
    """
    if math.isnan(exact) or math.isnan(observed):
        if not (math.isnan(exact) and math.isnan(observed)):
            raise Violation(f"{what}: {observed!r}, exactly {exact!r}")
    elif math.isinf(exact) or math.isinf(observed):
        if observed != exact and not (math.isinf(observed) and overflows(exact, observed, dtype, allowed)):
            raise Violation(f"{what}: {observed!r}, exactly {exact!r}")
    elif not abs(observed - exact) <= allowed:
        error = abs(observed - exact) / ulp(exact, dtype)
        budget = allowed / ulp(exact, dtype)
        raise Violation(f"{what}: {observed!r}, exactly {exact!r}: {error:.4g} ULP of {dtype}, {budget:.4g} allowed")


def judge_all(
    observed: Sequence[float], exact: Sequence[float], allowed: Sequence[float], what: str, dtype: str
) -> None:
    """`judge` over flat sequences of one length; the message contains the position."""
    if not len(observed) == len(exact) == len(allowed):
        raise Violation(f"{what}: {len(observed)} values, {len(exact)} expected")
    for place, triple in enumerate(zip(observed, exact, allowed, strict=True)):
        judge(*triple, f"{what}[{place}]", dtype)


def bound_loss(
    case: Case, reduction: str, limits: str = "generic", flush: frozenset[str] = NOTHING, accumulator: str = "float64"
) -> tuple[float, ...]:
    """The absolute error allowed to each value of `oracle.loss(case, reduction)`, flat.

    `limits` names a set of `LIMITS`; `flush` the dtypes whose subnormals the library flushes; `accumulator` is
    "float32" where the device has no float64.
    """
    budget, counts = Budget(case, limits, flush, accumulator), oracle.counts(case)
    dtype, number = budget.dtype, len(counts.classes)
    errors, sizes = [0.0] * number, [0.0] * number
    of = _remember(lambda item, scale, factors: budget.loss(item, scale * abs(item.w), factors + inexact(item.w)))
    for row, item in zip(oracle.row_indices(case), oracle.elements(case), strict=True):
        if item.observed:
            errors[row] += of(item, 1.0, 0)
            size = (item.linear + item.smooth) * abs(item.w)
            sizes[row] += size if math.isfinite(size) else 0.0
    for row, count in enumerate(counts.classes):
        if count:
            sizes[row] /= count
            errors[row] = errors[row] / count + inexact(count) * ulp(sizes[row], dtype)
            errors[row] += budget.flushed(1.0, sizes[row])
    exact = oracle.loss(case, reduction).values
    if reduction == "none":
        return tuple(
            budget.stored(value, error + bound_sum(size, count, dtype, accumulator), case.loss_dtype)
            for error, size, count, value in zip(errors, sizes, counts.classes, exact, strict=True)
        )
    rows = counts.rows if reduction == "mean" and counts.rows else 1
    wide = "float64" if dtype == "float64" else accumulator
    if sum(sizes) > FORMATS[wide].max / 2:
        return (math.inf,)  # the sum may leave the accumulator's range although the mean does not
    size = sum(sizes) / rows
    error = sum(errors) / rows + inexact(rows) * ulp(size, dtype) + budget.flushed(1.0, size)
    error += bound_sum(size, sum(counts.classes), dtype, accumulator)
    return (budget.stored(exact[0], error, case.loss_dtype),)


def bound_grad(
    case: Case,
    reduction: str,
    wrt: str = "input",
    grad_output: GradOutput = None,
    limits: str = "generic",
    flush: frozenset[str] = NOTHING,
    accumulator: str = "float64",
) -> tuple[float, ...]:
    """The absolute error allowed to each value of `oracle.grad(case, reduction, wrt, grad_output)`, flat."""
    budget = Budget(case, limits, flush, accumulator)
    answer = oracle.grad(case, reduction, wrt, grad_output)
    stored = case.grad_dtype(wrt)
    pulled, factors = _outer(case, reduction, grad_output)
    if wrt in ("input", "target"):
        each = _spread(case, budget.gradient if wrt == "input" else budget.d_target, pulled, factors)
        return tuple(budget.stored(value, error, stored) for value, error in zip(answer.values, each, strict=True))
    of = _remember(budget.loss if wrt == "weight" else budget.d_pos_weight)
    pairs = zip(oracle.row_indices(case), oracle.elements(case), strict=True)
    argument = case.weight if wrt == "weight" else case.pos_weight
    assert argument is not None  # oracle.grad raised already
    errors, sizes, numbers = ([0.0] * len(answer.values) for _ in range(3))
    places = oracle.broadcast_indices(shape_of(argument), case.input.shape)
    for place, (row, item) in zip(places, pairs, strict=True):
        if item.observed:
            errors[place] += of(item, pulled[row], factors[row])
            size = item.linear + item.smooth if wrt == "weight" else abs(float(item.d_pos_weight))
            sizes[place] += size * pulled[row] if math.isfinite(size) else 0.0
            numbers[place] += 1
    sums = (bound_sum(size, int(n), budget.dtype, accumulator) for size, n in zip(sizes, numbers, strict=True))
    each = [error + extra for error, extra in zip(errors, sums, strict=True)]
    return tuple(budget.stored(value, error, stored) for value, error in zip(answer.values, each, strict=True))


def bound_hessian(
    case: Case, reduction: str, limits: str = "generic", flush: frozenset[str] = NOTHING
) -> tuple[float, ...]:
    """The absolute error allowed to each value of `oracle.hessian_diag(case, reduction)`, flat."""
    budget = Budget(case, limits, flush, "float64")
    pulled, factors = _outer(case, reduction, None)
    values = oracle.hessian_diag(case, reduction).values
    each = _spread(case, budget.curvature, pulled, factors)
    return tuple(budget.stored(value, error, case.input.dtype) for value, error in zip(values, each, strict=True))


def _remember(of: Elementwise) -> Elementwise:
    """`of`, computed once for each element and scale: by identity, because large cases repeat few elements."""
    known: dict[tuple[int, float, int], float] = {}

    def look(item: Element, scale: float, factors: int) -> float:
        key = (id(item), scale, factors)
        if key not in known:
            known[key] = of(item, scale, factors)
        return known[key]

    return look


def _spread(case: Case, of: Elementwise, pulled: list[float], factors: list[int]) -> list[float]:
    """The bounds of a derivative that is shaped like the input; 0 where it is masked."""
    look = _remember(lambda item, scale, count: of(item, scale * abs(item.w), count + inexact(item.w)))
    pairs = zip(oracle.row_indices(case), oracle.elements(case), strict=True)
    return [look(item, pulled[row], factors[row]) if item.observed else 0.0 for row, item in pairs]


def _outer(case: Case, reduction: str, grad_output: GradOutput) -> tuple[list[float], list[int]]:
    """By row: the size of the factor of its derivatives, and how many inexact factors it consists of."""
    counts = oracle.counts(case)
    pulled = [abs(float(value)) for value in oracle.pull(case, reduction, grad_output)]
    rows = counts.rows if reduction == "mean" else 1
    outer = 1.0 if grad_output is None else grad_output
    given = list(outer) if isinstance(outer, Sequence) else [outer] * len(pulled)
    return pulled, [inexact(g, rows, n) for g, n in zip(given, counts.classes, strict=True)]
