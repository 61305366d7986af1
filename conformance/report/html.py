"""The page people look at: one HTML file with everything in it, made from a run.

No script, no font and no picture is fetched; folding is `<details>`, hovering is `title`. What stands only in a hover
stands in a list below as well, because paper and telephones have no pointer. Judges nothing: it shows the record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ..record import QUANTITIES, STATUSES, BackendRecord, Run, Status
from .panels import losses_section, small_multiples
from .style import COLOURS, DRAWING, PAGE
from .summary import (
    GLYPH,
    MEANING,
    NAMES,
    by_reason,
    count,
    dominant,
    groups,
    label,
    observed,
    strain,
    worst_cases,
)
from .svg import short


def _q(text: str) -> str:
    return escape(text, quote=True)


def _subject(run: Run) -> str:
    return f"{run.impl}, judged by mlsm {run.mlsm}" if run.impl else f"mlsm {run.mlsm}"


def _header(run: Run) -> str:
    totals = count(c for b in run.backends for c in b.checks)
    judged = totals["pass"] + totals["fail"] + totals["xfail"]
    if totals["fail"]:
        verdict = f"{totals['fail']} of {judged} checks fail"
    elif judged == 0:
        verdict = "nothing was judged"
    else:
        verdict = "conforms"
    tally = "".join(
        f'<li class="{s}"><span aria-hidden="true">{GLYPH[s]}</span> <b>{totals[s]}</b> {MEANING[s]}</li>'
        for s in STATUSES
        if totals[s]
    )
    cases = sum(c.cases for b in run.backends for c in b.checks)
    of_cases = f", {cases:,} results compared" if cases else ""
    return (
        f"<header><h1>{escape(_subject(run))}: {verdict}</h1>"
        f'<p class="lead">{len(run.backends)} backends, {judged} checks{of_cases}, level {escape(run.level)}. '
        "Every number is judged against an exact reference and a bound derived from the arithmetic; none against an "
        f'absolute tolerance.</p><ul class="tally">{tally}</ul></header>'
    )


def _cell(backend: BackendRecord, group: str) -> str:
    checks = [c for c in backend.checks if c.group == group]
    totals = count(checks)
    status = dominant(totals)
    if status is None:
        return '<td class="empty" title="no check of this group was run here">·</td>'
    shown: list[Status] = [status, *(s for s in STATUSES if totals[s] and s != status)]
    lines = "".join(f'<span><i role="img" aria-label="{MEANING[s]}">{GLYPH[s]}</i> {totals[s]}</span>' for s in shown)
    hover = [f"{label(backend)}, {group}: " + ", ".join(f"{totals[s]} {MEANING[s]}" for s in shown)]
    hover += [f"{GLYPH[c.status]} {c.id}: {c.reason}" for c in checks if c.status != "pass"]
    return f'<td class="{status}" title="{_q(chr(10).join(hover))}">{lines}</td>'


def _matrix(run: Run) -> str:
    names = groups(run)
    head = "".join(f"<th scope='col'>{escape(g)}</th>" for g in names)
    rows = "".join(
        f"<tr><th scope='row'>{escape(label(b))}<small>{escape(', '.join(b.dtypes))}</small></th>"
        f"{''.join(_cell(b, g) for g in names)}</tr>"
        for b in run.backends
    )
    key = ", ".join(f"{GLYPH[s]} {MEANING[s]}" for s in STATUSES)
    return (
        f"<section id='matrix'><h2>Backends and checks</h2><p class='lead'>{key}. Reasons are shown on hover, and "
        "in the <a href='#reasons'>list below</a>.</p><div class='scroll'><table class='matrix'>"
        f"<thead><tr><th>backend</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _reason_list(run: Run, status: Status) -> str:
    items = []
    for reason, found in by_reason(run, status):
        where: dict[str, list[str]] = {}
        for backend, check in found:
            where.setdefault(check.id, []).append(backend)
        places = "; ".join(f"<code>{escape(i)}</code> on {escape(', '.join(names))}" for i, names in where.items())
        items.append(f"<li>{escape(reason)}<small>{places}</small></li>")
    return f"<ul class='reasons'>{''.join(items)}</ul>"


def _failures(run: Run) -> str:
    """Failures stand directly below the matrix: whoever has one came for it."""
    if not run.failures():
        return ""
    return f"<section id='failures'><h2>{GLYPH['fail']} What fails</h2>{_reason_list(run, 'fail')}</section>"


def _reasons(run: Run) -> str:
    totals = count(c for b in run.backends for c in b.checks)
    parts = []
    for status in ("xfail", "skip"):
        if totals[status]:
            kind = "open" if status == "xfail" else ""
            head = (
                f"{GLYPH[status]} {MEANING[status]} <small>{totals[status]} check{'s' * (totals[status] != 1)}</small>"
            )
            parts.append(f"<details {kind}><summary>{head}</summary>{_reason_list(run, status)}</details>")
    body = "".join(parts) or "<p>Nothing was skipped, and no failure was expected.</p>"
    return f"<section id='reasons'><h2>What was not judged, and why</h2>{body}</section>"


def observed_text(ulp: float, bound: float) -> str:
    return f"{short(ulp)} / {short(bound)}"


def _observed(run: Run) -> str:
    rows = []
    for backend in run.backends:
        for dtype in backend.dtypes:
            cells = []
            for quantity in QUANTITIES:
                worst = observed(backend.curves, quantity, dtype)
                if worst is None:
                    cells.append("<td class='num' title='not measured'>–</td>")
                    continue
                css = "num over" if strain(worst.ulp, worst.bound) > 1 else "num"
                at = f"at x = {short(worst.logit)}, y = {short(worst.target)}"
                cells.append(f"<td class='{css}'>{observed_text(worst.ulp, worst.bound)}<small>{at}</small></td>")
            if any("not measured" not in c for c in cells):
                rows.append(
                    f"<tr><th scope='row'>{escape(label(backend))}</th><td>{escape(dtype)}</td>{''.join(cells)}</tr>"
                )
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{NAMES[q]}</th>" for q in QUANTITIES)
    return (
        "<section id='observed'><h2>Observed beside promised</h2><p class='lead'>The hard-target result that comes "
        "nearest to its bound, in ULP of the result's dtype: observed / promised.</p><div class='scroll'>"
        "<table><thead><tr>"
        f"<th>backend</th><th>dtype</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _worst(run: Run) -> str:
    articles = []
    for backend, check, worst in worst_cases(run):
        part = strain(worst.ulp, worst.bound)
        css = "over" if part > 1 else ""
        width = 100.0 if not math.isfinite(part) else min(100.0, 100 * part)
        command = f"python -m mlsm_conformance run {backend.name} --check {check.id}"
        if backend.kernel not in {"auto", ""}:
            command += f" --kernel {backend.kernel}"
        repro = f"<pre class='wrap'>{escape(worst.repro)}</pre>" if worst.repro else ""
        articles.append(
            f"<article><h3><code>{escape(check.id)}</code> on {escape(label(backend))}</h3><p>{escape(worst.case)}</p>"
            f"<p class='num'>{short(worst.ulp)} of {short(worst.bound)} ULP</p>"
            f"<div class='bar'><i class='{css}' style='width:{width:.0f}%'></i></div>"
            f"{repro}<pre class='wrap'>{escape(command)}</pre></article>"
        )
    if not articles:
        return ""
    return (
        "<section id='worst'><h2>Worst cases</h2><p class='lead'>The case of each check that comes nearest to its "
        "bound. The bar is the bound; paste a line to see the number again.</p>"
        f"<div class='cases'>{''.join(articles)}</div></section>"
    )


def _versions(run: Run) -> str:
    items = "".join(f"<li>{escape(name)} <code>{escape(v)}</code></li>" for name, v in run.versions.items())
    return f"<section id='versions'><h2>Versions</h2><ul class='versions'>{items}</ul></section>"


def page(run: Run) -> str:
    """The whole page for a run."""
    sections: Sequence[str] = (
        _matrix(run),
        _failures(run),
        losses_section(run),
        _observed(run),
        small_multiples(run),
        _worst(run),
        _reasons(run),
        _versions(run),
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(_subject(run))}: conformance</title><style>{COLOURS}{DRAWING}{PAGE}</style></head><body>"
        f"{_header(run)}<main>{''.join(sections)}</main>"
        "<footer>Made by <code>python -m mlsm_conformance report</code>. 1 ULP is the distance between "
        "neighbouring numbers of the result's dtype at the right answer.</footer></body></html>\n"
    )
