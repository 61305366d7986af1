"""Infinities, NaN, signed zeros and empty batches: exact results, without a warning."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

from ..backends import Unsupported
from ..cases import dense_cases
from ..cases.catalogue import hazards
from ..check import Ask, Context, check, result_dtype, row_of
from ..formats import FORMATS
from ..run.tally import Question, Tally
from ..subjects import Declined
from ..tensors import Case, Hazard, Tensor

INF, NAN = math.inf, math.nan
QUANTITIES = {
    "loss": Ask("loss", "none"),
    "mean": Ask("loss", "mean"),
    "sum": Ask("loss", "sum"),
    "gradient": Ask("gradient", "none"),
    "hessian": Ask("hessian", "none"),
    "d_target": Ask("gradient", "none", "target"),
    "d_weight": Ask("gradient", "none", "weight"),
    "d_pos_weight": Ask("gradient", "none", "pos_weight"),
}
"""The hazard table's names of the quantities."""


def _case(
    name: str, dtype: str, xs: Sequence[float], ys: Sequence[float], shape: tuple[int, ...], **options: Any
) -> Case:
    return Case(f"{dtype}-{name}", Tensor(shape, tuple(xs), dtype), Tensor(shape, tuple(ys), dtype), **options)


def _all(context: Context, tally: Tally, case: Case, reduction: str = "none") -> None:
    """Loss, and the derivatives that the subject offers."""
    context.judge(tally, case, [Ask(quantity, reduction) for quantity in ("loss", "gradient", "hessian")])


