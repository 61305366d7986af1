"""Runs the test suite on the losses of other libraries and writes their page: `make gallery`.

That runs `python docs/figures/gallery.py [NAME ...]` with these libraries installed.
Each loss is judged in a process of its own by `python -m mlsm_conformance run ... --json`; the page and its figures are
made from those records alone. With NAMEs, only these losses are judged again, and the records of the others are read
from build/gallery. A sentence about a loss is written only if mpmath confirms it. No loss is repaired, and none is left
out: one that cannot be called is on the page, with the reason.
"""

import ast
import importlib.metadata
import inspect
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("svg")
from make import INK, ONE, STYLE, THREE, WIDTH, written
from matplotlib import pyplot as plt

from mlsm_conformance import peers, record
from mlsm_conformance.check import GROUPS
from mlsm_conformance.record import BackendRecord, Curve, Run
from mlsm_conformance.report.summary import alike, causes, failing
from mlsm_conformance.run.why import WHY, Why, explains, recomputed

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent.parent / "build" / "gallery"
PAGE = HERE.parent / "gallery.md"
BY_NAME = {p.call.__name__: p for p in (*peers.PEERS, *peers.OTHERS)}

TORCHVISION = (
    "import torch\n"
    "for name in ('nms', 'qnms'):\n"
    "    torch.library.define('torchvision::' + name, '(Tensor dets, Tensor scores, float threshold) -> Tensor')\n"
)
"""torchvision's wheel on the package index has operators for CUDA builds of PyTorch only, and its import fails if two
of them are missing. Its focal loss is Python and uses none of them."""


class Entry(NamedTuple):
    """One loss of the page."""

    title: str
    function: str
    backend: str
    distribution: str
    note: str = ""
    before: str = ""
    """Python to run before the loss is imported."""
    engine: str = ""
    """The backend of Keras."""
    dtype: str = "float64"
    """The dtype of its figure."""
    without: str = ""
    """A group of checks that is left out, because it ends the process."""
    dtypes: tuple[str, ...] = ()
    """The dtypes in which it is judged, if it does not have all of the backend's."""

    @property
    def name(self) -> str:
        """Its name in WHY and in file names."""
        return self.function + ("_numpy" if self.engine == "numpy" else "")

    def line(self, rest: str) -> str:
        """A command about it, to be pasted into a shell."""
        engine = f"KERAS_BACKEND={self.engine} " if self.engine else ""
        dtypes = "".join(f" --dtype {d}" for d in self.dtypes) if rest.startswith("run") else ""
        return f"{engine}python -m mlsm_conformance {rest}{dtypes} --impl {peers.__name__}:{self.function}"


THREADS = (
    "On the CPU, it has no float16. The group `threads` is left out: if several threads call this loss at once, Paddle "
    "ends the process with a segmentation fault, as `run numpy --check threads` with the same `--impl` shows."
)
CPU = "With a CPU build of PyTorch, torchvision must be a CPU build, too."
ENTRIES = (
    Entry("PyTorch `multilabel_soft_margin_loss`", "torch_mlsm", "torch", "torch"),
    Entry("PyTorch `binary_cross_entropy_with_logits`", "torch_bce_with_logits", "torch", "torch"),
    Entry("optax `sigmoid_binary_cross_entropy`", "optax_sigmoid_bce", "jax-x64", "optax"),
    Entry("Keras `binary_crossentropy` on PyTorch", "keras_bce", "torch", "keras", engine="torch"),
    Entry("Keras `binary_crossentropy` on NumPy", "keras_bce", "numpy", "keras", engine="numpy", dtype="float32"),
    Entry("TensorFlow `sigmoid_cross_entropy_with_logits`", "tensorflow_bce", "numpy", "tensorflow-cpu"),
    Entry("scikit-learn `HalfBinomialLoss`", "sklearn_half_binomial", "numpy", "scikit-learn"),
    Entry("SciPy `log_expit`", "scipy_log_expit", "numpy", "scipy"),
    Entry("MLX `binary_cross_entropy`", "mlx_bce", "numpy", "mlx"),
    Entry("Paddle `multi_label_soft_margin_loss`", "paddle_mlsm", "numpy", "paddlepaddle", THREADS, without="threads",
          dtypes=("float32", "float64")),
    Entry("timm `BinaryCrossEntropy`", "timm_bce", "torch", "timm", CPU, TORCHVISION),
    Entry("torchvision `sigmoid_focal_loss`, γ = 0", "torchvision_focal", "torch", "torchvision", CPU, TORCHVISION),
    Entry("MONAI `FocalLoss`, γ = 0", "monai_focal", "torch", "monai", dtype="float32"),
)  # fmt: skip


