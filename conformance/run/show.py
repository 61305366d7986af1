"""The command `show`: the meaning of one check, and a script that runs only this check."""

from __future__ import annotations

import argparse
import sys
import textwrap

from ..check import GROUPS
from ..suite import UnknownCheck, by_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `show`."""
    parser.add_argument("id", help="a check, as `list` names it")
    parser.add_argument("--backend", default="numpy", help="the backend that the script names")
    parser.add_argument("--impl", metavar="pkg.module:callable", help="the loss that the script judges")
    parser.add_argument("--kernel", metavar="NAME", help="the kernel of mlsm that the script forces")
    parser.add_argument("--elementwise", action="store_true", help="the loss returns one value per element")


def run_command(args: argparse.Namespace) -> int:
    """Print what one check means, and a script that reproduces it."""
    try:
        c = by_id(args.id)
    except UnknownCheck as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{c.id}   (group {c.group}: {GROUPS[c.group]}; level {c.level})\n")
    print(textwrap.fill(c.rule, 100))
    print(f"\nbound: {c.bound}")
    if c.needs:
        print(f"asked only of backends that declare: {', '.join(sorted(c.needs))}")
    print(f"asked of {'any loss' if c.anybody else 'mlsm only'} that offers: {', '.join(sorted(c.offers))}")
    print("\nThis script runs it, and prints every violation with its worst case:\n")
    print(script(c.id, args.backend, args.impl, args.kernel, args.elementwise))
    return 0


def script(id: str, backend: str, impl: str | None = None, kernel: str | None = None, elementwise: bool = False) -> str:
    """A program that runs one check on one backend."""
    given = {"impl": impl, "kernel": kernel, "elementwise": elementwise}
    words = "".join(f", {name}={value!r}" for name, value in given.items() if value)
    diagnosis = "from mlsm_conformance.run.diagnose import diagnose\n" if impl else ""
    look = "\nfor line in diagnose(context):\n    print(line)" if impl else ""
    return f"""\
from mlsm_conformance.backends import find
from mlsm_conformance.check import Context
{diagnosis}from mlsm_conformance.subjects import subject_of
from mlsm_conformance.suite import by_id, run_check

backend = find({backend!r})
context = Context(backend, subject_of(backend{words})){look}
result = run_check(by_id({id!r}), context)
print(result.status, result.reason)
for line in result.again:
    print(line)
if result.worst:
    print(f"worst: {{result.worst.ulp:.3g}} ULP, {{result.worst.bound:.3g}} allowed: {{result.worst.case}}")
    print(result.worst.repro)
"""
