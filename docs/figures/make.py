"""Draws the figures of the documentation: `python docs/figures/make.py` writes an SVG beside this file for each.

Text and axes are drawn in `currentColor`, so that a page shows them in its own colour, light or dark. The errors are
measured here, in NumPy's float32 against mpmath, with mlsm's reference and the forms that others use.
"""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from mpmath import mp, mpf

import mlsm

mpl.use("svg")
from matplotlib import pyplot as plt  # after the choice of a backend

HERE = Path(__file__).resolve().parent
INK = "#123456"  # stands for the page's own colour until the file is written
OURS, ONE, TWO, THREE = "#2a9d8f", "#e76f51", "#c58b00", "#7a6ff0"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mlsm",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
F32 = np.float32
Form = Callable[[Any, Any], Any]

# ---------------------------------------------------------------- what is compared


def ours(x: Any, y: Any) -> Any:
    return mlsm.multilabel_soft_margin_loss(x[:, None], y[:, None], reduction="none", kernel="generic")


def maximum_form(x: Any, y: Any) -> Any:
    return np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))


def one_sided_form(x: Any, y: Any) -> Any:
    return (1 - y) * x + np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)


def log_of_sigmoid(x: Any, y: Any) -> Any:
    s = 1 / (1 + np.exp(-x))
    return -(y * np.log(s) + (1 - y) * np.log(1 - s))


def our_slope(x: Any, y: Any) -> Any:
    return mlsm.grad(x[:, None], y[:, None], reduction="sum", kernel="generic")[:, 0]


def sigmoid_minus_target(x: Any, y: Any) -> Any:
    return 1 / (1 + np.exp(-x)) - y


def our_bend(x: Any, y: Any) -> Any:
    return mlsm.hessian_diag(x[:, None], y[:, None], reduction="sum", kernel="generic")[:, 0]


def sigmoid_product(x: Any, y: Any) -> Any:
    s = 1 / (1 + np.exp(-x))
    return s * (1 - s)


def exact(kind: str, x: Any, y: Any) -> list[mpf]:
    mp.prec = 200
    out = []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        on, off = 1 / (1 + mp.exp(-mpf(a))), 1 / (1 + mp.exp(mpf(a)))
        value = {
            "loss": lambda a=a, b=b: b * mp.log1p(mp.exp(-mpf(a))) + (1 - mpf(b)) * mp.log1p(mp.exp(mpf(a))),
            "slope": lambda on=on, off=off, b=b: (1 - mpf(b)) * on - b * off,
            "bend": lambda on=on, off=off: on * off,
        }[kind]()
        out.append(value)
    return out


def ulps(kind: str, form: Form, x: Any, y: Any) -> Any:
    """The error of a float32 form in ULP at the exact value, at least 1/100 so that a logarithm can show it."""
    with np.errstate(all="ignore"):
        seen = form(x, y).astype(np.float64)
    errors = []
    for s, right in zip(seen.tolist(), exact(kind, x, y), strict=True):
        spacing = float(np.spacing(F32(abs(right))))
        errors.append(max(abs(float(s - right)) / spacing, 0.01) if np.isfinite(s) else np.inf)
    return np.asarray(errors)


# ---------------------------------------------------------------- the figures


def loss_figure() -> Any:
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), sharex=True, layout="constrained")
    x = np.linspace(-5, 5, 201)[:, None]
    for y, colour in ((1.0, OURS), (0.5, TWO), (0.0, ONE)):
        t = np.full_like(x, y)
        axes[0].plot(x, mlsm.multilabel_soft_margin_loss(x, t, reduction="none"), color=colour, label=f"y = {y:g}")
        axes[1].plot(x, mlsm.grad(x, t, reduction="sum"), color=colour)
        axes[2].plot(x, mlsm.hessian_diag(x, t, reduction="sum"), color=colour)
    titles = ("the loss of one class", "its slope", "its curvature, whatever y")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="logit x")
    axes[0].legend()
    return figure


def _error_figure(kind: str, y_value: float, forms: list[tuple[str, Form, str]], title: str, promised: float) -> Any:
    figure, ax = plt.subplots(figsize=(9, 3.2))
    x = np.linspace(-60, 60, 301).astype(F32)
    y = np.full_like(x, y_value)
    for label, form, colour in forms:
        errors = ulps(kind, form, x, y)
        kept = np.isfinite(errors)
        ax.plot(x[kept], errors[kept], ".", ms=3, color=colour, label=label)  # what is not finite has no place
    ax.axhline(promised, color=INK, lw=0.8, ls="--")
    ax.text(63, promised, "promised", va="center", fontsize=8)
    ax.set(
        yscale="log",
        xlabel="logit x",
        ylabel="error in ULP of float32",
        title=title,
        ylim=(0.005, 1e11),
        xlim=(-62, 62),
    )
    ax.legend(loc="upper left", ncols=len(forms), markerscale=3, handletextpad=0.1)
    return figure


FIGURES: dict[str, tuple[Callable[[], Any], str]] = {
    "loss": (
        loss_figure,
        "The loss of one class, its slope and its curvature, for labels 1, 0 and one half.",
    ),
    "ulp-loss": (
        lambda: _error_figure(
            "loss",
            0.0,
            [
                ("log σ, log(1-σ)", log_of_sigmoid, TWO),
                ("(1-y)x + softplus(-x)", one_sided_form, ONE),
                ("mlsm", ours, OURS),
            ],
            "loss, y = 0",
            4,
        ),
        "The error of the loss against the logit; 0.01 stands for less. log(1-σ) is infinite beyond 17: no dot.",
    ),
    "ulp-soft": (
        lambda: _error_figure(
            "loss",
            float(F32(1) - F32(2) ** -20),
            [("max(x,0) - x·y + log1p(e)", maximum_form, ONE), ("mlsm", ours, OURS)],
            "loss, soft target y = 1 − 2⁻²⁰",
            5,
        ),
        "The error of the loss for a soft target near 1.",
    ),
    "ulp-slope": (
        lambda: _error_figure(
            "slope", 1.0, [("σ(x) - y", sigmoid_minus_target, ONE), ("mlsm", our_slope, OURS)], "gradient, y = 1", 4
        ),
        "The error of the gradient against the logit.",
    ),
    "ulp-bend": (
        lambda: _error_figure("bend", 1.0, [("σ(1-σ)", sigmoid_product, ONE), ("mlsm", our_bend, OURS)], "Hessian", 5),
        "The error of the curvature against the logit.",
    ),
}


def written(figure: Any, caption: str) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.S).replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{caption}" ', svg, count=1)
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    return f'<figure class="drawn">\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>\n'


def main() -> None:
    with plt.rc_context(STYLE):
        for name, (draw, caption) in FIGURES.items():
            (HERE / f"{name}.svg").write_text(written(draw(), caption), encoding="utf-8")
            print(f"docs/figures/{name}.svg")


if __name__ == "__main__":
    main()
