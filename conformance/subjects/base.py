"""The loss that is judged: mlsm's own (with a kernel or without), a foreign function, or a planted one.

A subject is called with arrays and options and returns arrays.  For a call that it does not offer it raises
`Declined` with the reason, so that a check can tell "wrong" from "not claimed".
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..backends import Backend
from .peers import OTHERS, PEERS

OPTIONS = ("weight", "reduction", "pos_weight", "where", "label_smoothing", "axis")


class Declined(Exception):
    """The subject does not claim to serve this call."""


class NotImportable(Exception):
    """`--impl` does not name a callable that can be imported."""


class Subject:
    """A loss and its derivatives, as functions of arrays."""

    name = "mlsm"
    kernel = "auto"
    offers: frozenset[str] = frozenset(
        {"loss", "gradient", "hessian", "grad_output", "value_and_grad", "arguments", "elements", "labels"}
    )
    options: frozenset[str] = frozenset(OPTIONS)
    reductions: frozenset[str] = frozenset({"none", "mean", "sum"})
    """The reductions that it has."""
    named: Mapping[str, Any] = {}
    """The arguments by which a command line and `again` name it: `impl`, `kernel`, `elementwise`."""
    differentiates = False
    """Whether its derivatives come from the library's own differentiation."""

    @property
    def called(self) -> str:
        """Its name in a sentence: without the path of its module."""
        return self.name.rpartition(":")[2]

    def lacking(self, quantity: str) -> str:
        """Why it does not answer such questions; empty if it does."""
        return "" if quantity in self.offers else f"{self.called} offers no {quantity}"

    def loss(self, **given: Any) -> Any:
        """The loss."""
        raise Declined(f"{self.called} has no loss")

    def grad(self, **given: Any) -> Any:
        """The vector-Jacobian product for `wrt`."""
        raise Declined(f"{self.called} has no gradient of its own")

    def value_and_grad(self, **given: Any) -> tuple[Any, Any]:
        """Loss and gradient in one pass."""
        raise Declined(f"{self.called} has no value_and_grad")

    def hessian_diag(self, **given: Any) -> Any:
        """The diagonal of the second derivative."""
        raise Declined(f"{self.called} has no Hessian of its own")

    def elements(self, **given: Any) -> Any:
        """The loss of each element, not averaged."""
        raise Declined(f"{self.called} has no elementwise loss")

    def linear(self, *arrays: Any, **given: Any) -> Any:
        """Loss and gradients of a linear head; then `Labels` are accepted wherever a target is."""
        raise Declined(f"{self.name} has no linear head")

    def claims(self, given: Mapping[str, Any]) -> None:
        """Raise `Declined` if an option is given (not at its default) that the subject lacks."""
        for option in ("weight", "pos_weight", "where"):
            if given.get(option) is not None and option not in self.options:
                raise Declined(f"{self.called} has no `{option}`")
        if given.get("label_smoothing") and "label_smoothing" not in self.options:
            raise Declined(f"{self.called} has no `label_smoothing`")
        if given.get("axis", -1) != -1 and "axis" not in self.options:
            raise Declined(f"{self.called} has no `axis`")


