"""The library's own differentiation, tracing, mapping and compiling of the loss: right at 0 and at ±inf, to second
order.

A framework that differentiates the generic code makes roundings of its own.  First derivatives keep the budget of
the hand-derived ones.  A second derivative comes as the difference s - s*s, whose terms add up to at most
(1+s)/(1-s) <= 3 times its size (s <= 1/2): three budgets, no more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..cases import dense_cases
from ..check import FAILURES, Ask, Context, allowed, check, exact, raised, result_dtype
from ..run.tally import Question, Tally
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


_points = {d: points(d) for d in ("float16", "bfloat16", "float32", "float64")}


def _finite(case: Case) -> Case:
    """The points without the infinite ones."""
    kept = [i for i, x in enumerate(case.input.values) if math.isfinite(x)]
    x, y = (Tensor((len(kept), 1), tuple(t.values[i] for i in kept), t.dtype) for t in (case.input, case.target))
    return Case(f"{case.name}-finite", x, y)


_finite_points = {d: _finite(case) for d, case in _points.items()}


def _of(context: Context, dtype: str) -> Case:
    """The points at which a transform is asked: of others without infinities, which `special` asks by themselves."""
    return (_points if context.ours else _finite_points)[dtype]


def _dtypes(context: Context) -> list[str]:
    """float32 and float64, or the wider alone where calls are dear (halves are the same formula, cast)."""
    wide = [d for d in context.dtypes if d in ("float32", "float64")]
    return wide[-1:] if context.expensive else wide


def _judge(
    context: Context,
    tally: Tally,
    case: Case,
    ask: Ask,
    array: Any,
    how: str,
    times: float = 1.0,
    leave: Sequence[int] = (),
) -> None:
    """Judge a derivative that came by a transform, but for the places to `leave` out."""
    seen, right = context.backend.to_list(array), exact(case, ask).values
    room = allowed(case, ask, "generic", context.flush, context.accumulator)
    if len(seen) != len(right):
        tally.fail(f"{case.name}: {ask} by {how}: {len(seen)} values, {len(right)} expected")
        return
    kept = [i for i in range(len(right)) if i not in leave]
    tally.values(
        [seen[i] for i in kept],
        [right[i] for i in kept],
        [times * room[i] for i in kept],
        f"{case.name}: {ask} by {how}",
        result_dtype(case, ask),
        question=None if leave else Question(case, ask.quantity, ask.reduction, ask.wrt),
    )


def _if_offered(context: Context, tally: Tally, call: Callable[[], Any]) -> Any:
    """What a transform gives; None, counted with the reason, where somebody else's loss does not go through it: that
    is a capability of its own, which not every loss claims."""
    if context.ours:
        return call()
    try:
        return call()
    except FAILURES as error:
        tally.passed_by(f"{context.subject.called} does not go through it: {raised(error)}")
        return None


def _function(context: Context, case: Case, names: list[str], **fixed: Any) -> Callable[..., Any]:
    options = {**context.options(case), **fixed}

    def loss(*values: Any) -> Any:
        return context.subject.loss(**dict(zip(names, values, strict=True)), **options)

    return loss


@check(
    "transforms.gradient",
    "Differentiating the loss gives the gradient for every argument, at 0 and at ±inf too, with every option.",
    "the budget of the hand-derived gradient",
    needs=("autograd",),
    anybody=False,
)
def gradient(context: Context, tally: Tally) -> None:
    for d in _dtypes(context):
        cases = [_points[d]]
        for theme in ("weight", "pos_weight", "where", "label_smoothing"):
            cases += dense_cases.optioned(theme, d)[: 1 if context.expensive else 2]
        for index, case in enumerate(cases):
            arrays = context.arrays(case)
            names = list(arrays)
            reduction = "none" if index == 0 else ("mean", "sum")[index % 2]
            f = _function(context, case, names, reduction=reduction)
            for name in names:
                if name == "where":
                    continue
                ask = Ask("gradient", reduction, name)
                found = context.backend.vjp(f, list(arrays.values()), names.index(name))
                # At a matching infinite logit the target's derivative is a question of its own, asked below.
                leave = [i for i in MATCHED if name == "target" and case is _points[d]]
                _judge(context, tally, case, ask, found, "differentiation", leave=leave)


@check(
    "transforms.target-at-infinity",
    "The derivative for the target at a matching infinite logit is infinite: -x, as `grad` says.",
    needs=("autograd",),
    anybody=False,
)
def target_at_infinity(context: Context, tally: Tally) -> None:
    d = _dtypes(context)[-1]
    case = _points[d]
    arrays = context.arrays(case)
    names = list(arrays)
    found = context.backend.vjp(_function(context, case, names, reduction="none"), list(arrays.values()), 1)
    leave = [i for i in range(len(case.input.values)) if i not in MATCHED]
    _judge(context, tally, case, Ask("gradient", "none", "target"), found, "differentiation", leave=leave)


@check(
    "transforms.second",
    "Differentiating twice gives the Hessian diagonal, at 0 and at ±inf too.",
    "three budgets of the Hessian",
    needs=("autograd",),
    anybody=False,
)
def second(context: Context, tally: Tally) -> None:
    for d in _dtypes(context):
        for case in (_points[d], *dense_cases.optioned("where", d)[:1], *dense_cases.optioned("pos_weight", d)[:1]):
            arrays = context.arrays(case)
            names = list(arrays)
            f = _function(context, case, names, reduction="none")

            def differentiated(*values: Any, f: Callable[..., Any] = f) -> Any:
                return context.backend.vjp(f, values, 0)

            found = context.backend.vjp(differentiated, list(arrays.values()), 0)
            _judge(context, tally, case, Ask("hessian", "none"), found, "differentiating twice", SECOND)


@check(
    "transforms.of-gradient",
    "What `grad` returns is itself right under differentiation.",
    "three budgets of the Hessian",
    needs=("autograd",),
    anybody=False,
)
def of_gradient(context: Context, tally: Tally) -> None:
    for d in _dtypes(context):
        for case in (_points[d], *dense_cases.optioned("weight", d)[:1]):
            arrays = context.arrays(case)
            names = list(arrays)
            fixed = context.options(case)

            def differentiated(*values: Any, names: list[str] = names, fixed: dict[str, Any] = fixed) -> Any:
                return context.subject.grad(**dict(zip(names, values, strict=True)), **fixed, reduction="none")

            found = context.backend.vjp(differentiated, list(arrays.values()), 0)
            _judge(context, tally, case, Ask("hessian", "none"), found, "differentiating grad", SECOND)


@check(
    "transforms.forward",
    "Forward differentiation along ones gives the gradient of each row.",
    "the budget of the hand-derived gradient",
    needs=("forward",),
)
def forward(context: Context, tally: Tally) -> None:
    for d in _dtypes(context):
        case = _of(context, d)
        arrays = context.arrays(case)
        ones = context.array((1.0,) * len(case.input.values), case.input.shape, d)

        def f(x: Any, y: Any = arrays["target"]) -> Any:
            return context.subject.loss(input=x, target=y, reduction="none")

        found = _if_offered(context, tally, functools.partial(context.backend.jvp, f, arrays["input"], ones))
        if found is not None:
            _judge(context, tally, case, Ask("gradient", "none"), found, "forward differentiation")


@check(
    "transforms.vmap",
    "Mapped over a leading axis, loss and gradient are those of each slice.",
    "as values",
    needs=("vmap",),
)
def vmap(context: Context, tally: Tally) -> None:
    for d in _dtypes(context):
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
                _judge(context, tally, case, ask, found, "vmap")


def _run(trace: Callable[..., Any], function: Callable[..., Any], arrays: dict[str, Any]) -> Any:
    return trace(function)(*arrays.values())


def _traced(
    context: Context, tally: Tally, trace: Callable[[Callable[..., Any]], Callable[..., Any]], how: str
) -> None:
    halves = [d for d in context.dtypes if d not in ("float32", "float64")]
    for d in (*halves, *_dtypes(context)):
        cases = [_of(context, d), *dense_cases.optioned("where", d)[:1], *dense_cases.optioned("weight", d)[:1]]
        if d in halves:  # few, and none with one dtype only: there is a cast for each argument
            x = dense_cases.plain(d)
            weight = Tensor((4,), (0.5, 1.0, 2.0, 4.0), "float32")
            mixed = Case(f"{d}-mixed", x.input, dense_cases.plain("float32").target, weight=weight)
            cases = [_of(context, d), mixed]
        for case in cases:
            if not context.concerns(tally, case):
                continue
            arrays = context.arrays(case)
            names = list(arrays)
            fixed = context.options(case)

            asks = context.offered([Ask(q, context.reduction) for q in ("loss", "gradient", "hessian")], tally)
            if how == "compile" and not context.ours:  # no compiler goes through a derivative that it has not made
                asks = asks[:1]

            def every(
                *values: Any, names: list[str] = names, fixed: dict[str, Any] = fixed, asks: list[Ask] = asks
            ) -> Any:
                given = {**dict(zip(names, values, strict=True)), **fixed}
                return [context.one(ask, given, None) for ask in asks]

            call = functools.partial(_run, trace, every, arrays)
            # A loss written for JAX is written for its traces; that a compiler takes it whole is a claim of its own.
            found = _if_offered(context, tally, call) if how == "compile" else call()
            if found is None:
                continue
            for ask, array in zip(asks, found, strict=True):
                times = SECOND if ask.quantity == "hessian" and context.subject.differentiates else 1.0
                _judge(context, tally, case, ask, array, how, times)


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
    for d in _dtypes(context):
        case = _of(context, d)
        arrays = context.arrays(case)
        f = _function(context, case, list(arrays), reduction=context.reduction)
        values = list(arrays.values())
        ask = Ask("gradient", context.reduction)
        _judge(context, tally, case, ask, b.vjp(b.jit(f), values, 0), "differentiating the trace")
        traced = b.jit(lambda *v, f=f: b.vjp(f, v, 0))
        _judge(context, tally, case, ask, traced(*values), "tracing the derivative")


def _not_by_name(context: Context) -> None:
    """A kernel that was named is refused inside a compiler, by an error that the compiler wraps in one of its own."""
    kernel = context.subject.kernel
    if isinstance(context.subject, Mlsm) and kernel not in {"auto", "generic"}:
        raise Declined(f"a compiler sees through the generic code only, and {kernel!r} was asked for by name")


@check(
    "transforms.compile",
    "Compiled as a whole, loss, gradient and Hessian keep their bounds.",
    "as values and derivatives",
    needs=("compile",),
    level="quick",
)
def compile_(context: Context, tally: Tally) -> None:
    _not_by_name(context)
    _traced(context, tally, context.backend.compile, "compile")


@check(
    "transforms.compile-gradient",
    "The derivative of the compiled loss keeps the gradient's bounds.",
    "the budget of the hand-derived gradient",
    needs=("compile", "autograd"),
    level="quick",
)
def compile_gradient(context: Context, tally: Tally) -> None:
    _not_by_name(context)
    b = context.backend
    for d in _dtypes(context):
        case = _of(context, d)
        arrays = context.arrays(case)
        f = b.compile(_function(context, case, list(arrays), reduction=context.reduction))
        found = _if_offered(context, tally, functools.partial(b.vjp, f, list(arrays.values()), 0))
        if found is not None:
            ask = Ask("gradient", context.reduction)
            _judge(context, tally, case, ask, found, "differentiating the compiled loss")
