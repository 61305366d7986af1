"""The tally of one check: every judged value, the worst of them, and the first few violations in words.

Judges only through `bounds.judge`; refuses to stop at the first violation (a reader wants to know how many) and to
pass when nothing at all was judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..record import Worst
from ..reference import bounds

MANY = 64
"""From how many values on the plainly right ones are sorted out by NumPy, with the same comparison."""
SHOWN = 3
"""How many violations are told in full, each of another case."""


class Tally:
    """What one check has seen on one backend."""

    def __init__(self) -> None:
        self.judged = 0
        self.violations: list[str] = []
        self.violated = 0
        self.worst: Worst | None = None
        self._ratio = -1.0
        self._told: set[str] = set()
        self.passed_over: dict[str, int] = {}

    def values(
        self,
        observed: Sequence[float],
        exact: Sequence[float],
        allowed: Sequence[float],
        what: str,
        dtype: str,
        repro: str = "",
    ) -> None:
        """Judge flat sequences of one length, each value by its own bound."""
        if not len(observed) == len(exact) == len(allowed):
            self.fail(f"{what}: {len(observed)} values, {len(exact)} expected")
            return
        self.judged += len(exact)
        places: Iterable[int] = range(len(exact))
        if len(exact) >= MANY:
            places = self._suspects(observed, exact, allowed)
        for place in places:
            seen, right, bound = observed[place], exact[place], allowed[place]
            name = what if len(exact) == 1 else f"{what}[{place}]"
            try:
                bounds.judge(seen, right, bound, name, dtype)
            except bounds.Violation as violation:
                self._violated(f"{violation}")
            if not math.isfinite(right):
                continue
            spacing = bounds.ulp(right, dtype)
            error, limit = bounds.ulp_error(seen, right, dtype), bound / spacing
            ratio = error / limit if limit else (math.inf if error else 0.0)
            if ratio > self._ratio:
                self._ratio, self.worst = ratio, Worst(error, limit, name, repro)

    @staticmethod
    def _suspects(observed: Sequence[float], exact: Sequence[float], allowed: Sequence[float]) -> list[int]:
        """The places worth a look: all that are not plainly within their bound, and the one that comes nearest to
        it."""
        seen, right, room = (np.asarray(v, dtype=np.float64) for v in (observed, exact, allowed))
        with np.errstate(all="ignore"):
            error = np.abs(seen - right)
            within = error <= room
            ratio = np.where(within & (room > 0), error / np.where(room > 0, room, 1.0), -1.0)
        return sorted({*np.flatnonzero(~within).tolist(), int(ratio.argmax())})

    def exactly(self, observed: Sequence[float], expected: Sequence[float], what: str) -> None:
        """Judge two sequences that must agree to the bit (zeros of either sign are equal, NaN is NaN)."""
        if len(observed) != len(expected):
            self.fail(f"{what}: {len(observed)} values, {len(expected)} expected")
            return
        self.judged += len(expected)
        for place, (seen, right) in enumerate(zip(observed, expected, strict=True)):
            if seen != right and not (math.isnan(seen) and math.isnan(right)):
                self._violated(f"{what}[{place}]: {seen!r}, exactly {right!r}")

    def equal(self, observed: object, expected: object, what: str) -> None:
        """Judge something that is no number: a dtype, a shape, a class."""
        self.judged += 1
        if observed != expected:
            self._violated(f"{what}: {observed!r}, expected {expected!r}")

    def true(self, condition: bool, what: str) -> None:
        """Judge a condition; `what` says what is wrong where it does not hold."""
        self.judged += 1
        if not condition:
            self._violated(what)

    def fail(self, what: str) -> None:
        """A violation that has no value to compare."""
        self.judged += 1
        self._violated(what)

    def passed_by(self, reason: str) -> None:
        """A case that does not concern this backend or subject, and why."""
        self.passed_over[reason] = self.passed_over.get(reason, 0) + 1

    def _violated(self, message: str) -> None:
        """Count it, and tell the first of each case: three elements of one case would hide the next case's trouble."""
        self.violated += 1
        source = message.partition(":")[0].partition("[")[0]
        if len(self.violations) < SHOWN and source not in self._told:
            self._told.add(source)
            self.violations.append(message)

    @property
    def reason(self) -> str:
        """The violations in words, or why nothing was judged."""
        if self.violated:
            more = self.violated - len(self.violations)
            return "; ".join(self.violations) + (f"; and {more} more" if more else "")
        if not self.judged:
            return "; ".join(sorted(self.passed_over)) or "no case concerns it"
        return ""
