"""The benchmark as a picture: time divided by the floor against size, in float32 on one thread, a panel for each work.

One colour per library: mlsm's lines are solid and thick, those of its peers on the same arrays are dashed. A line has a
number where it ends, so that the legend below the panel does not have to be matched by colour. Reads the benchmark's
JSON; measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.style import standalone
from ..report.svg import Box, line, logarithmic, marker, path, power_of_ten, rect, text
from .cases import PLAIN
from .report import case_of

WIDTH = 520.0
"""With letters of 14 units, so that they have 10 pixels where a telephone shows the picture 380 pixels wide."""
GAP = 15.0
"""Least distance between two numbers: the height of their letters and a small gap."""
LIBRARY = {"numpy": ("ours", "circle"), "torch": ("p0", "square"), "jax": ("p2", "triangle"), "dask": ("p3", "diamond")}
"""Colour and mark of a library; all others share one."""
OTHERS = ("p4", "cross")
LEADING = 20.0
"""Height of a row of the legend."""
STYLE = (
    ".leader{fill:none;stroke:var(--soft);stroke-width:.8}.strong.series{stroke-width:2.6}"
    ".peer.series{stroke-dasharray:5 4}.key.strong{font-weight:600}"
    ".tick,.axis,.key{font-size:14px}.title{font-size:16px}"
)


@dataclass(frozen=True)
class Line:
    """One implementation over the sizes at which it was timed: (elements, time over floor)."""

    name: str
    ours: bool
    css: str
    mark: str
    points: tuple[tuple[float, float], ...]


def spread(wanted: Sequence[float], low: float, high: float, gap: float = GAP) -> list[float]:
    """Positions as near as possible to the wanted ones, in their order, at least `gap` apart, within [low, high].

    Pushed down from the top and then back up from the bottom; the caller makes sure that all of them fit.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    previous = low - gap
    for i in order:
        previous = places[i] = max(wanted[i], previous + gap)
    limit = high + gap
    for i in reversed(order):
        limit = places[i] = min(places[i], limit - gap)
    return places


def lines_of(report: Mapping[str, Any], dtype: str, gradient: bool, threads: str) -> list[Line]:
    """The implementations of one panel, mlsm with the kernel that the dispatch chooses (the tables show forced ones).

    Which kernel that is may change with the size, so the line's name leaves it out.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    about: dict[str, Mapping[str, Any]] = {}
    for result in report["results"]:
        case = case_of(result)
        if case.variant != PLAIN:
            continue
        if (case.dtype, case.gradient, case.threads) != (dtype, gradient, threads):
            continue
        for e in result["entries"]:
            if e["over_floor"] is not None and not e["forced"]:
                # The kernel's name is part of the implementation's, as in "mlsm, torch, numba, backward".
                name = e["name"].replace(f", {e['kernel']}", "", 1) if e["kernel"] else e["name"]
                points.setdefault(name, []).append((float(case.size), e["over_floor"]))
                about[name] = e
    return [
        Line(name, e["ours"], *LIBRARY.get(e["library"], OTHERS), tuple(sorted(points[name])))
        for name, e in about.items()
    ]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 in each decade, or decades only where there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1.0,) if len(decades) > 3 else (1.0, 2.0, 5.0)
    return [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]


def legend(lines: Sequence[Line], top: float) -> tuple[list[str], float]:
    """The names of numbered lines in two columns that begin at height `top`, and the height at which they end."""
    rows = math.ceil(len(lines) / 2)
    body = []
    for i, a in enumerate(lines):
        x, y = (12 + WIDTH / 2 * (i // rows), top + LEADING * (i % rows))
        body.append(text(x + 16, y + 5, str(i + 1), "key", "end"))
        body.append(path([(x + 22, y), (x + 48, y)], f"{a.css} series{' strong' if a.ours else ' peer'}"))
        body.append(marker(a.mark, x + 35, y, f"{a.css} mark", 4))
        body.append(text(x + 53, y + 5, a.name.replace("-with-logits", ""), "key strong" if a.ours else "key", "start"))
    return body, top + LEADING * rows


def panel(lines: Sequence[Line], title: str, top: float) -> tuple[list[str], float]:
    """The elements of one panel that begins at height `top`, and the height at which it ends."""
    height = max(260.0, GAP * len(lines) + 12)
    box = Box(62, top + 34, WIDTH - 46, top + 34 + height)
    sizes = [x for a in lines for x, _ in a.points]
    values = [y for a in lines for _, y in a.points]
    low, high = min(0.8, min(values) / 1.15), max(2.0, max(values) * 1.15)
    across = logarithmic(min(sizes) / 1.4, max(sizes) * 1.4, box.left, box.right)
    up = logarithmic(low, high, box.bottom, box.top)
    body = [text(14, top + 20, title, "title", "start"), rect(box.left, box.top, box.width, box.height, "ground")]
    for tick in _ticks(low, high):
        y = up(tick)
        body += [line(box.left, y, box.right, y, "grid"), text(box.left - 7, y + 5, f"{tick:g}", anchor="end")]
    for exponent in range(math.ceil(math.log10(min(sizes) / 1.4)), math.floor(math.log10(max(sizes) * 1.4)) + 1):
        x = across(10.0**exponent)
        body += [line(x, box.top, x, box.bottom, "grid"), text(x, box.bottom + 19, power_of_ten(exponent))]
    body.append(line(box.left, up(1.0), box.right, up(1.0), "bound"))
    body.append(rect(box.left, box.top, box.width, box.height, "frame"))
    slowest_first = sorted(lines, key=lambda a: -a.points[-1][1])
    ends = [up(a.points[-1][1]) for a in slowest_first]
    places = spread(ends, box.top + 6, box.bottom - 2)
    for i, (a, end, place) in enumerate(zip(slowest_first, ends, places, strict=True), 1):
        points = [(across(x), up(y)) for x, y in a.points]
        body.append(path(points, f"{a.css} series{' strong' if a.ours else ' peer'}"))
        body += [marker(a.mark, x, y, f"{a.css} mark", 4) for x, y in points]
        body.append(path([(points[-1][0] + 5, end), (box.right + 8, place), (box.right + 14, place)], "leader"))
        body.append(text(box.right + 17, place + 5, str(i), "key strong" if a.ours else "key", "start"))
    body.append(text((box.left + box.right) / 2, box.bottom + 40, "elements of the input", "axis"))
    body.append(text(16, (box.top + box.bottom) / 2, "time / floor", "axis", turn=True))
    names, bottom = legend(slowest_first, box.bottom + 66)
    return [*body, *names], bottom + 16


def picture(report: Mapping[str, Any]) -> str:
    """The whole picture, standing alone: its colours follow the reader's light or dark preference where it is shown."""
    keys = dict.fromkeys(
        (c.dtype, c.gradient, c.threads)
        for c in map(case_of, report["results"])
        if (c.variant, c.dtype, c.threads) == (PLAIN, "float32", "1")
    )
    body: list[str] = []
    top = 6.0
    for dtype, gradient, threads in keys:
        lines = lines_of(report, dtype, gradient, threads)
        if lines:
            work = "loss and gradient" if gradient else "loss"
            title = f"{dtype}, {work}, {'one thread' if threads == '1' else 'all threads'}"
            drawn, top = panel(lines, title, top)
            body += drawn
    return standalone(WIDTH, top, "The time divided by the floor, against the number of elements", body, STYLE)
