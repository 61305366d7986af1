"""The commands `list` and `show`: what is checked, by which rule and bound, and how to see one check alone."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from ..check import GROUPS
from ..checks import CHECKS
from ..suite import UnknownCheck, by_id


def main_list(argv: Sequence[str]) -> int:
    """Print every check: id, level, rule, bound."""
    parser = argparse.ArgumentParser(
        prog="python -m mlsm_conformance list", description="Every check: id, rule, bound."
    )
    parser.add_argument("group", nargs="*", choices=[*GROUPS, []], help="only these groups")
    chosen = parser.parse_args(argv).group or list(GROUPS)
    for group in chosen:
        print(f"\n{group}: {GROUPS[group]}")
        for c in CHECKS:
            if c.group == group:
                print(f"  {c.id}  [{c.level}]")
                print(textwrap.fill(c.rule, 110, initial_indent="      ", subsequent_indent="      "))
                print(f"      bound: {c.bound}")
    return 0


def main_show(argv: Sequence[str]) -> int:
    """Print what one check means, and a script that reproduces it."""
    parser = argparse.ArgumentParser(prog="python -m mlsm_conformance show", description="One check: rule and script.")
    parser.add_argument("id")
    parser.add_argument("--backend", default="numpy", help="the backend that the script names")
    args = parser.parse_args(argv)
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
