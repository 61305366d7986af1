"""Labels as positives only, and the linear head: they give what the dense call of the same logits gives.

A head of identity matrices has the logits of a case, to the bit, in any order of the products. So the oracle judges
the head too, and its gradient for `linear_weight` is the gradient of the case, transposed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from ..cases import dense_cases
from ..check import Ask, Context, check, exact
from ..formats import FORMATS
from ..run.tally import Tally
from ..tensors import Case, Tensor

_check = functools.partial(check, offers=("labels",), anybody=False)
THEMES = ("plain", "weight", "pos_weight", "where", "label_smoothing")
ASKS = (Ask("loss", "none"), Ask("loss"), Ask("gradient"), Ask("hessian", "sum"))
HEAD = 2.0
"""Budgets of a head's gradients: the scale multiplies `input` and not the gradient of the logits, which adds one
rounding, and the product with a factor of 1 adds another."""


def _labels(context: Context, target: Tensor, case: Case | None = None, *, twice: bool = False) -> Any:
    """The target of a case as its positives: in reverse order, and padded with -1; with `case`, as its backend makes
    arrays of rows (of unknown length, for example)."""
    import mlsm

    *batch, classes = target.shape
    count = math.prod(batch)
    rows = [target.values[i * classes : (i + 1) * classes] for i in range(count)]
    found = [[(c, float(v)) for c, v in enumerate(row) if v][::-1] for row in rows]
    hard = all(v == 1 for row in found for _, v in row)
    width = 1 + max((len(row) for row in found), default=0) * (2 if twice else 1)
    indices, values = [], []
    for row in found:
        row = row * 2 if twice else row
        row = [(-1, 7.0)] + row + [(-1, 7.0)] * (width - 1 - len(row))
        indices += [c for c, _ in row]
        values += [v for _, v in row]
    shape = (*batch, width)

    def rows_of(tensor: Tensor) -> Any:
        return context.backend.make(tensor) if case is None else context.backend.cotangent(tensor, case)

    made = rows_of(Tensor(shape, tuple(indices), "int32"))
    soft = None if hard else rows_of(Tensor(shape, tuple(values), target.dtype))
    return mlsm.Labels(made, num_classes=classes, values=soft)


def _cases(context: Context) -> list[Case]:
    found = []
    for dtype in context.few_dtypes:
        for theme in THEMES:
            for case in dense_cases.optioned(theme, dtype)[: 1 if context.expensive else None]:
                if context.backend.serves(case):
                    found.append(case)
    return found


@_check(
    "labels.values",
    "Labels in place of a dense target, hard or soft, in any order and padded: loss, gradient and Hessian.",
    "the budgets of the dense call",
)
def values(context: Context, tally: Tally) -> None:
    for case in _cases(context):
        arrays = {**context.arrays(case), "target": _labels(context, case.target, case)}
        context.judge(tally, case, ASKS, arrays)


@_check(
    "labels.set",
    "A hard label that is given twice counts once; a row without a label has none.",
    "exactly the result of one label",
)
def repeated(context: Context, tally: Tally) -> None:
    dtype = context.dtypes[-1]
    x = Tensor((2, 3), (0.5, -1.0, 2.0, 0.0, 1.0, -3.0), dtype)
    y = Tensor((2, 3), (1.0, 0.0, 1.0, 0.0, 0.0, 0.0), dtype)
    seen = []
    for twice in (False, True):
        labels, b = _labels(context, y, twice=twice), context.backend
        seen.append(b.to_list(b.call(lambda x, y: context.subject.grad(input=x, target=y), b.make(x), labels)))
    tally.exactly(seen[1], seen[0], "twice and once")


@_check(
    "labels.blocks",
    "Labels with more entries than one block give what the dense target of the same labels gives.",
    "to the bit on NumPy arrays and CPU tensors, else 4 ULP",
)
def blocks(context: Context, tally: Tally) -> None:
    b, dtype = context.backend, context.dtypes[-1]
    rows, classes = 37, 101
    labels, dense = _many(context, rows, classes, dtype)
    numbers = random.Random(5)
    x = b.make(Tensor((rows, classes), tuple(numbers.randrange(-160, 160) / 8 for _ in range(rows * classes)), dtype))
    room = 0.0 if b.library in ("numpy", "torch") else 4.0
    for reduction in ("none", "mean")[1 if context.expensive else 0 :]:

        def run(x: Any, y: Any, how: str = reduction) -> list[Any]:
            return list(context.subject.value_and_grad(input=x, target=y, reduction=how))

        with _small_blocks():
            found = b.call(run, x, labels)
            right = b.call(run, x, dense)
            pairs = [(b.to_list(a), b.to_list(c)) for a, c in zip(found, right, strict=True)]
        for what, (seen, wanted) in zip(("value", "gradient"), pairs, strict=True):
            allowed = [room * spacing(v, dtype) for v in wanted]
            tally.values(seen, wanted, allowed, f"{what} ({reduction})", dtype, "")


@_check(
    "labels.head",
    "The linear head's loss is that of its logits, and its gradients are products of their gradient.",
    "the budgets of the dense call, two of them for the gradients",
)
def head(context: Context, tally: Tally) -> None:
    b = context.backend
    for case in _cases(context):
        if len(case.input.shape) != 2 or not all(map(math.isfinite, case.input.values)):
            continue
        n, classes = case.input.shape
        dtype = case.input.dtype
        eye = b.cotangent(Tensor((n, n), tuple(float(i == j) for i in range(n) for j in range(n)), dtype), case)
        turned = tuple(case.input.values[i * classes + c] for c in range(classes) for i in range(n))
        weight = b.make(Tensor((classes, n), turned, dtype))
        arrays = context.arrays(case)
        options = {**context.options(case), **{k: v for k, v in arrays.items() if k not in ("input", "target")}}
        traced = [k for k, v in options.items() if hasattr(v, "dtype")]  # a number stays a static option under jit
        for target in (_labels(context, case.target, case), arrays["target"]):
            for ask in (Ask("gradient"), Ask("gradient", "sum")):

                def run(h: Any, W: Any, y: Any, *given: Any, how: str = ask.reduction) -> Any:
                    own = {**options, **dict(zip(traced, given, strict=True))}  # noqa: B023 - called here
                    value, (by_h, by_W, _) = context.subject.linear(h, W, y, reduction=how, **own)
                    return [value, by_h, by_W]

                found = b.call(run, eye, weight, target, *(options[k] for k in traced))
                value, by_h, by_W = (b.to_list(v) for v in found)
                loss = Ask("loss", ask.reduction)
                context.judge_one(tally, case, loss, value, context.limits(case))
                right = exact(case, ask).values
                room = [HEAD * v for v in context.allowed(case, ask, context.limits(case))]
                seen = [by_W[c * n + i] for i in range(n) for c in range(classes)]
                tally.values(seen, right, room, f"{case.name}: gradient of linear_weight", dtype, "")
                tally.true(len(by_h) == n * n and all(map(math.isfinite, by_h)), f"{case.name}: gradient of input")


@_check(
    "labels.head-blocks",
    "A head with more logits than one block gives the products of the dense call.",
    "4 ULP of the loss, 32 u of the largest entry of a gradient, products of 37 and 101 terms included",
)
def head_blocks(context: Context, tally: Tally) -> None:
    b, dtype = context.backend, context.dtypes[-1]
    rows, features, classes = 37, 4, 101
    labels, dense = _many(context, rows, classes, dtype)
    numbers = random.Random(3)
    h, W = ([numbers.randrange(-8, 9) / 4 for _ in range(n * features)] for n in (rows, classes))  # exact products
    x = tuple(
        sum(h[i * features + k] * W[c * features + k] for k in range(features))
        for i in range(rows)
        for c in range(classes)
    )

    def run(h: Any, W: Any, y: Any) -> list[Any]:
        value, (by_h, by_W, _) = context.subject.linear(h, W, y)
        return [value, by_h, by_W]

    def plain(x: Any, y: Any) -> list[Any]:
        return list(context.subject.value_and_grad(input=x, target=y, grad_output=float(rows * classes)))

    with _small_blocks():
        arrays = [b.make(Tensor(s, tuple(v), dtype)) for s, v in (((rows, features), h), ((classes, features), W))]
        value, by_h, by_W = (b.to_list(v) for v in b.call(run, *arrays, labels))
        right, gradient = (b.to_list(v) for v in b.call(plain, b.make(Tensor((rows, classes), x, dtype)), dense))
    tally.values(value, right, [4 * spacing(right[0], dtype)], "value", dtype, "")
    scale = 1 / (rows * classes)
    of_W = [
        scale * math.fsum(gradient[i * classes + c] * h[i * features + k] for i in range(rows))
        for c in range(classes)
        for k in range(features)
    ]
    of_h = [
        scale * math.fsum(gradient[i * classes + c] * W[c * features + k] for c in range(classes))
        for i in range(rows)
        for k in range(features)
    ]
    for what, seen, wanted in (("linear_weight", by_W, of_W), ("input", by_h, of_h)):
        largest = max(map(abs, wanted))
        off = max(abs(a - c) for a, c in zip(seen, wanted, strict=True)) / largest * 2.0 ** FORMATS[dtype].precision
        tally.true(off <= 32, f"gradient of {what}: {off:.1f} u of its largest entry")


def spacing(value: float, dtype: str) -> float:
    """One ULP at a value."""
    form = FORMATS[dtype]
    exponent = max(math.frexp(value)[1] - 1, form.emin) if value else form.emin
    return math.ldexp(1.0, exponent - form.precision + 1)


@contextlib.contextmanager
def _small_blocks() -> Iterator[None]:
    """Blocks of a few hundred entries, so that a small call has many. Their size is tuning and changes no result."""
    from mlsm import _blocks
    from mlsm.many_classes import _linear, _row_blocks, _targets

    sizes = (
        (_blocks, "BLOCK", 256),
        (_targets, "SMALL", 256),
        (_row_blocks, "ROWS", 512),
        (_linear, "ELEMENTS", 16 * 7),
        (_linear, "HEIGHT", 16),
    )
    with contextlib.ExitStack() as patches:
        for module, name, size in sizes:
            patches.enter_context(mock.patch.object(module, name, size))
        yield


def _many(context: Context, rows: int, classes: int, dtype: str) -> tuple[Any, Any]:
    """Five labels per row, and the dense target of the same labels."""
    import mlsm

    numbers = random.Random(7)
    indices = [[numbers.randrange(classes) for _ in range(5)] for _ in range(rows)]
    indices[3] = [-1] * 5
    flat = [float(c in row) for row in indices for c in range(classes)]
    made = context.backend.make(Tensor((rows, 5), tuple(c for row in indices for c in row), "int32"))
    return mlsm.Labels(made, num_classes=classes), context.backend.make(Tensor((rows, classes), tuple(flat), dtype))


@_check(
    "labels.refusals",
    "Labels of another shape, another axis, a gradient for them, and bare indices are refused with what to pass.",
)
def refusals(context: Context, tally: Tally) -> None:
    dtype = context.dtypes[-1]
    x = context.array((0.5, -1.0, 2.0, 0.0, 1.0, -3.0), (2, 3), dtype)
    labels = _labels(context, Tensor((2, 3), (1.0, 0.0, 1.0, 0.0, 0.0, 0.0), dtype))
    other = _labels(context, Tensor((2, 4), (1.0,) * 8, dtype))
    bare = context.backend.make(Tensor((2, 2), (0, 2, 1, 1), "int32"))
    s = context.subject
    calls: list[tuple[str, str, Callable[[], Any]]] = [
        ("another shape", "`target` must have exactly the shape of `input`", lambda: s.loss(input=x, target=other)),
        ("bare indices", "mlsm.Labels(target, num_classes=3)", lambda: s.loss(input=x, target=bare)),
        ("another axis", "`axis` must be the last axis", lambda: s.loss(input=x, target=labels, axis=0)),
        (
            "its gradient",
            '`wrt` can be "target" only for a dense `target`',
            lambda: s.grad(input=x, target=labels, wrt="target"),
        ),
        ("another width", "`linear_weight` must have shape", lambda: s.linear(x, x[:, :2], labels)),
    ]
    for what, message, call in calls:
        try:
            call()
        except ValueError as error:
            tally.true(message in str(error), f"{what}: {error}")
        except Exception as error:
            tally.fail(f"{what}: raised {type(error).__name__}: {error}")
        else:
            tally.fail(f"{what}: was accepted")