# ---------------------------------------------------------------- judging


def child(entry: Entry, code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"KERAS_BACKEND": entry.engine} if entry.engine else {}
    return subprocess.run(
        [sys.executable, "-c", entry.before + code], env=env, capture_output=True, text=True, check=False
    )


CLAIMS = """
import json, warnings
from mlsm_conformance.run.why import WHY, returned
warnings.simplefilter("ignore")
print(json.dumps([returned({name!r}, why, x, y) for why in WHY[{name!r}] for x, y in why.points]))
"""


def judge(entry: Entry) -> None:
    """Write the records of one loss: what the suite finds, and the values that the sentences are about."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    out, claims_file = RECORDS / f"{entry.name}.json", RECORDS / f"{entry.name}.claims"
    out.unlink(missing_ok=True)
    impl = f"{peers.__name__}:{entry.function}"
    words = ["run", entry.backend, "--impl", impl, "--json", str(out)]
    words += [word for dtype in entry.dtypes for word in ("--dtype", dtype)]
    words += [word for group in GROUPS if entry.without and group != entry.without for word in ("--check", group)]
    # The page has no curves of other losses, and Paddle fails in a process with TensorFlow, which Keras imports.
    alone = "from mlsm_conformance.run import command\ncommand.peers = lambda **_: ()\n"
    done = child(entry, f"{alone}from mlsm_conformance.__main__ import main\nraise SystemExit(main({words!r}))")
    if not out.exists():
        print(f"{entry.name}: absent: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
        (RECORDS / f"{entry.name}.absent").write_text(done.stderr.strip().splitlines()[-1] + "\n", encoding="utf-8")
        return
    done = child(entry, CLAIMS.format(name=entry.name))
    if done.returncode:
        raise SystemExit(f"{entry.name}: {done.stderr}")
    claims_file.write_text(done.stdout.strip().splitlines()[-1] + "\n", encoding="utf-8")
    print(f"{entry.name}: judged")


# ---------------------------------------------------------------- the page


def glue(function: Any) -> str:
    """The function as it stands in conformance/subjects/peers.py, without its annotations and docstring."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    arguments = ", ".join(
        a.arg + (f"={ast.unparse(d)}" if d is not None else "")
        for a, d in zip(
            node.args.args, [None] * (len(node.args.args) - len(node.args.defaults)) + node.args.defaults, strict=True
        )
    )
    documented = ast.get_docstring(node) is not None
    kept = lines[node.body[1 if documented else 0].lineno - 1 :]
    body = [line.replace(": Any = importlib", " = importlib").partition("  # ")[0] for line in kept]
    return "\n".join([f"def {node.name}({arguments}):", *body]).replace("'", '"').strip()


def parts(entry: Entry) -> str:
    """The code that adapts it, with its helpers."""
    names = [entry.function, *(n for n in (f"_{entry.function}",) if hasattr(sys.modules[GLUE], n))]
    return "\n\n\n".join(glue(getattr(sys.modules[GLUE], n)) for n in names)


GLUE = BY_NAME["torch_mlsm"].call.__module__


