"""`python -m mlsm_conformance run | list | show | report | bench | sabotage`: reads the words, hands over, returns
the exit code.

Refuses to do any of the work: each command is a file of its own.  Exit codes: 0 conforms, 1 violations, 2 usage or not
importable, 3 a stale expectation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": "judge backends, a kernel, or somebody else's loss",
    "list": "every check: id, rule, bound",
    "show": "what one check means, and a script that reproduces it",
    "report": "merge records into HTML and markdown",
    "bench": "measure against the peers that are installed",
    "sabotage": "plant every known mistake and print who catches it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else ""
    if command == "run":
        from .run.command import main as run

        return run(words[1:])
    if command in ("list", "show"):
        from .run.list import main_list, main_show

        return (main_list if command == "list" else main_show)(words[1:])
    if command == "report":
        from .report.command import main as report

        return report(words[1:])
    if command == "bench":
        from .bench.command import main as bench

        return bench(words[1:])
    if command == "sabotage":
        from .run.sabotage import main as sabotage

        return sabotage(words[1:])
    asked = command in ("-h", "--help", "help")
    out = sys.stdout if asked else sys.stderr
    if command and not asked:
        print(f"unknown command {command!r}\n", file=out)
    print("usage: python -m mlsm_conformance COMMAND …\n", file=out)
    for name, meaning in COMMANDS.items():
        print(f"  {name:<10}{meaning}", file=out)
    print("\n`COMMAND --help` says more.", file=out)
    return 0 if asked else 2


def script() -> int:
    """`main` as a program: a reader that has seen enough (`list | head`) ends it, and not in a traceback."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush would fail
        return 1
    return code


if __name__ == "__main__":
    sys.exit(script())
