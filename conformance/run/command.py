"""The command `run`: chooses backends, checks and a loss, prints the verdicts and returns the exit code.

Never ends in a traceback: a module that cannot be imported is exit 2 with a sentence, and a loss that misbehaves is a
violation with a reason.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

from .. import record
from ..backends import NAMES, Backend, NotInstalled, UnknownBackend, find, installed, installed_versions, names
from ..check import GROUPS, LEVELS
from ..formats import FORMATS
from ..record import BackendRecord, Run
from ..subjects import NotImportable, load, load_kernel
from ..suite import UnknownCheck, by_id, select
from .curves import peers
from .plan import Expected, Plan, judge
from .progress import Progress
from .workers import MOST, side_by_side

CONFORMS, VIOLATIONS, USAGE, STALE = 0, 1, 2, 3


class Usage(Exception):
    """The command line asks for something impossible; exit 2."""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    p.epilog = "Exit: 0 conforms, 1 violations, 2 usage or not importable, 3 a stale expectation."
    p.add_argument(
        "backend", nargs="*", help=f"{', '.join(names())}, or any importable namespace; default: all installed"
    )
    p.add_argument("--level", choices=LEVELS, default="quick")
    p.add_argument("--check", action="append", default=[], metavar="GROUP|ID", help=f"repeatable; {', '.join(GROUPS)}")
    p.add_argument("--dtype", action="append", default=[], choices=list(FORMATS), help="repeatable; default: all")
    p.add_argument("--device", help="the device of the arrays, where the library has several")
    p.add_argument(
        "--backend",
        dest="own_backend",
        action="append",
        default=[],
        metavar="pkg.module:Class",
        help="also judge on this backend of your own; repeatable",
    )
    p.add_argument(
        "--kernel",
        metavar="NAME|pkg.module:kernel",
        help="force this kernel of mlsm, or judge and time this one of your own",
    )
    p.add_argument("--impl", metavar="pkg.module:callable", help="judge this loss instead of mlsm's")
    p.add_argument("--elementwise", action="store_true", help="with --impl: it returns one value per element")
    p.add_argument("--require", action="append", default=[], metavar="BACKEND", help="fail if it is absent; repeatable")
    p.add_argument("--expected-failures", type=Path, metavar="FILE", help="lines of `[backend:]id[/case] reason`")
    p.add_argument("--jobs", type=int, metavar="N", help="processes that share the backends; default: one per core")
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--html", type=Path, metavar="FILE")
    p.add_argument("--no-curves", action="store_true", help="do not measure the curves of the report's plots")


def read_expected(path: Path) -> list[Expected]:
    """The lines of an expected-failures file; `#` begins a comment, and every line needs a reason."""
    out = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Usage(f"--expected-failures {path}: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, reason = line.partition(" ")
        name, _, case = name.partition("/")
        backend, _, id = name.rpartition(":")
        if not reason.strip():
            raise Usage(f"{path}:{number}: `{name}` has no reason")
        by_id(id)  # UnknownCheck names it
        out.append(Expected(backend, id, reason.strip(), case))
    return out


def choose(args: argparse.Namespace) -> tuple[list[Backend], list[str]]:
    """The backends to judge, and a message for each one that is required and absent."""
    missing = []
    asked = [*args.backend, *args.own_backend]
    if args.impl:
        root = load(args.impl).root
    if args.impl and not asked:
        asked = [root if root in names() else _library_of(args.impl)]
    if asked:
        chosen = []
        for name in asked:
            try:
                chosen.append(find(name))
            except UnknownBackend as error:
                raise Usage(str(error)) from error
            except NotInstalled as error:
                raise Usage(f"not importable: {error}") from error
    else:
        chosen, absent = installed(args.level)
        for name, reason in absent.items():
            print(f"absent: {reason if reason.startswith(name) else f'{name}: {reason}'}")
    here = {b.name for b in chosen}
    for name in args.require:
        if name in here:
            continue
        try:
            chosen.append(find(name))
        except (UnknownBackend, NotInstalled) as error:
            missing.append(f"required: {error}")
    return chosen, missing


def _library_of(impl: str) -> str:
    """The library whose arrays a loss takes, by its name: known for the suite's peers, NumPy for any other loss."""
    from .. import peers as documented

    called = impl.partition(":")[2]
    for peer in (*documented.PEERS, *documented.OTHERS):
        if peer.call.__name__ == called and impl.startswith(f"{documented.__name__}:"):
            return next(iter(peer.backend.values()))
    return {"optax": "jax", "flax": "jax"}.get(impl.partition(":")[0].partition(".")[0], "numpy")


