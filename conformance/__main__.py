"""`python -m mlsm_conformance run | list | show | report | bench | sabotage`: parses the arguments, calls the
command, and returns its exit code.

Does none of the work itself: each command has its own file.  Exit codes: 0 conforms, 1 violations, 2 usage or not
importable, 3 a stale expectation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": (".run.command", "judge mlsm (or another loss) on array libraries, against a float64 oracle"),
    "list": (".run.list", "every check: id, rule, bound"),
    "show": (".run.show", "what one check means, and a script that reproduces it"),
    "report": (".report.command", "merge records into HTML and markdown"),
    "bench": (".bench.command", "measure speed and memory next to the installed peers, as ratios to a floor"),
    "sabotage": (".run.sabotage", "plant every known mistake and print which check finds it"),
}


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser. Only the module of the command in `words` is imported, so that `list` does not load the bench."""
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
    except SystemExit as end:  # argparse has printed its message
        return int(end.code or 0)
    code: int = args.run_command(args)
    return code


def script() -> int:
    """`main` as a program. If the reader of its output ends first (`list | head`), it ends without a traceback."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush would fail
        return 1
    return code


if __name__ == "__main__":
    sys.exit(script())
