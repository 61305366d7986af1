"""Whose loss is judged: mlsm's own (with a kernel or without), somebody else's function, or a planted one.

A subject is called with arrays and options and returns arrays.  It refuses what it does not offer by raising
`Declined`, with the reason, so that a check can tell "wrong" from "not claimed".
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..backends import Backend
from .peers import PEERS

OPTIONS = ("weight", "reduction", "pos_weight", "where", "label_smoothing", "axis")


class Declined(Exception):
    """The subject does not claim to serve this call."""


class NotImportable(Exception):
    """`--impl` names nothing that can be imported and called."""


class Subject:
    """A loss and what belongs to it, as functions of arrays."""

    name = "mlsm"
    kernel = "auto"
    offers: frozenset[str] = frozenset(
        {"loss", "gradient", "hessian", "value_and_grad", "arguments", "elements", "labels"}
    )
    options: frozenset[str] = frozenset(OPTIONS)

    def loss(self, **given: Any) -> Any:
        """The loss."""
        raise Declined(f"{self.name} has no loss")

    def grad(self, **given: Any) -> Any:
        """The vector-Jacobian product for `wrt`."""
        raise Declined(f"{self.name} has no gradient of its own")

    def value_and_grad(self, **given: Any) -> tuple[Any, Any]:
        """Loss and gradient in one pass."""
        raise Declined(f"{self.name} has no value_and_grad")

    def hessian_diag(self, **given: Any) -> Any:
        """The diagonal of the second derivative."""
        raise Declined(f"{self.name} has no Hessian of its own")

    def elements(self, **given: Any) -> Any:
        """The loss of each element, not averaged."""
        raise Declined(f"{self.name} has no elementwise loss")

    def linear(self, *arrays: Any, **given: Any) -> Any:
        """Loss and gradients of a linear head; and `Labels` are taken wherever a target is."""
        raise Declined(f"{self.name} has no linear head")

    def claims(self, given: Mapping[str, Any]) -> None:
        """Raise `Declined` where an option is asked for (not merely left at its default) that the subject lacks."""
        for option in ("weight", "pos_weight", "where"):
            if given.get(option) is not None and option not in self.options:
                raise Declined(f"{self.name} has no `{option}`")
        if given.get("label_smoothing") and "label_smoothing" not in self.options:
            raise Declined(f"{self.name} has no `label_smoothing`")
        if given.get("axis", -1) != -1 and "axis" not in self.options:
            raise Declined(f"{self.name} has no `axis`")


class Mlsm(Subject):
    """mlsm itself, by whichever kernel the dispatch chooses or by the one that is named."""

    def __init__(self, kernel: str | None = None) -> None:
        import mlsm

        self._mlsm = mlsm
        self._forced = kernel
        self.kernel = kernel or "auto"
        self.name = "mlsm" if kernel is None else f"mlsm[{kernel}]"

    def _call(self, function: Callable[..., Any], given: dict[str, Any]) -> Any:
        if self._forced is None:
            return function(**given)
        try:
            return function(**given, kernel=self._forced)
        except ValueError as error:
            # The one message that means "this kernel declines", which is a kernel's right.
            if str(error).startswith(f"`kernel` {self._forced!r} cannot serve this call"):
                raise Declined(str(error)) from error
            raise

    def loss(self, **given: Any) -> Any:
        return self._call(self._mlsm.multilabel_soft_margin_loss, given)

    def grad(self, **given: Any) -> Any:
        return self._call(self._mlsm.grad, given)

    def value_and_grad(self, **given: Any) -> tuple[Any, Any]:
        pair: tuple[Any, Any] = self._call(self._mlsm.value_and_grad, given)
        return pair

    def hessian_diag(self, **given: Any) -> Any:
        return self._call(self._mlsm.hessian_diag, given)

    def elements(self, **given: Any) -> Any:
        return self._call(self._mlsm.sigmoid_binary_cross_entropy, given)

    def linear(self, *arrays: Any, **given: Any) -> Any:
        names = ("input", "linear_weight", "target")
        return self._call(self._mlsm.linear_value_and_grad, {**dict(zip(names, arrays, strict=True)), **given})


class Foreign(Subject):
    """Somebody else's loss: `(input, target, weight=..., reduction=...)`, with its library's own derivatives."""

    def __init__(self, function: Callable[..., Any], name: str, backend: Backend) -> None:
        self._function = function
        self._backend = backend
        self.name = name
        self.kernel = "foreign"
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # a builtin without a signature: taken at the documented one
            taken = frozenset({"weight", "reduction"})
        else:
            taken = frozenset(parameters) & frozenset(OPTIONS)
        self.options = taken
        self.offers = frozenset({"loss"} | ({"gradient", "hessian"} if "autograd" in backend.capabilities else set()))

    def claims(self, given: Mapping[str, Any]) -> None:
        super().claims(given)
        if isinstance(given.get("weight"), (bool, int, float, list, tuple)):
            raise Declined(f"{self.name} is judged with arrays as weights: numbers and lists are mlsm's own extension")

    def loss(self, **given: Any) -> Any:
        self.claims(given)
        keywords = {
            k: v
            for k, v in given.items()
            if k in self.options
            and v is not None
            and not (k == "axis" and v == -1)
            and not (k == "label_smoothing" and not v)
        }
        if given.get("reduction", "mean") != "none" and "reduction" not in self.options:
            raise Declined(f"{self.name} has no `reduction`")
        return self._function(given["input"], given["target"], **keywords)

    def grad(self, **given: Any) -> Any:
        if given.pop("wrt", "input") != "input":
            raise Declined(f"{self.name}: only its gradient for `input` is judged")
        cotangent = given.pop("grad_output", None)
        arrays = (given.pop("input"), given.pop("target"))
        return self._backend.vjp(lambda x, y: self.loss(input=x, target=y, **given), arrays, 0, cotangent)

    def hessian_diag(self, **given: Any) -> Any:
        arrays = (given.pop("input"), given.pop("target"))
        return self._backend.vjp(lambda x, y: self.grad(input=x, target=y, **given), arrays, 0)


def load(path: str) -> tuple[Callable[..., Any], str]:
    """The callable that `pkg.module:attribute` names, and the root module of its library."""
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise NotImportable(f"`--impl` must look like pkg.module:callable, got {path!r}")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NotImportable(f"`--impl` {path!r}: {error}") from error
    for peer in PEERS:
        absent = peer.absent() if found is peer.call else None
        if absent is not None:
            raise NotImportable(f"`--impl` {path!r}: {absent}")
    if not callable(found):
        raise NotImportable(f"`--impl` {path!r} is a {type(found).__name__}, not a callable")
    return found, module_name.partition(".")[0]
