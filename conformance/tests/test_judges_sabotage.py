"""A loss in emulated arithmetic, right or with one named mistake: the judges must accept only the right one.

Pure Python, every operation rounded to the compute dtype, by the sign-split formula, which the oracle does not use.
Uses no array library: `test_sabotage` plants the same mistakes on real arrays.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator

import numpy as np
import pytest

from ..cases import catalogue
from ..formats import round_to, step
from ..reference import bounds, exact, exhaustive, oracle
from ..reference.bounds import Violation
from ..reference.exhaustive import Floats
from ..subjects.sabotage import EMULATED_ONLY, SABOTAGES
from ..tensors import Case, flat, shape_of

REDUCTIONS = ("none", "mean", "sum")
QUANTITIES = ("loss", "gradient", "hessian")
DTYPES = ("float16", "float32", "float64")

# id (that of the suite's own mistake) -> the quantities that it makes wrong here
WRONG = {
    "max-form": ("loss",),
    "bce-form": ("loss",),
    "sigma-minus-target": ("gradient",),
    "sigma-one-minus-sigma": ("hessian",),
    "guard-dropped": ("loss",),
    "upcast-dropped": QUANTITIES,
    "narrow-accumulator": ("loss",),
    "sequential-sum": ("loss",),
    "sign-of-zero": ("gradient",),
    "weight-after-mean": ("loss",),
    "divided-by-weights": QUANTITIES,
    "sum-of-elements": QUANTITIES,
    "class-axis-zero": QUANTITIES,
    "target-cast-down": ("loss", "gradient"),
    "pos-weight-on-all": QUANTITIES,
    "no-batch-divisor": ("gradient", "hessian"),
    "mask-not-in-divisor": QUANTITIES,
    "bad-exp": QUANTITIES,
}


def test_the_mistakes_are_those_of_the_suite() -> None:
    assert set(WRONG) == {*(s.name for s in SABOTAGES), *EMULATED_ONLY}


class Emulated:
    """The loss of one case in the arithmetic of its compute dtype; `wrong` names a sabotage, "" none."""

    def __init__(self, case: Case, wrong: str = "") -> None:
        self.wrong = wrong
        if wrong == "class-axis-zero":
            case = Case(case.name, case.input, case.target, case.weight, case.pos_weight, case.where, axis=0)
        self.case = case
        self.dtype = case.loss_dtype if wrong == "upcast-dropped" else case.compute_dtype
        count, shape = len(case.input.values), case.input.shape

        def spread(argument: object, default: float) -> list[float]:
            if argument is None:
                return [default] * count
            values = flat(argument)  # type: ignore[arg-type]  # a field of a Case, whose type mypy does not see here
            return [values[i] for i in oracle.broadcast_indices(shape_of(argument), shape)]  # type: ignore[arg-type]  # same

        self.w, self.p = spread(case.weight, 1.0), spread(case.pos_weight, 1.0)
        self.m = [bool(v) for v in spread(case.where, 1.0)]
        self.row = oracle.row_indices(case)
        self.seen = [0] * math.prod(case.batch)
        for row, observed in zip(self.row, self.m, strict=True):
            self.seen[row] += observed
        self.rows = sum(n > 0 for n in self.seen)
        self.bare = self.divisors()

    def r(self, value: float) -> float:
        """One rounding."""
        return round_to(value, self.dtype)

    def divisors(self) -> list[float]:
        """The divisor of the class sum of each row."""
        if self.wrong == "mask-not-in-divisor":
            return [float(self.case.classes)] * len(self.seen)
        if self.wrong == "divided-by-weights":
            total = [0.0] * len(self.seen)
            for row, w in zip(self.row, self.w, strict=True):
                total[row] += w
            return [t or 1.0 for t in total]
        return [float(n or 1) for n in self.seen]

    def element(self, i: int, quantity: str) -> float:
        """The unweighted (or weighted, as `values` does it) element `i`."""
        case, r = self.case, self.r
        x, y = r(float(case.input.values[i])), float(case.target.values[i])
        y = r(round_to(y, case.input.dtype) if self.wrong == "target-cast-down" else y)
        p, eps, given = r(self.p[i]), case.label_smoothing, case.pos_weight is not None
        off = r(1 - y)
        if eps:
            y, off = (r(r(c * r(1 - eps)) + r(eps / 2)) for c in (y, off))
        on = y if not given or self.wrong == "pos-weight-on-all" else r(p * y)
        outer = p if given and self.wrong == "pos-weight-on-all" else 1.0
        q = 1.0 if not given or self.wrong == "pos-weight-on-all" else r(off + on)
        right = x >= 0
        sign = 1.0 if right else -1.0
        a, t = abs(x), (off if right else on)
        e = r(math.exp(-a))
        if self.wrong == "bad-exp" and math.isfinite(e) and e > 0:
            e = step(e, self.dtype, 8)
        L, s = r(math.log1p(e)), r(e / r(1 + e))
        w = r(self.w[i]) if self.wrong != "weight-after-mean" else 1.0
        sigmoid = r(1 / r(1 + e)) if right else s
        if quantity == "loss":
            value = self.value(x, y, a, t, q, L)
        elif quantity == "gradient":
            if self.wrong == "sign-of-zero":
                sign = math.copysign(1.0, x) if x else 0.0
            value = r(sigmoid - y) if self.wrong == "sigma-minus-target" else sign * r(t - r(q * s))
        elif self.wrong == "sigma-one-minus-sigma":
            value = r(q * r(sigmoid * r(1 - sigmoid)))
        else:
            value = r(r(q * s) * r(1 - s))
        return r(w * r(outer * value))

    def value(self, x: float, y: float, a: float, t: float, q: float, L: float) -> float:
        """The bracket of the loss, by the formula of the sabotage."""
        r = self.r
        if self.wrong == "max-form":
            return r(r(max(x, 0.0) - r(x * y)) + L)
        if self.wrong == "bce-form":
            return r(r(r(1 - y) * x) + r(L + max(-x, 0.0)))
        if t == 0 and math.isinf(a) and self.wrong != "guard-dropped":
            return r(q * L)
        return r(r(a * t) + r(q * L))

    def values(self, quantity: str, reduction: str) -> list[float]:
        """The results, rounded to their dtype."""
        case = self.case
        items = [self.element(i, quantity) if m else 0.0 for i, m in enumerate(self.m)]
        mean = reduction == "mean" and self.rows and not (quantity != "loss" and self.wrong == "no-batch-divisor")
        rows = float(self.rows) if mean else 1.0
        bare = [1.0] * len(self.bare) if self.wrong == "sum-of-elements" and reduction == "sum" else self.bare
        if quantity != "loss":
            scale = [self.r(1 / (rows * n)) for n in bare]
            each = zip(items, self.row, self.m, strict=True)
            return [round_to(self.r(v * scale[row]), case.input.dtype) if m else 0.0 for v, row, m in each]
        terms: list[list[float]] = [[] for _ in bare]
        for row, item in zip(self.row, items, strict=True):
            terms[row].append(item)
        losses = [self.r(self.total(each) / n) for each, n in zip(terms, bare, strict=True)]
        if self.wrong == "weight-after-mean":
            total, count = [0.0] * len(losses), case.classes
            for row, w in zip(self.row, self.w, strict=True):
                total[row] += w / count
            losses = [self.r(v * w) for v, w in zip(losses, total, strict=True)]
        if reduction == "none":
            return [round_to(v, case.loss_dtype) for v in losses]
        if reduction == "mean" and not self.rows:
            return [math.nan if case.where is None else 0.0]
        return [round_to(self.r(self.total(losses) / rows), case.loss_dtype)]

    def total(self, terms: list[float]) -> float:
        """A sum in a wide accumulator, or sequentially in the compute dtype or in float64."""
        if self.wrong in ("narrow-accumulator", "upcast-dropped"):
            return functools.reduce(lambda total, term: self.r(total + term), terms, 0.0)
        special = not all(map(math.isfinite, terms))  # fsum refuses inf - inf
        if special or self.wrong == "sequential-sum":
            return functools.reduce(operator.add, terms, 0.0)  # not sum(): from Python 3.12 on it compensates
        return math.fsum(terms)


def judged(case: Case, quantity: str, reduction: str, wrong: str) -> None:
    """Judge one emulated result."""
    observed = Emulated(case, wrong).values(quantity, reduction)
    if quantity == "loss":
        answer, allowed, dtype = oracle.loss(case, reduction), bounds.bound_loss(case, reduction), case.loss_dtype
    elif quantity == "gradient":
        answer, allowed, dtype = oracle.grad(case, reduction), bounds.bound_grad(case, reduction), case.input.dtype
    else:
        answer, allowed = oracle.hessian_diag(case, reduction), bounds.bound_hessian(case, reduction)
        dtype = case.input.dtype
    bounds.judge_all(observed, answer.values, allowed, f"{case.name} {reduction} {quantity}", dtype)


def rejected(quantity: str, wrong: str) -> Iterator[str]:
    """The judge's verdict about a sabotage for each case."""
    for case in catalogue.catalogue("smoke", DTYPES):
        for reduction in REDUCTIONS:
            try:
                judged(case, quantity, reduction, wrong)
            except Violation as violation:
                yield str(violation)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_right_loss_passes(quantity: str) -> None:
    assert list(rejected(quantity, "")) == []


