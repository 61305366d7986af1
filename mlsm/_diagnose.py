"""`diagnose`: what is suspicious about the values of a call. The only function of the package that reads values."""

from typing import Any, NamedTuple

from . import _check
from ._core import Operands
from ._typing import Array, Reduction, Weight
from .many_classes import _targets


class Finding(NamedTuple):
    """One probable mistake: the argument, how many of its entries, rows or classes of how many, and the remedy."""

    argument: str
    number: int
    total: int
    unit: str
    advice: str


class Diagnosis(NamedTuple):
    """What `diagnose` found. Prints as a table; `ok` is true if it found nothing."""

    rows: int
    classes: int
    observed: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        entries = self.rows * self.classes
        head = f"{self.rows} rows, {self.classes} classes, {self.observed} of {entries} labels observed"
        if self.ok:
            return f"{head}: nothing suspicious"
        amounts = [f"{f.number} of {f.total} {f.unit}" for f in self.findings]
        wide, long = max(len(f.argument) for f in self.findings), max(map(len, amounts))
        lines = (
            f"  {f.argument:<{wide}}  {amount:<{long}}  {f.advice}"
            for f, amount in zip(self.findings, amounts, strict=True)
        )
        return "\n".join((f"{head}:", *lines))


_PROBABILITIES = (
    "all lie in [0, 1]: these look like probabilities; pass the scores from before the sigmoid, log(p) - log1p(-p)"
)
_UNDERFLOW = 2**25  # 1/(N*C) below half of float16's smallest number, 2^-24, is rounded to 0


