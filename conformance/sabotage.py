"""Wrong losses on purpose: every known numeric mistake as an implementation (and, where the row seam can hold it, a kernel).

`Own` is a conforming loss in another formula than the package's (two softplus terms, two logistic functions, computed with
care); each `Sabotage` is `Own` with one thing wrong, in the loss, the gradient and the Hessian alike.  Written with the Array API
only, so that it runs on every backend.  It tests the tester: refuses to be used for anything else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy

from .backends import Backend
from .subjects import Subject

HALVES = ("float16", "bfloat16")


class Own(Subject):
    """A conforming loss of one's own."""

    name = "own formula"
    kernel = "own"
    offers = frozenset({"loss", "gradient", "hessian"})

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._xp = backend.module()

    # -------------------------------------------------------- the steps; each sabotage replaces one

    def compute(self, *floats: Any) -> Any:
        """The dtype of the arithmetic: never narrower than float32."""
        xp = self._xp
        wide = any(self._backend.dtype_of(a) == "float64" for a in floats)
        return xp.float64 if wide else xp.float32

    def cast_target(self, y: Any, x: Any, dtype: Any) -> Any:
        """Targets in the compute dtype, straight from their own."""
        return self._xp.astype(y, dtype)

    def softplus(self, z: Any) -> Any:
        """log(1 + exp z) = max(z, 0) + log1p(exp(-|z|)): both terms >= 0."""
        xp = self._xp
        positive = xp.where(z > 0, z, xp.zeros_like(z))
        return positive + xp.log1p(xp.exp(-xp.abs(z)))

    def sigmoid(self, z: Any) -> Any:
        """The logistic function, with all its digits on both sides."""
        xp = self._xp
        e = xp.exp(-xp.abs(z))
        return xp.where(z >= 0, xp.ones_like(e), e) / (1 + e)

    def term(self, coefficient: Any, value: Any) -> Any:
        """coefficient * value, where a coefficient of 0 takes an infinite value away."""
        xp = self._xp
        gone = (coefficient == 0) & xp.isinf(value)
        return coefficient * xp.where(gone, xp.zeros_like(value), value)

    def coefficients(self, y: Any, p: Any, eps: float) -> tuple[Any, Any]:
        """Of softplus(-x) and of softplus(x), each formed from y itself."""
        on, off = y, 1 - y
        if eps:
            on, off = y * (1 - eps) + eps / 2, off * (1 - eps) + eps / 2
        return (on if p is None else p * on), off

    def element(self, x: Any, on: Any, off: Any) -> Any:
        """The loss of each element."""
        return self.term(on, self.softplus(-x)) + self.term(off, self.softplus(x))

    def slope(self, x: Any, on: Any, off: Any) -> Any:
        """Its derivative, (on + off)*sigmoid(±x) away from the target's side, so that no digit cancels."""
        xp = self._xp
        far = self.sigmoid(-xp.abs(x))
        return xp.where(x >= 0, off - (on + off) * far, (on + off) * far - on)

    def curvature(self, x: Any, on: Any, off: Any) -> Any:
        """Its second derivative."""
        return (on + off) * (self.sigmoid(x) * self.sigmoid(-x))

    def total(self, values: Any, axis: int | None) -> Any:
        """A sum in the widest dtype that the device has."""
        xp = self._xp
        wide = xp.float64 if "float64" in self._backend.capabilities else values.dtype
        return xp.sum(values, axis=axis, dtype=wide)

    def class_mean(self, values: Any, w: Any, m: Any) -> Any:
        """The mean over the (observed) classes of the weighted elements."""
        xp = self._xp
        if w is not None:
            values = w * values
        if m is None:
            return self.total(values, -1) / values.shape[-1]
        values = xp.where(m, values, xp.zeros_like(values))
        return self.total(values, -1) / self.classes(values, m)

    def classes(self, like: Any, m: Any) -> Any:
        """How many classes of each row are observed, 1 where none is."""
        xp = self._xp
        seen = xp.sum(xp.where(m, xp.ones_like(like), xp.zeros_like(like)), axis=-1)
        return xp.where(seen == 0, xp.ones_like(seen), seen)

    def reduce(self, rows: Any, m: Any, reduction: str, count: Any, classes: int) -> Any:
        """none, the sum of the rows, or their mean."""
        if reduction == "none":
            return rows
        total = self.total(rows, None)
        return total / count if reduction == "mean" else total

    def share(self, reduction: str, count: Any, classes: Any, own: int) -> Any:
        """What each element's derivative is divided by: the class count, and for the mean the row count."""
        return classes * count if reduction == "mean" else classes

    def last(self, a: Any, axis: int, ndim: int) -> Any:
        """The class axis moved to the end."""
        if axis % ndim == ndim - 1 or a.ndim == 0:
            return a
        if a.ndim < ndim:
            a = a[(*(None,) * (ndim - a.ndim), ...)]
        return self._xp.moveaxis(a, axis % ndim, -1)

    # -------------------------------------------------------- the whole

    def _given(self, given: dict[str, Any]) -> dict[str, Any]:
        xp = self._xp
        x, y, axis = given["input"], given["target"], given.get("axis", -1)
        ndim = x.ndim
        floats = [x, *(a for a in (y, given.get("weight"), given.get("pos_weight")) if self._floating(a))]
        dtype = self.compute(*floats)
        loss_dtype = xp.result_type(*(a.dtype for a in floats))
        out: dict[str, Any] = {"dtype": x.dtype, "loss_dtype": loss_dtype, "axis": axis % ndim, "ndim": ndim}
        m = given.get("where")
        out["m"] = (
            None if m is None else self.last(m, axis, ndim) | xp.zeros_like(self.last(x, axis, ndim), dtype=xp.bool)
        )
        for name in ("weight", "pos_weight"):
            value = given.get(name)
            if value is not None and not self._array(value):
                value = xp.asarray(value, dtype=dtype, device=self._device(x))
            out[name] = None if value is None else self.masked(xp.astype(self.last(value, axis, ndim), dtype), out["m"])
        out["x"] = self.masked(xp.astype(self.last(x, axis, ndim), dtype), out["m"])
        out["y"] = self.masked(self.last(self.cast_target(y, x, dtype), axis, ndim), out["m"])
        out["reduction"] = given.get("reduction", "mean")
        out["eps"] = given.get("label_smoothing", 0.0)
        rows = xp.sum(xp.ones_like(out["x"][..., 0]))
        if out["m"] is not None:
            observed = xp.any(out["m"], axis=-1)
            rows = xp.sum(xp.where(observed, xp.ones_like(out["x"][..., 0]), xp.zeros_like(out["x"][..., 0])))
            rows = xp.where(rows == 0, xp.ones_like(rows), rows)
        out["rows"] = rows
        return out

    def masked(self, a: Any, m: Any) -> Any:
        """0 where nothing was observed, whatever stood there."""
        return a if m is None else self._xp.where(m, a, self._xp.zeros_like(a))

    def _array(self, value: Any) -> bool:
        return not isinstance(value, (int, float, list, tuple))

    def _floating(self, value: Any) -> bool:
        return (
            value is not None
            and self._array(value)
            and self._backend.dtype_of(value) in (*HALVES, "float32", "float64")
        )

    def _device(self, x: Any) -> Any:
        import array_api_compat

        return array_api_compat.device(x)

    def loss(self, **given: Any) -> Any:
        with numpy.errstate(all="ignore"):  # the contract wants silence; on libraries without flags it does nothing
            return self._loss(given)

    def _loss(self, given: dict[str, Any]) -> Any:
        xp = self._xp
        g = self._given(given)
        on, off = self.coefficients(g["y"], g["pos_weight"], g["eps"])
        rows = self.class_mean(self.element(g["x"], on, off), g["weight"], g["m"])
        value = self.reduce(rows, g["m"], g["reduction"], g["rows"], g["x"].shape[-1])
        return xp.astype(xp.astype(value, g["x"].dtype), g["loss_dtype"])

    def _derivative(self, given: dict[str, Any], which: Callable[..., Any]) -> Any:
        xp = self._xp
        g = self._given(given)
        on, off = self.coefficients(g["y"], g["pos_weight"], g["eps"])
        value = which(g["x"], on, off)
        if g["weight"] is not None:
            value = g["weight"] * value
        own = g["x"].shape[-1]
        classes: Any = own if g["m"] is None else self.classes(g["x"], g["m"])[..., None]
        value = self.masked(value / self.share(g["reduction"], g["rows"], classes, own), g["m"])
        if g["axis"] != g["ndim"] - 1:
            value = self.back(value, g["axis"])
        return xp.astype(value, g["dtype"])

    def back(self, value: Any, axis: int) -> Any:
        """The class axis moved back to where it was."""
        return self._xp.moveaxis(value, -1, axis)

    def grad(self, **given: Any) -> Any:
        with numpy.errstate(all="ignore"):
            return self._derivative(given, self.slope)

    def hessian_diag(self, **given: Any) -> Any:
        with numpy.errstate(all="ignore"):
            return self._derivative(given, self.curvature)


