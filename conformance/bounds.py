"""How far a right result may lie from the exact one, and the one helper that compares.

Every bound is derived: from the unit roundoff u of the compute dtype, the few-ULP budget of one element (`Limits`), the sizes
of its terms (Σ|terms| where they cancel), the number of summands, and the number of factors that are not powers of two, each
of which adds 1 ULP. A narrower storage dtype adds its own half ULP. Refuses absolute tolerances: the smallest quantity here is
the smallest spacing of a format, counted in the format's own units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import oracle
from .formats import FORMATS, is_power_of_two, ulp
from .oracle import Element, GradOutput
from .tensors import Case, shape_of

NOTHING: frozenset[str] = frozenset()


class Violation(AssertionError):
    """A result that is further from the exact one than its bound, or a special value that is not exactly right."""


@dataclass(frozen=True)
class Limits:
    """The budget of one element of unit scale, in ULP of the compute dtype; `exp` is the error of exp in units of u."""

    loss: float
    gradient: float
    hessian: float
    soft_loss: float
    exp: float


LIMITS = {
    "generic": {
        # The worst float32 exp in use is 2.54 ULP (NumPy's with AVX-512), 5.1 u at the foot of a binade.
        "float32": Limits(loss=4, gradient=4, hessian=5, soft_loss=4, exp=5.1),
        "float64": Limits(loss=3, gradient=4, hessian=5, soft_loss=3, exp=2),
    },
    "torch": {
        "float32": Limits(loss=2, gradient=3, hessian=4, soft_loss=3, exp=2),
        "float64": Limits(loss=3, gradient=4, hessian=5, soft_loss=3, exp=2),
    },
}
"""Budgets by set and compute dtype: "torch" where the library's exp and log1p are good to 1 ULP."""


def ulp_error(observed: float, exact: float, dtype: str, flush: bool = False) -> float:
    """|observed - exact| in ULP of `dtype` at `exact`; 0 where both are the same special value, inf where one is not.

    With `flush`, a library that flushes subnormal numbers may give 0 for anything below the smallest normal number.
    """
    if math.isnan(exact) or math.isnan(observed) or math.isinf(exact) or math.isinf(observed):
        same = observed == exact or (math.isnan(exact) and math.isnan(observed))
        return 0.0 if same or (math.isinf(observed) and overflows(exact, observed, dtype)) else math.inf
    if flush and observed == 0 and abs(exact) < FORMATS[dtype].min_normal:
        return 0.0
    return abs(observed - exact) / ulp(exact, dtype)


def overflows(exact: float, observed: float, dtype: str, allowed: float = 0.0) -> bool:
    """Whether the infinity `observed` is what `dtype` makes of a finite `exact` that may be off by `allowed`."""
    form = FORMATS[dtype]
    return math.copysign(1.0, observed) * exact + allowed >= form.max + ulp(form.max, dtype) / 2


