"""Tests of the suite: the right check finds each planted mistake, broken losses fail every check of their kind, and
right ones pass."""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from typing import Any, ClassVar

import pytest

import mlsm

from ..check import Check, Context
from ..run.sabotage import CRASH, conforming, plant
from ..subjects import Mlsm
from ..subjects.reference_impl import Own
from ..subjects.sabotage import ROW_LEVEL, SABOTAGES, Sabotage, as_kernel
from ..suite import by_id, run_check, select
from ._slow import backend_or_skip, slow_where

LIBRARIES = ("numpy", "array-api-strict", "torch", "jax", "dask")
LAZY = ("jax", "dask")
"""Backends on which each call takes milliseconds, to be compiled or to build a graph."""


@pytest.mark.parametrize("name", slow_where(LAZY.__contains__, LIBRARIES))
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.name)
def test_a_planted_mistake_is_found_by_its_check(sabotage: Sabotage, name: str) -> None:
    verdict = plant(sabotage, backend_or_skip(name))
    if verdict.word == "n/a":
        pytest.skip(verdict.why)
    assert verdict.word == "caught", verdict.why


@pytest.mark.parametrize("name", slow_where(LAZY.__contains__, LIBRARIES))
def test_another_formula_passes(name: str) -> None:
    assert conforming(backend_or_skip(name)) == []


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("sabotage", [s for s in SABOTAGES if s.name in ROW_LEVEL], ids=lambda s: s.name)
def test_a_mistake_in_a_kernel_is_found_by_its_check(sabotage: Sabotage, name: str) -> None:
    backend = backend_or_skip(name)
    kernel = f"planted {sabotage.name}"
    mlsm.register_kernel(as_kernel(sabotage.make, backend, kernel))
    try:
        for id in sabotage.caught_by:
            result = run_check(by_id(id), Context(backend, Mlsm(kernel), "smoke", backend.dtypes))
            assert result.status == "fail", f"{id}: {result.status} {result.reason}"
            assert not CRASH.match(result.reason), result.reason
    finally:
        mlsm.unregister_kernel(kernel)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_a_right_kernel_passes(name: str) -> None:
    backend = backend_or_skip(name)
    mlsm.register_kernel(as_kernel(Own, backend, "planted own"))
    try:
        for c in select(["values", "special.infinite", "special.zero"], "quick"):
            if not c.id.endswith("exhaustive"):  # this indirect kernel rounds rows of half precision twice
                result = run_check(c, Context(backend, Mlsm("planted own"), "smoke", ("float32", "float64")))
                assert result.status in ("pass", "skip"), f"{c.id}: {result.reason}"
    finally:
        mlsm.unregister_kernel("planted own")


# ------------------------------------------------------------ broken losses: every check must be able to fail


class Scaled(Mlsm):
    """Every result a little too large."""

    def by(self) -> float:
        return 1.03125

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        result = super()._call(function, given)
        return tuple(r * self.by() for r in result) if isinstance(result, tuple) else result * self.by()


class Shifted(Mlsm):
    """Every result shifted, so that no symmetry and no zero is left; gradients and curvatures leave their ranges."""

    def loss(self, **given: Any) -> Any:
        x = given["input"]
        return super().loss(**given) * 0.5 - 1.0 - 0.25 * (x[0, 0] if x.shape[0] else 0.0)

    def grad(self, **given: Any) -> Any:
        return super().grad(**given) * 1.5 + 1.0 + (given["input"] > 1) * 0.5

    def hessian_diag(self, **given: Any) -> Any:
        return super().hessian_diag(**given) - 1.0 - (given["input"] > 1) * 0.5


class Drifting(Scaled):
    """Every call gives another result."""

    counter = itertools.count(1)

    def by(self) -> float:
        return 1 + next(self.counter) * 2.0**-10


class Remembering(Mlsm):
    """Takes a call for an earlier one if three had logits of the same shape, and uses the options of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Any, list[dict[str, Any]]] = {}

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        before = self.seen.setdefault((function, given["input"].shape), [])
        before.append({k: v for k, v in given.items() if k not in ("input", "target")})
        own = {k: v for k, v in given.items() if k in ("input", "target")}
        return super()._call(function, {**before[0], **own} if len(before) > 3 else given)


class Careless(Mlsm):
    """Writes into its arguments."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        result = super()._call(function, given)
        if given["input"].size:
            given["input"].reshape(-1)[:1] += 1
        return result


class Aliasing(Mlsm):
    """The loss of one class is the logit itself, and every derivative is the input."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        super()._call(function, given)
        return given["input"]


class Mistyped(Mlsm):
    """Every result is a NumPy array of another dtype and shape."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        import numpy as np

        result = super()._call(function, given)
        wide = "float32" if str(result.dtype).endswith("float64") else "float64"
        return np.asarray(result).astype(wide).reshape(-1)[:, None]


class Gullible(Mlsm):
    """Accepts everything."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        return 0.0


class Eager(Mlsm):
    """Computes at once."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        dask: Any = importlib.import_module("dask")  # typed as Any, so that mypy's result is the same without it

        return super()._call(function, dask.compute(given)[0])  # arguments that are not lazy are returned unchanged