def number(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(value)


def claim(entry: Entry, why: Why, seen: list[float]) -> str:
    """A sentence, with the numbers that confirm it."""
    for (x, y), value in zip(why.points, seen, strict=True):
        if not explains(why, x, y, value):
            raise SystemExit(f"{entry.name}: at x={x}, y={y} it is {value!r}: not for the reason {why.sentence!r}")
    (x, y), value = why.points[0], seen[0]
    noun = {"loss": "loss", "gradient": "gradient", "hessian": "second derivative"}[why.quantity]
    right = recomputed(why, x, y)[0]
    return (
        f"It {why.sentence}. In {why.dtype}, at x = {x!r} and y = {y!r}, its {noun} is {number(value)}; "
        f"the exact value is {number(right)}."
    )


def shortened(sentence: str, entry: Entry) -> str:
    """A sentence of the suite without the name of the loss, shortened for the page."""
    text = sentence.removeprefix(f"{entry.function} ").partition(" (at /")[0].replace("|", "\\|")
    return text if len(text) <= 230 else text[:200].rpartition(" ")[0] + " …"


def figure(entry: Entry, backend: BackendRecord) -> None:
    """Error against logit, one panel for each quantity."""
    curves = [c for c in backend.curves if c.dtype == entry.dtype]
    kinds = [q for q in ("loss", "gradient") if any(c.quantity == q for c in curves)]
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(
            1, len(kinds), figsize=(WIDTH, 2.5), layout="constrained", squeeze=False, sharey=True
        )
        for ax, quantity in zip(axes[0], kinds, strict=True):
            for target, colour in ((0.0, ONE), (1.0, THREE)):
                (curve,) = (c for c in curves if c.quantity == quantity and c.target == target)
                x, ulp, bound = points(curve)
                ax.plot(x, ulp, ".", ms=3.5, color=colour, label=f"y = {target:g}")
            ax.plot(x, bound, color=INK, lw=0.8, ls="--", label="promised by mlsm" if ax is axes[0][0] else None)
            ax.set(title=quantity, xlabel="logit x", yscale="log", ylim=(0.006, 1e17), xlim=(-62, 62))
        axes[0][0].set_ylabel(f"error in ULP of {entry.dtype}")
        drawn.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, markerscale=3)
        caption = f"The error of {entry.title.replace('`', '')} against the logit, for labels 0 and 1"
        (HERE / f"gallery-{entry.name}.svg").write_text(written(drawn, caption), encoding="utf-8")


