"""The library's own differentiation, tracing, mapping and compiling of the loss: right at 0 and at ±inf, up to
second order.

A framework that differentiates the generic code adds roundings.  First derivatives keep the budget of the
hand-derived ones.  A second derivative is the difference s - s*s, whose terms add up to at most
(1+s)/(1-s) <= 3 times its size (s <= 1/2): three budgets, no more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ..cases import dense_cases
from ..check import FAILURES, Ask, Context, by_place, check, raised
from ..run.tally import Tally
from ..subjects import Declined, Mlsm
from ..tensors import Case, Tensor

INF = math.inf
MATCHED = (5, 6)
"""Where `points` has a matching infinite logit."""
SECOND = 3.0
"""Budgets of a second derivative by differentiation: see above."""


def points(dtype: str) -> Case:
    """Hard and soft targets at 0, -0, ±inf and ordinary logits, one class to a row."""
    pairs = [
        (0.0, 1.0), (0.0, 0.0), (0.0, 0.25), (-0.0, 1.0), (-0.0, 0.0),
        (INF, 1.0), (-INF, 0.0), (INF, 0.0), (-INF, 1.0),
        (1.5, 1.0), (-1.5, 1.0), (3.0, 0.0), (-3.0, 0.5), (17.0, 1.0), (-20.0, 0.0), (40.0, 1.0), (2.0, 2.0),
    ]  # fmt: skip
    shape = (len(pairs), 1)
    return Case(
        f"{dtype}-points",
        Tensor(shape, tuple(x for x, _ in pairs), dtype),
        Tensor(shape, tuple(y for _, y in pairs), dtype),
    )


POINTS = {d: points(d) for d in ("float16", "bfloat16", "float32", "float64")}


def _finite(case: Case) -> Case:
    """The points without the infinite ones."""
    kept = [i for i, x in enumerate(case.input.values) if math.isfinite(x)]
    x, y = (Tensor((len(kept), 1), tuple(t.values[i] for i in kept), t.dtype) for t in (case.input, case.target))
    return Case(f"{case.name}-finite", x, y)


_FINITE_POINTS = {d: _finite(case) for d, case in POINTS.items()}


def derivative(context: Context, function: Callable[..., Any]) -> Callable[..., Any]:
    """The derivative of a function for its first argument, as a function of the same values."""
    return lambda *values: context.backend.vjp(function, values, 0)


def _of(context: Context, dtype: str) -> Case:
    """The points for a transform. Other losses get no infinities here, because `special` judges those separately."""
    return (POINTS if context.ours else _FINITE_POINTS)[dtype]


def _if_offered(context: Context, tally: Tally, call: Callable[[], Any]) -> Any:
    """The result of a transform. If a foreign loss does not support it, None, and the reason is counted: not every
    loss claims this capability."""
    try:
        return call()
    except FAILURES as error:
        if context.ours:
            raise
        tally.passed_by(f"{context.subject.called} does not support this transform: {raised(error)}")
        return None


def _loss(context: Context, case: Case, reduction: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The loss of a case as a function of its arrays, and the arrays."""
    arrays = context.arrays(case)
    return by_place(context.subject.loss, arrays, **context.options(case), reduction=reduction), arrays


_differentiated = functools.partial(check, needs=("autograd",), anybody=False)


@_differentiated(
    "transforms.gradient",
    "Differentiating the loss gives the gradient for every argument, at 0 and at ±inf too, with every option.",
    "the budget of the hand-derived gradient",
)
def gradient(context: Context, tally: Tally) -> None:
    for d in context.wide_dtypes:
        cases = [POINTS[d]]
        for theme in ("weight", "pos_weight", "where", "label_smoothing"):
            cases += dense_cases.optioned(theme, d)[: 1 if context.expensive else 2]
        for index, case in enumerate(cases):
            reduction = "none" if index == 0 else ("mean", "sum")[index % 2]
            f, arrays = _loss(context, case, reduction)
            for place, name in enumerate(arrays):
                if name == "where":
                    continue
                ask = Ask("gradient", reduction, name)
                found = context.backend.vjp(f, list(arrays.values()), place)
                # The target's derivative at a matching infinite logit has its own check, below.
                leave = [i for i in MATCHED if name == "target" and case is POINTS[d]]
                context.judge_transformed(tally, case, ask, found, "differentiation", leave=leave)


