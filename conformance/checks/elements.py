"""The element itself, `sigmoid_binary_cross_entropy`: not averaged, of any shape, under every transform."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..cases import dense_cases
from ..check import Ask, Context, check, exact, floats_of
from ..reference.oracle import broadcast_indices
from ..run.tally import Tally
from ..tensors import Case, Tensor, flat, shape_of
from .transforms import _dtypes, _judge, _points

BUDGET = "the elementwise budget, +1 ULP per factor that is no power of two"
OFFERS = ("elements",)
NONE = Ask("loss", "none")


def _call(context: Context, case: Case) -> Any:
    """The elements of a case, as an array."""
    arrays, options = context.arrays(case), context.options(case)
    names = list(arrays)

    def run(*values: Any) -> Any:
        return context.subject.elements(**dict(zip(names, values, strict=True)), **options)

    return context.backend.call(run, *arrays.values())


def _column(case: Case) -> Case:
    """The same elements as rows of one class each, whose row losses the oracle knows."""
    shape = (len(case.input.values), 1)

    def spread(argument: Any) -> Any:
        if isinstance(argument, list):
            values = flat(argument)
            return [[values[i]] for i in broadcast_indices(shape_of(argument), case.input.shape)]
        if not isinstance(argument, Tensor):
            return argument
        indices = broadcast_indices(argument.shape, case.input.shape)
        return Tensor(shape, tuple(argument.values[i] for i in indices), argument.dtype)

    return Case(
        case.name,
        spread(case.input),
        spread(case.target),
        spread(case.weight),
        spread(case.pos_weight),
        spread(case.where),
        case.label_smoothing,
    )


def _judged(context: Context, tally: Tally, case: Case) -> None:
    if not context.backend.serves(case):
        return
    found = _call(context, case)
    tally.equal(context.backend.shape_of(context.backend.force(found)), case.input.shape, f"{case.name}: shape")
    tally.equal(context.backend.dtype_of(found), case.loss_dtype, f"{case.name}: dtype")
    column = _column(case)
    seen = context.backend.to_list(found)
    context.judge_one(tally, column, NONE, seen, exact(column, NONE).values, "generic")


@check(
    "elements.values",
    "Every element is the oracle's, hard and soft, in the tail and outside [0, 1].",
    BUDGET,
    offers=OFFERS,
    anybody=False,
)
def values(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        for theme in dense_cases.ELEMENTWISE:
            _judged(context, tally, dense_cases.elementwise(theme, dtype))


@check(
    "elements.options",
    "Weights, `pos_weight`, `where`, smoothing and target dtypes act on each element as they do inside the loss.",
    BUDGET,
    offers=OFFERS,
    anybody=False,
)
def options(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes[-1:] if context.expensive else context.dtypes:
        for theme in ("plain", "weight", "pos_weight", "where", "label_smoothing", "dtypes"):
            for case in dense_cases.optioned(theme, dtype)[: 1 if context.expensive else None]:
                if floats_of(case) <= set(context.dtypes):
                    _judged(context, tally, case)


@check(
    "elements.shapes",
    "A 0-d array, a vector, three axes and every empty array are shapes like any other.",
    BUDGET,
    offers=OFFERS,
    anybody=False,
)
def shapes(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes[-1:] if context.expensive else context.dtypes:
        for shape in ((), (5,), (3, 2, 4), (0,), (0, 3), (3, 0)):
            count = math.prod(shape)
            x = Tensor(shape, tuple(0.5 * k - 1 for k in range(count)), dtype)
            y = Tensor(shape, tuple(float(k % 2) for k in range(count)), dtype)
            _judged(context, tally, Case(f"{dtype}-elements-{'x'.join(map(str, shape)) or '0-d'}", x, y))


@check(
    "elements.masked",
    "Where `where` is false the element is exactly 0, whatever stands there.",
    offers=OFFERS,
    anybody=False,
)
def masked(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        xs = (math.nan, math.inf, -math.inf, 1.0, 0.5, 2.0)
        ys = (1.0, 0.0, 1.0, math.nan, 1.0, 0.0)
        where = Tensor((6,), (False, False, False, False, True, True), "bool")
        case = Case(f"{dtype}-elements-masked", Tensor((6,), xs, dtype), Tensor((6,), ys, dtype), where=where)
        if context.backend.serves(case):
            seen = context.backend.to_list(_call(context, case))
            tally.exactly(seen[:4], (0.0,) * 4, f"{case.name}: hidden")
            tally.true(all(v > 0 for v in seen[4:]), f"{case.name}: observed elements {seen[4:]}")


@check(
    "elements.infinite",
    "An infinite logit on the right side costs exactly 0, on the wrong side +inf.",
    offers=OFFERS,
    anybody=False,
)
def infinite(context: Context, tally: Tally) -> None:
    inf = math.inf
    for dtype in context.dtypes:
        xs, ys = (inf, -inf, inf, -inf, inf), (1.0, 0.0, 0.0, 1.0, 0.25)
        case = Case(f"{dtype}-elements-infinite", Tensor((5,), xs, dtype), Tensor((5,), ys, dtype))
        if context.backend.serves(case):
            tally.exactly(context.backend.to_list(_call(context, case)), (0.0, 0.0, inf, inf, inf), case.name)


@check(
    "elements.gradient",
    "Differentiating the elements gives the gradient, at 0 and at ±inf too, and differentiating twice the curvature.",
    "the budget of the hand-derived gradient, three budgets of the Hessian",
    needs=("autograd",),
    offers=OFFERS,
    anybody=False,
)
def gradient(context: Context, tally: Tally) -> None:
    b = context.backend
    for dtype in _dtypes(context):
        for case in (
            _points[dtype],
            *dense_cases.optioned("pos_weight", dtype)[:1],
            *dense_cases.optioned("where", dtype)[:1],
        ):
            case = _column(case)
            arrays = context.arrays(case)
            f = _elements(context, case, list(arrays))
            values = list(arrays.values())

            def differentiated(*v: Any, f: Callable[..., Any] = f) -> Any:
                return b.vjp(f, v, 0)

            _judge(context, tally, case, Ask("gradient", "none"), differentiated(*values), "differentiation")
            found = b.vjp(differentiated, values, 0)
            _judge(context, tally, case, Ask("hessian", "none"), found, "differentiating twice", 3.0)


@check(
    "elements.jit",
    "Traced, the elements keep their budget, and so does the derivative of the trace.",
    "as values and gradient",
    needs=("jit", "autograd"),
    offers=OFFERS,
    anybody=False,
)
def jit(context: Context, tally: Tally) -> None:
    b = context.backend
    for dtype in _dtypes(context):
        case = _column(_points[dtype])
        arrays = context.arrays(case)
        traced = b.jit(_elements(context, case, list(arrays)))
        _judge(context, tally, case, NONE, traced(*arrays.values()), "jit")
        differentiated = b.vjp(traced, list(arrays.values()), 0)
        _judge(context, tally, case, Ask("gradient", "none"), differentiated, "differentiating the trace")


@check(
    "elements.vmap",
    "Mapped over a leading axis, the elements are those of each slice.",
    "as values",
    needs=("vmap",),
    offers=OFFERS,
    anybody=False,
)
def vmap(context: Context, tally: Tally) -> None:
    for dtype in _dtypes(context):
        case = _column(_points[dtype])
        arrays = context.arrays(case)
        found = context.backend.vmap(_elements(context, case, list(arrays)), *arrays.values())
        _judge(context, tally, case, NONE, found, "vmap")


def _elements(context: Context, case: Case, names: list[str]) -> Callable[..., Any]:
    fixed = context.options(case)

    def elements(*values: Any) -> Any:
        return context.subject.elements(**dict(zip(names, values, strict=True)), **fixed)

    return elements