def judge(observed: float, exact: float, allowed: float, what: str, dtype: str = "float64") -> None:
    """Raise `Violation` unless `observed` lies within `allowed` of `exact`; NaN and infinities must be exactly right.

    `dtype` is the observed value's: an infinity is right where the exact value leaves that format's range. Zeros of either
    sign are equal.
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


def judge_all(observed: Sequence[float], exact: Sequence[float], allowed: Sequence[float], what: str, dtype: str) -> None:
    """`judge` over flat sequences of one length; the position stands in the message."""
    if not len(observed) == len(exact) == len(allowed):
        raise Violation(f"{what}: {len(observed)} values, {len(exact)} expected")
    for place, triple in enumerate(zip(observed, exact, allowed, strict=True)):
        judge(*triple, f"{what}[{place}]", dtype)


def sum_roundings(count: int, dtype: str, accumulator: str = "float64") -> float:
    """The error of a sum of `count` terms, in u of `dtype` relative to Σ|terms|; 0 for a single term.

    With a wider accumulator, runs of at most 8 terms may be summed narrowly and the total is rounded once: 8. Where the
    accumulator is the compute dtype itself: any tree of pairs, log2(n) + 8, for float64; and where a device has no
    float64, the blocked tree of runs of 32 that libraries use there. Never more than `count`, whatever the order.
    """
    if count <= 1:
        return 0.0
    if dtype == "float64":
        return min(count, math.log2(count) + 8)
    if accumulator == "float64":
        return min(count, 8)
    return min(count, 32 * math.ceil(math.log(count, 32)) + 8)


def bound_sum(size: float, count: int, dtype: str, accumulator: str = "float64") -> float:
    """The absolute error that summing `count` terms with Σ|terms| = `size` may add."""
    return sum_roundings(count, dtype, accumulator) * FORMATS[dtype].u * size


def _factor(*values: float) -> int:
    """How many of `values` are not powers of two: each costs 1 ULP."""
    return sum(not is_power_of_two(value) for value in values)


def _scaled_ulp(size: float, scale: float, dtype: str) -> float:
    """1 ULP at size·scale, or the smallest spacing times the scale where `size` is subnormal before it is scaled."""
    form = FORMATS[dtype]
    here = ulp(min(abs(size) * scale, form.max), dtype)
    return max(here, form.tiny * scale) if abs(size) < form.min_normal else here


class _Budget:
    """The bounds of one case's elements: `limits`, the dtypes, and where the library flushes subnormals."""

    def __init__(self, case: Case, limits: str, flush: frozenset[str], accumulator: str) -> None:
        self.case = case
        self.dtype = case.compute_dtype
        self.form = FORMATS[self.dtype]
        self.limits = LIMITS[limits][self.dtype]
        self.flush = flush
        self.accumulator = accumulator
        self.smooth = case.label_smoothing != 0

    def flushed(self, scale: float, *sizes: float) -> float:
        """What flushing any of `sizes` (before or after `scale`) to zero may cost."""
        low = self.form.min_normal
        if self.dtype not in self.flush or not any(0 < size < 2 * low for size in sizes):
            return 0.0
        return low * max(1.0, scale)

    def stored(self, value: float, dtype: str) -> float:
        """Rounding `value` once from the compute dtype to a narrower storage dtype (float64 to half goes by float32)."""
        if dtype == self.dtype or not math.isfinite(value):
            return 0.0
        twice = self.form.precision == 53 and FORMATS[dtype].precision < 24
        half = 0.5 + (math.ldexp(1.0, FORMATS[dtype].precision - 25) if twice else 0.0)
        flushed = FORMATS[dtype].min_normal if dtype in self.flush and abs(value) < FORMATS[dtype].min_normal else 0.0
        return half * ulp(value, dtype) + flushed

    def coefficients(self, item: Element) -> int:
        """The ULP that forming the two coefficients of an element adds to a plain one."""
        computed = (item.p is not None or self.smooth) and not item.hard
        positive = _factor(item.p) if item.p is not None and (self.smooth or item.y != 0) else 0
        return positive + computed + (0 if not self.smooth else 1 if item.y in (0.0, 1.0) else 2)

    def loss(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's bracket times `scale`, which is made of `factors` inexact factors."""
        size = item.linear + item.smooth
        if not math.isfinite(size):
            return 0.0
        base = (self.limits.loss if item.hard else self.limits.soft_loss) + self.coefficients(item) + factors
        flushed = self.flushed(scale, item.L, item.smooth, item.linear, size * scale)
        return base * _scaled_ulp(size, scale, self.dtype) + flushed

    def slope(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's slope times `scale`."""
        if not math.isfinite(item.t + item.s):
            return 0.0
        plain = abs(item.t - item.q * item.s) if item.hard else math.nan
        if item.hard:
            ulps = self.limits.gradient + self.coefficients(item) + factors
            return ulps * _scaled_ulp(plain, scale, self.dtype) + self.flushed(scale, item.s, plain * scale)
        value = abs(float(item.slope) / item.w) * scale if item.w else 0.0
        positive = _factor(item.p) if item.p is not None else 0
        each = 1 + positive + (3 if self.smooth else 0)  # roundings in a coefficient
        total = each + 1 if item.p is not None or self.smooth else 0  # and in their sum
        terms = each * abs(item.t) + (total + self.limits.exp / (1 + item.e) + 2) * item.q * item.s
        underflow = self.form.tiny * max(1.0, scale) if min(item.s, abs(item.t) or 1.0) < self.form.min_normal else 0.0
        flushed = self.flushed(scale, item.s, abs(item.t), value)
        return self.form.u * terms * scale + (0.5 + factors) * ulp(value, self.dtype) + underflow + flushed

    def curvature(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's curvature times `scale`."""
        if not math.isfinite(item.q + item.s):
            return 0.0
        core = item.q * item.s * (1 - item.s)
        ulps = self.limits.hessian + self.coefficients(item) + factors
        return ulps * _scaled_ulp(core, scale, self.dtype) + self.flushed(scale, item.s, core, core * scale)

    def d_target(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's derivative with respect to its target times `scale`."""
        if not math.isfinite(item.a):
            return 0.0
        kept = _factor(1 - self.case.label_smoothing)
        if item.p is None:
            return (kept + factors) * _scaled_ulp(item.a, scale, self.dtype) + self.flushed(scale, item.a, item.a * scale)
        size = abs(item.p - 1) * item.L + item.a * max(1.0, abs(item.p))
        ulps = self.limits.soft_loss + 1 + _factor(item.p) + kept + factors
        return ulps * _scaled_ulp(size, scale, self.dtype) + self.flushed(scale, item.L, item.a, size * scale)

    def d_pos_weight(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's derivative with respect to its positive weight times `scale` (the weight included)."""
        value = abs(float(item.d_pos_weight))
        if not math.isfinite(value):
            return 0.0
        ulps = self.limits.soft_loss + (3 if self.smooth else 1) + _factor(item.w) + factors
        core = value / abs(item.w) if item.w else 0.0
        return ulps * _scaled_ulp(core, scale * abs(item.w), self.dtype) + self.flushed(scale * abs(item.w), item.L, core)


def bound_loss(
    case: Case, reduction: str, limits: str = "generic", flush: frozenset[str] = NOTHING, accumulator: str = "float64"
) -> tuple[float, ...]:
    """The absolute error allowed to each value of `oracle.loss(case, reduction)`, flat.

    `limits` names a set of `LIMITS`; `flush` the dtypes whose subnormals the library flushes; `accumulator` is "float32"
    where the device has no float64.
    """
    budget, counts = _Budget(case, limits, flush, accumulator), oracle.counts(case)
    dtype, number = budget.dtype, len(counts.classes)
    errors, sizes = [0.0] * number, [0.0] * number
    for row, item in zip(oracle.row_indices(case), oracle.elements(case), strict=True):
        if item.observed:
            errors[row] += budget.loss(item, abs(item.w), _factor(item.w))
            size = (item.linear + item.smooth) * abs(item.w)
            sizes[row] += size if math.isfinite(size) else 0.0
    for row, count in enumerate(counts.classes):
        if count:
            sizes[row] /= count
            errors[row] = errors[row] / count + _factor(count) * ulp(sizes[row], dtype)
            errors[row] += budget.flushed(1.0, sizes[row])
    exact = oracle.loss(case, reduction).values
    if reduction == "none":
        pairs = zip(errors, sizes, counts.classes, exact, strict=True)
        return tuple(e + bound_sum(s, n, dtype, accumulator) + budget.stored(v, case.loss_dtype) for e, s, n, v in pairs)
    rows = counts.rows if reduction == "mean" and counts.rows else 1
    size = sum(sizes) / rows
    error = sum(errors) / rows + _factor(rows) * ulp(size, dtype) + bound_sum(size, sum(counts.classes), dtype, accumulator)
    return (error + budget.flushed(1.0, size) + budget.stored(exact[0], case.loss_dtype),)


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
    budget = _Budget(case, limits, flush, accumulator)
    answer = oracle.grad(case, reduction, wrt, grad_output)
    stored = [budget.stored(value, case.grad_dtype(wrt)) for value in answer.values]
    pulled, factors = _outer(case, reduction, grad_output)
    pairs = zip(oracle.row_indices(case), oracle.elements(case), strict=True)
    if wrt in ("input", "target"):
        of = budget.slope if wrt == "input" else budget.d_target
        return tuple(
            of(item, abs(item.w) * pulled[row], _factor(item.w) + factors[row]) + extra if item.observed else 0.0
            for (row, item), extra in zip(pairs, stored, strict=True)
        )
    argument = case.weight if wrt == "weight" else case.pos_weight
    assert argument is not None  # oracle.grad raised already
    errors, sizes, numbers = [0.0] * len(stored), [0.0] * len(stored), [0] * len(stored)
    places = oracle.broadcast_indices(shape_of(argument), case.input.shape)
    for place, (row, item) in zip(places, pairs, strict=True):
        if item.observed:
            of, value = (budget.loss, item.d_weight) if wrt == "weight" else (budget.d_pos_weight, item.d_pos_weight)
            errors[place] += of(item, pulled[row], factors[row])
            size = item.linear + item.smooth if wrt == "weight" else abs(float(value))
            sizes[place] += size * pulled[row] if math.isfinite(size) else 0.0
            numbers[place] += 1
    sums = (bound_sum(s, n, budget.dtype, accumulator) for s, n in zip(sizes, numbers, strict=True))
    return tuple(e + s + extra for e, s, extra in zip(errors, sums, stored, strict=True))


def bound_hessian(
    case: Case, reduction: str, limits: str = "generic", flush: frozenset[str] = NOTHING
) -> tuple[float, ...]:
    """The absolute error allowed to each value of `oracle.hessian_diag(case, reduction)`, flat."""
    budget = _Budget(case, limits, flush, "float64")
    pulled, factors = _outer(case, reduction, None)
    values = oracle.hessian_diag(case, reduction).values
    return tuple(
        budget.curvature(item, abs(item.w) * pulled[row], _factor(item.w) + factors[row])
        + budget.stored(value, case.input.dtype)
        if item.observed
        else 0.0
        for row, item, value in zip(oracle.row_indices(case), oracle.elements(case), values, strict=True)
    )


def _outer(case: Case, reduction: str, grad_output: GradOutput) -> tuple[list[float], list[int]]:
    """By row: the size of what its derivatives are multiplied by, and how many inexact factors that is made of."""
    counts = oracle.counts(case)
    pulled = [abs(float(value)) for value in oracle.pull(case, reduction, grad_output)]
    rows = counts.rows if reduction == "mean" else 1
    outer = 1.0 if grad_output is None else grad_output
    given = list(outer) if isinstance(outer, Sequence) else [outer] * len(pulled)
    return pulled, [_factor(g, rows, n) for g, n in zip(given, counts.classes, strict=True)]
