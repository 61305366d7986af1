"""The HTML page of a run: one file with everything in it.

No script, font or picture is fetched; folding is `<details>`, hovering is `title`. A text that is shown on hover is
also in a list below, because paper and telephones have no pointer. Judges nothing: it shows the record.
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
    causes,
    count,
    dominant,
    failing,
    groups,
    label,
    not_drawn,
    observed,
    passed_over,
    strain,
    worst_cases,
)
from .svg import short

HINT = "<p class='hint'>The table scrolls sideways: swipe, or use the arrow keys.</p>"


def _q(text: str) -> str:
    return escape(text, quote=True)


def _subject(run: Run) -> str:
    return f"{run.impl}, judged by mlsm {run.mlsm}" if run.impl else f"mlsm {run.mlsm}"


AGAINST = (
    "The multi-label soft margin loss of a row is the mean over its classes of −y·log σ(x) − (1−y)·log σ(−x) for "
    "logits x and targets y; <code>mean</code> and <code>sum</code> reduce the rows. The other rules (dtypes, special "
    "values, derivatives) are those of mlsm's contract. Errors are counted in ULP: one ULP (unit in the last place) is "
    "the distance between neighbouring numbers of the result's dtype at the right answer, so an error of at most ½ ULP "
    "is the best that the dtype allows."
)
"""The definition that a loss is judged by, and the unit of every error: what a new reader needs first."""


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
    several = "s" * (len(run.backends) != 1)
    of_cases = f", {cases:,} results compared" if cases else ""
    return (
        f"<header><h1>{escape(_subject(run))}: {verdict}</h1>"
        f'<p class="lead">{len(run.backends)} backend{several}, {judged} checks{of_cases}, level {escape(run.level)}. '
        "Every number is judged against an exact reference and a bound derived from the arithmetic; none against an "
        f'absolute tolerance.</p><p class="lead">{AGAINST}</p><ul class="tally">{tally}</ul></header>'
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
        f"in the <a href='#reasons'>list below</a>.</p>{HINT}<div class='scroll' tabindex='0'><table class='matrix'>"
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


def _diagnosis(run: Run) -> str:
    """The diagnosis of each backend: what a few calls showed, then each cause with how many checks it explains."""
    parts = []
    for backend in run.backends:
        failing = sum(c.status == "fail" for c in backend.checks)
        items = []
        for sentence, checks in causes(backend):
            ids = ", ".join(f"<code>{escape(c.id)}</code>" for c in checks)
            items.append(
                f"<li><b>{len(checks)} of {failing} failing checks:</b> {escape(sentence)}<small>{ids}</small></li>"
            )
        explained = {sentence for sentence, _ in causes(backend)}
        items += [f"<li>{escape(line)}</li>" for line in backend.diagnosis if line not in explained]
        if items:
            parts.append(f"<h3>{escape(label(backend))}</h3><ul class='reasons'>{''.join(items)}</ul>")
    return f"<section id='diagnosis'><h2>Diagnosis</h2>{''.join(parts)}</section>" if parts else ""


def _failures(run: Run) -> str:
    """Failures are directly below the matrix, because a reader looks for them. The worst come first."""
    if not run.failures():
        return ""
    items = []
    for backend in run.backends:
        for check in failing(backend):
            lines = "".join(f"<pre class='wrap'>{escape(line)}</pre>" for line in check.again)
            items.append(
                f"<li><code>{escape(check.id)}</code> on {escape(label(backend))}: {escape(check.reason)}"
                f"<details><summary>See it again</summary>{lines}</details></li>"
            )
    return (
        f"<section id='failures'><h2>{GLYPH['fail']} What fails</h2><ul class='reasons'>{''.join(items)}</ul></section>"
    )


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
    for head, told in (("Questions not asked within a check", passed_over(run)), ("Not drawn", not_drawn(run))):
        if told:
            items = "".join(f"<li>{escape(line)}</li>" for line in told)
            parts.append(f"<details><summary>{head}</summary><ul class='reasons'>{items}</ul></details>")
    body = "".join(parts) or "<p>Nothing was skipped, and no failure was expected.</p>"
    return f"<section id='reasons'><h2>What was not tested, and why</h2>{body}</section>"


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
        "<section id='observed'><h2>Observed and promised errors</h2><p class='lead'>For a label of 0 or 1, the "
        "result that comes nearest to its bound: observed error / promised bound, in ULP of the result's dtype.</p>"
        f"{HINT}"
        "<div class='scroll' tabindex='0'><table><thead><tr>"
        f"<th>backend</th><th>dtype</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _worst(run: Run) -> str:
    articles = []
    for backend, check, worst in worst_cases(run):
        part = strain(worst.ulp, worst.bound)
        css = "over" if part > 1 else ""
        width = 100.0 if not math.isfinite(part) else min(100.0, 100 * part)
        command = f"python -m mlsm_conformance run {backend.name} --check {check.id}"
        if run.impl:
            command += f" --impl {run.impl}"
        elif backend.kernel not in {"auto", ""}:
            command += f" --kernel {backend.kernel}"
        python = worst.repro and not worst.repro.startswith("python -m ")
        repro = f"<pre class='wrap'>{escape(worst.repro)}</pre>" if python else ""
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
        _diagnosis(run),
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


def comparison(runs: Sequence[Run]) -> str:
    """Several implementations side by side: one table of losses by groups of checks."""
    names = list(dict.fromkeys(g for run in runs for g in groups(run)))
    head = "".join(f"<th scope='col'>{escape(g)}</th>" for g in names)
    rows, told = [], []
    for run in runs:
        for backend in run.backends:
            subject = run.impl or f"mlsm {run.mlsm}"
            cells = "".join(_cell(backend, g) for g in names)
            name = f"{escape(subject)}<small>{escape(label(backend))}</small>"
            rows.append(f"<tr><th scope='row'>{name}</th>{cells}</tr>")
            total = sum(c.status == "fail" for c in backend.checks)
            lines = [f"{len(c)} of {total} failing checks: {s}" for s, c in causes(backend)] or (
                ["conforms"] if not total else [f"{total} checks fail"]
            )
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            told.append(f"<h3>{escape(subject)} on {escape(label(backend))}</h3><ul class='reasons'>{items}</ul>")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Losses side by side</title><style>{COLOURS}{DRAWING}{PAGE}</style></head><body>"
        f"<header><h1>{len(rows)} losses side by side</h1><p class='lead'>{AGAINST}</p></header><main>"
        f"<section id='matrix'><h2>Losses and checks</h2><p class='lead'>{KEY}</p>{HINT}"
        f"<div class='scroll' tabindex='0'><table class='matrix'><thead><tr><th>loss</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
        f"<section id='diagnosis'><h2>What is wrong, in words</h2>{''.join(told)}</section></main>"
        "<footer>Made by <code>python -m mlsm_conformance report</code>.</footer></body></html>\n"
    )


KEY = ", ".join(f"{GLYPH[s]} {MEANING[s]}" for s in STATUSES) + "."
