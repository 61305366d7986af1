"""The plan of a run, and `judge`, which applies it to one backend and returns the record.

A plan is plain data, so that it can be sent to another process. Does not choose backends and does not print.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

from .. import record
from ..backends import Backend
from ..check import Context
from ..record import BackendRecord, CheckRecord
from ..report.summary import causes, failing
from ..subjects import Foreign, Subject, subject_of
from ..suite import by_id, run_backend
from .curves import measure
from .diagnose import Unjudgeable, diagnose


class Expected(NamedTuple):
    """A known failure with its reason; `backend` is empty for all backends, `case` for the whole check."""

    backend: str
    id: str
    reason: str
    case: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The checks by id, the loss to judge, and the options."""

    checks: tuple[str, ...]
    level: str = "quick"
    dtypes: tuple[str, ...] | None = None
    device: str | None = None
    kernel: str | None = None
    impl: str | None = None
    elementwise: bool = False
    expected: tuple[Expected, ...] = ()
    curves: bool = False

    def subject(self, backend: Backend) -> Subject:
        """The loss to judge."""
        return subject_of(backend, self.impl, self.kernel, self.elementwise)


class Listener(Protocol):
    """The receiver of a run's progress: a progress bar, or the connection to one."""

    def title(self, text: str) -> None:
        """Set the title of the next steps."""

    def step(self, what: str, count: int = 1) -> None:
        """`count` more steps are done; `what` is the latest."""

    def line(self, text: str) -> None:
        """Show a line permanently."""


class Judged(NamedTuple):
    """The record of a backend, and the expected failures that did not happen."""

    found: BackendRecord
    stale: list[str]


def judge(plan: Plan, backend: Backend, listener: Listener) -> Judged:
    """Run every check of the plan on one backend, and report each verdict at once."""
    if plan.device is not None:
        backend.device = plan.device
    context = Context(backend, plan.subject(backend), plan.level, plan.dtypes)
    listener.title(f"{backend.name} ({', '.join(context.dtypes) or 'no dtype'}; {context.subject.name})")
    for e in plan.expected:
        if e.case and e.backend in ("", backend.name):
            context.expected.setdefault(e.id, {})[e.case] = e.reason
    lines: list[str] = []
    if isinstance(context.subject, Foreign):
        try:
            lines = diagnose(context)
        except Unjudgeable as why:
            nothing = run_backend(context, [])
            return Judged(dataclasses.replace(nothing, unjudged=str(why)), [])
    for line in lines:
        listener.line(f"  {line}")

    def tell(result: CheckRecord) -> None:
        listener.step(result.id)

    checks = [by_id(id) for id in plan.checks]
    found, stale = apply_expected(run_backend(context, checks, tell), plan.expected)
    found = dataclasses.replace(found, diagnosis=tuple(lines))
    if plan.curves:
        listener.step("curves", 0)
        with context.together("curves"):
            curves, absent = measure(context)
        found = dataclasses.replace(found, curves=curves, absent_curves=absent)
    for line in (*verdicts(found), *not_asked(found), summary(found)):
        listener.line(line)
    return Judged(found, [*stale, *context.stale])


def apply_expected(found: BackendRecord, expected: tuple[Expected, ...]) -> Judged:
    """The record with known failures marked, and the stale expectations: those that did not fail."""
    stale, checks = [], []
    for c in found.checks:
        reasons = [e for e in expected if e.id == c.id and not e.case and e.backend in ("", found.name)]
        if reasons and c.status == "fail":
            c = dataclasses.replace(c, status="xfail", reason=reasons[0].reason)
        elif reasons and c.status in ("pass", "xfail"):
            stale.append(f"{found.name}:{c.id} was expected to fail ({reasons[0].reason}), but it did not")
        checks.append(c)
    return Judged(dataclasses.replace(found, checks=tuple(checks)), stale)


def verdicts(found: BackendRecord) -> list[str]:
    """The lines about failures: causes with how many checks each explains, then the failing checks, the worst first."""
    wrong = failing(found)
    out = []
    for sentence, explained in causes(found):
        rule = by_id(explained[0].id)
        out.append(f"  CAUSE of {len(explained)} of {len(wrong)} failing checks: {sentence}")
        out.append(f"        {rule.id}: {rule.rule}")
    for c in wrong:
        out.append(f"  FAIL {c.id}: {c.reason}")
        out += [f"        {line}" for line in c.again]
    out += [f"  known failure {c.id}: {c.reason}" for c in found.checks if c.status == "xfail"]
    return out


def not_asked(found: BackendRecord) -> list[str]:
    """The lines about what was not asked, by reason: whole checks, and questions within checks."""
    whole: dict[str, int] = {}
    parts: dict[str, int] = {}
    for c in found.checks:
        if c.status == "skip" and not c.passed_over:
            whole[c.reason] = whole.get(c.reason, 0) + 1
        for reason, times in c.passed_over.items():
            parts[reason] = parts.get(reason, 0) + times
    out = [f"  not asked, {n} check{'s' * (n != 1)}: {reason}" for reason, n in whole.items()]
    return out + [f"  not asked, {n} question{'s' * (n != 1)}: {reason}" for reason, n in parts.items()]


def summary(found: BackendRecord) -> str:
    """The last line of a backend."""
    counts = {s: sum(c.status == s for c in found.checks) for s in record.STATUSES}
    seconds = sum(c.seconds for c in found.checks)
    told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    if counts["fail"]:
        verdict = "VIOLATES"
    else:
        verdict = "conforms" if counts["pass"] else "SAYS NOTHING: no check applied"
    judged = sum(c.cases for c in found.checks)
    return f"{found.name}: {verdict} ({told}; {judged:,} values judged; {seconds:.1f} s)"
