"""The command `sabotage`: plants every known mistake on every installed backend and prints which check finds it.

An exception does not count: a mistake is caught when a check finds a wrong number.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import NamedTuple

from ..backends import Backend, NotInstalled, UnknownBackend, find, installed
from ..check import Context
from ..subjects.reference_impl import Own
from ..subjects.sabotage import SABOTAGES, Sabotage
from ..suite import by_id, run_check, select

CRASH = re.compile(r"(\S+: )?raised ")
"""The beginning of a reason that is an exception and not a wrong number."""
CONFORMING = ("values", "derivatives", "special", "laws")


class Verdict(NamedTuple):
    """The result of one mistake on one backend: "caught", "missed", or "n/a" if it cannot be made; and why."""

    word: str
    why: str


def plant(sabotage: Sabotage, backend: Backend) -> Verdict:
    """Plant one mistake on one backend: each check that should find it must, by a wrong number."""
    if sabotage.needs and not sabotage.needs & set(backend.dtypes):
        return Verdict("n/a", f"{backend.name} has none of {', '.join(sorted(sabotage.needs))}")
    for id in sabotage.caught_by:
        context = Context(backend, sabotage.make(backend), "smoke", backend.dtypes)
        result = run_check(by_id(id), context)
        if result.status != "fail":
            return Verdict("missed", f"{id}: {result.status} {result.reason}")
        if CRASH.match(result.reason):
            return Verdict("missed", f"{id}: it crashed instead of giving a wrong number: {result.reason}")
    return Verdict("caught", ", ".join(sabotage.caught_by))


def conforming(backend: Backend) -> list[str]:
    """The failures of the conforming implementation; there should be none."""
    context = Context(backend, Own(backend), "smoke", backend.dtypes)
    checks = [c for c in select(CONFORMING, "quick") if not c.id.endswith("exhaustive")]
    results = [run_check(c, context) for c in checks]
    return [f"{r.id}: {r.reason}" for r in results if r.status == "fail"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sabotage`."""
    parser.add_argument("backend", nargs="*", help="default: the first variant of every installed library")


def run_command(args: argparse.Namespace) -> int:
    """Print the table; 0 if every mistake was caught and the conforming implementation passed, else 1."""
    try:
        backends = [find(name) for name in args.backend] or installed("smoke")[0]
    except (UnknownBackend, NotInstalled) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    width = max(len(s.name) for s in SABOTAGES)
    columns = [max(len(b.name), 6) for b in backends]
    print(" " * width, *(b.name.ljust(c) for b, c in zip(backends, columns, strict=True)), " caught by", sep="  ")
    trouble: list[str] = []
    for s in SABOTAGES:
        print(s.name.ljust(width), end="", flush=True)
        for backend, column in zip(backends, columns, strict=True):
            verdict = plant(s, backend)
            print("  " + verdict.word.ljust(column), end="", flush=True)
            if verdict.word == "missed":
                trouble.append(f"{s.name} on {backend.name}: {verdict.why}")
        print("   " + ", ".join(s.caught_by))
    print("own formula".ljust(width), end="", flush=True)
    for backend, column in zip(backends, columns, strict=True):
        against = conforming(backend)
        print("  " + ("FAILS" if against else "passes").ljust(column), end="", flush=True)
        trouble += [f"own formula on {backend.name}: {line}" for line in against]
    print("   (another formula, the same contract)")
    for line in trouble:
        print(line)
    return 1 if trouble else 0
