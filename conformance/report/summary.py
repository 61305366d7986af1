"""The summary of a run: counts per cell, observed errors and promised bounds, where digits are lost, worst cases.

Reads records and returns plain values; draws nothing, writes nothing, and judges nothing again: each status is that
of the record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..record import QUANTITIES, STATUSES, BackendRecord, CheckRecord, Curve, PeerRecord, Quantity, Run, Status, Worst

PRECISION: Mapping[str, int] = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
"""Significant bits. 2**p ULP is the error of returning 0: no digit is left."""

DTYPE_ORDER: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")
NAMES: Mapping[Quantity, str] = {"loss": "loss", "gradient": "gradient", "hessian": "Hessian"}
GLYPH: Mapping[Status, str] = {"pass": "✓", "fail": "✗", "xfail": "△", "skip": "○"}
MEANING: Mapping[Status, str] = {"pass": "pass", "fail": "fail", "xfail": "expected failure", "skip": "skipped"}
SEVERITY: tuple[Status, ...] = ("fail", "xfail", "pass", "skip")
"""The order in which a status decides the colour of a cell with several: the most urgent first, a skip last."""


@dataclass(frozen=True)
class Observed:
    """The worst observed error of one backend, dtype and quantity, with the bound promised at the same point."""

    ulp: float
    bound: float
    logit: float
    target: float


@dataclass(frozen=True)
class Loss:
    """A range of logits in which a loss has no digit left."""

    quantity: Quantity
    dtype: str
    target: float
    low: float
    high: float


def label(backend: BackendRecord) -> str:
    """The backend's name, with kernel and device if the name does not imply them.

    Each library has its own name of the host ("cpu", "CPU_DEVICE", "TFRT_CPU_0").
    """
    kernel = "" if backend.kernel in {"auto", "", "foreign"} else f" · {backend.kernel} kernel"
    known = not backend.device or "cpu" in backend.device.lower() or backend.device in backend.name
    device = "" if known else f" · {backend.device}"
    return backend.name + kernel + device


def by_dtype(names: Iterable[str]) -> list[str]:
    """Each dtype once, the most used first, unknown ones last and by name."""
    known = {name: i for i, name in enumerate(DTYPE_ORDER)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def dtypes(run: Run) -> list[str]:
    """The dtypes of the curves of this run."""
    owners: list[BackendRecord | PeerRecord] = [*run.backends, *run.peers]
    return by_dtype(c.dtype for owner in owners for c in owner.curves)


def groups(run: Run) -> list[str]:
    """Check groups in the order in which they were run."""
    return list(dict.fromkeys(c.group for b in run.backends for c in b.checks))


def count(checks: Iterable[CheckRecord]) -> dict[Status, int]:
    """How many checks ended in each status."""
    totals: dict[Status, int] = dict.fromkeys(STATUSES, 0)
    for check in checks:
        totals[check.status] += 1
    return totals


def dominant(totals: Mapping[Status, int]) -> Status | None:
    """The status that colours a cell; None for a cell without a check."""
    return next((status for status in SEVERITY if totals[status]), None)


def by_reason(run: Run, status: Status) -> list[tuple[str, list[tuple[str, CheckRecord]]]]:
    """(reason, [(backend, check)]) of every check with this status, so that each reason is listed once."""
    found: dict[str, list[tuple[str, CheckRecord]]] = {}
    for backend in run.backends:
        for check in backend.checks:
            if check.status == status:
                # Reasons that differ only in the backend's name at their beginning are one reason.
                reason = check.reason.removeprefix(f"{backend.name} ") or "no reason given"
                found.setdefault(reason, []).append((label(backend), check))
    return list(found.items())


def strain(ulp: float, bound: float) -> float:
    """The error as a multiple of its bound; NaN counts as the worst."""
    if math.isnan(ulp):
        return math.inf
    return ulp / bound if bound > 0 else (0.0 if ulp == 0 else math.inf)


def observed(curves: Iterable[Curve], quantity: Quantity, dtype: str) -> Observed | None:
    """The point that comes nearest to its bound (or exceeds it most); None if nothing was measured."""
    worst: Observed | None = None
    for curve in curves:
        if curve.quantity != quantity or curve.dtype != dtype:
            continue
        for logit, ulp, bound in zip(curve.logit, curve.ulp, curve.bound, strict=True):
            if worst is None or strain(ulp, bound) > strain(worst.ulp, worst.bound):
                worst = Observed(ulp, bound, logit, curve.target)
    return worst


def worst_cases(run: Run, most: int = 12) -> list[tuple[BackendRecord, CheckRecord, Worst]]:
    """The checks that came nearest to their bounds, at most one for each check id, worst first."""
    candidates = [(b, c, c.worst) for b in run.backends for c in b.checks if c.worst is not None]
    candidates.sort(key=lambda item: -strain(item[2].ulp, item[2].bound))
    seen: set[str] = set()
    chosen: list[tuple[BackendRecord, CheckRecord, Worst]] = []
    for backend, check, worst in candidates:
        if check.id not in seen and len(chosen) < most:
            seen.add(check.id)
            chosen.append((backend, check, worst))
    return chosen


def lost(curves: Sequence[Curve]) -> list[Loss]:
    """Where no digit is left: the ranges of logits with an error of at least 2**(p-1) ULP, or NaN."""
    found: list[Loss] = []
    order = by_dtype(c.dtype for c in curves)
    for curve in sorted(curves, key=lambda c: (order.index(c.dtype), QUANTITIES.index(c.quantity), c.target)):
        limit = 2.0 ** (PRECISION[curve.dtype] - 1) if curve.dtype in PRECISION else math.inf
        points = sorted(zip(curve.logit, curve.ulp, strict=True))
        start: float | None = None
        last = 0.0
        for logit, ulp in [*points, (math.inf, 0.0)]:
            if math.isnan(ulp) or ulp >= limit:
                start, last = logit if start is None else start, logit
            elif start is not None:
                previous = found[-1] if found else None
                here = (curve.quantity, curve.dtype, curve.target)
                if (
                    previous
                    and (previous.quantity, previous.dtype, previous.target) == here
                    and previous.high * start > 0
                ):
                    # A saturated result sometimes crosses the right one; on one side of 0 such ranges are joined.
                    found[-1] = Loss(*here, previous.low, last)
                else:
                    found.append(Loss(*here, start, last))
                start = None
    return found


def failing(backend: BackendRecord) -> list[CheckRecord]:
    """The failing checks, the worst first: exceptions, then results that are not finite, then lost digits."""
    found = [c for c in backend.checks if c.status == "fail"]
    return sorted(found, key=lambda c: (c.severity or (0.0, 0.0), c.id))


def causes(backend: BackendRecord) -> list[tuple[str, list[CheckRecord]]]:
    """Each cause and the failing checks that it helps to explain, the one that explains most first."""
    out: dict[str, list[CheckRecord]] = {}
    for check in backend.checks:
        for sentence in check.causes if check.status == "fail" else ():
            out.setdefault(sentence, []).append(check)
    return sorted(out.items(), key=lambda item: -len(item[1]))


_DTYPE = re.compile(
    r"\b(?:bool|u?int(?:8|16|32|64)?|b?float(?:16|32|64)?|half|double|"
    r"Bool|Byte|Char|Short|Int|Long|Half|BFloat16|Float|Double|UInt(?:16|32|64))\b"
)
"""The names of dtypes in the messages of libraries."""


def alike(
    found: Iterable[tuple[str, list[CheckRecord]]],
) -> list[tuple[str, list[CheckRecord], list[str], int]]:
    """The causes of `causes`, of which exceptions that differ only in the dtypes that they name are listed once.

    Each is (the first sentence, its checks, the first check of each sentence, how many more sentences there are).
    """
    groups: dict[str, list[tuple[str, list[CheckRecord]]]] = {}
    for sentence, checks in found:
        # What follows "(at /" is the place in the library's own source, which may be cut off at different lengths.
        exception = sentence.startswith("raises ")
        key = _DTYPE.sub("dtype", sentence.partition(" (at /")[0]) if exception else sentence
        groups.setdefault(key, []).append((sentence, checks))
    return [
        (*group[0], list(dict.fromkeys(checks[0].id for _, checks in group)), len(group) - 1)
        for group in groups.values()
    ]


def passed_over(run: Run) -> list[str]:
    """The questions that were not asked in checks that asked others, by reason."""
    out: dict[str, int] = {}
    for backend in run.backends:
        for check in backend.checks:
            for reason, times in check.passed_over.items() if check.status != "skip" else ():
                out[reason] = out.get(reason, 0) + times
    return [f"{times:,} question{'s' * (times != 1)}: {reason}" for reason, times in out.items()]


def not_drawn(run: Run) -> list[str]:
    """The curves that could not be drawn, with the reason."""
    return [f"{label(backend)}, {line}" for backend in run.backends for line in backend.absent_curves]


def largest(run: Run) -> str:
    """The largest error seen, as a multiple of its bound, with place and date; other pages quote it."""
    found = [(strain(w.ulp, w.bound), b, d, q, w) for b in run.backends for d in b.dtypes for q in QUANTITIES
             if (w := observed(b.curves, q, d)) is not None]  # fmt: skip
    if not found:
        return ""
    _, backend, dtype, quantity, worst = max(found, key=lambda item: item[0])
    day = f", {run.date}" if run.date else ""
    return (
        f"{NAMES[quantity]}, {dtype}, {label(backend)}: {worst.ulp:.3g} ULP observed, {worst.bound:.3g} ULP promised, "
        f"at x = {worst.logit!r}, y = {worst.target!r} (level {run.level}, "
        f"{run.versions.get('machine', 'machine unknown')}{day})"
    )