def judge_all(plan: Plan, backends: list[Backend], jobs: int) -> tuple[list[BackendRecord], list[str]]:
    """The record of each backend, and all stale expectations."""
    if jobs > 1:
        judged = side_by_side(plan, backends, jobs)
    else:
        with Progress(len(backends) * len(plan.checks)) as bar:
            judged = [judge(plan, backend, bar) for backend in backends]
    return [found for found, _ in judged], [line for _, stale in judged for line in stale]


def jobs_for(args: argparse.Namespace, backends: list[Backend]) -> int:
    """The number of processes: as given, or one per core; one at smoke, which takes less time than starting more."""
    if args.jobs is not None and args.jobs < 1:
        raise Usage(f"--jobs must be at least 1; got {args.jobs}")
    # A backend that is registered in this process is unknown in the others.
    if any(b.found_as or (b.name not in NAMES and b.name in names()) for b in backends):
        return 1
    usual = 1 if args.level == "smoke" else min(os.cpu_count() or 1, MOST)
    return min(args.jobs or usual, max(1, len(backends)))


def run_command(args: argparse.Namespace) -> int:
    """The command."""
    try:
        return _main(args)
    except (Usage, UnknownCheck, NotImportable) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE


def _main(args: argparse.Namespace) -> int:
    if args.impl and args.kernel:
        raise Usage("--impl and --kernel exclude each other: a kernel is mlsm's")
    if args.elementwise and not args.impl:
        raise Usage("--elementwise needs `--impl`, whose result it describes")
    if args.kernel and ":" in args.kernel:
        load_kernel(args.kernel)
    elif args.kernel:
        from mlsm import _dispatch

        if args.kernel not in _dispatch.names():
            raise Usage(f"--kernel must be one of {', '.join(_dispatch.names())}; got {args.kernel!r}")
    checks = select(args.check, args.level)
    expected = read_expected(args.expected_failures) if args.expected_failures else []
    backends, missing = choose(args)
    plan = Plan(
        checks=tuple(c.id for c in checks),
        level=args.level,
        dtypes=tuple(args.dtype) or None,
        device=args.device,
        kernel=args.kernel,
        impl=args.impl,
        elementwise=args.elementwise,
        expected=tuple(expected),
        curves=bool(args.json or args.html) and not args.no_curves,
    )
    records, stale = judge_all(plan, backends, jobs_for(args, backends))
    for line in (*missing, *stale):
        print(line)
    unjudged = [r.unjudged for r in records if r.unjudged]
    if unjudged:
        raise Usage("\n".join(unjudged))
    if args.kernel and ":" in args.kernel:
        from .timing import beside_reference

        for line in beside_reference(args.kernel, backends[0]):
            print(line)
    if args.json or args.html:
        run = Run(
            mlsm=_version(),
            versions=_versions(backends),
            backends=tuple(records),
            peers=() if args.no_curves else peers(beside_mlsm=bool(args.impl)),
            level=args.level,
            impl=args.impl or "",
            date=datetime.date.today().isoformat(),
        )
        if args.json:
            record.write(run, args.json)
        if args.html:
            from ..report.command import write_html

            write_html(run, args.html)
    silent = [r.name for r in records if all(c.status == "skip" for c in r.checks)]
    if missing or silent or any(c.status == "fail" for r in records for c in r.checks):
        return VIOLATIONS
    return STALE if stale else CONFORMS


def _version() -> str:
    import mlsm

    return mlsm.__version__


def _versions(backends: list[Backend]) -> dict[str, str]:
    import platform

    out = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for backend in backends:
        out |= backend.versions()
    return out | installed_versions("array_api_compat")