@dataclasses.dataclass(frozen=True)
class Sabotage:
    """One mistake: what it is called, what it does, and the checks that must name it."""

    name: str
    meaning: str
    caught_by: tuple[str, ...]
    make: type[Own]
    needs: frozenset[str] = frozenset()
    """Where none of these dtypes exists, nobody can make the mistake."""


_found: list[Sabotage] = []


def sabotage(meaning: str, *caught_by: str, needs: tuple[str, ...] = ()) -> Callable[[type[Own]], type[Own]]:
    """Enter a class into the list."""

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
    def slope(self, x: Any, on: Any, off: Any) -> Any:
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

    def slope(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        far = self.sigmoid(-xp.abs(x))
        # The same carelessness in a derivative: a factor that meets an infinite logit.
        return xp.where(x >= 0, off - (on + off) * far, (on + off) * far - on) + 0 * x

    def curvature(self, x: Any, on: Any, off: Any) -> Any:
        return super().curvature(x, on, off) + 0 * x


@sabotage("sign(x) for 2*[x >= 0] - 1", "special.zero")
class SignOfZero(Own):
    def slope(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        far = self.sigmoid(-xp.abs(x))
        return xp.sign(x) * (xp.where(x >= 0, off, on) - (on + off) * far)

    def element(self, x: Any, on: Any, off: Any) -> Any:
        xp = self._xp
        # sign(0)*sign(0) = 0 takes the smooth part away at 0 too.
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
"""Mistakes that the row seam can hold: a kernel sees no reduction, so it can get none wrong."""


def as_kernel(make: type[Own], backend: Backend, name: str) -> Any:
    """A kernel of mlsm whose rows and pullbacks are those of an implementation here."""
    from mlsm import Kernel

    own = make(backend)

    def given(o: Any) -> dict[str, Any]:
        out = {"input": o.x, "target": o.y, "weight": o.w, "pos_weight": o.p, "where": o.m, "label_smoothing": o.eps}
        return {**out, "reduction": "none"}

    def rows(o: Any) -> Any:
        return o.xp.astype(own.loss(**given(o)), o.dtype)

    def pulled(o: Any, g: Any, which: Callable[..., Any]) -> Any:
        slope = o.xp.astype(own._derivative(given(o), which), o.dtype)
        scaled = slope * o.xp.astype(g, o.dtype)[..., None]
        return o.xp.astype(own.masked(scaled, None if o.m is None else o.m), o.x.dtype)

    return Kernel(
        name,
        (backend.library,),
        lambda problem: None,
        rows,
        lambda o, g: pulled(o, g, own.slope),
        None,
        lambda o, g: pulled(o, g, own.curvature),
    )
