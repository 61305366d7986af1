"""The command `list`: every check with its rule and bound."""

from __future__ import annotations

import argparse
import textwrap

from ..check import GROUPS
from ..checks import CHECKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `list`."""
    parser.add_argument("group", nargs="*", choices=[*GROUPS, []], metavar="GROUP", help=f"only {', '.join(GROUPS)}")


def run_command(args: argparse.Namespace) -> int:
    """Print every check: id, level, rule, bound."""
    for group in args.group or GROUPS:
        print(f"\n{group}: {GROUPS[group]}")
        for c in CHECKS:
            if c.group == group:
                print(f"  {c.id}  [{c.level}]")
                print(textwrap.fill(c.rule, 110, initial_indent="      ", subsequent_indent="      "))
                print(f"      bound: {c.bound}")
    return 0
