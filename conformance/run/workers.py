"""Backends side by side: processes that judge one backend after another and send their results line by line.

A worker is `python -m mlsm_conformance.run.workers`, at the other end of a `Channel`: its task is the plan, and each
further line is the name of a backend. Judges nothing itself.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from .. import record
from ..backends import Backend, find
from ..record import BackendRecord, CheckRecord, Run
from ..suite import by_id
from .channel import Channel, Wire
from .plan import Expected, Judged, Plan, judge, summary
from .progress import Progress

MOST = 4
"""Processes by default, at most: each holds its libraries and its own exact answers, about 1 GiB."""

# Processes share a GPU here, and JAX would take three quarters of its memory for the first of them.
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Message(NamedTuple):
    """A worker's message about a backend: a title, a step or a line for the listener, its record, or its end."""

    backend: str
    kind: str
    value: Any


def side_by_side(plan: Plan, backends: Sequence[Backend], jobs: int) -> list[Judged]:
    """Judge these backends in `jobs` processes; the verdicts in the order of the backends.

    If a process dies, the backend that it was judging fails, and the others continue in a new process.
    """
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    told: queue.SimpleQueue[Message] = queue.SimpleQueue()
    for word in (*_turns(backends), *[None] * jobs):
        waiting.put(word)
    leads = [threading.Thread(target=_lead, args=(plan, waiting, told), daemon=True) for _ in range(jobs)]
    for lead in leads:
        lead.start()

    by_name = {b.name: b for b in backends}
    # A backend's lines are shown together at its end, because lines of two backends would be mixed up.
    lines: dict[str, list[str]] = {name: [] for name in by_name}
    verdicts: dict[str, Judged] = {}
    with Progress(len(backends) * len(plan.checks)) as bar:
        while len(verdicts) < len(by_name):
            name, kind, value = told.get()
            if kind == "step":
                bar.step(f"{name} {value[0]}", value[1])
            elif kind in ("title", "line"):
                lines[name].append(value)
            else:
                if kind == "record":
                    verdicts[name] = Judged(record.from_json(value["run"]).backends[0], value["stale"])
                else:
                    died = _died(plan, by_name[name], *value)
                    verdicts[name] = Judged(died, [])
                    lines[name] += [f"  FAIL {c.id}: {c.reason}" for c in died.checks if c.status == "fail"]
                    lines[name].append(summary(died))
                for line in lines[name]:
                    bar.line(line)
    for lead in leads:
        lead.join()
    return [verdicts[name] for name in by_name]


def _turns(backends: Sequence[Backend]) -> list[str]:
    """The first variant of every library before the second of any.

    Two of one library side by side would compile the same code twice; the later one finds it in Numba's cache.
    """
    before: Counter[str] = Counter()
    turns = []
    for backend in backends:
        turns.append((before[backend.library], backend.name))
        before[backend.library] += 1
    return [name for _, name in sorted(turns, key=lambda turn: turn[0])]


def _died(plan: Plan, backend: Backend, finished: int, code: int) -> BackendRecord:
    """The record of a backend whose process ended during the check after these; its verdicts are lost."""
    checks = [CheckRecord(id, by_id(id).group, "skip", "its verdict was lost with the process") for id in plan.checks]
    reason = f"the process that judged it ended, with code {code}"
    at = min(finished, len(checks) - 1)
    checks[at] = dataclasses.replace(checks[at], status="fail", reason=reason)
    return BackendRecord(
        name=backend.name,
        library=backend.library,
        device=backend.device,
        kernel=plan.subject(backend).kernel,
        dtypes=backend.dtypes,
        capabilities=tuple(sorted(backend.capabilities)),
        checks=tuple(checks),
    )


def _lead(plan: Plan, waiting: queue.SimpleQueue[str | None], told: queue.SimpleQueue[Message]) -> None:
    """The thread of one worker: sends it one backend at a time and forwards its messages."""
    sharing = {name: value for name, value in SHARING.items() if name not in os.environ}
    name = waiting.get()
    while name is not None:
        with Channel(__name__, dataclasses.asdict(plan), sharing) as worker:  # a new one after each that died
            while name is not None and _ask(worker, name, told):
                name = waiting.get()
        if name is not None:
            name = waiting.get()


def _ask(worker: Channel, name: str, told: queue.SimpleQueue[Message]) -> bool:
    """Have a worker judge a backend; returns whether the worker is still alive."""
    worker.say(name)
    finished = 0
    for kind, value in worker.messages():
        finished += kind == "step"
        told.put(Message(name, kind, value))
        if kind == "record":
            return True
    told.put(Message(name, "end", (finished, worker.code())))
    return False


# ---------------------------------------------------------------- in the worker


def _plan(given: dict[str, Any]) -> Plan:
    expected = tuple(Expected(*e) for e in given.pop("expected"))
    dtypes = given.pop("dtypes")
    return Plan(**{**given, "checks": tuple(given["checks"])}, dtypes=dtypes and tuple(dtypes), expected=expected)


def main() -> None:
    """A worker's life."""
    wire = Wire()
    lines = wire.hear()
    plan = _plan(next(lines))
    for name in lines:
        found, stale = judge(plan, find(name), wire)
        wire.say("record", {"run": record.to_json(Run("", {}, (found,))), "stale": stale})


if __name__ == "__main__":
    main()
