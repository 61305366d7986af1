"""Draws the figures of the documentation: `python docs/figures/make.py [NAME ...]` writes SVG files beside this one.

Each is a plain image on a white ground, which a page links to, so that every viewer of Markdown shows it. Errors are
measured here, in NumPy's float32 against mpmath, with mlsm's reference and the forms that others use. What belongs to a
tutorial is drawn from the variables that the code of its page leaves behind.
"""

import contextlib
import re
import sys
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
INK = "#24292f"
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
WIDTH = 6.4  # inches, about the width of a column of text: a letter stays legible on a telephone
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


def our_gradient(x: Any, y: Any) -> Any:
    return mlsm.grad(x[:, None], y[:, None], reduction="sum", kernel="generic")[:, 0]


def sigmoid_minus_target(x: Any, y: Any) -> Any:
    return 1 / (1 + np.exp(-x)) - y


def our_hessian(x: Any, y: Any) -> Any:
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
            "gradient": lambda on=on, off=off, b=b: (1 - mpf(b)) * on - b * off,
            "hessian": lambda on=on, off=off: on * off,
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
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.3), sharex=True, layout="constrained")
    x = np.linspace(-5, 5, 201)[:, None]
    for y, colour in ((1.0, OURS), (0.5, TWO), (0.0, ONE)):
        t = np.full_like(x, y)
        axes[0].plot(x, mlsm.multilabel_soft_margin_loss(x, t, reduction="none"), color=colour, label=f"y = {y:g}")
        axes[1].plot(x, mlsm.grad(x, t, reduction="sum"), color=colour)
        axes[2].plot(x, mlsm.hessian_diag(x, t, reduction="sum"), color=colour)
    titles = ("loss of one class", "its gradient", "second derivative")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="logit x")
    axes[0].legend()
    return figure


def _error_figure(kind: str, y_value: float, forms: list[tuple[str, Form, str]], title: str, promised: float) -> Any:
    figure, ax = plt.subplots(figsize=(WIDTH, 2.8), layout="constrained")
    x = np.linspace(-60, 60, 151).astype(F32)
    y = np.full_like(x, y_value)
    for label, form, colour in forms:
        errors = ulps(kind, form, x, y)
        kept = np.isfinite(errors)
        ax.plot(x[kept], errors[kept], ".", ms=4, color=colour, label=label)  # what is not finite has no place
    ax.axhline(promised, color=INK, lw=0.8, ls="--")
    ax.text(-61, promised * 2, "promised", fontsize=8)
    ax.set(
        yscale="log",
        xlabel="logit x",
        ylabel="error in ULP of float32",
        title=title,
        ylim=(0.005, 1e11),
        xlim=(-62, 62),
    )
    figure.legend(loc="outside lower center", ncols=len(forms), markerscale=3, handletextpad=0.1)
    return figure


def variables(page: str) -> dict[str, Any]:
    """What the python blocks of a tutorial leave behind, run in order; what they print is dropped."""
    text = (HERE.parent / "tutorials" / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(StringIO()):
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
            exec(block, names)  # the page is ours, and to run it is the purpose
    return names


def pytorch_figure() -> Any:
    page = variables("pytorch.md")
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    epochs = range(1, len(page["history"]) + 1)
    for values, label, colour in zip(
        zip(*page["history"], strict=True), ("training", "held out"), (ONE, OURS), strict=True
    ):
        left.plot(epochs, values, color=colour, label=label)
    left.set(title="loss", xlabel="epoch", ylim=(0, None))
    left.legend()
    for scores, name, colour in zip(page["scores"].T.tolist(), page["names"], (OURS, TWO, ONE, THREE), strict=True):
        right.plot(page["candidates"].tolist(), scores, color=colour, label=name)
    right.set(title="F1 against the threshold", xlabel="predicted where logit >", ylim=(0, 1))
    right.legend()
    return figure


def imbalance_figure() -> Any:
    found = variables("imbalance.md")["found"]
    figure, ax = plt.subplots(figsize=(WIDTH, 2.8), layout="constrained")
    for k, (name, colour) in enumerate((("50 %", OURS), ("14 %", TWO), ("6 % positive", ONE))):
        ax.plot(*zip(*((recall[k], precision[k]) for precision, recall in found.values()), strict=True), color=colour)
        for mark, (precision, recall) in zip("osD", found.values(), strict=True):
            ax.plot(recall[k], precision[k], mark, color=colour, ms=6)
        ax.annotate(name, (found["none"][1][k], found["none"][0][k]), (-6, 4), textcoords="offset points", ha="right")
    for mark, name in zip("osD", found, strict=True):
        ax.plot([], [], mark, color=INK, label=f"pos_weight: {name}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    ax.legend(loc="lower left")
    return figure


def second_sigmoid_figure() -> Any:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 10))
    labels = features @ rng.normal(size=(10, 4)) > 0
    figure, ax = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for twice, label, colour in ((False, "logits", OURS), (True, "probabilities", ONE)):
        weights, losses = np.zeros((10, 4)), []
        for _ in range(200):
            given = features @ weights
            inner = 1 / (1 + np.exp(-given))
            loss, gradient = mlsm.value_and_grad(inner if twice else given, labels)
            weights -= 4 * features.T @ (gradient * inner * (1 - inner) if twice else gradient)
            losses.append(float(loss))
        ax.plot(losses, color=colour, label=label)
    ax.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    ax.legend(title="given to the loss")
    return figure


FIGURES: dict[str, tuple[Callable[[], Any], str]] = {
    "loss": (
        loss_figure,
        "The loss of one class, its gradient and its curvature, for labels 1, 0 and one half.",
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
    "ulp-gradient": (
        lambda: _error_figure(
            "gradient",
            1.0,
            [("σ(x) - y", sigmoid_minus_target, ONE), ("mlsm", our_gradient, OURS)],
            "gradient, y = 1",
            4,
        ),
        "The error of the gradient against the logit.",
    ),
    "ulp-hessian": (
        lambda: _error_figure(
            "hessian", 1.0, [("σ(1-σ)", sigmoid_product, ONE), ("mlsm", our_hessian, OURS)], "Hessian", 5
        ),
        "The error of the second derivative against the logit.",
    ),
    "second-sigmoid": (second_sigmoid_figure, "Training loss against steps, given logits or given probabilities."),
    "pytorch": (pytorch_figure, "Training and held-out loss against epochs; F1 of each class against the threshold."),
    "imbalance": (imbalance_figure, "Precision against recall of three classes for three choices of pos_weight."),
}


def written(figure: Any, caption: str) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{caption}" ', svg, count=1)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main(names: list[str]) -> None:
    with plt.rc_context(STYLE):
        for name in names or FIGURES:
            draw, caption = FIGURES[name]
            (HERE / f"{name}.svg").write_text(written(draw(), caption), encoding="utf-8")
            print(f"docs/figures/{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