@_differentiated(
    "transforms.target-at-infinity",
    "The derivative for the target at a matching infinite logit is infinite: -x, as `grad` says.",
)
def target_at_infinity(context: Context, tally: Tally) -> None:
    case = POINTS[context.wide_dtypes[-1]]
    f, arrays = _loss(context, case, "none")
    found = context.backend.vjp(f, list(arrays.values()), 1)
    leave = [i for i in range(len(case.input.values)) if i not in MATCHED]
    context.judge_transformed(tally, case, Ask("gradient", "none", "target"), found, "differentiation", leave=leave)


@_differentiated(
    "transforms.second",
    "Differentiating twice gives the Hessian diagonal, at 0 and at ±inf too.",
    "three budgets of the Hessian",
)
def second(context: Context, tally: Tally) -> None:
    for d in context.wide_dtypes:
        for case in (POINTS[d], *dense_cases.optioned("where", d)[:1], *dense_cases.optioned("pos_weight", d)[:1]):
            f, arrays = _loss(context, case, "none")
            found = context.backend.vjp(derivative(context, f), list(arrays.values()), 0)
            context.judge_transformed(tally, case, Ask("hessian", "none"), found, "differentiating twice", SECOND)


@_differentiated(
    "transforms.of-gradient",
    "Differentiating `grad` gives the Hessian diagonal.",
    "three budgets of the Hessian",
)
def of_gradient(context: Context, tally: Tally) -> None:
    for d in context.wide_dtypes:
        for case in (POINTS[d], *dense_cases.optioned("weight", d)[:1]):
            arrays = context.arrays(case)
            gradient = by_place(context.subject.grad, arrays, **context.options(case), reduction="none")
            found = context.backend.vjp(gradient, list(arrays.values()), 0)
            context.judge_transformed(tally, case, Ask("hessian", "none"), found, "differentiating grad", SECOND)


@check(
    "transforms.forward",
    "Forward differentiation along ones gives the gradient of each row.",
    "the budget of the hand-derived gradient",
    needs=("forward",),
)
def forward(context: Context, tally: Tally) -> None:
    for d in context.wide_dtypes:
        case = _of(context, d)
        arrays = context.arrays(case)
        ones = context.array((1.0,) * len(case.input.values), case.input.shape, d)

        def f(x: Any, y: Any = arrays["target"]) -> Any:
            return context.subject.loss(input=x, target=y, reduction="none")

        found = _if_offered(context, tally, functools.partial(context.backend.jvp, f, arrays["input"], ones))
        if found is not None:
            context.judge_transformed(tally, case, Ask("gradient", "none"), found, "forward differentiation")


@check(
    "transforms.vmap",
    "Mapped over a leading axis, loss and gradient are those of each slice.",
    "as values",
    needs=("vmap",),
)
def vmap(context: Context, tally: Tally) -> None:
    for d in context.wide_dtypes:
        case = dense_cases.plain(d, (6, 4))
        arrays = context.arrays(case)
        given = {} if context.ours else {"reduction": context.reduction}
        for ask, f in (
            (Ask("loss", "none"), lambda x, y, g=given: context.subject.loss(input=x, target=y, **g)),
            (Ask("gradient", "none"), lambda x, y, g=given: context.subject.grad(input=x, target=y, **g)),
        ):
            if not context.offered([ask], tally):
                continue
            call = functools.partial(context.backend.vmap, f, arrays["input"], arrays["target"])
            found = _if_offered(context, tally, call)
            if found is not None:
                context.judge_transformed(tally, case, ask, found, "vmap")


