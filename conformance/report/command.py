"""The report command: reads records, merges them, writes the page and the table.

Merging raises for records that would mislead: the same backend judged twice, or two versions of mlsm in one report.
Layout and text are in `html.py` and `markdown.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from ..record import BackendRecord, PeerRecord, RecordError, Run, read
from .html import comparison, page
from .markdown import StaleRecordError, support_page
from .summary import count, groups, label


class MergeError(ValueError):
    """Two records cannot be merged into one report."""


def _joined(runs: Sequence[Run], field: str) -> str:
    return ", ".join(dict.fromkeys(str(getattr(run, field)) for run in runs))


def merge(runs: Sequence[Run]) -> Run:
    """Several runs as one: all of the same mlsm, each backend (name, kernel, device) once, in the order given.

    A version that differs between machines (torch for CPU here, for CUDA there) is shown with all its values. A peer's
    curves are collected; the same curve measured twice is kept once, the first.
    """
    if not runs:
        raise MergeError("no record to report on")
    for field in ("mlsm", "impl"):
        values = {getattr(run, field) for run in runs}
        if len(values) > 1:
            raise MergeError(
                f"the records differ in `{field}` ({', '.join(sorted(map(repr, values)))}): report on each alone"
            )
    backends: dict[tuple[str, str, str], BackendRecord] = {}
    for run in runs:
        for backend in run.backends:
            key = (backend.name, backend.kernel, backend.device)
            if key in backends:
                raise MergeError(f"backend {label(backend)!r} is in more than one record: leave one of them out")
            backends[key] = backend
    versions: dict[str, str] = {}
    for run in runs:
        for name, version in run.versions.items():
            if version not in versions.get(name, "").split(" and "):
                versions[name] = f"{versions[name]} and {version}" if name in versions else version
    peers: dict[str, PeerRecord] = {}
    for run in runs:
        for peer in run.peers:
            kept = peers.get(peer.name, PeerRecord(peer.name, ()))
            have = {(c.quantity, c.dtype, c.target) for c in kept.curves}
            new = tuple(c for c in peer.curves if (c.quantity, c.dtype, c.target) not in have)
            peers[peer.name] = PeerRecord(peer.name, kept.curves + new)
    return dataclasses.replace(
        runs[0],
        versions=versions,
        backends=tuple(backends.values()),
        peers=tuple(peers.values()),
        level=_joined(runs, "level"),
    )


def write_html(run: Run, path: str | Path) -> None:
    """The page of one run, without its JSON."""
    Path(path).write_text(page(run), encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m mlsm_conformance report`."""
    parser.add_argument(
        "records",
        nargs="+",
        metavar="RECORD",
        help="JSON written by `run --json`: several are merged, or shown side by side",
    )
    parser.add_argument("--html", metavar="FILE", help="write the self-contained page")
    parser.add_argument("--markdown", metavar="FILE", help="write the table of docs/support.md")


def side_by_side(runs: Sequence[Run]) -> str:
    """A text table of losses by groups of checks: how many of each group fail, of how many judged."""
    names = list(dict.fromkeys(g for run in runs for g in groups(run)))
    table = [["", *names]]
    for run in runs:
        for backend in run.backends:
            row = [f"{run.impl.rpartition(':')[2] or 'mlsm'} on {label(backend)}"]
            for group in names:
                totals = count(c for c in backend.checks if c.group == group)
                judged = totals["pass"] + totals["fail"] + totals["xfail"]
                row.append(f"{totals['fail']}/{judged}" if judged else "-")
            table.append(row)
    widths = [max(len(row[i]) for row in table) for i in range(len(names) + 1)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)


def run_command(arguments: argparse.Namespace) -> int:
    """0 if everything was written, 2 if the records or the options do not allow it."""
    if not (arguments.html or arguments.markdown or len(arguments.records) > 1):
        print("report: nothing to write: give --html FILE, --markdown FILE, or several records", file=sys.stderr)
        return 2
    try:
        runs = [read(path) for path in arguments.records]
        several = len({run.impl for run in runs}) > 1
        outputs = []
        if len(runs) > 1:
            print(f"failing checks / judged checks\n{side_by_side(runs)}")
        if arguments.html:
            outputs.append((arguments.html, comparison(runs) if several else page(merge(runs))))
        if arguments.markdown:
            outputs.append((arguments.markdown, support_page(merge(runs))))
        for path, content in outputs:
            Path(path).write_text(content, encoding="utf-8")
            print(f"wrote {path}")
    except (RecordError, MergeError, StaleRecordError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0