@pytest.mark.parametrize(
    ("wrong", "quantity"), [(wrong, quantity) for wrong, which in WRONG.items() for quantity in which]
)
def test_a_sabotaged_loss_is_rejected(wrong: str, quantity: str) -> None:
    assert next(rejected(quantity, wrong), None) is not None


# ---------------------------------------------------------------- exhaustive sweeps


def spelled(dtype: str, wrong: str = "") -> exhaustive.Evaluate:
    """The element in NumPy's float32 (and rounded to float16), right or by a formula that loses digits."""
    store = {"float16": np.float16, "float32": np.float32}[dtype]

    def evaluate(x64: Floats, y64: Floats, quantity: str) -> Floats:
        with np.errstate(all="ignore"):
            x, y = x64.astype(np.float32), y64.astype(np.float32)
            right, a = x >= 0, np.abs(x)
            e = np.exp(-a)
            t, L, s = np.where(right, 1 - y, y), np.log1p(e), e / (1 + e)
            sigmoid = np.where(right, 1 / (1 + e), s)
            if quantity == "hessian":
                value = sigmoid * (1 - sigmoid) if wrong == "sigmoid" else s * (1 - s)
            elif quantity == "gradient":
                value = sigmoid - y if wrong == "sigmoid" else np.where(right, t - s, s - t)
            elif wrong == "bce-form":
                value = (1 - y) * x + (L + np.maximum(-x, 0))
            elif wrong == "max-form":
                value = np.maximum(x, 0) - x * y + L
            else:
                value = np.where((t == 0) & np.isinf(a), 0, a) * t + L
            return np.asarray(value.astype(store).astype(np.float64))

    return evaluate