def _traced(
    context: Context, tally: Tally, trace: Callable[[Callable[..., Any]], Callable[..., Any]], how: str
) -> None:
    halves = [d for d in context.dtypes if d not in ("float32", "float64")]
    for d in (*halves, *context.wide_dtypes):
        cases = [_of(context, d), *dense_cases.optioned("where", d)[:1], *dense_cases.optioned("weight", d)[:1]]
        if d in halves:  # two cases, of which one mixes dtypes: there is a cast for each argument
            x = dense_cases.plain(d)
            weight = Tensor((4,), (0.5, 1.0, 2.0, 4.0), "float32")
            mixed = Case(f"{d}-mixed", x.input, dense_cases.plain("float32").target, weight=weight)
            cases = [_of(context, d), mixed]
        for case in cases:
            if not context.concerns(tally, case):
                continue
            arrays = context.arrays(case)
            asks = context.offered([Ask(q, context.reduction) for q in ("loss", "gradient", "hessian")], tally)
            if how == "compile" and not context.ours:  # a compiler cannot compile a derivative that it did not make
                asks = asks[:1]

            def every(asks: list[Ask] = asks, **given: Any) -> Any:
                return [context.one(ask, given) for ask in asks]

            call = functools.partial(trace(by_place(every, arrays, **context.options(case))), *arrays.values())
            # A loss for JAX must support tracing; whether it can be compiled as a whole is a separate capability.
            found = _if_offered(context, tally, call) if how == "compile" else call()
            if found is None:
                continue
            for ask, array in zip(asks, found, strict=True):
                times = SECOND if ask.quantity == "hessian" and context.subject.differentiates else 1.0
                context.judge_transformed(tally, case, ask, array, how, times)


@check(
    "transforms.jit",
    "Traced, loss, gradient and Hessian keep their bounds.",
    "as values and derivatives",
    needs=("jit",),
)
def jit(context: Context, tally: Tally) -> None:
    _traced(context, tally, context.backend.jit, "jit")


@check(
    "transforms.jit-gradient",
    "The derivative of the traced loss, and the trace of the derivative, keep the gradient's bounds.",
    "the budget of the hand-derived gradient",
    needs=("jit", "autograd"),
)
def jit_gradient(context: Context, tally: Tally) -> None:
    b = context.backend
    for d in context.wide_dtypes:
        case = _of(context, d)
        f, arrays = _loss(context, case, context.reduction)
        values = list(arrays.values())
        ask = Ask("gradient", context.reduction)
        context.judge_transformed(tally, case, ask, b.vjp(b.jit(f), values, 0), "differentiating the trace")
        traced = b.jit(derivative(context, f))
        context.judge_transformed(tally, case, ask, traced(*values), "tracing the derivative")


def _not_by_name(context: Context) -> None:
    """A named kernel is refused inside a compiler, by an error that the compiler wraps in its own."""
    kernel = context.subject.kernel
    if isinstance(context.subject, Mlsm) and kernel not in {"auto", "generic"}:
        raise Declined(f"a compiler can trace the generic code only, and {kernel!r} was asked for by name")


@check(
    "transforms.compile",
    "Compiled as a whole, loss, gradient and Hessian keep their bounds.",
    "as values and derivatives",
    needs=("compile",),
)
def compile_(context: Context, tally: Tally) -> None:
    _not_by_name(context)
    _traced(context, tally, context.backend.compile, "compile")


@check(
    "transforms.compile-gradient",
    "The derivative of the compiled loss keeps the gradient's bounds.",
    "the budget of the hand-derived gradient",
    needs=("compile", "autograd"),
)
def compile_gradient(context: Context, tally: Tally) -> None:
    _not_by_name(context)
    b = context.backend
    for d in context.wide_dtypes:
        case = _of(context, d)
        f, arrays = _loss(context, case, context.reduction)
        found = _if_offered(context, tally, functools.partial(b.vjp, b.compile(f), list(arrays.values()), 0))
        if found is not None:
            ask = Ask("gradient", context.reduction)
            context.judge_transformed(tally, case, ask, found, "differentiating the compiled loss")
