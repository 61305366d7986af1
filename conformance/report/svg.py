"""Drawing primitives for inline SVG: scales, ticks, paths, text.

Contains nothing about losses and reads no record.  Every colour is a CSS class, so that the page (or the stylesheet
inside a standalone picture) decides the light and the dark colours; nothing is fetched and nothing is scripted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

Scale = Callable[[float], float]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Box:
    """The plot area inside a picture, in the picture's own units; y grows downwards as in SVG."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


def number(value: float) -> str:
    """A coordinate: two decimals are finer than any screen, and keep the page small."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def power_of_ten(exponent: int) -> str:
    """10 to an exponent as a tick label; the first few are easier to read written out."""
    return {-1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}.get(exponent, "10" + str(exponent).translate(_SUPERSCRIPT))


def short(value: float) -> str:
    """A number for people: three digits, powers of ten spelled with a superscript, `∞` and `NaN` by name."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")
    mantissa, exponent = f"{value:.1e}".replace("-", "−", 1 if value < 0 else 0).split("e")
    return f"{mantissa.removesuffix('.0')}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def path(points: Iterable[tuple[float, float]], css: str) -> str:
    """A polyline through the points; empty for none."""
    steps = [f"{number(x)} {number(y)}" for x, y in points]
    return f'<path class="{css}" d="M{"L".join(steps)}"/>' if steps else ""


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, css: str) -> str:
    shape = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return f'<rect class="{css}" {shape}/>'


def text(x: float, y: float, words: str, css: str = "tick", anchor: str = "middle", turn: bool = False) -> str:
    """Text at a point; `turn` sets it vertically, reading upwards, for the y axis."""
    rotation = f' transform="rotate(-90 {number(x)} {number(y)})"' if turn else ""
    place = f'x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"'
    return f'<text class="{css}" {place}{rotation}>{escape(words)}</text>'


def marker(shape: str, x: float, y: float, css: str, size: float = 3.2) -> str:
    """A small mark, so that a series is told apart by shape where colours are not."""
    if shape == "circle":
        return f'<circle class="{css}" cx="{number(x)}" cy="{number(y)}" r="{number(size)}"/>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
        "diamond": ((0, -1.4), (1.2, 0), (0, 1.4), (-1.2, 0)),
        "cross": (
            *((-1.1, -0.35), (-0.35, -0.35), (-0.35, -1.1), (0.35, -1.1), (0.35, -0.35), (1.1, -0.35)),
            *((1.1, 0.35), (0.35, 0.35), (0.35, 1.1), (-0.35, 1.1), (-0.35, 0.35), (-1.1, 0.35)),
        ),
        "bar": ((-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)),
    }[shape]
    steps = "L".join(f"{number(x + dx * size)} {number(y + dy * size)}" for dx, dy in corners)
    return f'<path class="{css}" d="M{steps}Z"/>'


def svg(width: float, height: float, title: str, body: Sequence[str], style: str = "") -> str:
    """The picture: it scales with its container, and has a title for readers who cannot see it.

    `style` is for a standalone picture; inside a page the stylesheet of the page is used.
    """
    sheet = f"<style>{style}</style>" if style else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{sheet}{"".join(body)}</svg>'
    )


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Maps [low, high] to [start, end]."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Maps [low, high], both positive, to [start, end] by logarithm."""
    inner = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(value))


def signed_log(low: float, high: float, start: float, end: float) -> Scale:
    """Logarithmic on both sides of 0 and linear across it (asinh), for logits of either sign."""
    inner = linear(math.asinh(low), math.asinh(high), start, end)
    return lambda value: inner(math.asinh(value))
