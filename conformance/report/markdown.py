"""The page docs/support.md: what each backend supports, and observed errors next to promised bounds.

Raises for a record that is older than the code (another version of mlsm, other declared capabilities), and writes the
fingerprint of the code's claims into the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlsm

from ..backends import CAPABILITIES, NotInstalled, UnknownBackend, find
from ..record import QUANTITIES, STATUSES, Run
from .claims import claims
from .summary import GLYPH, MEANING, NAMES, by_dtype, by_reason, count, label, largest, observed, strain
from .svg import short

STAMP = "<!-- claims: {} -->"


class StaleRecordError(ValueError):
    """The record was made by other code."""


def stamp_of(page: str) -> str:
    """The fingerprint that a generated page carries; empty for none."""
    start, end = STAMP.split("{}")
    _, found, rest = page.partition(start)
    return rest.partition(end)[0] if found else ""


def require_current(run: Run) -> None:
    """Raise StaleRecordError unless the record was made by code with the same version and declarations."""
    if run.mlsm != mlsm.__version__:
        raise StaleRecordError(f"the record is of mlsm {run.mlsm}, this is {mlsm.__version__}: run the suite again")
    for backend in run.backends:
        try:
            declared = set(find(backend.name).capabilities)
        except (NotInstalled, UnknownBackend):
            continue  # a record from another machine: its declarations cannot be compared here
        if declared != set(backend.capabilities):
            difference = ", ".join(sorted(declared.symmetric_difference(backend.capabilities)))
            raise StaleRecordError(
                f"the record of {backend.name} and this code differ in declared capabilities ({difference}): "
                "run the suite again"
            )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub-flavoured table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def merged(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows that differ in their first cell only are joined into one row that names all of them."""
    out: dict[tuple[str, ...], list[str]] = {}
    for first, *rest in rows:
        out.setdefault(tuple(rest), []).append(first)
    return [[", ".join(names), *rest] for rest, names in out.items()]


def folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _verdicts(run: Run) -> str:
    """One line per library; a folded table has every backend."""
    statuses = [f"{GLYPH[s]} {MEANING[s]}" for s in STATUSES]
    lines, rows = [], []
    for library in dict.fromkeys(b.library for b in run.backends):
        own = [b for b in run.backends if b.library == library]
        totals = count(c for b in own for c in b.checks)
        names = ", ".join(by_dtype(d for b in own for d in b.dtypes))
        lines.append([library, str(len(own)), names, *(str(totals[s]) if totals[s] else "–" for s in STATUSES)])
    for backend in run.backends:
        totals = count(backend.checks)
        cells = [str(totals[s]) if totals[s] else "–" for s in STATUSES]
        rows.append([label(backend), backend.library, ", ".join(backend.dtypes), *cells])
    each = table(["backend", "library", "dtypes", *statuses], merged(rows))
    return f"{table(['library', 'backends', 'dtypes', *statuses], lines)}\n\n{folded('Every backend', each)}"


def _observed(run: Run) -> str:
    rows = []
    for backend in run.backends:
        for dtype in by_dtype(c.dtype for c in backend.curves):
            cells = []
            for quantity in QUANTITIES:
                worst = observed(backend.curves, quantity, dtype)
                text = "–" if worst is None else f"{short(worst.ulp)} / {short(worst.bound)}"
                cells.append(f"**{text}**" if worst is not None and strain(worst.ulp, worst.bound) > 1 else text)
            rows.append([label(backend), dtype, *cells])
    if not rows:
        return "The record holds no measurement of single values: the run was made at a level that takes none."
    each = table(["backend", "dtype", *NAMES.values()], merged(rows))
    return f"The largest error in relation to its bound: {largest(run)}.\n\n{folded('Every backend and dtype', each)}"


def _capabilities(run: Run) -> str:
    """A row for each backend with its capabilities: a table with a column for each would be too wide for a page."""
    rows = [[label(b), ", ".join(c for c in CAPABILITIES if c in b.capabilities) or "–"] for b in run.backends]
    meanings = "\n".join(f"- `{name}`: {meaning}" for name, meaning in CAPABILITIES.items())
    return f"{table(['backend', 'declared capabilities'], rows)}\n\n{meanings}"


def _exceptions(run: Run) -> str:
    parts = []
    for status, heading in (("fail", "Failures"), ("xfail", "Expected failures"), ("skip", "Skipped")):
        items = []
        for reason, found in by_reason(run, "fail" if status == "fail" else "xfail" if status == "xfail" else "skip"):
            backends = ", ".join(dict.fromkeys(name for name, _ in found))
            ids = ", ".join(f"`{i}`" for i in dict.fromkeys(check.id for _, check in found))
            items.append(f"- {reason} ({backends}: {ids})")
        if items:
            parts.append(f"### {heading}\n\n" + "\n".join(items))
    return "\n\n".join(parts) or "None: every check was run, and none was expected to fail."


def support_page(run: Run) -> str:
    """docs/support.md for this run."""
    require_current(run)
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return f"""{STAMP.format(claims())}
<!-- Generated by `python -m mlsm_conformance report RECORD.json --markdown docs/support.md`; do not edit. -->

# Support

What each backend supports: the results of the test suite for mlsm {run.mlsm}, at level `{run.level}`. It was
run with {versions}.

## Verdicts

A check may run once for each dtype and kernel. A call that needs a capability which the backend does not declare must
raise a clear error, and that is a check, too.

{_verdicts(run)}

## Observed and promised errors

One ULP (unit in the last place) is the distance between neighbouring numbers of the result's dtype at the right answer,
so that an error of at most ½ ULP is the best that the dtype allows. The table gives the observed error / the promised
bound, both in ULP, for one logit and a label of 0 or 1: of all results, the one that comes nearest to its bound.
Each was computed by the kernel that mlsm uses by default with the versions above, on a few hundred logits of each
dtype. [The numerics](numerics.md#the-bounds) have larger errors, which were measured without kernels, on every float32
logit.

The promised bounds are those of [the contract](contract.md#what-comes-out); its smaller ones for PyTorch hold where no
kernel serves the call. In half precision the bound is half an ULP, from the rounding, and the error of the float32
arithmetic before it, which is less than 0.001 ULP.

{_observed(run)}

## Capabilities

{_capabilities(run)}

## What was not tested, and why

{_exceptions(run)}
"""
