"""`python -m mlsm_conformance run | list | show | report | bench | sabotage`: reads the words, hands over, returns
the exit code.

Refuses to do any of the work: each command is a file of its own.  Exit codes: 0 conforms, 1 violations, 2 usage or not
importable, 3 a stale expectation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": (".run.command", "judge mlsm (or somebody else's loss) on array libraries, against a float64 oracle"),
    "list": (".run.list", "every check: id, rule, bound"),
    "show": (".run.show", "what one check means, and a script that reproduces it"),
    "report": (".report.command", "merge records into HTML and markdown"),
    "bench": (".bench.command", "measure against the peers that are installed, as ratios to a copy"),
    "sabotage": (".run.sabotage", "plant every known mistake and print who catches it"),
}


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The command's words. Only the command that they name is imported, so that `list` need not load the bench."""
    p = argparse.ArgumentParser(
        prog="python -m mlsm_conformance",
        description="Is a multi-label soft margin loss right, and by how much is it wrong?",
        epilog="`COMMAND --help` says more.",
    )
    commands = p.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, meaning) in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
        if name in words[:1]:
            found = importlib.import_module(module, __package__)
            found.add_arguments(command)
            command.set_defaults(run_command=found.run_command)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    try:
        args = parser(words).parse_args(words)
    except SystemExit as end:  # argparse has said what it has to say
        return int(end.code or 0)
    code: int = args.run_command(args)
    return code


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
