"""The tally of one check: every judged value, the worst of them, and its violations, each with its input.

Judges only through `bounds.judge`. Does not stop at the first violation (a reader wants to know how many there are),
and does not pass if nothing was judged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..record import Worst
from ..reference import bounds
from ..reference.oracle import row_indices
from ..tensors import Case, Tensor

MANY = 64
"""From this many values on, NumPy first sorts out the values within their bounds, by the same comparison."""
SHOWN = 3
"""How many violations are shown in full, each of another case."""
KEPT = 2000
"""How many violations are kept for the comparison with causes."""


@dataclasses.dataclass(frozen=True)
class Violation:
    """One violation in words, with the data by which a cause is recognised."""

    text: str
    kind: str
    """"raised", "type" (not a number: a dtype, a shape, a class), or "value"."""
    name: str
    """The name of its case."""
    seen: float = math.nan
    right: float = math.nan
    ulp: float = math.inf
    dtype: str = ""
    question: Question | None = None
    place: int = 0
    repro: str = ""

    @property
    def severity(self) -> tuple[int, float]:
        """The order of display: exceptions, results that are not finite, wrong types, then wrong digits by ULP."""
        if self.kind == "raised":
            return 0, 0.0
        if self.kind == "type":
            return 2, 0.0
        if not (math.isfinite(self.seen) and math.isfinite(self.right)):
            return 1, 0.0
        return 3, -self.ulp if math.isfinite(self.ulp) else -math.inf


@dataclasses.dataclass(frozen=True)
class Question:
    """The question about a case, so that each value of the answer can name its input."""

    case: Case
    quantity: str
    reduction: str
    wrt: str = "input"

    def places(self, place: int) -> list[int]:
        """The elements on which a value of the answer depends."""
        if self.quantity == "loss" and self.reduction == "none":
            return [i for i, row in enumerate(row_indices(self.case)) if row == place]
        if self.quantity != "loss" and self.wrt in ("input", "target"):
            return [place]
        return list(range(len(self.case.input.values)))

    def pair(self, place: int) -> tuple[float, float] | None:
        """Logit and target, if there is one of each."""
        found = self.places(place)
        if len(found) != 1:
            return None
        return float(self.case.input.values[found[0]]), float(self.case.target.values[found[0]])

    def words(self, place: int) -> str:
        """The arguments behind a value: `x=-8.0, y=0.0`."""
        case, found = self.case, self.places(place)
        parts = []
        for name, tensor in (("x", case.input), ("y", case.target)):
            values = [tensor.values[i] for i in found]
            if len(values) == 1:
                parts.append(f"{name}={values[0]!r}")
            elif len(values) <= 4:
                parts.append(f"{name}={values!r}")
        if not parts:
            parts = [f"x and y of shape {case.input.shape}"]
        if case.target.dtype != case.input.dtype:
            parts.append(f"target {case.target.dtype}")
        for name, option in (("weight", case.weight), ("pos_weight", case.pos_weight), ("where", case.where)):
            if isinstance(option, Tensor):
                few = len(option.values) <= 4
                parts.append(f"{name}={list(option.values)}" if few else f"{name} of shape {option.shape}")
            elif option is not None:
                parts.append(f"{name}={option!r}")
        if case.label_smoothing:
            parts.append(f"label_smoothing={case.label_smoothing}")
        if case.axis != -1:
            parts.append(f"axis={case.axis}")
        if case.layout != "C":
            parts.append(f"layout {case.layout}")
        return ", ".join(parts)


class Tally:
    """The results of one check on one backend. `expected` names cases that are known to fail, and why."""

    def __init__(self, expected: Mapping[str, str] | None = None) -> None:
        self.judged = 0
        self.violations: list[Violation] = []
        self.violated = 0
        self.worst: Worst | None = None
        self._ratio = -1.0
        self.passed_over: dict[str, int] = {}
        self.expected = dict(expected or {})
        self.known: set[str] = set()
        """The expected cases that did fail."""

    def values(
        self,
        observed: Sequence[float],
        exact: Sequence[float],
        allowed: Sequence[float],
        what: str,
        dtype: str,
        repro: str = "",
        question: Question | None = None,
    ) -> None:
        """Judge flat sequences of one length, each value by its own bound."""
        if not len(observed) == len(exact) == len(allowed):
            self.fail(f"{what}: {len(observed)} values, {len(exact)} expected", "type", repro)
            return
        self.judged += len(exact)
        places: Iterable[int] = range(len(exact))
        if len(exact) >= MANY:
            places = self._suspects(observed, exact, allowed)
        for place in places:
            seen, right, bound = observed[place], exact[place], allowed[place]
            name = what if len(exact) == 1 else f"{what}[{place}]"
            finite = math.isfinite(right)
            error = bounds.ulp_error(seen, right, dtype) if finite else math.inf
            line = repro.replace("PLACE", str(place))
            try:
                bounds.judge(seen, right, bound, name, dtype)
            except bounds.Violation as violation:
                text = str(violation)
                if question is not None:
                    text = text.replace(f"{name}: ", f"{name}: {question.words(place)}: ", 1)
                self._violated(Violation(text, "value", _case(what), seen, right, error, dtype, question, place, line))
            if not finite:
                continue
            limit = bound / bounds.ulp(right, dtype)
            ratio = error / limit if limit else (math.inf if error else 0.0)
            if ratio > self._ratio:
                told = name if question is None else f"{name}: {question.words(place)}"
                self._ratio, self.worst = ratio, Worst(error, limit, told, line)

    @staticmethod
    def _suspects(observed: Sequence[float], exact: Sequence[float], allowed: Sequence[float]) -> list[int]:
        """The places to judge one by one: all values not within their bound, and the one that comes nearest to its
        bound."""
        seen, right, room = (np.asarray(v, dtype=np.float64) for v in (observed, exact, allowed))
        with np.errstate(all="ignore"):
            error = np.abs(seen - right)
            within = error <= room
            ratio = np.where(within & (room > 0), error / np.where(room > 0, room, 1.0), -1.0)
        return sorted({*np.flatnonzero(~within).tolist(), int(ratio.argmax())})

    def exactly(self, observed: Sequence[float], expected: Sequence[float], what: str) -> None:
        """Judge two sequences that must agree to the bit (zeros of either sign are equal, NaN is NaN)."""
        if len(observed) != len(expected):
            self.fail(f"{what}: {len(observed)} values, {len(expected)} expected", "type")
            return
        self.judged += len(expected)
        for place, (seen, right) in enumerate(zip(observed, expected, strict=True)):
            if seen != right and not (math.isnan(seen) and math.isnan(right)):
                text = f"{what}[{place}]: {seen!r}, exactly {right!r}"
                self._violated(Violation(text, "value", _case(what), seen, right))

    def equal(self, observed: object, expected: object, what: str) -> None:
        """Judge something that is not a number: a dtype, a shape, a class."""
        self.judged += 1
        if observed != expected:
            self._violated(Violation(f"{what}: {observed!r}, expected {expected!r}", "type", _case(what)))

    def true(self, condition: bool, what: str) -> None:
        """Judge a condition; `what` says what is wrong if it is false."""
        self.judged += 1
        if not condition:
            self._violated(Violation(what, "value", _case(what), 0.0, 0.0))

    def fail(self, what: str, kind: str = "raised", repro: str = "") -> None:
        """Add a violation without a value to compare."""
        self.judged += 1
        self._violated(Violation(what, kind, _case(what), repro=repro.replace("PLACE", "0")))

    def wrong(self, what: str, seen: float, right: float, question: Question) -> None:
        """Add a value outside its bound that a bulk comparison has found."""
        dtype = question.case.input.dtype
        error = bounds.ulp_error(seen, right, dtype)
        text = f"{what}: {question.words(0)}: {seen!r}, exactly {right!r}"
        self._violated(Violation(text, "value", _case(what), seen, right, error, dtype, question))

    def passed_by(self, reason: str) -> None:
        """Count a question that does not concern this backend or subject, by its reason."""
        self.passed_over[reason] = self.passed_over.get(reason, 0) + 1

    def _violated(self, violation: Violation) -> None:
        if violation.name in self.expected:
            self.known.add(violation.name)
            return
        self.violated += 1
        if len(self.violations) < KEPT:
            self.violations.append(violation)

    @property
    def told(self) -> list[Violation]:
        """The worst violations, each of another case: three elements of one case would hide the other cases."""
        out: dict[str, Violation] = {}
        for violation in sorted(self.violations, key=lambda v: v.severity):
            if len(out) < SHOWN:
                out.setdefault(violation.name, violation)
        return list(out.values())

    @property
    def reason(self) -> str:
        """The violations in words, or why nothing was judged."""
        if self.violated:
            told = [v.text for v in self.told]
            more = self.violated - len(told)
            return "; ".join(told) + (f"; and {more} more" if more else "")
        if not self.judged:
            return "; ".join(sorted(self.passed_over)) or "no case concerns it"
        return ""


def _case(what: str) -> str:
    return what.partition(":")[0].partition("[")[0]
