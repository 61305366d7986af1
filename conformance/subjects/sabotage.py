"""Losses that are wrong on purpose: each known numeric mistake as an implementation, and as a kernel if possible.

Each `Sabotage` is `Own` with one mistake, in the loss, the gradient and the Hessian alike.  It tests the suite and
has no other use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ..backends import Backend
from .reference_impl import HALVES, Own


@dataclasses.dataclass(frozen=True)
class Sabotage:
    """One mistake: its name, its implementation, and the checks that must find it."""

    name: str
    meaning: str
    caught_by: tuple[str, ...]
    make: type[Own]
    needs: frozenset[str] = frozenset()
    """The mistake is possible only if one of these dtypes exists."""


_found: list[Sabotage] = []


def sabotage(meaning: str, *caught_by: str, needs: tuple[str, ...] = ()) -> Callable[[type[Own]], type[Own]]:
    """Add a class to the list."""

    def enter(cls: type[Own]) -> type[Own]:
        cls.name = "sabotage: " + "-".join(_words(cls.__name__))
        _found.append(Sabotage("-".join(_words(cls.__name__)), meaning, caught_by, cls, frozenset(needs)))
        return cls

    return enter


def _words(name: str) -> list[str]:
    words: list[str] = []
    for letter in name:
        if letter.isupper() or not words:
            words.append("")
        words[-1] += letter.lower()
    return words


# ------------------------------------------------------------ mistakes of the formula


@sabotage("loss max(x,0) - x*y + L", "values.soft-tail")
class MaxForm(Own):
    def element(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        rest = xp.log1p(xp.exp(-xp.abs(x)))
        return (on + off) * xp.where(x > 0, x, xp.zeros_like(x)) - x * on + (on + off) * rest


@sabotage("loss (1-y)*x + softplus(-x)", "values.tail")
class BceForm(Own):
    def element(self, x: Any, on: Any, off: Any) -> Any:
        return off * x + (on + off) * self.softplus(-x)


@sabotage("gradient sigma(x) - y", "derivatives.tail")
class SigmaMinusTarget(Own):
    def gradient(self, x: Any, on: Any, off: Any) -> Any:
        return (on + off) * self.sigmoid(x) - on


@sabotage("Hessian sigma(x)*(1 - sigma(x))", "derivatives.tail")
class SigmaOneMinusSigma(Own):
    def curvature(self, x: Any, on: Any, off: Any) -> Any:
        s = self.sigmoid(x)
        return (on + off) * (s * (1 - s))


@sabotage("the guard of 0*inf dropped", "special.infinite")
class GuardDropped(Own):
    def term(self, coefficient: Any, value: Any) -> Any:
        return coefficient * value

    def gradient(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        far = self.sigmoid(-xp.abs(x))
        # The same mistake in a derivative: a factor that multiplies an infinite logit.
        return xp.where(x >= 0, off - (on + off) * far, (on + off) * far - on) + 0 * x

    def curvature(self, x: Any, on: Any, off: Any) -> Any:
        return super().curvature(x, on, off) + 0 * x


@sabotage("sign(x) for 2*[x >= 0] - 1", "special.zero")
class SignOfZero(Own):
    def gradient(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        far = self.sigmoid(-xp.abs(x))
        return xp.sign(x) * (xp.where(x >= 0, off, on) - (on + off) * far)

    def element(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        # sign(0)*sign(0) = 0 removes the smooth part at 0 too.
        side = xp.sign(x)
        linear = self.term(xp.where(x >= 0, off, on), xp.abs(x))
        return linear + (on + off) * xp.log1p(xp.exp(-xp.abs(x))) * xp.where(side == 0, side, xp.ones_like(side))

    def curvature(self, x: Any, on: Any, off: Any) -> Any:
        return self._xp.abs(self._xp.sign(x)) * super().curvature(x, on, off)


# ------------------------------------------------------------ mistakes of dtype


@sabotage("half precision computed in half precision", "values.hard", "derivatives.hard", needs=HALVES)
class UpcastDropped(Own):
    def compute(self, *floats: Any) -> Any:
        return self._xp.result_type(*(a.dtype for a in floats))


@sabotage("targets cast down to the input's dtype", "values.dtypes", "derivatives.dtypes", needs=(*HALVES, "float64"))
class TargetCastDown(Own):
    def cast_target(self, y: Any, x: Any, dtype: Any) -> Any:
        return self._xp.astype(self._xp.astype(y, x.dtype), dtype)


@sabotage("sums in a running float32", "values.accumulation")
class NarrowAccumulator(Own):
    def total(self, values: Any, axis: int | None) -> Any:
        xp = self._xp
        if axis is not None or values.ndim != 1 or math.isnan(values.shape[0] or 0) or values.shape[0] > 512:
            return xp.sum(values, axis=axis)
        running = xp.zeros_like(values[0:1])
        for i in range(values.shape[0]):
            running = running + values[i : i + 1]
        return running[0]

    def class_mean(self, values: Any, w: Any, m: Any) -> Any:
        return self._xp.astype(super().class_mean(values, w, m), values.dtype)


# ------------------------------------------------------------ mistakes of weights and divisors


@sabotage("weight applied after the class mean", "values.weight", "derivatives.weight")
class WeightAfterMean(Own):
    def class_mean(self, values: Any, w: Any, m: Any) -> Any:
        rows = super().class_mean(values, None, m)
        return rows if w is None else rows * self._mean(w, rows)

    def _mean(self, w: Any, rows: Any) -> Any:
        return self._xp.mean(w, axis=-1) if w.ndim else w

    def _derivative(self, given: dict[str, Any], which: Callable[..., Any]) -> Any:
        w = given.get("weight")
        if w is None or not self._array(w) or not w.ndim:
            return super()._derivative(given, which)
        return super()._derivative({**given, "weight": self._xp.mean(w, axis=-1, keepdims=True)}, which)


@sabotage("weighted mean divided by the sum of the weights", "values.weight", "derivatives.weight")
class DividedByWeights(Own):
    def _normal(self, given: dict[str, Any]) -> dict[str, Any]:
        w = given.get("weight")
        if w is None or not self._array(w) or not w.ndim:
            return given
        xp = self._xp
        wide = xp.astype(w, self.compute(given["input"], w))
        spread = wide + xp.zeros_like(given["input"], dtype=wide.dtype)
        return {**given, "weight": xp.astype(spread / xp.mean(spread), w.dtype)}

    def loss(self, **given: Any) -> Any:
        return super().loss(**self._normal(given))

    def _derivative(self, given: dict[str, Any], which: Callable[..., Any]) -> Any:
        return super()._derivative(self._normal(given), which)


@sabotage("sum over all elements instead of class means", "values.plain", "derivatives.plain")
class SumOfElements(Own):
    def reduce(self, rows: Any, m: Any, reduction: str, count: Any, classes: int) -> Any:
        value = super().reduce(rows, m, reduction, count, classes)
        return value * classes if reduction == "sum" else value

    def share(self, reduction: str, count: Any, classes: Any, own: int) -> Any:
        return super().share(reduction, count, classes, own) / (own if reduction == "sum" else 1)


@sabotage("class axis 0 whatever was asked", "values.plain", "derivatives.plain")
class ClassAxisZero(Own):
    def loss(self, **given: Any) -> Any:
        return super().loss(**{**given, "axis": 0})

    def _derivative(self, given: dict[str, Any], which: Callable[..., Any]) -> Any:
        return super()._derivative({**given, "axis": 0}, which)


@sabotage("pos_weight multiplies the whole element", "values.pos_weight", "derivatives.pos_weight")
class PosWeightOnAll(Own):
    def coefficients(self, y: Any, p: Any, eps: float) -> tuple[Any, Any]:
        on, off = super().coefficients(y, None, eps)
        return (on, off) if p is None else (p * on, p * off)


@sabotage("derivatives without 1/N", "derivatives.plain")
class NoBatchDivisor(Own):
    def share(self, reduction: str, count: Any, classes: Any, own: int) -> Any:
        return classes


@sabotage("the mask applied to the value but not to the divisor", "values.where", "derivatives.where")
class MaskNotInDivisor(Own):
    def classes(self, like: Any, m: Any) -> Any:
        return self._xp.sum(self._xp.ones_like(like), axis=-1)


SABOTAGES: tuple[Sabotage, ...] = tuple(_found)

EMULATED_ONLY = {
    "sequential-sum": "sums in float64, one term after the other, where libraries sum pairwise",
    "bad-exp": "an exp that is 8 ULP off, more than any budget allows",
}
"""Mistakes of a library's arithmetic that no array library here makes: the test of the judges emulates them."""