def diagnose(
    input: Array,
    target: Array,
    weight: Weight | None = None,
    *,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Diagnosis:
    """Report what is probably a mistake in the values of a call, with the remedy of each.

    This is the only function that reads values: it synchronises a GPU and computes lazy arrays, so call it once on a
    batch and not in a training loop. It needs a few temporary arrays of the size of `input`. It does not compute the
    loss, and ignores the entries where `where` is false.

    Parameters
    ----------
    input, target, weight, reduction, pos_weight, where, label_smoothing, axis
        As for `multilabel_soft_margin_loss`.

    Returns
    -------
    Diagnosis
        Its `findings` are tuples of ``(argument, number, total, unit, advice)``; `ok` is true if there are none.
        ``print(mlsm.diagnose(...))`` shows a table. It finds logits that look like probabilities, NaN and infinite
        logits, NaN targets, targets outside [0, 1], labels of -1 and 1, swapped arguments, an infinite loss, rows and
        classes without a positive or without an observed label, negative and non-finite weights, and float16
        gradients that are rounded to 0.

    Raises
    ------
    TypeError, ValueError
        As for `multilabel_soft_margin_loss`; TypeError also inside a trace (`jax.jit`), which has no values.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> print(mlsm.diagnose(np.array([[2.0, -3.0], [-1.0, np.nan]]), np.array([[1, 0], [0, -1]])))
    2 rows, 2 classes, 4 of 4 labels observed:
      input   1 of 4 logits   are NaN: each makes the loss of its row NaN
      target  1 of 4 targets  are outside [0, 1]: pass `where=` for missing labels, one column a class for class indices
      target  1 of 2 rows     have no positive label
      target  1 of 2 classes  have no positive label
    """
    problem, o, library = _check.problem(input, target, weight, pos_weight, where, reduction, label_smoothing, axis)
    with library.errstate(problem.device):  # on the device of the arrays, if the library has a current device
        n = _counts(_targets.dense(o))
    rows, classes, seen = n["rows"], n["classes"], n["observed"]
    found: list[Finding] = []

    def find(argument: str, number: int, total: int, unit: str, advice: str) -> None:
        if number:
            found.append(Finding(argument, number, total, unit, advice))

    if not rows:
        find("input", 1, 1, "batches", "is empty: its mean is NaN")
    swapped = seen == n["x binary"] and n["y outside"]
    find("input", seen if swapped else 0, seen, "logits", "are 0 or 1 and the targets are not: are the two swapped?")
    likely = not n["x outside"] and n["x inside"] > 1
    find("input", seen if likely else 0, seen, "logits", _PROBABILITIES)
    find("input", n["x nan"], seen, "logits", "are NaN: each makes the loss of its row NaN")
    find("input", n["x infinite"], seen, "logits", "are infinite")
    find("input", n["infinite"], seen, "terms", "are infinite: an infinite logit contradicts its target")
    find("target", n["y nan"], seen, "targets", "are NaN: pass `where=` for labels that are missing")
    signs = n["y negative"] and n["y signs"] == seen
    if signs:
        find(
            "target",
            n["y negative"],
            seen,
            "targets",
            "are -1 and the others 1: pass (target + 1) / 2, or `where=target >= 0` if -1 means missing",
        )
    elif not swapped:
        find(
            "target",
            n["y outside"],
            seen,
            "targets",
            "are outside [0, 1]: pass `where=` for missing labels, one column a class for class indices",
        )
    find("where", n["rows unseen"], rows, "rows", "have no observed label: their loss is 0, and the mean omits them")
    find("where", n["classes unseen"] if rows else 0, classes, "classes", "have no observed label")
    find("target", n["rows without"], rows, "rows", "have no positive label")
    find("target", n["classes without"], classes, "classes", "have no positive label")
    find("target", n["classes full"], classes, "classes", "have no negative label")
    for argument in ("weight", "pos_weight"):
        if argument in n:
            size = n[argument]
            find(argument, n[f"{argument} negative"], size, "entries", "are negative: the loss has no lower bound then")
            find(argument, n[f"{argument} odd"], size, "entries", "are NaN or infinite")
    tiny = problem.input.dtype == "float16" and problem.reduction == "mean" and rows * classes >= _UNDERFLOW
    find(
        "input",
        rows * classes if tiny else 0,
        rows * classes,
        "gradients",
        f"are less than 1/{_UNDERFLOW}, which float16 rounds to 0: pass `grad_output`, or float32 logits",
    )
    return Diagnosis(rows, classes, seen, tuple(found))


def _counts(o: Operands) -> dict[str, int]:
    """The numbers of entries, rows and classes of each kind; all are read at once."""
    xp, x, flat = o.xp, o.x, tuple(range(o.x.ndim - 1))
    y = xp.astype(o.y, o.dtype, copy=False)
    integer = xp.__array_namespace_info__().default_dtypes(device=getattr(x, "device", None))["integral"]
    everything = (x == x) | (x != x)  # true, in the shape and the chunks of the logits
    seen = everything if o.m is None else everything & o.m

    def count(condition: Any) -> Any:
        return xp.sum(xp.astype(condition, integer))

    def outside(values: Any) -> Any:
        return seen & ((values < 0) | (values > 1) | (values != values))

    positive, not_full = seen & (y > 0), seen & (y < 1)
    row_seen, class_seen = xp.any(seen, axis=-1), xp.any(seen, axis=flat)
    counts = {
        "rows": count(xp.any(everything, axis=-1)),
        "observed": count(seen),
        "x outside": count(outside(x)),
        "x inside": count(seen & (x > 0) & (x < 1)),
        "x binary": count(seen & ((x == 0) | (x == 1))),
        "x nan": count(seen & (x != x)),
        "x infinite": count(seen & xp.isinf(x)),
        "infinite": count(seen & xp.isinf(x) & (y == y) & (((x > 0) & (y != 1)) | ((x < 0) & (y != 0)))),
        "y nan": count(seen & (y != y)),
        "y outside": count(outside(y) & (y == y)),
        "y negative": count(seen & (y == -1)),
        "y signs": count(seen & ((y == -1) | (y == 1))),
        "rows unseen": count(~row_seen),
        "classes unseen": count(~class_seen),
        "rows without": count(row_seen & ~xp.any(positive, axis=-1)),
        "classes without": count(class_seen & ~xp.any(positive, axis=flat)),
        "classes full": count(class_seen & ~xp.any(not_full, axis=flat)),
    }
    for argument, factor in (("weight", o.w), ("pos_weight", o.p)):
        if factor is not None:
            factor = xp.astype(factor, o.dtype, copy=False)
            counts[argument] = count((factor == factor) | (factor != factor))
            counts[f"{argument} negative"] = count(factor < 0)
            counts[f"{argument} odd"] = count(~xp.isfinite(factor))
    return {**dict(zip(counts, _integers(xp.stack(list(counts.values()))), strict=True)), "classes": x.shape[-1]}


def _integers(counts: Any) -> list[int]:
    compute = getattr(counts, "compute", None)  # of a lazy array: once, not once per number
    values = counts if compute is None else compute()
    try:
        return [int(values[i]) for i in range(counts.shape[0])]
    except Exception as error:
        raise TypeError(
            "`diagnose` reads values, which `input` does not have inside a trace; call it outside of `jit` and "
            f"other transforms ({type(error).__name__})."
        ) from error