@check("special.infinite", "An infinite logit gives exactly 0 with gradient 0 if it agrees with its target, else +inf.")
def infinite(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        xs = (INF, -INF, INF, -INF, INF, -INF, 1.0, 1.0)
        _all(context, tally, _case("infinite-hard", dtype, xs, (1, 0, 0, 1, 0.25, 0.25, 1, 0), (8, 1)))
        # Next to finite classes of the same row, and reduced.
        rows = (INF, 0.5, -INF, 1.0, -2.0, INF, 3.0, INF)
        _all(context, tally, _case("infinite-row", dtype, rows, (1, 0, 0, 1, 1, 1, 0, 1), (2, 4)), "mean")


@check("special.nan", "A NaN in input or target makes its own row NaN, and no other.")
def nan(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        xs, ys = (0.5, 1.0, -1.0, 2.0, 0.25, -0.5, 3.0, 0.0), (1, 0, 1, 0, 1, 1, 0, 0)
        _all(context, tally, _case("nan-input", dtype, (NAN, *xs[1:]), ys, (2, 4)))
        _all(context, tally, _case("nan-target", dtype, xs, (*ys[:7], NAN), (2, 4)))


@check(
    "special.zero",
    "At +0 and -0 the loss is ln 2, the gradient 1/2 - y and the curvature 1/4.",
    "the elementwise budget",
)
def zero(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        ys = (0.0, 1.0, 0.5, 0.25)
        _all(context, tally, _case("zero", dtype, (0.0,) * 4 + (-0.0,) * 4, ys * 2, (8, 1)))


@check("special.empty", "An empty batch: no rows, a sum of 0, a mean of NaN (0 with `where`), and no warning.")
def empty(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        bare = _case("empty", dtype, (), (), (0, 3))
        masked = _case("empty-where", dtype, (), (), (0, 3), where=Tensor((3,), (True, False, True), "bool"))
        for case in (bare, masked):
            asks = [Ask("loss", r) for r in ("none", "sum", "mean")]
            if context.ours:
                asks += [Ask("gradient", "mean"), Ask("hessian", "mean")]
            context.judge(tally, case, asks)


@check("special.masked", "A masked entry adds nothing, whatever its value is, and its derivatives are exactly 0.")
def masked(context: Context, tally: Tally) -> None:
    for dtype in context.few_dtypes:
        xs, ys = (NAN, 0.5, INF, 1.0, -INF, 2.0, 0.25, NAN), (1, 0, 0, 1, 1, NAN, 0.5, NAN)
        seen = (False, True, False, True, False, False, True, False)
        where = Tensor((2, 4), seen, "bool")
        _all(context, tally, _case("masked", dtype, xs, ys, (2, 4), where=where), "mean")
        _all(context, tally, _case("masked-rows", dtype, xs, ys, (2, 4), where=where))
        weight = Tensor((2, 4), tuple(1.5 if m else NAN for m in seen), dtype)
        _all(context, tally, _case("masked-weight", dtype, xs, ys, (2, 4), where=where, weight=weight), "sum")
        nothing = Tensor((2, 4), (False,) * 8, "bool")
        for reduction in ("none", "sum", "mean"):
            _all(context, tally, _case("masked-all", dtype, xs, ys, (2, 4), where=nothing), reduction)


@check(
    "special.masked-gradient",
    "The derivative is selected after the multiplication: an infinite `grad_output` leaves a masked entry at 0.",
    offers=("arguments",),
)
def masked_gradient(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        where = Tensor((2, 2), (True, False, False, True), "bool")
        case = _case("masked-gradient", dtype, (1.0, NAN, INF, 0.5), (0, 1, 0, 1), (2, 2), where=where)
        if not context.backend.serves(case):
            continue
        for seed in (INF, NAN):
            cotangent = context.backend.cotangent(Tensor((2,), (seed, seed), case.compute_dtype), case)
            arrays = {**context.arrays(case), "grad_output": cotangent}
            seen = context.backend.to_list(context.call(context.subject.grad, arrays, reduction="none"))
            tally.exactly([seen[1], seen[2]], [0.0, 0.0], f"{case.name}: grad_output {seed}")


@check("special.weight-zero", "A weight of 0 makes a finite term 0, and an infinite one NaN.")
def weight_zero(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        case = _case("weight-zero", dtype, (3.0, INF, -1.0, -INF) * 2, (0, 0, 1, 0) * 2, (8, 1), weight=0.0)
        context.judge(tally, case, [Ask("loss", "none")])
        off = Tensor((2,), (0.0, 2.0), dtype)  # for each class, next to one that counts
        _all(context, tally, _case("weight-off", dtype, (INF, 1.0, -2.0, 0.5), (0, 1, 1, 0), (2, 2), weight=off))


@check("special.smoothed", "With label smoothing, y' decides at infinity: (+inf, 1) gives +inf.", anybody=False)
def smoothed(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        case = _case("smoothed", dtype, (INF, -INF, INF, 2.0) * 2, (1, 0, 0, 1) * 2, (8, 1), label_smoothing=0.125)
        _all(context, tally, case)


@check(
    "special.large",
    "The largest finite logits give a finite loss where the exact one is finite.",
    "the elementwise budget",
)
def large(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        top = FORMATS[dtype].max
        _all(context, tally, _case("large", dtype, (top, -top, top, -top) * 2, (1, 0, 0, 1) * 2, (8, 1)))


@check(
    "special.hazards", "Every row of the hazard table has its exact answer.", "the elementwise budget of each quantity"
)
def hazard_table(context: Context, tally: Tally) -> None:
    for case, wanted in _hazard_calls(context.dtypes):
        if not context.backend.serves(case):
            continue
        asks = context.owed(case, context.offered(list(wanted), tally))
        if not asks:
            continue
        found = context.tried(tally, case, asks)
        limits = context.limits(case)
        for ask, seen in zip(asks, found, strict=True):
            if seen is None:
                continue
            room, line = context.allowed(case, ask, limits), context.again(case, ask)
            if len(seen) != len(room):
                tally.fail(f"{case.name}: {ask}: {len(seen)} values, {len(room)} expected", "type", line)
                continue
            for place, right, name in wanted[ask]:
                at = range(len(seen)) if place is None else [place]  # None: the answer of every element
                for i in at:
                    told = line.replace("PLACE", str(i))
                    one = Question(case if place is None else row_of(case, i), ask.quantity, ask.reduction)
                    tally.values([seen[i]], [right], [room[i]], name, result_dtype(case, ask), told, one)


Wanted = dict[Ask, list[tuple[int | None, float, str]]]
"""For each question the positions with a known answer, the exact values there, and their names."""


@functools.cache
def _hazard_calls(dtypes: tuple[str, ...]) -> tuple[tuple[Case, Wanted], ...]:
    """The table in few calls: plain single elements of one dtype share an array, every other row is its own call."""
    shared: dict[tuple[str, str], list[Hazard]] = {}
    alone: list[Hazard] = []
    for hazard in hazards(dtypes):
        case = hazard.case
        if case is None:
            continue
        bare = case.weight is None and case.pos_weight is None and case.where is None and not case.label_smoothing
        if bare and case.input.shape == (1, 1) and case.layout == "C":
            shared.setdefault((case.input.dtype, case.target.dtype), []).append(hazard)
        else:
            alone.append(hazard)
    out: list[tuple[Case, Wanted]] = []
    for (mine, other), rows in shared.items():
        cases = [r.case for r in rows if r.case is not None]
        x = Tensor((len(cases), 1), tuple(c.input.values[0] for c in cases), mine)
        y = Tensor((len(cases), 1), tuple(c.target.values[0] for c in cases), other)
        wanted: Wanted = {}
        for place, row in enumerate(rows):
            for quantity, text in row.expected:
                if quantity not in ("mean", "sum"):
                    name = f"{mine}: {row.name} ({row.trigger})"
                    wanted.setdefault(QUANTITIES[quantity], []).append((place, float(text), name))
        out.append((Case(f"{mine}-{other}-hazards", x, y), wanted))
    for row in alone:
        assert row.case is not None
        wanted = {}
        for quantity, text in row.expected:
            wanted[QUANTITIES[quantity]] = [(None, float(text), f"{row.case.name} ({row.trigger})")]
        out.append((row.case, wanted))
    return tuple(out)


@check(
    "special.catalogue",
    "Every named case with an infinity, a NaN or no elements is right.",
    "the elementwise budget",
)
def catalogue(context: Context, tally: Tally) -> None:
    cases = context.subsample([c for c in context.catalogue() if dense_cases.theme_of(c) == "special"], 36)
    for index, case in enumerate(cases):
        _all(context, tally, case, ("none", "sum", "mean")[index % 3])


@check(
    "special.any-byte",
    "In a bool target, and in `where`, every byte other than 0 counts as true.",
    "the elementwise budget",
    needs=("any_byte",),
)
def any_byte(context: Context, tally: Tally) -> None:
    b, shape = context.backend, (40, 33)  # more than a vector register, with a remainder
    bytes_, shown = ([(0, 1, 2, 128, 255, 0, 3)[(i * i + k) % 7] for i in range(math.prod(shape))] for k in (0, 1))
    for dtype in context.dtypes:
        x = Tensor(shape, tuple(float(i % 11 - 5) for i in range(math.prod(shape))), dtype)
        for option in ("target", "where"):
            targets = Tensor(shape, tuple(v != 0 for v in bytes_), "bool")
            mask = Tensor(shape, tuple(v != 0 for v in shown), "bool") if option == "where" else None
            case = Case(f"{dtype}-any-byte-{option}", x, targets, where=mask)
            if not b.serves(case):
                continue
            arrays = {"input": context.arrays(case)["input"]}
            for name, values in (("target", bytes_), ("where", shown))[: 1 + (option == "where")]:
                raw = Case("bytes", x, Tensor(shape, tuple(values), "uint8"))
                arrays[name] = b.as_bool(b.arguments(raw)["target"])
            asks = [Ask("loss", "none"), Ask("loss", "mean"), Ask("gradient", "mean"), Ask("hessian", "mean")]
            context.judge(tally, case, asks, arrays)


@check("special.silent", "No call warns or raises a floating-point flag, whatever the numbers are.")
def silent(context: Context, tally: Tally) -> None:
    b = context.backend
    flags = b.flags if "float_flags" in b.capabilities else contextlib.nullcontext
    for dtype in context.dtypes:
        xs = (NAN, INF, -INF, 0.0, -0.0, 100.0, -100.0, FORMATS[dtype].max)
        for case in (
            _case("silent", dtype, xs, (1, 0, 1, 1, 0, 1, 0, 0), (2, 4)),
            _case("silent-empty", dtype, (), (), (0, 3)),
            _case("silent-weight", dtype, xs, (1, 0, 1, 1, 0, 1, 0, 0), (2, 4), weight=0.0),
        ):
            if not context.concerns(tally, case):
                continue
            asks = (Ask("loss", "none"), Ask("loss", "mean"), Ask("gradient", "mean"), Ask("hessian", "mean"))
            for ask in context.offered(asks, tally):
                try:
                    with warnings.catch_warnings(), flags():
                        warnings.simplefilter("error")
                        context.answer(case, ask)
                except (Warning, FloatingPointError) as noise:
                    tally.fail(f"{case.name}: {ask}: {type(noise).__name__}: {' '.join(str(noise).split())[:160]}")
                except (Declined, Unsupported) as reason:
                    tally.passed_by(str(reason))
                else:
                    tally.judged += 1