def test_reference_of_the_sweeps_is_right() -> None:
    points = [(x, y) for x, y in exact.golden_points() if 0 <= y <= 1 and abs(x) < 740]
    x, y = (np.array(column) for column in zip(*points, strict=True))
    for quantity, field in (("loss", "loss"), ("gradient", "gradient"), ("hessian", "curvature")):
        found = exhaustive.reference(x, y, quantity)
        for i, (logit, target) in enumerate(points):
            truth = float(getattr(exact.element(logit, target, 1.0, 0.0), field))
            case = catalogue.column("reference", "float64", [logit], target)
            allowed = {
                "loss": bounds.bound_loss(case, "sum"),
                "gradient": bounds.bound_grad(case, "sum"),
                "hessian": bounds.bound_hessian(case, "sum"),
            }[quantity]
            bounds.judge(float(found[i]), truth, allowed[0], f"{quantity} at {logit}, {target}")


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_half_passes_and_is_counted(quantity: str) -> None:
    told: list[int] = []
    seen = exhaustive.sweep(spelled("float16"), "float16", quantity, progress=told.append)
    assert seen.conforms, seen.examples
    assert seen.count == sum(told) == 65_536 * 10
    assert seen.ulp <= 0.51
    assert min(seen.profile) == -1024
    assert max(seen.profile) == 1023


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_float32_sweep_passes_and_ends_at_both_ends(quantity: str) -> None:
    seen = exhaustive.sweep(spelled("float32"), "float32", quantity, stride=4096)
    assert seen.conforms, seen.examples
    assert seen.count == 4 * exhaustive.float32_count(4096)
    assert set(seen.profile) == set(range(-104, 104))
    assert exhaustive.float32_count(1) == 273_674_678


@pytest.mark.parametrize(
    ("dtype", "quantity", "wrong"),
    [
        ("float16", "loss", "bce-form"),
        ("float16", "loss", "max-form"),
        ("float16", "gradient", "sigmoid"),
        ("float16", "hessian", "sigmoid"),
        ("float32", "loss", "bce-form"),
        ("float32", "gradient", "sigmoid"),
        ("float32", "hessian", "sigmoid"),
    ],
)
def test_sweeps_reject_lost_digits(dtype: str, quantity: str, wrong: str) -> None:
    seen = exhaustive.sweep(spelled(dtype, wrong), dtype, quantity, stride=4096)
    assert not seen.conforms
    assert seen.worst > 1
    assert len(seen.examples) == 8


def test_sweeps_reject_nan_and_allow_declared_flushing() -> None:
    right = spelled("float32")
    nan = exhaustive.sweep(lambda x, y, q: np.where(x > 50, np.nan, right(x, y, q)), "float32", "loss", stride=1 << 16)
    assert not nan.conforms
    assert math.isinf(nan.worst)

    def flushing(x: Floats, y: Floats, quantity: str) -> Floats:
        found = right(x, y, quantity)
        return np.where(np.abs(found) < 2.0**-126, 0.0, found)

    assert not exhaustive.sweep(flushing, "float32", "loss", stride=4096).conforms
    assert exhaustive.sweep(flushing, "float32", "loss", stride=4096, flush=frozenset({"float32"})).conforms
