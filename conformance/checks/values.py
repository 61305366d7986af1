"""The loss against the oracle, one check per theme, so that a failing check names the mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..cases import dense_cases
from ..check import Ask, Check, Context, check, floats_of
from ..run.tally import Tally
from ..tensors import Case, Tensor
from .exhaustively import halves, singles

REDUCTIONS = ("none", "sum", "mean")
BOUND = (
    "the elementwise budget of the compute dtype, +1 ULP per factor that is not a power of two, + the sum's roundings"
)


def themed(context: Context, theme: str) -> list[Case]:
    """The cases of a theme: the suite's own, then the catalogue's."""
    own: list[Case] = []
    for d in context.dtypes:
        if theme == "layouts":
            base = dense_cases.plain(d)
            names = sorted(context.backend.layouts - {"C", "broadcast"})
            own += [Case(f"{d}-layout-{n}-6x4", base.input, base.target, layout=n) for n in names]
        else:
            # Where calls are slow, all calls with options in one dtype, and one of them in each other dtype.
            own += dense_cases.optioned(theme, d)[: 1 if context.expensive and d != context.dtypes[-1] else None]
    own = [c for c in own if context.backend.serves(c) and floats_of(c) <= set(context.backend.dtypes)]
    if context.level == "smoke":
        return own
    return own + context.subsample([c for c in context.catalogue() if dense_cases.theme_of(c) == theme])


def turned(context: Context, cases: list[Case]) -> Iterator[tuple[Case, list[str]]]:
    """Each case with its reductions: all of them where calls are fast, else one, which changes from case to case."""
    for index, case in enumerate(cases):
        yield case, [REDUCTIONS[index % 3]] if context.expensive else list(REDUCTIONS)


def of_elements(group: str, quantities: tuple[str, ...], bound: str, **options: Any) -> Callable[[str, str], Check]:
    """A function that makes checks of a group: they judge these quantities at every element of a theme."""

    def made(theme: str, rule: str) -> Check:
        def run(context: Context, tally: Tally) -> None:
            for dtype in context.dtypes:
                context.judge(tally, dense_cases.elementwise(theme, dtype), [Ask(q, "none") for q in quantities])

        return check(f"{group}.{theme}", rule, bound, **options)(run)

    return made


def of_cases(group: str, quantities: tuple[str, ...], bound: str, **options: Any) -> Callable[[str, str], Check]:
    """Likewise for every case of a theme, in every reduction."""

    def made(theme: str, rule: str) -> Check:
        def run(context: Context, tally: Tally) -> None:
            for case, reductions in turned(context, themed(context, theme)):
                context.judge(tally, case, [Ask(q, r) for r in reductions for q in quantities])

        return check(f"{group}.{theme}", rule, bound, **options)(run)

    return made


_packed = of_elements("values", ("loss",), "the elementwise budget (half precisions: 0.51 ULP)")
_theme = of_cases("values", ("loss",), BOUND)
hard = _packed("hard", "With targets 0 and 1 and moderate logits, every element of the loss is the oracle's.")
soft = _packed("soft", "With targets between 0 and 1, every element of the loss is the oracle's.")
tail = _packed("tail", "With targets 0 and 1, no digit is lost in the tail: -40 with target 0 gives 4.2e-18, not 0.")
soft_tail = _packed("soft-tail", "A target next to 0 or 1 keeps its distance to it: nothing cancels at |x| = 1e4.")
outside = _packed("outside", "Targets outside [0, 1] get the formula unchanged.")
plain = _theme("plain", "`none` gives a loss for each row, `sum` adds the class means, `mean` averages the rows.")
weight = _theme("weight", "A weight multiplies each element before the class mean; nothing is divided by its sum.")
pos_weight = _theme("pos_weight", "`pos_weight` multiplies the positive part of each element, and only that.")
where = _theme("where", "`where` takes entries out of the value and out of the divisors.")
label_smoothing = _theme("label_smoothing", "Label smoothing moves both coefficients, each formed from y itself.")
axis = _theme("axis", "`axis` names the class axis, and the batch is all the others.")
dtypes = _theme("dtypes", "A target keeps its own dtype: cast up, never down, and integers become 0.0 and 1.0.")
layouts = _theme("layouts", "No memory layout changes the value.")


def _sequential(dtype: str) -> Case:
    """Row losses of which the first is large and each other is half a spacing of it: a narrow running sum loses all
    of the others."""
    rows = 256
    # -x with target 1 is a loss of x (exactly, beyond x = 120): 2^24, and 1, which float32 cannot add to it.
    xs = (-(2.0**24), *([-1.0] * (rows - 1)))
    small = dense_cases.elementwise("hard", dtype)  # for its tags only
    return Case(
        f"{dtype}-accumulation",
        Tensor((rows, 1), xs, dtype),
        Tensor((rows, 1), (1.0,) * rows, dtype),
        tags=small.tags,
    )


@check(
    "values.accumulation",
    "Sums run in float64 where the device has it: small terms are not lost after a large one, halves do not overflow.",
    "elementwise + 8u (float32 and halves), + (log2(n)+8)u (float64)",
)
def accumulation(context: Context, tally: Tally) -> None:
    asks = [Ask("loss", "sum"), Ask("loss", "mean")]
    for dtype in context.dtypes:
        if dtype == "float32":
            context.judge(tally, _sequential(dtype), asks)
        if dtype in ("float16", "bfloat16"):
            # The sum of 70,000 of these overflows float16, and in bfloat16 it stops growing at 256 terms.
            n = 70_000 if context.level != "smoke" and context.backend.slow < 4 else 2_000
            wide = n // 40
            x = Tensor((wide, 40), (40.0,) * (wide * 40), dtype)
            y = Tensor((wide, 40), (0.0,) * (wide * 40), dtype)
            context.judge(tally, Case(f"{dtype}-many-{n}", x, y), [Ask("loss", "mean")])


@check(
    "values.half-exhaustive",
    "Every one of the 65,536 half-precision logits gives the nearest number.",
    "0.51 ULP",
)
def half_exhaustive(context: Context, tally: Tally) -> None:
    halves(context, tally, "loss")


@check(
    "values.float32-exhaustive",
    "Float32 logits with targets 0 and 1, in a stride of 16 (all of them at level exhaustive).",
    "4 ULP",
    level="full",
)
def float32_exhaustive(context: Context, tally: Tally) -> None:
    singles(context, tally, "loss")
