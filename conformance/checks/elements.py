"""The element, `sigmoid_binary_cross_entropy`: not averaged, of any shape, under every transform."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ..cases import dense_cases
from ..check import Ask, Context, by_place, check, floats_of
from ..reference.oracle import broadcast_indices
from ..run.tally import Tally
from ..tensors import Case, Tensor, flat, shape_of
from .transforms import POINTS, SECOND, derivative

BUDGET = "the elementwise budget, +1 ULP per factor that is not a power of two"
NONE = Ask("loss", "none")
_check = functools.partial(check, offers=("elements",), anybody=False)


def _call(context: Context, case: Case) -> Any:
    """The elements of a case, as an array."""
    return context.call(context.subject.elements, context.arrays(case), **context.options(case))


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
    context.judge_one(tally, _column(case), NONE, context.backend.to_list(found), "generic")


@_check(
    "elements.values",
    "Every element is the oracle's, hard and soft, in the tail and outside [0, 1].",
    BUDGET,
)
def values(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        for theme in dense_cases.ELEMENTWISE:
            _judged(context, tally, dense_cases.elementwise(theme, dtype))


@_check(
    "elements.options",
    "Weights, `pos_weight`, `where`, smoothing and target dtypes act on each element as they do inside the loss.",
    BUDGET,
)
def options(context: Context, tally: Tally) -> None:
    for dtype in context.few_dtypes:
        for theme in ("plain", "weight", "pos_weight", "where", "label_smoothing", "dtypes"):
            for case in dense_cases.optioned(theme, dtype)[: 1 if context.expensive else None]:
                if floats_of(case) <= set(context.dtypes):
                    _judged(context, tally, case)


@_check(
    "elements.shapes",
    "A 0-d array, a vector, three axes and empty arrays give elements of the same shape.",
    BUDGET,
)
def shapes(context: Context, tally: Tally) -> None:
    for dtype in context.few_dtypes:
        for shape in ((), (5,), (3, 2, 4), (0,), (0, 3), (3, 0)):
            count = math.prod(shape)
            x = Tensor(shape, tuple(0.5 * k - 1 for k in range(count)), dtype)
            y = Tensor(shape, tuple(float(k % 2) for k in range(count)), dtype)
            _judged(context, tally, Case(f"{dtype}-elements-{'x'.join(map(str, shape)) or '0-d'}", x, y))


@_check(
    "elements.masked",
    "Where `where` is false the element is exactly 0, whatever its logit and target are.",
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


@_check(
    "elements.infinite",
    "An infinite logit gives exactly 0 if it agrees with its target, else +inf.",
)
def infinite(context: Context, tally: Tally) -> None:
    inf = math.inf
    for dtype in context.dtypes:
        xs, ys = (inf, -inf, inf, -inf, inf), (1.0, 0.0, 0.0, 1.0, 0.25)
        case = Case(f"{dtype}-elements-infinite", Tensor((5,), xs, dtype), Tensor((5,), ys, dtype))
        if context.backend.serves(case):
            tally.exactly(context.backend.to_list(_call(context, case)), (0.0, 0.0, inf, inf, inf), case.name)


@_check(
    "elements.gradient",
    "Differentiating the elements gives the gradient, at 0 and at ±inf too, and differentiating twice the curvature.",
    "the budget of the hand-derived gradient, three budgets of the Hessian",
    needs=("autograd",),
)
def gradient(context: Context, tally: Tally) -> None:
    for dtype in context.wide_dtypes:
        for case in (
            POINTS[dtype],
            *dense_cases.optioned("pos_weight", dtype)[:1],
            *dense_cases.optioned("where", dtype)[:1],
        ):
            case = _column(case)
            f, values = _elements(context, case)
            differentiated = derivative(context, f)
            found = differentiated(*values)
            context.judge_transformed(tally, case, Ask("gradient", "none"), found, "differentiation")
            found = context.backend.vjp(differentiated, values, 0)
            context.judge_transformed(tally, case, Ask("hessian", "none"), found, "differentiating twice", SECOND)


@_check(
    "elements.jit",
    "Traced, the elements keep their budget, and so does the derivative of the trace.",
    "as values and gradient",
    needs=("jit", "autograd"),
)
def jit(context: Context, tally: Tally) -> None:
    b = context.backend
    for dtype in context.wide_dtypes:
        case = _column(POINTS[dtype])
        f, values = _elements(context, case)
        traced = b.jit(f)
        context.judge_transformed(tally, case, NONE, traced(*values), "jit")
        found = b.vjp(traced, values, 0)
        context.judge_transformed(tally, case, Ask("gradient", "none"), found, "differentiating the trace")


@_check(
    "elements.vmap",
    "Mapped over a leading axis, the elements are those of each slice.",
    "as values",
    needs=("vmap",),
)
def vmap(context: Context, tally: Tally) -> None:
    for dtype in context.wide_dtypes:
        case = _column(POINTS[dtype])
        f, values = _elements(context, case)
        context.judge_transformed(tally, case, NONE, context.backend.vmap(f, *values), "vmap")


def _elements(context: Context, case: Case) -> tuple[Callable[..., Any], list[Any]]:
    """The elements of a case as a function of its arrays, and the arrays."""
    arrays = context.arrays(case)
    return by_place(context.subject.elements, arrays, **context.options(case)), list(arrays.values())
