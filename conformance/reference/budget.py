"""The error that one element, one sum and one rounding may add: the terms of every bound.

Derived from the unit roundoff u of the compute dtype, the few-ULP budget of an element of unit scale (`Limits`), the
sizes of its terms (Σ|terms| where they cancel), the number of summands and of factors that are not powers of two.
There are no absolute tolerances: the smallest quantity here is the smallest spacing of a format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..formats import FORMATS, is_power_of_two, ulp
from ..tensors import Case
from .oracle import Element


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


def sum_roundings(count: int, dtype: str, accumulator: str = "float64") -> float:
    """The error of a sum of `count` terms, in u of `dtype` relative to Σ|terms|; 0 for a single term.

    With a wider accumulator, runs of at most 8 terms may be summed narrowly and the total is rounded once: 8. If the
    accumulator is the compute dtype itself: log2(n) + 8, any tree of pairs, for float64; and on a device without
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


def inexact(*values: float) -> int:
    """How many of `values` are not powers of two: each costs 1 ULP."""
    return sum(not is_power_of_two(value) for value in values)


def scaled_ulp(size: float, scale: float, dtype: str) -> float:
    """1 ULP at size·scale, or the smallest spacing times the scale where `size` is subnormal before it is scaled."""
    form = FORMATS[dtype]
    here = ulp(min(abs(size) * scale, form.max), dtype)
    return max(here, form.tiny * scale) if abs(size) < form.min_normal else here


class Budget:
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
        """The error of flushing any of `sizes` (before or after `scale`) to zero."""
        low = self.form.min_normal
        if self.dtype not in self.flush or not any(0 < size < 2 * low for size in sizes):
            return 0.0
        return low * max(1.0, scale)

    def stored(self, value: float, error: float, dtype: str) -> float:
        """`error` plus that of rounding once from the compute dtype to a narrower storage dtype.

        The rounded value is not the exact one but one that is off by `error`, which near a root is much larger. From
        float64 to a half precision, a library may convert through float32 and round twice.
        """
        reach = abs(value) + error
        if dtype == self.dtype or not 0 < reach < math.inf:
            return error
        twice = self.form.precision == 53 and FORMATS[dtype].precision < 24
        half = 0.5 + (math.ldexp(1.0, FORMATS[dtype].precision - 25) if twice else 0.0)
        low = FORMATS[dtype].min_normal
        return error + half * ulp(reach, dtype) + (low if dtype in self.flush and reach < low else 0.0)

    def coefficients(self, item: Element) -> int:
        """The ULP that forming the two coefficients of an element adds to a plain one."""
        computed = (item.p is not None or self.smooth) and not item.hard
        positive = inexact(item.p) if item.p is not None and (self.smooth or item.y != 0) else 0
        return positive + computed + (0 if not self.smooth else 1 if item.y in (0.0, 1.0) else 2)

    def loss(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's bracket times `scale`, a product of `factors` inexact factors."""
        size = item.linear + item.smooth
        if not math.isfinite(size):
            return 0.0
        base = (self.limits.loss if item.hard else self.limits.soft_loss) + self.coefficients(item) + factors
        flushed = self.flushed(scale, item.L, item.smooth, item.linear, size * scale)
        return base * scaled_ulp(size, scale, self.dtype) + flushed

    def gradient(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's gradient times `scale`."""
        if not math.isfinite(item.t + item.s):
            return 0.0
        plain = abs(item.t - item.q * item.s) if item.hard else math.nan
        if item.hard:
            ulps = self.limits.gradient + self.coefficients(item) + factors
            return ulps * scaled_ulp(plain, scale, self.dtype) + self.flushed(scale, item.s, plain * scale)
        value = abs(float(item.gradient) / item.w) * scale if item.w else 0.0
        positive = inexact(item.p) if item.p is not None else 0
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
        return ulps * scaled_ulp(core, scale, self.dtype) + self.flushed(scale, item.s, core, core * scale)

    def d_target(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's derivative with respect to its target times `scale`."""
        if not math.isfinite(item.a):
            return 0.0
        factors += inexact(1 - self.case.label_smoothing)
        if item.p is None:  # exactly x: no error of the element, one rounding for each factor and one for their product
            size, low = item.a * scale, self.form.min_normal  # below `low` a power of two is not exact either
            rounded = factors + (factors > 0 or 0 < size < low)
            return rounded * scaled_ulp(item.a, scale, self.dtype) + self.flushed(scale, item.a, size)
        size = abs(item.p - 1) * item.L + item.a * max(1.0, abs(item.p))
        ulps = self.limits.soft_loss + 1 + inexact(item.p) + factors
        return ulps * scaled_ulp(size, scale, self.dtype) + self.flushed(scale, item.L, item.a, size * scale)

    def d_pos_weight(self, item: Element, scale: float, factors: int) -> float:
        """The error of one element's derivative with respect to its positive weight (weight included) times `scale`."""
        value = abs(float(item.d_pos_weight))
        if not math.isfinite(value):
            return 0.0
        ulps = self.limits.soft_loss + (3 if self.smooth else 1) + inexact(item.w) + factors
        core = value / abs(item.w) if item.w else 0.0
        scale *= abs(item.w)
        return ulps * scaled_ulp(core, scale, self.dtype) + self.flushed(scale, item.L, core, core * scale)
