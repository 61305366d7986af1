"""The picture of error against logit: one panel for one quantity, dtype and target.

Draws the series that the page chose.  The vertical axis has three parts, because an error of 0 and NaN have no place
on a logarithmic axis: a band from 0 to 1/2 ULP (correctly rounded, linear), a logarithmic part above it, and a band
on top for NaN and for infinite errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..record import Curve
from .summary import PRECISION
from .svg import Box, Scale, line, logarithmic, marker, path, power_of_ten, rect, signed_log, svg, text

EXACT = 0.5
"""ULP: at or below this the result is the correctly rounded one."""
COLUMNS = 64
"""Points drawn per series: one for each six units of width. The worst of each column is kept, never a mean. A line
through every logit would fill the bottom of the plot and hide the bound."""
BAND = 0.12
"""The share of the height for the band of NaN and infinity, if it is needed."""
TICKS = (0, -100, 100, -10, 10, -1, 1, -1000, 1000)
"""Logits for ticks, the most important first: one that would be too near to another is left out."""


@dataclass(frozen=True)
class Series:
    """One line: its curve, its CSS class, and its mark ("" for none; `filled` shades the area below)."""

    name: str
    curve: Curve
    css: str
    mark: str = ""
    filled: bool = False


@dataclass(frozen=True)
class Size:
    """Sizes of one panel, in its own units; `compact` leaves out what a row of small multiples repeats."""

    width: float = 420.0
    height: float = 290.0
    compact: bool = False


SMALL = Size(380, 170, compact=True)
"""Sizes of a small multiple; three are side by side."""


def envelope(curves: Iterable[Curve]) -> Curve | None:
    """The worst of several curves at each logit, so that no backend's error is hidden."""
    worst: dict[float, tuple[float, float]] = {}
    first: Curve | None = None
    for curve in curves:
        first = first or curve
        for logit, ulp, bound in zip(curve.logit, curve.ulp, curve.bound, strict=True):
            old_ulp, old_bound = worst.get(logit, (0.0, 0.0))
            ulp = math.nan if math.isnan(ulp) or math.isnan(old_ulp) else max(ulp, old_ulp)
            worst[logit] = (ulp, max(bound, old_bound))
    if first is None:
        return None
    logits = tuple(sorted(worst))
    return Curve(
        quantity=first.quantity,
        dtype=first.dtype,
        target=first.target,
        logit=logits,
        ulp=tuple(worst[x][0] for x in logits),
        bound=tuple(worst[x][1] for x in logits),
    )


def thin(points: Iterable[tuple[float, float]], place: Scale, box: Box) -> list[tuple[float, float]]:
    """At most one point for each column, the worst one; NaN counts as worst."""
    columns: dict[int, tuple[float, float]] = {}
    for logit, value in points:
        column = int((place(logit) - box.left) / box.width * COLUMNS)
        kept = columns.get(column)
        if kept is None or math.isnan(value) or (not math.isnan(kept[1]) and value > kept[1]):
            columns[column] = (logit, value)
    return sorted(columns.values())


def _vertical(top_ulp: float, not_finite: bool, box: Box) -> Scale:
    """ULP to a height: linear to 1/2, logarithmic above, a band of its own for NaN and infinity.

    The linear part is a fifth of the height, or two fifths if almost nothing is above it (half precisions).
    """
    knee = box.bottom - (0.2 if top_ulp > 10 else 0.4) * box.height
    # A gap below the band, so that the topmost tick and that of the band can both be read.
    ceiling = box.top + (1.5 * BAND * box.height if not_finite else 0.0)
    upper = logarithmic(EXACT, top_ulp, knee, ceiling)

    def place(ulp: float) -> float:
        if not math.isfinite(ulp):
            return box.top + BAND / 2 * box.height
        if ulp <= EXACT:
            return box.bottom - (box.bottom - knee) * ulp / EXACT
        return upper(min(ulp, top_ulp))

    return place


def _finite(series: Sequence[Series]) -> list[float]:
    values = [u for s in series for u in s.curve.ulp] + [b for s in series for b in s.curve.bound]
    return [v for v in values if math.isfinite(v)]


