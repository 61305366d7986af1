"""One interleaved measurement: all contestants in turn, round after round; medians over the floor of those rounds.

Contains the clock only: cases come from `cases.py`, contestants from `contestants.py` and `peers.py`.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .candidate import Candidate, Work
from .cases import FLOOR, Case, Data

Clock = Callable[[], float]
LEAST = 0.001
"""Seconds that one timing lasts at least (short work is repeated): far above the clock's own noise, and short enough
that most timings fall between two interruptions by a neighbour."""
MOST_REPEATS = 2000
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Entry:
    """One contestant's result in one case. Times are ratios to the median floor; None if there is a reason instead."""

    name: str
    library: str
    way: str
    ours: bool
    kernel: str = ""
    forced: bool = False
    over_floor: float | None = None
    low: float | None = None
    """Lower quartile, as a ratio to the median floor; `high` is the upper one."""
    high: float | None = None
    error: float | None = None
    """Relative distance of the loss from the float64 value of the same data."""
    memory_mib: float | None = None
    """Peak extra memory beyond the result."""
    memory_reason: str = ""
    reason: str = ""
    """Why there is no time."""


@dataclass(frozen=True)
class Timed:
    """Median and quartiles of one contestant, in the clock's seconds: the callers print ratios only."""

    median: float
    low: float
    high: float


def first_line(error: BaseException) -> str:
    """An exception in one line, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__


def repeats(work: Work, clock: Clock) -> int:
    """How often to repeat `work` so that one timing lasts LEAST; called after a warm-up."""
    start = clock()
    work()
    once = clock() - start
    return min(MOST_REPEATS, max(1, math.ceil(LEAST / once))) if once > 0 else MOST_REPEATS


def interleave(
    works: dict[str, Work], rounds: int, seconds: float, clock: Clock = time.perf_counter
) -> tuple[dict[str, Timed], int]:
    """Time each contestant once per round, in a new random order (seeded), and return the medians and the number of
    rounds.

    The order changes, so that no contestant always finds the cache in the state that a particular other one leaves.
    Rounds stop when `seconds` are spent, but not before there are enough for a median.
    """
    numbers = {name: repeats(work, clock) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(20)
    names = list(works)
    began = clock()
    done = 0
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()  # the collector skips the objects that the imports of the libraries made
    try:
        while done < rounds and (done < FEWEST_ROUNDS or clock() - began < seconds):
            order.shuffle(names)
            for name in names:
                work, number = works[name], numbers[name]
                start = clock()
                for _ in range(number):
                    work()
                times[name].append((clock() - start) / number)
            done += 1
            gc.collect()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return {name: _summary(values) for name, values in times.items()}, done


def _summary(values: Sequence[float]) -> Timed:
    if len(values) < 2:
        return Timed(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timed(median, low, high)


def number_of(value: Any) -> float:
    """The loss as a Python float, from an array of any library."""
    return float(value)


def measure(
    case: Case,
    data: Data,
    candidates: Sequence[Candidate],
    floor: Work,
    *,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
    clock: Clock = time.perf_counter,
) -> tuple[list[Entry], int, float]:
    """Every candidate's entry, in the order given, the number of rounds, and the floor in microseconds.

    One that cannot do the work (its library refuses the dtype, a compiler is missing) keeps its line, with the reason.
    """
    works: dict[str, Work] = {FLOOR: floor}
    errors: dict[str, float] = {}
    reasons: dict[str, str] = {}
    floor()
    for candidate in candidates:
        tell(f"preparing {candidate.name}")
        try:
            work = candidate.make()
            value = number_of(work())
            work()
        except Exception as error:  # a foreign library's exception is its result
            reasons[candidate.name] = first_line(error)
            continue
        if candidate.name in works:
            raise ValueError(f"two implementations are called {candidate.name!r}")
        works[candidate.name] = work
        exact = data.value if candidate.value is None else candidate.value
        errors[candidate.name] = abs(value - exact) / exact
    tell(f"timing {len(works) - 1} implementations")
    timed, done = interleave(works, rounds, seconds, clock)
    base = timed[FLOOR].median
    entries = []
    for c in candidates:
        if c.name in reasons:
            told: dict[str, Any] = {"reason": reasons[c.name]}
        else:
            t = timed[c.name]
            told = {"over_floor": t.median / base, "low": t.low / base, "high": t.high / base, "error": errors[c.name]}
        entries.append(Entry(c.name, c.library, c.way, c.ours, c.kernel, c.forced, **told))
    return entries, done, base * 1e6