def points(curve: Curve) -> tuple[list[float], list[float], list[float]]:
    """Every few logits within 60 of 0, with errors of at least 0.01 ULP for the logarithmic axis; without errors that
    are not finite."""
    near = [
        (x, max(e, 0.01), b)
        for x, e, b in zip(curve.logit, curve.ulp, curve.bound, strict=True)
        if abs(x) <= 60 and math.isfinite(e)
    ]
    kept = near[:: max(1, len(near) // 45)]
    return [p[0] for p in kept], [p[1] for p in kept], [p[2] for p in kept]


def version(entry: Entry) -> str:
    return importlib.metadata.version(entry.distribution).partition("+")[0]


def counted(backend: BackendRecord) -> tuple[int, int]:
    """The number of checks that fail, and of all that were judged."""
    return len(failing(backend)), sum(c.status in ("pass", "fail") for c in backend.checks)


def section(entry: Entry, run: Run) -> list[str]:
    """The section of the page about one loss."""
    (backend,) = run.backends
    wrong, judged = counted(backend)
    seen = json.loads((RECORDS / f"{entry.name}.claims").read_text(encoding="utf-8"))
    sentences, place = [], 0
    for why in WHY[entry.name]:
        sentences.append(claim(entry, why, seen[place : place + len(why.points)]))
        place += len(why.points)
    on = f" on {entry.engine}" if entry.engine else ""
    out = [f"## {entry.title}", ""]
    what = f"{entry.distribution} {version(entry)}{on}, with arrays of {backend.library}"
    verdict = f"**{wrong} of {judged} checks fail** on {backend.name}, level {run.level}"
    out += [f"{what} in {', '.join(backend.dtypes)}: {verdict}.", ""]
    out += [" ".join(sentences), ""]
    out += [f"![The error of the loss and of its gradient against the logit](figures/gallery-{entry.name}.svg)", ""]
    out += ["```text", parts(entry), "```", ""]  # after python, the next block would be its output
    if entry.note:
        out += [entry.note, ""]
    found = causes(backend)
    if found:
        out += ["Causes, and the number of failing checks in which each of them occurs:", ""]
        for sentence, checks, ids, more in alike(found):
            places = ", ".join(f"`{id}`" for id in ids)
            if more:
                others = "1 more message differs" if more == 1 else f"{more} more messages differ"
                places += f"; {others} in the dtypes only"
            out.append(f"- {len(checks)} of {wrong}: {shortened(sentence, entry)} ({places})")
        out.append("")
    unexplained = [c.id for c in failing(backend) if not c.causes]
    if unexplained:
        ids = ", ".join(f"`{id}`" for id in unexplained)
        out += [f"Failing checks with a result for which no cause is known: {ids}.", ""]
    look = f'from mlsm_conformance.run.why import look; look("{entry.name}")'
    engine = f"KERAS_BACKEND={entry.engine} " if entry.engine else ""
    lines = [entry.line(f"run {entry.backend}"), f"{engine}python -c '{look}'"]
    shown = dict.fromkeys([*(checks[0].id for _, checks in found), *unexplained])
    lines += [entry.line(f"show {id} --backend {entry.backend}") for id in shown]
    return [*out, "```text", *lines, "```", ""]


def overview(entries: list[tuple[Entry, Run]]) -> list[str]:
    out = ["| loss | version | checks that fail | why |", "|---|---|---|---|"]
    for entry, run in entries:
        wrong, judged = counted(run.backends[0])
        anchor = entry.title.lower()
        link = "".join("-" if c == " " else c for c in anchor if c.isalnum() or c in " _-")
        first = WHY[entry.name][0].sentence.partition(":")[0].replace("|", "\\|")
        out.append(f"| [{entry.title}](#{link}) | {version(entry)} | {wrong} of {judged} | {first} |")
    return [*out, ""]


INTRODUCTION = """\
This page shows what the [test suite](suite.md) finds in the losses of other libraries. Each loss is called as its
documentation describes, by the code shown. That code changes only what the comparison requires: the order of the
arguments, and the mean over the classes. The results are compared with the exact values, within the error bounds that
[the contract](contract.md) promises for mlsm. A check fails if one value is outside its bound, or if a call that the
contract allows raises an error. Many of these failures do not matter in training. The sentences above each figure
describe the errors that may matter. Each sentence was confirmed with mpmath: the arithmetic of the loss was repeated
with the same rounding of every operation, and it gave the same wrong number.

One ULP (unit in the last place) is the distance from a floating-point number to the next. In the figures, lower is
better: if the error is below ½ ULP, the result is the floating-point number nearest to the exact value; at 10¹⁵ ULP
(10⁷ in float32) no digit is correct. Where a result is not finite, there is no dot.

The list under each figure gives the causes of the failures. “18 of 25” means that the loss fails 25 checks, and that
this cause explains wrong results in 18 of them; the name in parentheses is the first of the 18. The numbers of a list
do not add up to the number of failing checks, for two reasons. A check whose results are wrong for several causes is
counted under each of them. And a check with a wrong result for which no cause is known is counted under none: it is
named below the list. The number after “exactly” is the exact value. The tail is the range of large logits that agree
with their label, where the loss is tiny.

These are the results of {date} on {machine} with Python {python} and mlsm {mlsm}. The commands under each loss repeat
them where its library is installed: the first runs the suite on the loss, the second repeats the arithmetic, and
`show` explains a check and prints a script that runs it alone.
"""


def page(entries: list[tuple[Entry, Run]], absent: list[tuple[Entry, str]]) -> str:
    run = entries[0][1]
    out = ["<!-- Generated by `make gallery`; do not edit. -->", "", "# Other losses, judged", ""]
    out += [INTRODUCTION.format(date=run.date, mlsm=run.mlsm, **run.versions), *overview(entries)]
    for entry, found in entries:
        out += section(entry, found)
    out += ["## Losses without a result", ""]
    out += [f"- {entry.title}: {reason}" for entry, reason in absent] or [
        "None. Every loss of the list could be called."
    ]
    return "\n".join(out) + "\n"


def main(names: list[str]) -> None:
    unknown = set(names) - {e.name for e in ENTRIES}
    if unknown:
        raise SystemExit(
            f"no loss is called {', '.join(sorted(unknown))}; there are {', '.join(e.name for e in ENTRIES)}"
        )
    for entry in ENTRIES:
        if not names or entry.name in names:
            judge(entry)
    entries: list[tuple[Entry, Run]] = []
    absent: list[tuple[Entry, str]] = []
    for entry in ENTRIES:
        path = RECORDS / f"{entry.name}.json"
        if path.exists():
            run = record.read(path)
            figure(entry, run.backends[0])
            entries.append((entry, run))
        else:
            why = RECORDS / f"{entry.name}.absent"
            absent.append((entry, why.read_text(encoding="utf-8").strip() if why.exists() else "it was not judged"))
    PAGE.write_text(page(entries, absent), encoding="utf-8")
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
