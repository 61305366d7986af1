"""The command `show`: what one check means, and a script that runs it alone."""

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
    print(script(c.id, args.backend))
    return 0


def script(id: str, backend: str) -> str:
    """A program that runs one check on one backend."""
    return textwrap.dedent(f"""\
        from mlsm_conformance.backends import find
        from mlsm_conformance.check import Context
        from mlsm_conformance.suite import by_id, run_check

        result = run_check(by_id({id!r}), Context(find({backend!r})))
        print(result.status, result.reason)
        if result.worst:
            print(f"worst: {{result.worst.ulp:.3g}} ULP, {{result.worst.bound:.3g}} allowed: {{result.worst.case}}")
            print(result.worst.repro)
        """)
