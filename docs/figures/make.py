"""Draws the figures of the documentation: `python docs/figures/make.py [NAME ...]` writes SVG files beside this one.

Each is an image that a page links to, so that every viewer of Markdown shows it. The suite measures and draws the
errors of mlsm's reference on NumPy and of the formulas that others use; each of those is a wrong variant of the suite's
own loss. The figure of a tutorial is drawn from the variables that the code of its page defines.
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

import mlsm
from mlsm_conformance.backends import find
from mlsm_conformance.check import Ask, Context
from mlsm_conformance.record import Quantity
from mlsm_conformance.report.panels import style_of
from mlsm_conformance.report.style import standalone
from mlsm_conformance.report.summary import NAMES
from mlsm_conformance.report.svg import line, marker, short, text
from mlsm_conformance.report.ulp import Series, Size, drawn
from mlsm_conformance.run.curves import curve, pack
from mlsm_conformance.subjects import Mlsm, Subject
from mlsm_conformance.subjects.reference_impl import Own
from mlsm_conformance.subjects.sabotage import BceForm, MaxForm, SigmaMinusTarget, SigmaOneMinusSigma

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
WIDTH = 6.4  # inches, about the width of a column of text, so that letters stay legible on a telephone


class LogOfSigmoid(Own):
    """The logarithms of both probabilities, as in textbooks."""

    def element(self, x: Any, on: Any, off: Any) -> Any:
        s = self.sigmoid(x)
        return -(on * self._xp.log(s) + off * self._xp.log(1 - s))


def accuracy(quantity: Quantity, target: float, forms: dict[str, type[Own]], caption: str) -> str:
    """A panel of the suite's report as one picture: mlsm, its bound, and other forms of the formula, in float32."""
    backend, size = find("numpy"), Size(600, 300)
    case, ask = pack("float32", target), Ask(quantity, "none")
    subjects: dict[str, Subject] = {"mlsm": Mlsm("generic"), **{name: make(backend) for name, make in forms.items()}}
    styles = {"mlsm": ("ours", ""), **{name: style_of(i) for i, name in enumerate(forms)}}
    series, legend = [], []
    with backend.session():
        for name, subject in subjects.items():
            context = Context(backend, subject, dtypes=("float32",))
            seen = backend.to_list(context.answer(case, ask))
            found = curve(context, case, ask, seen, context.limits(case))
            series.append(Series(name, found, *styles[name], filled=name == "mlsm"))
    height, x = size.height + 26, 20.0
    y = height - 12
    for name, (css, mark) in {**styles, "promised bound": ("bound", "")}.items():
        legend += [line(x, y, x + 24, y, f"{css} series"), text(x + 30, y + 4, name, "key", "start")]
        legend += [marker(mark, x + 12, y, f"{css} mark")] if mark else []
        x += 48 + 6 * len(name)
    title = f"{NAMES[quantity]}, y = {'1 − 2⁻²⁰' if 0 < target < 1 else short(target)}, float32"
    return standalone(size.width, height, caption, [*drawn(series, title, size), *legend])


ACCURACY: dict[str, tuple[Quantity, float, dict[str, type[Own]], str]] = {
    "ulp-loss": (
        "loss",
        0.0,
        {"log σ, log(1 − σ)": LogOfSigmoid, "(1 − y)x + softplus(−x)": BceForm},
        "The error of the loss against the logit.",
    ),
    "ulp-soft": ("loss", 1 - 2.0**-20, {"max(x, 0) − xy + L": MaxForm}, "The error of the loss for a target near 1."),
    "ulp-gradient": ("gradient", 1.0, {"σ(x) − y": SigmaMinusTarget}, "The error of the gradient against the logit."),
    "ulp-hessian": (
        "hessian",
        1.0,
        {"σ(1 − σ)": SigmaOneMinusSigma},
        "The error of the second derivative against the logit.",
    ),
}


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


def variables(page: str) -> dict[str, Any]:
    """The variables that the python blocks of a tutorial define, run in order; their output is dropped."""
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
        "The loss of one class, its gradient and its second derivative, for labels 1, 0 and one half.",
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
        for name in names or (*FIGURES, *ACCURACY):
            if name in ACCURACY:
                picture = accuracy(*ACCURACY[name])
            else:
                draw, caption = FIGURES[name]
                picture = written(draw(), caption)
            (HERE / f"{name}.svg").write_text(picture, encoding="utf-8")
            print(f"docs/figures/{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
