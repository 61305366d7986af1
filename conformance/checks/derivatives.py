"""Gradient, Hessian diagonal, and the pullbacks for every argument, against the oracle, one check per theme."""

from __future__ import annotations

import math
from typing import Any

from ..cases import dense_cases
from ..check import Ask, Context, check
from ..run.tally import Tally
from ..tensors import Tensor
from .exhaustively import halves, singles
from .values import of_cases, of_elements, themed, turned

BOUND = "the elementwise budget of the compute dtype, +1 ULP per factor that is not a power of two"
OFFERS = ("gradient",)


_packed = of_elements("derivatives", ("gradient", "hessian"), BOUND, offers=OFFERS)
_theme = of_cases("derivatives", ("gradient", "hessian"), BOUND, offers=OFFERS)
hard = _packed("hard", "With targets 0 and 1, gradient and Hessian of every element are the oracle's.")
soft = _packed("soft", "With targets between 0 and 1, gradient and Hessian of every element are the oracle's.")
tail = _packed(
    "tail", "No digit of gradient or Hessian is lost in the tail: 17 with target 1 has gradient -4.1e-8, not 0."
)
soft_tail = _packed("soft-tail", "The gradient at a target next to 0 or 1 keeps that distance.")
outside = _packed("outside", "Targets outside [0, 1] have the formula's derivatives, unchanged.")
plain = _theme("plain", "The derivatives contain the reductions' divisors: 1/C, and 1/N for the mean.")
weight = _theme("weight", "A weight scales the derivatives element by element.")
pos_weight = _theme("pos_weight", "`pos_weight` scales the positive part of the derivatives only.")
where = _theme("where", "Derivatives are divided by the observed counts, and exactly 0 where nothing was observed.")
label_smoothing = _theme("label_smoothing", "Label smoothing moves both coefficients of the derivatives.")
axis = _theme("axis", "Derivatives have the class axis in its original place.")
dtypes = _theme("dtypes", "Targets of any dtype give the derivatives of the same targets, cast up.")
layouts = _theme("layouts", "No memory layout changes a derivative.")


@check(
    "derivatives.arguments",
    "The pullbacks for target, weight and pos_weight are the oracle's, summed to the argument's shape.",
    BOUND + " + the sum's roundings",
    offers=("arguments",),
)
def arguments(context: Context, tally: Tally) -> None:
    cases = [
        c for theme in ("plain", "weight", "pos_weight", "where", "label_smoothing") for c in themed(context, theme)
    ]
    for case, reductions in turned(context, context.subsample(cases, 36)):
        asks = [Ask("gradient", reductions[-1], "target")]
        for name in ("weight", "pos_weight"):
            if getattr(case, name) is not None:
                asks += [Ask("gradient", r, name) for r in reductions]
        context.judge(tally, case, asks)


@check(
    "derivatives.grad_output",
    "`grad_output` multiplies each row's derivative, also if it is negative, 0, or not a power of two.",
    BOUND,
    offers=("grad_output",),
)
def grad_output(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        two = dense_cases.plain(dtype, (3, 2, 4))  # a `grad_output` of two dimensions
        for case in (
            dense_cases.plain(dtype),
            two,
            *dense_cases.optioned("where", dtype)[:1],
            *dense_cases.optioned("weight", dtype)[:2],
        ):
            seeds = tuple((1.0, -0.75, 0.0, 3.0, 0.625, 2.0)[: math.prod(case.batch)])
            asks = [Ask("gradient", "none", "input", seeds), Ask("gradient", "mean", "input", (-1.5,))]
            if case.weight is not None:
                asks.append(Ask("gradient", "none", "weight", seeds))
            context.judge(tally, case, asks)


@check(
    "derivatives.grad_output-of-both",
    "`grad_output` scales the gradient of `value_and_grad` and the Hessian as it scales `grad`, and leaves the value.",
    offers=("value_and_grad", "hessian"),
    anybody=False,
)
def grad_output_of_both(context: Context, tally: Tally) -> None:
    backend, s = context.backend, context.subject

    def all_(seed: Any, **given: Any) -> Any:
        return (
            *s.value_and_grad(**given, reduction="none", grad_output=seed),
            *s.value_and_grad(**given, reduction="none"),
            s.hessian_diag(**given, reduction="none", grad_output=seed),
            s.hessian_diag(**given, reduction="none"),
            s.hessian_diag(**given, grad_output=-2.0),
            s.hessian_diag(**given),
        )

    for dtype in [d for d in context.dtypes if d in ("float32", "float64")]:
        for case in (dense_cases.plain(dtype), *dense_cases.optioned("where", dtype)[:1]):
            if not backend.serves(case):
                continue
            # Powers of two, negative and 0: exact factors, whatever the order of the multiplications.
            factors = (1.0, -0.5, 0.0, 4.0, 2.0, -8.0)
            seed = backend.cotangent(Tensor(case.batch, factors, case.compute_dtype), case)
            made = context.call(all_, {"seed": seed, **context.arrays(case)}, **context.options(case))
            found = [backend.to_list(v) for v in made]
            scale = [f for f in factors for _ in range(case.classes)]
            tally.exactly(found[0], found[2], f"{case.name}: the value is not scaled")
            for place, what in ((1, "gradient"), (4, "Hessian")):
                plain = found[3] if place == 1 else found[5]
                tally.exactly(found[place], [v * f for v, f in zip(plain, scale, strict=True)], f"{case.name}: {what}")
            tally.exactly(found[6], [-2 * v for v in found[7]], f"{case.name}: Hessian of the mean")


@check(
    "derivatives.value_and_grad",
    "`value_and_grad` gives the bits of the loss, and the gradient within its bound.",
    BOUND,
    offers=("value_and_grad",),
)
def value_and_grad(context: Context, tally: Tally) -> None:
    backend = context.backend

    def both(**given: Any) -> Any:
        return (*context.subject.value_and_grad(**given), context.subject.loss(**given))

    for dtype in context.dtypes:
        for case in (
            dense_cases.plain(dtype),
            dense_cases.plain(dtype, (2, 70), "long rows"),  # kernels add them in another way than short ones
            *dense_cases.optioned("weight", dtype)[:1],
            *dense_cases.optioned("where", dtype)[:1],
        ):
            if not backend.serves(case):
                continue
            for reduction in ("none", "mean"):
                made = context.call(both, context.arrays(case), **context.options(case), reduction=reduction)
                value, gradient, loss = (backend.to_list(v) for v in made)
                tally.exactly(value, loss, f"{case.name}: value ({reduction})")
                context.judge_one(tally, case, Ask("gradient", reduction), gradient, context.limits(case))


@check(
    "derivatives.half-exhaustive",
    "Every one of the 65,536 half-precision logits has the nearest gradient and Hessian.",
    "0.51 ULP",
    offers=OFFERS,
)
def half_exhaustive(context: Context, tally: Tally) -> None:
    for ask in context.offered([Ask("gradient"), Ask("hessian")], tally):
        halves(context, tally, ask.quantity)


@check(
    "derivatives.float32-exhaustive",
    "Gradient and Hessian of float32 logits with targets 0 and 1, in a stride of 16 (all of them at level exhaustive).",
    "4 and 5 ULP",
    offers=OFFERS,
    level="full",
)
def float32_exhaustive(context: Context, tally: Tally) -> None:
    for ask in context.offered([Ask("gradient"), Ask("hessian")], tally):
        singles(context, tally, ask.quantity)
