"""The picture: how the classifiers learned, how good they are at each segment, and what they predict for real digits.

This file draws what it is given and computes only positions.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from _display import SEGMENTS, outline
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from matplotlib.ticker import MultipleLocator, PercentFormatter

# Colours that stay apart for colour-blind readers (Okabe and Ito); wrong and missed differ in outline too.
RIGHT, WRONG, MISSED, OFF = "#009e73", "#d55e00", "#0072b2", "#e9e9ec"
INK, FAINT = "#222226", "#8a8a92"


class Model(NamedTuple):
    """What is drawn of one classifier."""

    name: str
    colour: str
    marker: str
    learning: np.ndarray | None  # held-out loss before training and after each epoch; None where there are no epochs
    loss: float  # held-out loss at the end
    per_segment: np.ndarray  # (7,) share of held-out digits whose segment is right


class Digits(NamedTuple):
    """Digits to draw: the pixels, the segments that should be lit, those that were predicted, and the loss."""

    title: str
    pixels: np.ndarray  # (K, 8, 8), 0 white to 1 black
    target: np.ndarray  # (K, 7)
    predicted: np.ndarray  # (K, 7)
    loss: np.ndarray  # (K,)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color="#ececf0", linewidth=0.8)
    axes.set_axisbelow(True)


def _learning(axes: Axes, models: list[Model]) -> None:
    _style(axes, "Learning")
    for model in models:
        if model.learning is None:
            axes.axhline(model.loss, color=model.colour, linewidth=1.4, linestyle=(0, (5, 3)), label=model.name)
        else:
            axes.plot(model.learning, color=model.colour, linewidth=1.8, label=model.name)
    axes.set_yscale("log")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    lowest = min(float(np.min(m.loss if m.learning is None else m.learning)) for m in models)
    axes.set_ylim(0.85 * lowest, 0.85)
    axes.set_xlim(left=0)
    axes.set_xlabel("passes over the training digits (epochs)", color=INK)
    axes.set_ylabel("held-out loss (nats per segment)", color=INK)
    axes.legend(frameon=False, fontsize=9, loc="upper right", labelcolor=INK)


def _little_display(axes: Axes, place: float, segment: str) -> None:
    """A label on the horizontal axis: a small display with one segment, next to its letter."""
    width, height = 0.055, 0.15
    centre = (place + 0.6) / (len(SEGMENTS) + 0.2)
    little = axes.inset_axes((centre - width / 2 + 0.018, -0.05 - height, width, height))
    for other in sorted(SEGMENTS, key=lambda name: name == segment):
        little.add_patch(Polygon(outline(other), closed=True, facecolor=INK if other == segment else OFF))
    little.set_xlim(-0.2, 1.2)
    little.set_ylim(-0.2, 2.2)
    little.set_aspect("equal")
    little.set_axis_off()
    axes.text(
        centre - 0.026,
        -0.05 - height / 2,
        segment,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=10,
        color=INK,
    )


def _segments(axes: Axes, models: list[Model]) -> None:
    _style(axes, "Accuracy of each segment")
    places = np.arange(len(SEGMENTS))
    for i, model in enumerate(models):
        shift = 0.2 * (i - (len(models) - 1) / 2)
        axes.plot(
            places + shift,
            model.per_segment,
            linestyle="none",
            marker=model.marker,
            markersize=7,
            color=model.colour,
            label=model.name,
        )
    lowest = min(float(model.per_segment.min()) for model in models)
    axes.set_ylim(min(0.95, np.floor(50 * (lowest - 0.005)) / 50), 1.008)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MultipleLocator(0.02 if lowest > 0.9 else 0.05 if lowest > 0.75 else 0.1))
    axes.set_xlim(-0.6, len(SEGMENTS) - 0.4)
    axes.set_xticks(places, [])
    axes.set_xlabel("segment", color=INK, labelpad=40)
    for place, segment in enumerate(SEGMENTS):
        _little_display(axes, place, segment)
    axes.set_ylabel("held-out digits with the right label", color=INK)


def _display(axes: Axes, left: float, low: float, height: float, target: np.ndarray, predicted: np.ndarray) -> None:
    order = sorted(range(len(SEGMENTS)), key=lambda k: bool(target[k] or predicted[k]))  # dark segments first
    for k in order:
        corners = outline(SEGMENTS[k]) * (height / 2) + (left, low)
        if predicted[k]:
            style = {"facecolor": RIGHT if target[k] else WRONG, "edgecolor": "none"}
        elif target[k]:
            style = {"facecolor": "white", "edgecolor": MISSED, "linewidth": 1.3, "linestyle": (0, (2, 1))}
        else:
            style = {"facecolor": OFF, "edgecolor": "none"}
        axes.add_patch(Polygon(corners, closed=True, **style))


def _digits(axes: Axes, digits: Digits, columns: int) -> None:
    wide, high = 2.05, 1.5  # one cell: the digit is 1 by 1, its display next to it 0.5 by 1, the loss below
    rows = -(-len(digits.pixels) // columns)
    axes.set_title(digits.title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
    for i, pixels in enumerate(digits.pixels):
        left, low = (i % columns) * wide, (rows - 1 - i // columns) * high
        axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=1, extent=(left, left + 1, low, low + 1), zorder=1)
        _display(axes, left + 1.15, low + 0.06, 0.88, digits.target[i], digits.predicted[i])
        wrong = not np.array_equal(digits.target[i], digits.predicted[i])
        axes.text(
            left + 0.5,
            low - 0.05,
            f"{digits.loss[i]:.0e}" if digits.loss[i] < 0.01 else f"{digits.loss[i]:.2f}",
            ha="center",
            va="top",
            fontsize=8,
            color=WRONG if wrong else FAINT,
        )
    axes.set_xlim(-0.05, columns * wide - 0.35)
    axes.set_ylim(-0.4, (rows - 1) * high + 1.05)
    axes.set_aspect("equal", anchor="NW")
    axes.set_axis_off()


def _key(figure: Figure, centre: float, low: float) -> None:
    entries = [
        Patch(facecolor=RIGHT, label="correctly lit"),
        Patch(facecolor=WRONG, label="wrongly lit"),
        Patch(facecolor="white", edgecolor=MISSED, linestyle=(0, (2, 1)), linewidth=1.3, label="missed"),
        Patch(facecolor=OFF, label="correctly dark"),
    ]
    figure.legend(
        handles=entries,
        loc="lower center",
        bbox_to_anchor=(centre, low),
        ncols=4,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=2.0,
    )


def draw(models: list[Model], groups: list[Digits], caption: str, output: Path) -> None:
    """Write the picture to `output`, in the format of its file name extension."""
    figure = Figure(figsize=(13.6, 8.2), facecolor="white")
    figure.text(0.035, 0.955, "Seven segments from handwritten digits", fontsize=16, fontweight="bold", color=INK)
    figure.text(0.035, 0.922, caption, fontsize=10, color=FAINT)
    left = figure.add_gridspec(2, 1, left=0.065, right=0.395, top=0.86, bottom=0.125, hspace=0.36)
    right = figure.add_gridspec(len(groups), 1, left=0.445, right=0.985, top=0.86, bottom=0.06, hspace=0.12)
    _learning(figure.add_subplot(left[0]), models)
    _segments(figure.add_subplot(left[1]), models)
    for i, digits in enumerate(groups):
        _digits(figure.add_subplot(right[i]), digits, columns=8)
    _key(figure, 0.715, 0.015)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
