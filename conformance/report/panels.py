"""The page's two collections of pictures: the errors of all losses side by side, and each backend by itself.

Chooses series, colours and order and writes the legends; `ulp.py` draws one panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..record import QUANTITIES, BackendRecord, Curve, PeerRecord, Quantity, Run
from .summary import NAMES, Loss, by_dtype, dtypes, label, lost
from .svg import line, marker, rect, short, svg
from .ulp import SMALL, Series, envelope, panel

PEER_STYLE: tuple[tuple[str, str], ...] = (
    ("p0", "square"),
    ("p1", "triangle"),
    ("p2", "diamond"),
    ("p3", "cross"),
    ("p4", "bar"),
    ("p5", "circle"),
)
"""Colour class and mark of the peers, in order; from the seventh on, colours repeat with the next mark."""


def ours(run: Run) -> str:
    """The name of the judged loss in legends."""
    name = run.impl.rpartition(":")[2] or "mlsm"
    return name if len(run.backends) == 1 else f"{name}, worst of all backends"


def style_of(index: int) -> tuple[str, str]:
    """Colour and mark of a peer: no two of the first thirty-six share both."""
    turn, place = divmod(index, len(PEER_STYLE))
    return PEER_STYLE[place][0], PEER_STYLE[(place + turn) % len(PEER_STYLE)][1]


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    """(picture, text) pairs as a list that wraps, so that it never overlaps a plot."""
    return f"<ul class='legend'>{''.join(f'<li>{picture}{escape(words)}</li>' for picture, words in entries)}</ul>"


def sample(css: str, mark: str, words: str) -> str:
    """The short line in front of a legend's text."""
    body = [line(2, 8, 38, 8, css)]
    if mark:
        body.append(marker(mark, 20, 8, f"{css.split()[0]} mark", 4))
    return svg(40, 16, words, body)


def patch(css: str) -> str:
    """A filled sample, for the bands."""
    return svg(40, 16, css, [rect(2, 2, 36, 12, css)])


def _pick(owner: BackendRecord | PeerRecord, quantity: Quantity, dtype: str, target: float) -> list[Curve]:
    return [c for c in owner.curves if (c.quantity, c.dtype, c.target) == (quantity, dtype, target)]


def _targets(run: Run, dtype: str) -> list[float]:
    return sorted({c.target for b in run.backends for c in b.curves if c.dtype == dtype})


def _together(run: Run, dtype: str) -> list[str]:
    """The panels of one dtype: for each quantity, y = 0 next to y = 1."""
    panels = []
    for quantity in QUANTITIES:
        for target in _targets(run, dtype):
            mine = envelope(c for b in run.backends for c in _pick(b, quantity, dtype, target))
            if mine is None:
                continue
            series = [Series(ours(run), mine, "ours", filled=True)]
            for i, peer in enumerate(run.peers):
                css, mark = style_of(i)
                series += [Series(peer.name, c, css, mark) for c in _pick(peer, quantity, dtype, target)]
            panels.append(f"<div>{panel(series, f'{NAMES[quantity]}, y = {short(target)}, {dtype}')}</div>")
    return panels


def _stretch(loss: Loss) -> str:
    if loss.low == loss.high:
        return f"at x = {short(loss.low)}"
    return f"for x from {short(loss.low)} to {short(loss.high)}"


def _findings(run: Run) -> str:
    items = []
    for peer in run.peers:
        places: dict[tuple[str, Quantity], list[str]] = {}
        for loss in lost(peer.curves):
            places.setdefault((loss.dtype, loss.quantity), []).append(f"y = {short(loss.target)} {_stretch(loss)}")
        for (dtype, quantity), stretches in places.items():
            items.append(
                f"<li><b>{escape(peer.name)}</b>, {dtype} {NAMES[quantity]}: "
                f"no digit left at {'; '.join(stretches)}.</li>"
            )
    if not items:
        return ""
    count = f"{len(items)} combination{'s' * (len(items) != 1)} of dtype and quantity"
    return (
        "<details><summary>Where the others have no digit left "
        f"<small>{count}, on the logits measured</small></summary>"
        f"<ul class='findings'>{''.join(items)}</ul></details>"
    )


def losses_section(run: Run) -> str:
    """Loss, gradient and Hessian against the logit: mlsm, its bound, and all peers in one picture."""
    names = dtypes(run)
    if not names:
        return ""
    entries = [
        (sample("ours series", "", ours(run)), ours(run)),
        (sample("bound", "", "bound"), "promised bound"),
        (patch("exact"), "correctly rounded (at most ½ ULP)"),
        (patch("broken"), "not finite where it should be"),
    ]
    for i, peer in enumerate(run.peers):
        css, mark = style_of(i)
        entries.append((sample(f"{css} series", mark, peer.name), peer.name))
    parts = []
    for i, dtype in enumerate(names):
        panels = "".join(_together(run, dtype))
        if panels:
            # The first two dtypes, which most people use, are open by default; the others are folded.
            parts.append(
                f"<details{' open' if i < 2 else ''}><summary>{escape(dtype)}</summary>"
                f"<div class='plots'>{panels}</div></details>"
            )
    return (
        "<section id='error'><h2>Where digits are lost</h2><p class='lead'>Error of loss, gradient and Hessian "
        "diagonal for one logit x and a hard target y. Lower is better: in the shaded band at the bottom a result is "
        "correctly rounded, above it the axis is logarithmic, and from the dotted line at the top upwards no digit is "
        "right (an answer of 0 would be as good). The dashed line is the promised bound.</p>"
        f"{_legend(entries)}{''.join(parts)}{_findings(run)}</section>"
    )


def _own(backend: BackendRecord, dtype: str, quantity: Quantity) -> str:
    styles = (("ours", "circle"), ("p0", "square"), ("p2", "diamond"))
    targets = sorted({c.target for c in backend.curves if c.dtype == dtype and c.quantity == quantity})
    series = [
        Series(f"y = {short(t)}", c, css, mark)
        for t, (css, mark) in zip(targets, styles, strict=False)
        for c in _pick(backend, quantity, dtype, t)
    ]
    if not series:
        return ""
    title = f"{label(backend)}: {NAMES[quantity]}, {dtype}, ULP against logit"
    picture = panel(series, title, SMALL)
    return f"<figure><figcaption>{NAMES[quantity]}, {escape(dtype)}</figcaption>{picture}</figure>"


def small_multiples(run: Run) -> str:
    """Each backend and dtype by itself: y = 0 and y = 1 in one small panel, with the bound."""
    parts = []
    for backend in run.backends:
        names = by_dtype(c.dtype for c in backend.curves)
        figures = "".join(_own(backend, dtype, quantity) for dtype in names for quantity in QUANTITIES)
        if figures:
            head = f"{escape(label(backend))} <small>{escape(', '.join(names))}</small>"
            parts.append(f"<details><summary>{head}</summary><div class='small'>{figures}</div></details>")
    if not parts:
        return ""
    entries = [
        (sample("ours series", "circle", "y = 0"), "y = 0"),
        (sample("p0 series", "square", "y = 1"), "y = 1"),
        (sample("bound", "", "bound"), "promised bound"),
    ]
    return (
        "<section id='each'><h2>Every backend by itself</h2><p class='lead'>Observed error in ULP (vertical, "
        "logarithmic above the shaded band; lower is better) against the logit.</p>"
        f"{_legend(entries)}{''.join(parts)}</section>"
    )