# ------------------------------------------------------------ the same mistakes as kernels

ROW_LEVEL = (
    "max-form",
    "bce-form",
    "sigma-minus-target",
    "sigma-one-minus-sigma",
    "guard-dropped",
    "sign-of-zero",
    "weight-after-mean",
    "pos-weight-on-all",
    "mask-not-in-divisor",
)
"""Mistakes that a kernel can make: it does not compute reductions, so it cannot get them wrong."""


def as_kernel(make: type[Own], backend: Backend, name: str) -> Any:
    """A kernel of mlsm whose rows and pullbacks are those of one of these implementations."""
    from mlsm import Kernel

    own = make(backend)

    def given(o: Any) -> dict[str, Any]:
        out = {"input": o.x, "target": o.y, "weight": o.w, "pos_weight": o.p, "where": o.m, "label_smoothing": o.eps}
        return {**out, "reduction": "none"}

    def rows(o: Any) -> Any:
        return o.xp.astype(own.loss(**given(o)), o.dtype)

    def pulled(o: Any, g: Any, which: Callable[..., Any]) -> Any:
        gradient = o.xp.astype(own._derivative(given(o), which), o.dtype)
        scaled = gradient * o.xp.astype(g, o.dtype)[..., None]
        return o.xp.astype(own.masked(scaled, None if o.m is None else o.m), o.x.dtype)

    return Kernel(
        name,
        (backend.library,),
        lambda problem: None,
        rows,
        lambda o, g: pulled(o, g, own.gradient),
        None,
        lambda o, g: pulled(o, g, own.curvature),
    )
