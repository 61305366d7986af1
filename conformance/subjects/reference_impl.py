"""A conforming loss by another formula than the package's: two softplus terms and two logistic functions.

Accurate, and written with the Array API only, so that it runs on every backend.  It shows that the suite judges a
contract and not a formula, and each sabotage is this loss with one mistake.  Not meant to be fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ..backends import Backend
from .base import Subject

HALVES = ("float16", "bfloat16")


class Own(Subject):
    """A conforming loss by another formula."""

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
        """Targets in the compute dtype, cast directly from their own."""
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
        """coefficient * value, but 0 if the coefficient is 0 and the value is infinite."""
        xp = self._xp
        gone = (coefficient == 0) & xp.isinf(value)
        return coefficient * xp.where(gone, xp.zeros_like(value), value)

    def coefficients(self, y: Any, p: Any, eps: float) -> tuple[Any, Any]:
        """The coefficients of softplus(-x) and of softplus(x), each formed from y itself."""
        on, off = y, 1 - y
        if eps:
            on, off = y * (1 - eps) + eps / 2, off * (1 - eps) + eps / 2
        return (on if p is None else p * on), off

    def element(self, x: Any, on: Any, off: Any) -> Any:
        """The loss of each element."""
        return self.term(on, self.softplus(-x)) + self.term(off, self.softplus(x))

    def gradient(self, x: Any, on: Any, off: Any) -> Any:
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
        """The divisor of each element's derivative: the class count, and for the mean also the row count."""
        return classes * count if reduction == "mean" else classes

    def class_axis_last(self, a: Any, axis: int, ndim: int) -> Any:
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
            None
            if m is None
            else self.class_axis_last(m, axis, ndim) | xp.zeros_like(self.class_axis_last(x, axis, ndim), dtype=xp.bool)
        )
        for name in ("weight", "pos_weight"):
            value = given.get(name)
            if value is not None and not self._array(value):
                value = xp.asarray(value, dtype=dtype, device=self._device(x))
            out[name] = (
                None
                if value is None
                else self.masked(xp.astype(self.class_axis_last(value, axis, ndim), dtype), out["m"])
            )
        out["x"] = self.masked(xp.astype(self.class_axis_last(x, axis, ndim), dtype), out["m"])
        out["y"] = self.masked(self.class_axis_last(self.cast_target(y, x, dtype), axis, ndim), out["m"])
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
        """0 where an entry is masked, whatever its value is."""
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
        with numpy.errstate(all="ignore"):  # the contract forbids warnings; some libraries have no flags
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
            return self._derivative(given, self.gradient)

    def hessian_diag(self, **given: Any) -> Any:
        with numpy.errstate(all="ignore"):
            return self._derivative(given, self.curvature)
