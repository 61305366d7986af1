"""The judge of the oracle: mpmath at 160 bits and more, two independent formulas that must agree.

`loss`, `grad` and `hessian_diag` mirror the oracle's and return mpmath numbers. Formula A is the expanded logarithm
of the logistic function, formula B the maximum form with hyperbolic functions; each loses its digits in machine
precision and is exact here, and a disagreement raises. Not needed at run time: results are frozen in `golden`.

Run as ``python -m mlsm_conformance.reference.exact`` it writes the frozen table anew to standard output.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mpmath

from ..tensors import Case, flat, shape_of
from . import oracle
from .oracle import GradOutput

BITS = 160
_DEEP = 1500.0  # beyond it exp(-a) is below 2**-2000: smaller than any float64, and formula B would need too many bits


class Disagreement(ArithmeticError):
    """The two formulas differ by more than their precision allows."""


class Exact(NamedTuple):
    """The derivatives of one element without its weight, as mpmath numbers."""

    loss: Any
    gradient: Any
    curvature: Any
    d_target: Any
    d_pos_weight: Any


def _exp(z: Any) -> Any:
    """exp(z), or 0 if it is below 2**-10**7: reducing a huge argument takes seconds, and no float64 would change."""
    return mpmath.mpf(0) if z < -7e6 else mpmath.mp.exp(z)


def formula_a(x: Any, y: Any, p: Any, eps: Any) -> Exact:
    """-log σ(±x), spelled log1p(exp(∓x)); the gradient by the quotient of exponentials."""
    mp = mpmath.mp
    on, off = p * (y * (1 - eps) + eps / 2), (1 - y) * (1 - eps) + eps / 2
    down = mp.log1p(_exp(-x)) if x > -_DEEP else -x + _exp(x)
    up = mp.log1p(_exp(x)) if x < _DEEP else x + _exp(-x)
    right = 1 / (1 + _exp(-x)) if x > -_DEEP else _exp(x)
    left = 1 / (1 + _exp(x)) if x < _DEEP else _exp(-x)
    return Exact(
        on * down + off * up,
        off * right - on * left,
        (on + off) * right * left,
        (1 - eps) * (p * down - up),
        (y * (1 - eps) + eps / 2) * down,
    )


def formula_b(x: Any, y: Any, p: Any, eps: Any) -> Exact:
    """max(x, 0)·(sum of coefficients) - x·on + …, with log(2·cosh(x/2)) and tanh(x/2)."""
    mp = mpmath.mp
    smooth = y - eps * (y - mp.mpf(1) / 2)
    on, off = p * smooth, 1 - smooth
    if abs(x) < _DEEP:
        tail = mp.log(2 * mp.cosh(x / 2)) - abs(x) / 2
        gradient = mp.tanh(x / 2)
        bell = 1 / (4 * mp.cosh(x / 2) ** 2)
    else:
        tail = bell = _exp(-abs(x))
        gradient = mp.sign(x) * (1 - 2 * tail)
    both = on + off
    return Exact(
        max(x, mp.mpf(0)) * both - x * on + both * tail,
        both * (1 + gradient) / 2 - on,
        both * bell,
        (1 - eps) * ((p - 1) * (max(x, mp.mpf(0)) + tail) - p * x),
        smooth * (max(-x, mp.mpf(0)) + tail),
    )


@functools.lru_cache(maxsize=1 << 16)
def element(x: float, y: float, p: float, eps: float) -> Exact:
    """One finite element by both formulas, with the additional bits that their cancellations need."""
    smooth = y - eps * (y - 0.5)
    balanced = abs(p * smooth - (1 - smooth)) < 2.0**-40  # the gradient has its root next to x = 0
    depth = int(min(abs(x), _DEEP) * 1.5) + 120 + (2 * max(0, -math.frexp(x)[1]) if balanced else 0)
    with mpmath.workprec(BITS + depth):
        arguments = [mpmath.mpf(v) for v in (x, y, p, eps)]
        a, b = formula_a(*arguments), formula_b(*arguments)
        for name, one, other in zip(Exact._fields, a, b, strict=True):
            # in formula A the target's derivative is a difference of two terms of this size, in formula B it is not
            size = abs(p) + 1 if name == "d_target" else max(abs(one), mpmath.ldexp(1, -1990))
            if abs(one - other) > mpmath.ldexp(max(abs(one), size), -BITS + 20):
                raise Disagreement(f"{name} at x={x!r}, y={y!r}, p={p!r}, eps={eps!r}: {one} and {other}")
    return a._replace(d_target=b.d_target)


def _mean_vjp(case: Case, reduction: str, grad_output: GradOutput) -> list[Any]:
    classes, rows = oracle.counts(case)
    given = list(grad_output) if isinstance(grad_output, Sequence) else [1.0 if grad_output is None else grad_output]
    outer = [mpmath.mpf(float(g)) for g in given] * (len(classes) if len(given) == 1 else 1)
    number = rows if reduction == "mean" and rows else 1
    return [g / (number * count) if count else mpmath.mpf(0) for g, count in zip(outer, classes, strict=True)]


def _walk(case: Case) -> list[tuple[int, int, Any, Exact]]:
    """(position, row, weight, element) of every observed class; only finite data can be judged here."""
    shape, found = case.input.shape, []

    def spread(argument: Any, default: float) -> list[float]:
        if argument is None:
            return [default] * len(case.input.values)
        values = flat(argument)
        return [values[i] for i in oracle.broadcast_indices(shape_of(argument), shape)]

    columns = zip(
        oracle.row_indices(case),
        case.input.values,
        case.target.values,
        spread(case.weight, 1.0),
        spread(case.pos_weight, 1.0),
        spread(case.where, 1.0),
        strict=True,
    )
    for place, (row, x, y, w, p, observed) in enumerate(columns):
        if observed:
            item = element(float(x), float(y), p, float(case.label_smoothing))
            found.append((place, row, mpmath.mpf(w), item))
    return found


def is_finite(case: Case) -> bool:
    """Whether every logit and target that counts is finite, so that this judge applies."""
    return all(math.isfinite(e.a) and math.isfinite(e.y) for e in oracle.elements(case))


def loss(case: Case, reduction: str) -> list[Any]:
    """The values of `oracle.loss`, exactly."""
    with mpmath.workprec(BITS + 2200):
        pulled = _mean_vjp(case, "sum", None)
        rows = [mpmath.mpf(0)] * len(pulled)
        for _, row, w, item in _walk(case):
            rows[row] += w * item.loss * pulled[row]
        if reduction == "none":
            return rows
        number = oracle.counts(case).rows if reduction == "mean" else 1
        empty = mpmath.mpf("nan") if case.where is None else mpmath.mpf(0)
        return [mpmath.fsum(rows) / number if number else empty]


def grad(case: Case, reduction: str, wrt: str = "input", grad_output: GradOutput = None) -> list[Any]:
    """The values of `oracle.grad`, exactly."""
    parts: dict[str, Callable[[Any, Exact], Any]] = {
        "input": lambda w, e: w * e.gradient,
        "target": lambda w, e: w * e.d_target,
        "weight": lambda w, e: e.loss,
        "pos_weight": lambda w, e: w * e.d_pos_weight,
    }
    argument = {"weight": case.weight, "pos_weight": case.pos_weight}.get(wrt, case.input)
    assert argument is not None
    return _gather(case, reduction, grad_output, shape_of(argument), parts[wrt])


def hessian_diag(case: Case, reduction: str) -> list[Any]:
    """The values of `oracle.hessian_diag`, exactly."""
    return _gather(case, reduction, None, case.input.shape, lambda w, e: w * e.curvature)


def _gather(
    case: Case, reduction: str, grad_output: GradOutput, shape: tuple[int, ...], part: Callable[[Any, Exact], Any]
) -> list[Any]:
    with mpmath.workprec(BITS + 2200):
        pulled = _mean_vjp(case, reduction, grad_output)
        total = [mpmath.mpf(0)] * math.prod(shape)
        places = list(oracle.broadcast_indices(shape, case.input.shape))
        for place, row, w, item in _walk(case):
            total[places[place]] += part(w, item) * pulled[row]
        return total


def golden_points() -> list[tuple[float, float]]:
    """The (logit, target) pairs of the frozen table: thresholds, tails and roots that formulas lose."""
    from ..cases.catalogue import THRESHOLDS

    sizes = [0.0, 2.0**-1074, 2.0**-149, 2.0**-24, 0.25, 1.0, 2.5, 17.0, 20.0, 20.5, 40.0, 100.0, 700.0, 1e4]
    hard = [(sign * a, y) for a in [*sizes, *THRESHOLDS] for sign in (1.0, -1.0) for y in (0.0, 1.0)]
    soft = [0.1, 0.25, 0.5, 0.999, 1 - 2.0**-24, 2.0**-30, 2.0, -1.0]
    return [*hard, *((sign * a, y) for a in (0.0, 1.0, 17.0, 1e4) for sign in (1.0, -1.0) for y in soft)]


def golden_table() -> str:
    """The frozen table as JSON: [logit, target, loss, gradient, hessian] in hexadecimal, unit scale, float64."""
    lines = []
    for x, y in golden_points():
        item = element(x, y, 1.0, 0.0)
        numbers = [x, y, *(float(value) for value in (item.loss, item.gradient, item.curvature))]
        lines.append(json.dumps([number.hex() for number in numbers]))
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    sys.stdout.write(golden_table())