class Mlsm(Subject):
    """mlsm itself, with the kernel that the dispatch chooses or with the one that is named."""

    def __init__(self, kernel: str | None = None) -> None:
        import mlsm

        self._mlsm = mlsm
        self._forced = kernel
        self.kernel = kernel or "auto"
        self.name = "mlsm" if kernel is None else f"mlsm[{kernel}]"
        self.named = {} if kernel is None else {"kernel": kernel}

    def _call(self, function: Callable[..., Any], given: dict[str, Any]) -> Any:
        if self._forced is None:
            return function(**given)
        try:
            return function(**given, kernel=self._forced)
        except ValueError as error:
            # The only message that means "this kernel declines", which is allowed.
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
    """A foreign loss: `(input, target, weight=..., reduction=...)`, with its library's own derivatives, or with a
    `grad` or `value_and_grad` next to it."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        backend: Backend,
        beside: Mapping[str, Callable[..., Any]] | None = None,
        elementwise: bool = False,
    ) -> None:
        self._function = function
        self._backend = backend
        self._beside = dict(beside or {})
        self.elementwise = elementwise
        self.name = name
        self.kernel = "foreign"
        self.named = {"impl": name, **({"elementwise": True} if elementwise else {})}
        self.options = _taken(function)
        # `diagnose` finds out what a loss without `reduction` returns.
        if "reduction" not in self.options or elementwise:
            self.reductions = frozenset({"none"})
        self.missing: dict[str, str] = {}
        """Quantity -> why it is not asked."""
        offers = {"loss"}
        self.differentiates = "autograd" in backend.capabilities
        if self.differentiates:
            offers |= {"gradient", "hessian", "grad_output"}
        else:
            where = f"{backend.name} does not differentiate, and {self.called} has no"
            if "grad" in self._beside or "value_and_grad" in self._beside:
                offers |= {"gradient", "grad_output"}
            else:
                self.missing["gradient"] = f"{where} `grad` or `value_and_grad` next to it"
            if "hessian_diag" in self._beside:
                offers.add("hessian")
            else:
                self.missing["hessian"] = f"{where} `hessian_diag` next to it"
        self.offers = frozenset(offers)

    def lacking(self, quantity: str) -> str:
        return self.missing.get(quantity, "") or super().lacking(quantity)

    def give_up(self, quantity: str, reason: str) -> None:
        """Stop asking for this quantity, for the given reason."""
        self.offers -= {quantity, "grad_output" if quantity == "gradient" else quantity}
        self.missing[quantity] = reason

    def claims(self, given: Mapping[str, Any]) -> None:
        super().claims(given)
        if isinstance(given.get("weight"), (bool, int, float, list, tuple)):
            raise Declined(
                f"{self.called} is judged with arrays as weights: numbers and lists are mlsm's own extension"
            )
        if self.elementwise and tuple(given["input"].shape)[-1:] != (1,):
            raise Declined(f"{self.called} is judged element by element, on rows of one class")

    def _keywords(self, given: Mapping[str, Any]) -> dict[str, Any]:
        keywords = {
            k: v
            for k, v in given.items()
            if k in self.options
            and v is not None
            and not (k == "axis" and v == -1)
            and not (k == "label_smoothing" and not v)
        }
        reduction = given.get("reduction", "mean")
        if reduction not in self.reductions:
            has = ", ".join(sorted(self.reductions)) or "nothing"
            raise Declined(f"{self.called} is judged as {has} only, and {reduction!r} was asked for")
        return keywords

    def loss(self, **given: Any) -> Any:
        self.claims(given)
        found = self._function(given["input"], given["target"], **self._keywords(given))
        return found[..., 0] if self.elementwise else found

    def grad(self, **given: Any) -> Any:
        if given.pop("wrt", "input") != "input":
            raise Declined(f"{self.called}: only its gradient for `input` is judged")
        cotangent = given.pop("grad_output", None)
        if not self.differentiates:
            return self._by_itself(given, cotangent)
        arrays = (given.pop("input"), given.pop("target"))
        # A number has no dtype and no device, and a factor needs neither.
        factor = cotangent if isinstance(cotangent, (int, float)) else None

        def loss(x: Any, y: Any) -> Any:
            value = self.loss(input=x, target=y, **given)
            return value if factor is None else factor * value

        return self._backend.vjp(loss, arrays, 0, None if factor is not None else cotangent)

    def _by_itself(self, given: dict[str, Any], cotangent: Any) -> Any:
        self.claims(given)
        name = "grad" if "grad" in self._beside else "value_and_grad"
        keywords = self._keywords(given)
        if cotangent is not None:
            if "grad_output" not in _parameters(self._beside[name]):
                raise Declined(f"`{name}` of {self.called} has no `grad_output`")
            keywords["grad_output"] = cotangent
        found = self._beside[name](given["input"], given["target"], **keywords)
        return found if name == "grad" else found[1]

    def hessian_diag(self, **given: Any) -> Any:
        if not self.differentiates:
            self.claims(given)
            return self._beside["hessian_diag"](given["input"], given["target"], **self._keywords(given))
        arrays = (given.pop("input"), given.pop("target"))
        return self._backend.vjp(lambda x, y: self.grad(input=x, target=y, **given), arrays, 0)


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """The names of its parameters; if it has no signature, those documented for a loss."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return frozenset({"weight", "reduction"})
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values()):
        return frozenset(found) | {"weight", "reduction"}
    return frozenset(found)


