"""What a run asks of each backend, and the asking: one backend in, its record and what it has to say out.

A plan is plain data, so that another process can be handed it. Refuses to choose backends and to print.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

from .. import record
from ..backends import Backend
from ..check import Context
from ..record import BackendRecord, CheckRecord
from ..subjects import Foreign, Mlsm, Subject, load
from ..suite import by_id, run_backend
from .curves import measure


class Expected(NamedTuple):
    """A failure that is known, and why; `backend` is empty for every backend."""

    backend: str
    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The checks by id, and whose loss they judge, how."""

    checks: tuple[str, ...]
    level: str = "quick"
    dtypes: tuple[str, ...] | None = None
    device: str | None = None
    kernel: str | None = None
    impl: str | None = None
    expected: tuple[Expected, ...] = ()
    curves: bool = False

    def subject(self, backend: Backend) -> Subject:
        """Whose loss is judged."""
        return Mlsm(self.kernel) if self.impl is None else Foreign(load(self.impl)[0], self.impl, backend)


class Listener(Protocol):
    """Who hears how a run goes on: a progress bar, or the wire to one."""

    def title(self, text: str) -> None:
        """What the next steps belong to."""

    def step(self, what: str, count: int = 1) -> None:
        """`count` more steps are done; `what` is the latest."""

    def line(self, text: str) -> None:
        """A line that stays."""


class Judged(NamedTuple):
    """What a backend was found to do, and which expectations of failure it disappointed."""

    found: BackendRecord
    stale: list[str]


def judge(plan: Plan, backend: Backend, listener: Listener) -> Judged:
    """Every check of the plan on one backend, each verdict told as it comes."""
    if plan.device is not None:
        backend.device = plan.device
    context = Context(backend, plan.subject(backend), plan.level, plan.dtypes)
    listener.title(f"{backend.name} ({', '.join(context.dtypes) or 'no dtype'}; {context.subject.name})")
    known = {e.id for e in plan.expected if e.backend in ("", backend.name)}

    def tell(result: CheckRecord) -> None:
        listener.step(result.id)
        if result.status == "fail" and result.id not in known:
            listener.line(f"  FAIL {result.id}: {result.reason}")
        elif result.status in ("fail", "xfail"):
            listener.line(f"  known failure {result.id}: {result.reason}")

    found, stale = apply_expected(run_backend(context, [by_id(id) for id in plan.checks], tell), plan.expected)
    if plan.curves:
        listener.step("curves", 0)
        found = dataclasses.replace(found, curves=measure(context))
    listener.line(summary(found))
    return Judged(found, stale)


def apply_expected(found: BackendRecord, expected: tuple[Expected, ...]) -> Judged:
    """The record with known failures marked, and what is stale: expected to fail, but did not."""
    stale, checks = [], []
    for c in found.checks:
        reasons = [e for e in expected if e.id == c.id and e.backend in ("", found.name)]
        if reasons and c.status == "fail":
            c = dataclasses.replace(c, status="xfail", reason=reasons[0].reason)
        elif reasons and c.status in ("pass", "xfail"):
            stale.append(f"{found.name}:{c.id} was expected to fail ({reasons[0].reason}), but it did not")
        checks.append(c)
    return Judged(dataclasses.replace(found, checks=tuple(checks)), stale)


def summary(found: BackendRecord) -> str:
    """One line for a backend."""
    counts = {s: sum(c.status == s for c in found.checks) for s in record.STATUSES}
    seconds = sum(c.seconds for c in found.checks)
    told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    if counts["fail"]:
        verdict = "VIOLATES"
    else:
        verdict = "conforms" if counts["pass"] else "SAYS NOTHING: no check applied"
    judged = sum(c.cases for c in found.checks)
    return f"{found.name}: {verdict} ({told}; {judged:,} values judged; {seconds:.1f} s)"