class Deaf(Mlsm):
    """Ignores `grad_output`."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        return super()._call(function, {k: v for k, v in given.items() if k != "grad_output"})


class Leaking(Mlsm):
    """Adds a constant everywhere, also to masked elements and at infinity."""

    def elements(self, **given: Any) -> Any:
        return super().elements(**given) + 0.125


class Racing(Mlsm):
    """Right on the main thread, wrong on every other one."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        result = super()._call(function, given)
        return result * 2 if threading.current_thread() is not threading.main_thread() else result


class Sharing(Mlsm):
    """Right on one thread; several threads share one scratch array, which each uses for a millisecond."""

    scratch: ClassVar[dict[Any, Any]] = {}

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        shared = self.scratch.setdefault(given["input"].shape, given["input"].copy())
        shared[...] = given["input"]
        time.sleep(0.001)
        return super()._call(function, {**given, "input": shared})


class Bytewise(Mlsm):
    """Reads the byte of a bool as a number."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        target = given["target"]
        return super()._call(function, {**given, "target": target.view("uint8") if target.dtype == bool else target})


class Uneven(Mlsm):
    """Wrong in float32 only, where it is concave."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        result = super()._call(function, given)
        return -result if str(result.dtype).endswith("float32") else result


class Noisy(Mlsm):
    """Warns."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        import warnings

        warnings.warn("0/0", RuntimeWarning, stacklevel=1)
        return super()._call(function, given)


class Mislabelled(Mlsm):
    """Labels in reverse order of the classes, with repeated ones added; a call that raises gives 0."""

    def _call(self, function: Any, given: dict[str, Any]) -> Any:
        import numpy as np

        labels = given.get("target")
        if type(labels) is mlsm.Labels:
            classes = labels.num_classes
            dense = np.zeros((*labels.shape[:-1], classes + 1), np.float32)
            values = 1 if labels.values is None else labels.values
            place = np.where(labels.indices < 0, classes, classes - 1 - labels.indices)
            np.add.at(dense, (*np.indices(place.shape)[:-1], place), values)
            given = {**given, "target": dense[..., :classes].astype(given["input"].dtype)}
        try:
            return super()._call(function, given)
        except ValueError:
            return 0.0


def _checks(*groups: str) -> list[Check]:
    return select(groups, "quick")


BY_MLSM = ("refusals.signature", "refusals.kernel", "refusals.promotion")
"""These call mlsm itself (and PyTorch promotes everything): the package's tests of messages cover them."""
BROKEN: list[tuple[type[Mlsm], str, list[str]]] = [
    (Scaled, "numpy", [c.id for c in _checks("values", "derivatives") if c.id != "derivatives.grad_output-of-both"]),
    (Deaf, "numpy", ["derivatives.grad_output-of-both"]),
    (Scaled, "numpy", ["elements.values", "elements.options", "elements.shapes"]),
    (Leaking, "numpy", ["elements.masked", "elements.infinite"]),
    (Scaled, "jax", ["elements.gradient", "elements.jit", "elements.vmap"]),
    (Mislabelled, "numpy", [c.id for c in _checks("labels")]),
    (Shifted, "numpy", [c.id for c in _checks("laws") if c.id not in ("laws.convex", "laws.half")]),
    (Uneven, "numpy", ["laws.convex", "laws.half"]),
    (Scaled, "numpy", ["special.zero", "special.hazards", "special.catalogue", "special.large"]),
    (Shifted, "numpy", [c.id for c in _checks("special") if c.id not in ("special.silent",)]),
    (Noisy, "numpy", ["special.silent"]),
    (Bytewise, "numpy", ["special.any-byte"]),
    (Mistyped, "numpy", [c.id for c in _checks("types") if c.id != "types.library"]),
    (Mistyped, "torch", ["types.library"]),
    (Careless, "numpy", ["purity.inputs"]),
    (Aliasing, "numpy", ["purity.alias"]),
    (Scaled, "numpy", ["purity.readonly"]),
    (Drifting, "numpy", ["determinism.again", "determinism.layout"]),
    (Remembering, "numpy", ["determinism.repeated"]),
    (Racing, "numpy", ["threads.bits"]),
    (Sharing, "numpy", ["threads.bits"]),
    (Gullible, "torch", [c.id for c in _checks("refusals") if c.id not in BY_MLSM]),
    (Eager, "dask", ["lazy.silent", "lazy.result", "lazy.unknown-classes"]),
    (Gullible, "dask", ["lazy.disagreement"]),
    (Scaled, "dask", ["lazy.unknown"]),
    (Scaled, "torch", [c.id for c in _checks("transforms") if "jit" not in c.id and "infinity" not in c.id]),
    (Scaled, "jax", ["transforms.jit", "transforms.jit-gradient"]),
]
LONG = {"values.float32-exhaustive", "derivatives.float32-exhaustive"}  # of level full; `test_judges` fails their sweep


@pytest.mark.parametrize(
    ("broken", "name", "id"),
    slow_where(
        lambda v: v[1] == "jax" or v[1:] in (("torch", "transforms.compile"), ("dask", "lazy.unknown")),
        [(v, b, id) for v, b, ids in BROKEN for id in ids if id not in LONG],
    ),
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_broken_loss_fails(broken: type[Mlsm], name: str, id: str) -> None:
    backend = backend_or_skip(name)
    result = run_check(by_id(id), Context(backend, broken(), "smoke", backend.dtypes))
    assert result.status in ("fail", "xfail"), f"{id}: {result.status} {result.reason}"