def _taken(function: Callable[..., Any]) -> frozenset[str]:
    """The options of a loss that this function takes."""
    return _parameters(function) & frozenset(OPTIONS)


def _beside(function: Callable[..., Any], home: Any, attribute: str) -> dict[str, Callable[..., Any]]:
    """The functions that belong to a loss: its own attributes, or functions of the module that defines it."""
    out: dict[str, Callable[..., Any]] = {}
    for name in ("grad", "value_and_grad", "hessian_diag"):
        for owner, called in ((function, name), (home, f"{attribute}_{name}"), (home, name)):
            found = getattr(owner, called, None)
            # A module may also contain `from jax import grad`, which does not belong to the loss.
            same = owner is function or getattr(found, "__module__", "") == getattr(function, "__module__", None)
            if callable(found) and same and found is not function:
                out[name] = found
                break
    return out


class Loaded(NamedTuple):
    """What `--impl` names: the callable, its library's root module, and the functions that belong to it."""

    function: Callable[..., Any]
    root: str
    beside: dict[str, Callable[..., Any]]


def _named(path: str, option: str) -> tuple[Any, Any, str]:
    """The object that `pkg.module:attribute` names, the object it is an attribute of, and the attribute's name.

    Raises NotImportable, in one line, for any exception of the import.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise NotImportable(f"`{option}` must look like pkg.module:callable, got {path!r}")
    try:
        home: Any = None
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            home, found = found, getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NotImportable(f"`{option}` {path!r}: {error}") from error
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:200]
        raise NotImportable(f"`{option}` {path!r}: importing it raised {type(error).__name__}: {text}") from error
    return found, home, attribute.rpartition(".")[2]


def load(path: str) -> Loaded:
    """The callable that `pkg.module:attribute` names."""
    found, home, attribute = _named(path, "--impl")
    for peer in (*PEERS, *OTHERS):
        absent = peer.absent() if found is peer.call else None
        if absent is not None:
            raise NotImportable(f"`--impl` {path!r}: {absent}")
    if isinstance(found, type):
        raise NotImportable(f"`--impl` {path!r} is a class: name an instance of it, or a function")
    if not callable(found):
        raise NotImportable(f"`--impl` {path!r} is not callable: it has type {type(found).__name__}")
    return Loaded(found, path.partition(".")[0].partition(":")[0], _beside(found, home, attribute))


def load_kernel(path: str) -> str:
    """Register the kernel that `pkg.module:kernel` names, once, and return its own name."""
    import mlsm
    from mlsm import _dispatch

    found = _named(path, "--kernel")[0]
    if not isinstance(found, mlsm.Kernel):
        raise NotImportable(f"`--kernel` {path!r} is a {type(found).__name__}, not an mlsm.Kernel")
    if found.name not in _dispatch.names():
        mlsm.register_kernel(found)
    return found.name


def subject_of(
    backend: Backend, impl: str | None = None, kernel: str | None = None, elementwise: bool = False
) -> Subject:
    """The loss to judge: mlsm's (with a kernel that is registered, or that `pkg.module:kernel` names), or another."""
    if impl is not None:
        loaded = load(impl)
        return Foreign(loaded.function, impl, backend, loaded.beside, elementwise)
    if kernel is not None and ":" in kernel:
        subject = Mlsm(load_kernel(kernel))
        subject.named = {"kernel": kernel}
        return subject
    return Mlsm(kernel)
