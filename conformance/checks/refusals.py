"""The error table: each refused argument, the class of the error, and what its message must contain."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

from ..backends import NAMES, NotInstalled, find
from ..check import Check, Context, by_place, check
from ..run.tally import Tally
from ..tensors import Tensor

Calls = list[tuple[str, type[Exception], tuple[str, ...], dict[str, Any]]]
"""The mistake, the class of the error, the fragments that its message must contain, and the arguments."""


def _base(context: Context, dtype: str | None = None) -> dict[str, Any]:
    d = dtype or ("float32" if "float32" in context.dtypes else context.dtypes[-1])
    return {
        "input": context.array((0.5, -1.0, 2.0, 0.0, 1.0, -3.0), (2, 3), d),
        "target": context.array((1.0, 0.0, 1.0, 0.0, 0.0, 1.0), (2, 3), d),
    }


def _flat(context: Context, shape: tuple[int, ...], dtype: str | None = None, value: float = 1.0) -> Any:
    n = math.prod(shape)
    kind: Any = int if dtype and dtype.startswith(("int", "uint")) else bool if dtype == "bool" else float
    return context.array((kind(value),) * n, shape, dtype or context.dtypes[-1])


def _refused(context: Context, tally: Tally, calls: Calls) -> None:
    for what, cls, fragments, given in calls:
        for name in ("loss", "grad", "value_and_grad", "hessian_diag"):
            if ("grad_output" in given or "wrt" in given) and name != "grad":
                continue
            function = getattr(context.subject, name)
            _one(tally, f"{name}: {what}", cls, fragments, functools.partial(function, **given))


def _one(tally: Tally, what: str, cls: type[Exception], fragments: tuple[str, ...], call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception as error:
        text = str(error)
        right = type(error) is cls
        tally.true(right, f"{what}: {type(error).__name__}, not {cls.__name__}: {text[:160]}")
        if right:
            for fragment in fragments:
                tally.true(fragment in text, f"{what}: the message lacks {fragment!r}: {text[:200]}")
            tally.true(
                re.search(r"`\w+(\.\w+)?`", text) is not None or not fragments,
                f"{what}: no argument in backticks: {text[:200]}",
            )
    else:
        tally.fail(f"{what}: was accepted")


def _refusal(name: str, rule: str) -> Callable[[Callable[[Context], Calls]], Check]:
    def wrap(calls: Callable[[Context], Calls]) -> Check:
        def run(context: Context, tally: Tally) -> None:
            _refused(context, tally, calls(context))

        return check(f"refusals.{name}", rule, anybody=False)(run)

    return wrap


@_refusal("input-dtype", "An integer, bool or complex input is a TypeError that names the dtype.")
def input_dtype(context: Context) -> Calls:
    base = _base(context)
    return [
        (f"{d} input", TypeError, ("`input`", d), {**base, "input": _flat(context, (2, 3), d)})
        for d in ("int32", "bool")
    ]


@_refusal("input-kind", "A list, tuple, scalar or None as input is a TypeError that says how to convert.")
def input_kind(context: Context) -> Calls:
    rows = [[0.5, -1.0, 2.0], [0.0, 1.0, -3.0]]
    wrong: list[Any] = [rows, tuple(map(tuple, rows)), 0.5, None, "x"]
    if context.backend.library == "numpy":
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about its matrix, which must be refused
            wrong += [np.float64(0.5), np.asmatrix(rows), np.ma.masked_array(rows, mask=False)]
    return [(f"input {type(w).__name__}", TypeError, ("`input`",), {**_base(context), "input": w}) for w in wrong]


@_refusal("input-0d", "A 0-d input is a ValueError.")
def input_0d(context: Context) -> Calls:
    scalar = _flat(context, ())
    return [("0-d input", ValueError, ("`input`",), {"input": scalar, "target": scalar})]


@_refusal("target-shape", "A target of another shape is a ValueError with both shapes, never a broadcast.")
def target_shape(context: Context) -> Calls:
    wrong: list[tuple[int, ...]] = [(3,), (2, 1), (4, 2, 3), (2, 2), (1, 3), (3, 2)]
    return [
        (f"target {s}", ValueError, ("`target`", "(2, 3)", str(s)), {**_base(context), "target": _flat(context, s)})
        for s in wrong
    ]


@_refusal("weight-shape", "A weight that would enlarge the input or add a dimension is a ValueError with both shapes.")
def weight_shape(context: Context) -> Calls:
    out: Calls = []
    for name in ("weight", "pos_weight"):
        for s in ((4,), (2,), (5, 2, 3), (1, 2, 3), (3, 1), (2, 4)):
            given = {**_base(context), name: _flat(context, s)}
            out.append((f"{name} {s}", ValueError, (f"`{name}`", "(2, 3)", str(s)), given))
        out.append((f"{name} list of 4", ValueError, (f"`{name}`", "(4,)"), {**_base(context), name: [1.0] * 4}))
    return out


@_refusal("weight-kind", "A string, complex number or object as weight is a TypeError.")
def weight_kind(context: Context) -> Calls:
    out: Calls = []
    for name in ("weight", "pos_weight"):
        for wrong in ("balanced", 1j, object(), ["a", "b", "c"], [1.0, None, 2.0]):
            out.append((f"{name} {wrong!r:.20}", TypeError, (f"`{name}`",), {**_base(context), name: wrong}))
    return out


@_refusal("where", "A `where` that is not bool is a TypeError, one that does not broadcast a ValueError.")
def where(context: Context) -> Calls:
    base = _base(context)
    return [
        ("float where", TypeError, ("`where`",), {**base, "where": _flat(context, (2, 3))}),
        ("int where", TypeError, ("`where`",), {**base, "where": _flat(context, (2, 3), "int32")}),
        ("list where", TypeError, ("`where`",), {**base, "where": [True, False, True]}),
        ("where (4,)", ValueError, ("`where`", "(4,)"), {**base, "where": _flat(context, (4,), "bool")}),
        ("where (5,2,3)", ValueError, ("`where`",), {**base, "where": _flat(context, (5, 2, 3), "bool")}),
    ]


@_refusal("label_smoothing", "`label_smoothing` outside [0, 1], or not a Python number, is a ValueError.")
def label_smoothing(context: Context) -> Calls:
    wrong: list[Any] = [-0.1, 1.1, float("nan"), float("inf"), "0.1", None]
    return [
        (f"label_smoothing {w!r}", ValueError, ("`label_smoothing`",), {**_base(context), "label_smoothing": w})
        for w in wrong
    ]


@_refusal("reduction", "An unknown reduction is a ValueError that lists the three, another type is a TypeError.")
def reduction(context: Context) -> Calls:
    base = _base(context)
    listed = ("`reduction`", "none", "mean", "sum")
    return [
        ("reduction avg", ValueError, listed, {**base, "reduction": "avg"}),
        ("reduction Mean", ValueError, listed, {**base, "reduction": "Mean"}),
        ("reduction elementwise_mean", ValueError, listed, {**base, "reduction": "elementwise_mean"}),
        ("reduction None", TypeError, ("`reduction`",), {**base, "reduction": None}),
        ("reduction 1", TypeError, ("`reduction`",), {**base, "reduction": 1}),
    ]


@_refusal("axis", "An axis out of range is a ValueError, one that is not an integer a TypeError.")
def axis(context: Context) -> Calls:
    base = _base(context)
    return [
        ("axis 2", ValueError, ("`axis`",), {**base, "axis": 2}),
        ("axis -3", ValueError, ("`axis`",), {**base, "axis": -3}),
        ("axis 1.0", TypeError, ("`axis`",), {**base, "axis": 1.0}),
        ("axis None", TypeError, ("`axis`",), {**base, "axis": None}),
        ("axis tuple", TypeError, ("`axis`",), {**base, "axis": (0, 1)}),
    ]


@_refusal("classes", "An empty class axis is a ValueError: it would be a mean over nothing.")
def classes(context: Context) -> Calls:
    none = _flat(context, (2, 0))
    return [("(2, 0)", ValueError, ("`input`",), {"input": none, "target": none})]


@_refusal("wrt", "An unknown `wrt`, or one that was not given, is a ValueError.")
def wrt(context: Context) -> Calls:
    base = _base(context)
    return [
        (f"wrt {w!r}", ValueError, ("`wrt`",), {**base, "wrt": w})
        for w in ("logits", "where", None, "weight", "pos_weight")
    ]


@_refusal("grad_output", "A `grad_output` that is not shaped like the loss is a ValueError with both shapes.")
def grad_output(context: Context) -> Calls:
    base = _base(context)
    wrong: list[tuple[tuple[int, ...], str, tuple[str, ...]]] = [
        ((3,), "none", ("(2,)", "(3,)")),
        ((2, 3), "none", ()),
        ((2,), "mean", ()),
        ((1,), "mean", ()),
    ]
    return [
        (
            f"{s} for {reduction}",
            ValueError,
            ("`grad_output`", *shapes),
            {**base, "reduction": reduction, "grad_output": _flat(context, s)},
        )
        for s, reduction, shapes in wrong
    ]


@check("refusals.complex", "A complex input, target or weight is a TypeError.", anybody=False)
def complex_(context: Context, tally: Tally) -> None:
    xp = context.backend.namespace()
    base = _base(context)
    try:
        odd = xp.astype(base["input"], xp.complex64)
    except (AttributeError, TypeError, ValueError) as error:
        tally.passed_by(f"the library cannot make a complex array: {error}")
        return
    calls: Calls = [
        (f"complex {n}", TypeError, (f"`{n}`", "complex64"), {**base, n: odd})
        for n in ("input", "target", "weight", "pos_weight")
    ]
    _refused(context, tally, calls)


@check(
    "refusals.formats",
    "A sparse, nested or masked container is a TypeError in every argument, and the remedy that it names works.",
    anybody=False,
)
def formats(context: Context, tally: Tally) -> None:
    b, d = context.backend, "float32" if "float32" in context.dtypes else context.dtypes[-1]
    base = _base(context, d)
    numbers = b.formats(Tensor((2, 3), (1.0, 0.0, 1.0, 0.0, 0.0, 1.0), d))
    masks = b.formats(Tensor((2, 3), (True, False, True, False, False, True), "bool"))
    if not numbers:
        tally.passed_by("the library has no other format than dense arrays")
        return
    targets = {
        name: (value, *b.target_remedies.get(name, b.target_remedies.get("", (remedy, apply))))
        for name, (value, remedy, apply) in numbers.items()
        if not b.is_compressed(value)  # which is accepted as labels
    }
    shapes = {"input": numbers, "target": targets, "weight": numbers, "pos_weight": numbers, "where": masks}
    for argument, made in shapes.items():
        for name, (value, remedy, apply) in made.items():
            given = {**base, argument: value}
            _refused(context, tally, [(f"{argument} {name}", TypeError, (f"`{argument}`", remedy), given)])
            mended = context.subject.loss(**{**base, argument: apply(value)})
            tally.true(b.owns(mended), f"{argument} {name}: the remedy does not give an array of {b.library}")
    for name, (value, remedy, _) in b.formats(Tensor((2, 1), (1.0, 1.0), d)).items():
        given = {**base, "reduction": "none", "grad_output": value}
        _refused(context, tally, [(f"grad_output {name}", TypeError, ("`grad_output`", remedy), given)])


@check("refusals.library", "Arrays of two libraries in one call are a TypeError that names both.", anybody=False)
def library(context: Context, tally: Tally) -> None:
    foreign = None
    for name in NAMES:
        try:
            other = find(name)
        except NotInstalled:
            continue
        if other.library != context.backend.library:
            foreign = other
            break
    if foreign is None:
        tally.passed_by("no second array library is installed")
        return
    d = "float32"
    with foreign.session():
        odd = foreign.make(Tensor((2, 3), (1.0,) * 6, d))
        mask = foreign.make(Tensor((2, 3), (True,) * 6, "bool"))
    base = _base(context)
    names = (foreign.library, context.backend.library)
    calls: Calls = [
        (f"{n} of {foreign.library}", TypeError, (f"`{n}`", *names), {**base, n: odd})
        for n in ("target", "weight", "pos_weight")
    ]
    calls.append((f"where of {foreign.library}", TypeError, ("`where`", *names), {**base, "where": mask}))
    _refused(context, tally, calls)


@check("refusals.device", "Arrays on two devices in one call are a ValueError that names both.", anybody=False)
def device(context: Context, tally: Tally) -> None:
    odd = context.backend.elsewhere(Tensor((2, 3), (1.0,) * 6, "float32"))
    base = _base(context, "float32")
    calls: Calls = [
        (f"{n} elsewhere", ValueError, (f"`{n}`",), {**base, n: odd}) for n in ("target", "weight", "pos_weight")
    ]
    _refused(context, tally, calls)


@check(
    "refusals.promotion",
    "Dtypes that the library does not promote together are a TypeError that names both.",
    anybody=False,
)
def promotion(context: Context, tally: Tally) -> None:
    if not {"float16", "bfloat16"} <= context.backend.capabilities:
        tally.passed_by("all its floating dtypes promote together")
        return
    xp = context.backend.namespace()
    narrow, brain = (_flat(context, (2, 3), d) for d in ("float16", "bfloat16"))
    try:
        promoted = xp.result_type(narrow.dtype, brain.dtype)
    except TypeError:
        given = {"input": narrow, "target": brain}
        _refused(context, tally, [("float16 with bfloat16", TypeError, ("float16", "bfloat16"), given)])
        return
    tally.passed_by(f"the library promotes float16 with bfloat16, to {promoted}")


@check(
    "refusals.signature",
    "A fourth positional argument, an unknown keyword and `size_average` are TypeErrors.",
    anybody=False,
)
def signature(context: Context, tally: Tally) -> None:
    import mlsm

    base = _base(context)
    x, y = base["input"], base["target"]
    f: Any = mlsm.multilabel_soft_margin_loss
    _one(tally, "a fourth positional argument", TypeError, (), lambda: f(x, y, None, "mean"))
    _one(tally, "size_average", TypeError, (), lambda: f(x, y, size_average=True))
    _one(tally, "reduce", TypeError, (), lambda: f(x, y, reduce=True))
    _one(tally, "no target", TypeError, (), lambda: f(x))


@check("refusals.kernel", "An unknown kernel is a ValueError that lists those registered.", anybody=False)
def kernel(context: Context, tally: Tally) -> None:
    import mlsm

    base = _base(context)
    for name in ("multilabel_soft_margin_loss", "grad", "value_and_grad", "hessian_diag"):
        call: Any = getattr(mlsm, name)
        _one(tally, name, ValueError, ("`kernel`", "generic"), functools.partial(call, **base, kernel="no such kernel"))


@check(
    "refusals.metadata",
    "A refusal looks at metadata only: nothing is computed or copied to the host.",
    needs=("watched",),
    anybody=False,
)
def metadata(context: Context, tally: Tally) -> None:
    base = _base(context)
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (ValueError, {**base, "target": _flat(context, (2, 2))}),
        (ValueError, {**base, "weight": _flat(context, (4,))}),
        (TypeError, {**base, "where": _flat(context, (2, 3))}),
        (ValueError, {**base, "reduction": "avg"}),
    ]
    for cls, given in wrong:
        arrays = {n: v for n, v in given.items() if not isinstance(v, str)}
        run = by_place(context.subject.loss, arrays, **{n: v for n, v in given.items() if isinstance(v, str)})
        _one(tally, ", ".join(given), cls, (), functools.partial(context.backend.unseen, run, *arrays.values()))
