"""The exact answer without any dependency: every value and derivative of a `Case`, rounded once to float64.

Pure Python. The algebra is the definition itself, two softplus terms and two logistic functions, not the package's
sign-split formula: softplus(z) = log(1 + exp z) and σ(z) = 1/(1 + exp(-z)). It is evaluated in 50-digit decimals, so
that sums that cancel (a soft target's gradient near its root) keep every digit and a float64 result can be judged too;
`exact` judges this file over the catalogue. Takes a `Case` only, no arrays; contains no tolerances.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import NamedTuple, TypeAlias

from ..tensors import Case, Nested, Number, Tensor, flat, shape_of

GradOutput: TypeAlias = float | Sequence[float] | None
WRT = ("input", "target", "weight", "pos_weight")

# No traps: 0·inf is NaN and an overflow is an infinity, as in the IEEE arithmetic that is judged.
_CONTEXT = Context(prec=50, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_ZERO, _ONE, _INFINITY, _NAN = Decimal(0), Decimal(1), Decimal("Infinity"), Decimal("NaN")


class Answer(NamedTuple):
    """A shape and its values, flat in row-major order, each the float64 next to the exact value."""

    shape: tuple[int, ...]
    values: tuple[float, ...]


class Element(NamedTuple):
    """One class of one row, weighted but before any divisor: exact values, and the sizes that bounds need."""

    observed: bool
    loss: Decimal
    gradient: Decimal
    curvature: Decimal
    d_target: Decimal
    d_weight: Decimal
    d_pos_weight: Decimal
    # The fields below are floats, all without the weight.
    hard: bool  # the target is 0 or 1 without smoothing: one of the two coefficients is 0
    w: float  # the weight
    p: float | None  # the positive weight, if there is one
    y: float
    a: float  # |x|
    e: float  # exp(-a)
    s: float  # e/(1+e)
    L: float  # log1p(e)
    t: float  # coefficient of the linear part
    q: float  # size of the smooth part's coefficient, Σ|terms|: exactly 1 if it is not computed
    linear: float  # a·|t|, 0 where t is 0
    smooth: float  # q·L


class _Smooth(NamedTuple):
    """The terms of the formula at one logit, from a single exp and a single ln, which are most of the cost."""

    up: Decimal  # softplus(x)
    down: Decimal  # softplus(-x)
    on: Decimal  # σ(x)
    off: Decimal  # σ(-x)
    e: Decimal  # exp(-|x|)


def _smooth(x: Decimal) -> _Smooth:
    """To 35 digits and more, for a finite, infinite or NaN logit; run it inside a decimal context."""
    if x.is_nan():
        return _Smooth(_NAN, _NAN, _NAN, _NAN, _NAN)
    a = abs(x)
    e = (-a).exp()
    # 1 + e would drop digits of a small e; the series is good to 1e-43 from 20 on.
    low = e - e * e / 2 + e * e * e / 3 - e * e * e * e / 4 if a > 20 else (1 + e).ln()
    rare, usual = e / (1 + e), 1 / (1 + e)
    return _Smooth(a + low, low, usual, rare, e) if x >= 0 else _Smooth(low, a + low, rare, usual, e)


def _gradient(x: Decimal, on: Decimal, off: Decimal, smooth: _Smooth) -> Decimal:
    """off·σ(x) - on·σ(-x); near 0 by σ(x) - 1/2, because with a target of 1/2 the two cancel completely there."""
    if abs(x) < Decimal("1e-8"):
        return (off - on) / 2 + (off + on) * (x / 4 - x**3 / 48 + x**5 / 480)
    return off * smooth.on - on * smooth.off


def _times(coefficient: Decimal, value: Decimal) -> Decimal:
    """A term of the loss: an infinite softplus with a coefficient of exactly 0 gives 0, not NaN."""
    return _ZERO if coefficient == 0 and value.is_infinite() else coefficient * value


@functools.lru_cache(maxsize=1 << 17)
def element(x: float, y: float, w: float, p: float | None, smoothing: float) -> Element:
    """Everything about one observed class; `p` is None where no positive weight was given."""
    with localcontext(_CONTEXT):
        X, Y, W, P, eps = Decimal(x), Decimal(y), Decimal(w), Decimal(1.0 if p is None else p), Decimal(smoothing)
        on_coefficient, off_coefficient = P * (Y * (1 - eps) + eps / 2), (1 - Y) * (1 - eps) + eps / 2
        smooth = _smooth(X)
        up, down, on, off, _ = smooth
        small, s = (_NAN, _NAN) if math.isnan(x) else (min(down, up), min(on, off))
        bracket = _times(on_coefficient, down) + _times(off_coefficient, up)
        coefficient = _ONE if p is None else off_coefficient + on_coefficient
        # p·softplus(-x) - softplus(x) with softplus(-x) - softplus(x) = -x inserted: no cancellation near x = 0
        by_target = (P - 1) * down - X if math.isfinite(x) and p is not None else (-X if x >= 0 else -P * X)
        t = float(off_coefficient if x >= 0 else on_coefficient)
        size = 1.0 if p is None and smoothing == 0 else float(abs(off_coefficient) + abs(on_coefficient))
        a = abs(x)
        return Element(
            observed=True,
            loss=W * bracket,
            gradient=_NAN if math.isnan(x) else W * _gradient(X, on_coefficient, off_coefficient, smooth),
            curvature=W * coefficient * on * off,
            d_target=(1 - eps) * W * by_target,
            d_weight=bracket,
            d_pos_weight=W * _times(Y * (1 - eps) + eps / 2, down),
            hard=smoothing == 0 and y in (0.0, 1.0),
            w=w,
            p=p,
            y=y,
            a=a,
            e=float(smooth.e),
            s=float(s),
            L=float(small),
            t=t,
            q=size,
            linear=0.0 if t == 0 else a * abs(t),
            smooth=size * float(small),
        )


MASKED = element(0.0, 0.0, 0.0, None, 0.0)._replace(observed=False)
"""A masked class: it contributes nothing, and its derivatives are exactly 0."""


def broadcast_indices(shape: tuple[int, ...], to: tuple[int, ...]) -> Iterator[int]:
    """For each row-major position of `to`, the flat position in an argument of `shape` that broadcasts to it."""
    padded = (1,) * (len(to) - len(shape)) + shape
    strides, step = [0] * len(to), 1
    for axis in reversed(range(len(to))):
        strides[axis] = step if padded[axis] != 1 else 0
        step *= padded[axis]

    def walk(axis: int, start: int) -> Iterator[int]:
        if axis == len(to):
            yield start
            return
        for i in range(to[axis]):
            yield from walk(axis + 1, start + i * strides[axis])

    return walk(0, 0)


@functools.lru_cache(maxsize=512)
def row_indices(case: Case) -> list[int]:
    """For each row-major position of the input, the flat position of its row in the batch shape."""
    axis = case.axis % len(case.input.shape)
    inner = math.prod(case.input.shape[axis + 1 :])
    return [i // (inner * case.classes) * inner + i % inner for i in range(len(case.input.values))]


@functools.lru_cache(maxsize=512)
def elements(case: Case) -> tuple[Element, ...]:
    """The elements of a case in the row-major order of its input."""
    shape, count = case.input.shape, len(case.input.values)

    def spread(argument: Tensor | Number | Nested | None, default: float | None) -> list[float | None]:
        if argument is None:
            return [default] * count
        values = flat(argument)
        return [values[i] for i in broadcast_indices(shape_of(argument), shape)]

    weights, positives = spread(case.weight, 1.0), spread(case.pos_weight, None)
    observed = spread(case.where, 1.0)
    smoothing = float(case.label_smoothing)
    return tuple(
        element(float(x), float(y), float(w or 0.0), p, smoothing) if m else MASKED
        for x, y, w, p, m in zip(case.input.values, case.target.values, weights, positives, observed, strict=True)
    )


class Counts(NamedTuple):
    """How many classes of each row are observed, and how many rows have one."""

    classes: tuple[int, ...]
    rows: int


@functools.lru_cache(maxsize=512)
def counts(case: Case) -> Counts:
    """The divisors of a case."""
    classes = [0] * math.prod(case.batch)
    for row, item in zip(row_indices(case), elements(case), strict=True):
        classes[row] += item.observed
    return Counts(tuple(classes), sum(count > 0 for count in classes))


def _rows(case: Case) -> list[Decimal]:
    total = [_ZERO] * math.prod(case.batch)
    for row, item in zip(row_indices(case), elements(case), strict=True):
        total[row] += item.loss
    return [value / count if count else _ZERO for value, count in zip(total, counts(case).classes, strict=True)]


def rows(case: Case) -> Answer:
    """The row losses, shaped like the batch: `loss` with reduction "none"."""
    return loss(case, "none")


def loss(case: Case, reduction: str) -> Answer:
    """The loss with `reduction` "none", "sum" or "mean"."""
    with localcontext(_CONTEXT):
        row = _rows(case)
        if reduction == "none":
            return Answer(case.batch, tuple(map(float, row)))
        total = sum(row, _ZERO)
        if reduction == "mean":
            number = counts(case).rows
            total = total / number if number else (_NAN if case.where is None else _ZERO)
        return Answer((), (float(total),))


def pull(case: Case, reduction: str, grad_output: GradOutput = None) -> list[Decimal]:
    """The factor of each row's derivative: grad_output over the batch divisor and the row's class divisor."""
    with localcontext(_CONTEXT):
        classes, number = counts(case)
        given = 1.0 if grad_output is None else grad_output
        if isinstance(given, Sequence):
            outer = [Decimal(float(value)) for value in given]
        else:
            outer = [Decimal(float(given))] * len(classes)
        if reduction == "mean" and number:
            outer = [value / number for value in outer]
        pulled = (value / count if count else _ZERO for value, count in zip(outer, classes, strict=True))
        known: dict[Decimal, Decimal] = {}
        return [known.setdefault(value, value) for value in pulled]  # equal ones are one object, see `_spread`


def _spread(case: Case, reduction: str, grad_output: GradOutput, part: Callable[[Element], Decimal]) -> Answer:
    with localcontext(_CONTEXT):
        factor = pull(case, reduction, grad_output)
        known: dict[tuple[int, int], float] = {}  # by identity: large cases repeat few elements
        values = []
        for row, item in zip(row_indices(case), elements(case), strict=True):
            key = (id(item), id(factor[row]))
            if key not in known:
                known[key] = float(part(item) * factor[row]) if item.observed else 0.0
            values.append(known[key])
        return Answer(case.input.shape, tuple(values))


def _collect(
    case: Case,
    reduction: str,
    grad_output: GradOutput,
    shape: tuple[int, ...],
    part: Callable[[Element], Decimal],
) -> Answer:
    with localcontext(_CONTEXT):
        factor = pull(case, reduction, grad_output)
        total = [_ZERO] * math.prod(shape)
        places = broadcast_indices(shape, case.input.shape)
        for place, row, item in zip(places, row_indices(case), elements(case), strict=True):
            if item.observed:
                total[place] += part(item) * factor[row]
        return Answer(shape, tuple(map(float, total)))


def grad(case: Case, reduction: str, wrt: str = "input", grad_output: GradOutput = None) -> Answer:
    """d(loss)/d(wrt) times `grad_output` (a number, or one per row for "none"), shaped like that argument."""
    if wrt == "input":
        return _spread(case, reduction, grad_output, lambda e: e.gradient)
    if wrt == "target":
        return _spread(case, reduction, grad_output, lambda e: e.d_target)
    if wrt == "weight" and case.weight is not None:
        return _collect(case, reduction, grad_output, shape_of(case.weight), lambda e: e.d_weight)
    if wrt == "pos_weight" and case.pos_weight is not None:
        return _collect(case, reduction, grad_output, shape_of(case.pos_weight), lambda e: e.d_pos_weight)
    raise ValueError(f"`wrt` names one of {WRT} that the case has, not {wrt!r}")


def hessian_diag(case: Case, reduction: str) -> Answer:
    """The diagonal of d²(loss)/d(input)², shaped like the input."""
    return _spread(case, reduction, None, lambda e: e.curvature)