def _top(series: Sequence[Series], dtype: str) -> float:
    """The upper end of the axis: a power of ten above all errors, but not above the error at which no digit is left."""
    worst = max([*_finite(series), 1.0])
    top = 10.0 ** math.ceil(math.log10(worst * 1.2))
    return min(top, 10.0 ** math.ceil(math.log10(2.0 ** PRECISION.get(dtype, 53)) + 1))


def _horizontal_grid(size: Size, box: Box, place: Scale, top: float) -> list[str]:
    exponents = range(round(math.log10(top)) + 1)
    step = max(1, math.ceil(len(exponents) / (4 if size.compact else 6)))
    out = []
    for exponent in exponents:
        if exponent % step == 0:
            y = place(10.0**exponent)
            out += [
                line(box.left, y, box.right, y, "grid"),
                text(box.left - 6, y + 4, power_of_ten(exponent), anchor="end"),
            ]
    knee = place(EXACT)
    # The tick of 1 may be too near to that of 1/2 for both to be read.
    if knee - place(1.0) >= 13:
        out.append(text(box.left - 6, knee + 4, "½", anchor="end"))
    out.append(text(box.left - 6, box.bottom + 4, "0", anchor="end"))
    return out


def panel(series: Sequence[Series], title: str, size: Size | None = None) -> str:
    """One panel as SVG. All series share quantity and dtype; the bound of the first is drawn, with its line on top."""
    size = size or Size()
    return svg(size.width, size.height, title, drawn(series, title, size))


def drawn(series: Sequence[Series], title: str, size: Size) -> list[str]:
    """The elements of a panel, for a picture with more than one."""
    box = Box(52, 14 if size.compact else 30, size.width - 14, size.height - (26 if size.compact else 44))
    dtype = series[0].curve.dtype
    logits = [x for s in series for x in s.curve.logit]
    across = signed_log(min(logits), max(logits), box.left + 4, box.right - 4)
    not_finite = any(not math.isfinite(u) for s in series for u in s.curve.ulp)
    top = _top(series, dtype)
    up = _vertical(top, not_finite, box)
    knee = up(EXACT)

    body = [rect(box.left, box.top, box.width, box.height, "ground")]
    body.append(rect(box.left, knee, box.width, box.bottom - knee, "exact"))
    body += _horizontal_grid(size, box, up, top)
    taken: list[float] = []
    for tick in TICKS:
        x = across(tick)
        if min(logits) <= tick <= max(logits) and all(abs(x - other) >= 28 for other in taken):
            taken.append(x)
            body += [line(x, box.top, x, box.bottom, "grid"), text(x, box.bottom + 16, str(tick).replace("-", "−"))]
    if not_finite:
        band = BAND * box.height
        body.append(rect(box.left, box.top, box.width, band, "broken"))
        body.append(text(box.left - 6, box.top + band / 2 + 4, "NaN", anchor="end"))
    nothing_left = 2.0 ** PRECISION.get(dtype, 53)
    if dtype in PRECISION and nothing_left <= top:
        y = up(nothing_left)
        body.append(line(box.left, y, box.right, y, "lost"))
        # In the middle, around x = 0, where every loss still has digits and no line comes this high. Below the dotted
        # line if there is no room between it and the upper edge of the frame.
        baseline = y - 5 if y - box.top >= 18 else y + 13
        body.append(text(across(0.0), baseline, "no digit left", "note"))

    first = series[0].curve
    for s in reversed(series):
        curve = zip(s.curve.logit, s.curve.ulp, strict=True)
        points = [(across(x), up(u)) for x, u in thin(curve, across, box)]
        if s.filled:
            edge = [(points[0][0], box.bottom), *points, (points[-1][0], box.bottom)]
            body.append(path(edge, f"{s.css} area"))
        body.append(path(points, f"{s.css} series"))
        if s.mark:
            body += [marker(s.mark, x, y, f"{s.css} mark") for x, y in points[5::12]]
    bounds = thin(zip(first.logit, first.bound, strict=True), across, box)
    body.append(path([(across(x), up(b)) for x, b in bounds], "bound"))

    body.append(rect(box.left, box.top, box.width, box.height, "frame"))
    if not size.compact:
        body.append(text(box.left, 18, title, "title", "start"))
        body.append(text((box.left + box.right) / 2, size.height - 6, "logit x", "axis"))
        body.append(text(13, (box.top + box.bottom) / 2, "error, ULP", "axis", turn=True))
    return body
