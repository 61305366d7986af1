"""Nothing is computed, and nothing is copied to the host, before the caller reads a result."""

from __future__ import annotations

import functools
import math
from typing import Any

from ..cases import dense_cases
from ..check import Ask, Context, by_place, check
from ..formats import FORMATS
from ..run.tally import Tally
from ..subjects import Declined
from ..tensors import Case, Tensor

ASKS = (Ask("loss", "none"), Ask("loss", "mean"), Ask("loss", "sum"), Ask("gradient", "mean"), Ask("hessian", "mean"))


def _judge(context: Context, tally: Tally, case: Case, arrays: dict[str, Any]) -> None:
    """Judge every question of a case on these arrays in place of its own."""
    for ask in ASKS:
        found = context.one(ask, {**arrays, **context.options(case)})
        context.judge_one(tally, case, ask, context.backend.to_list(found), "generic")


_unknown = functools.partial(check, needs=("unknown_sizes",), anybody=False)


@check(
    "lazy.silent",
    "No call computes anything or looks at a value: it works with a scheduler that raises, or arrays without values.",
    needs=("watched",),
    anybody=False,
)
def silent(context: Context, tally: Tally) -> None:
    d = context.dtypes[-1]
    for theme in ("plain", "weight", "pos_weight", "where", "label_smoothing", "axis"):
        for case in dense_cases.optioned(theme, d):
            if not context.backend.serves(case):
                continue
            arrays = context.arrays(case)
            context.backend.force(list(arrays.values()))
            asks = [*ASKS, Ask("gradient", "mean", "target")]
            if case.weight is not None:
                asks.append(Ask("gradient", "mean", "weight"))
            for ask in asks:

                def run(ask: Ask = ask, **given: Any) -> Any:
                    return context.one(ask, given)

                try:
                    context.backend.unseen(by_place(run, arrays, **context.options(case)), *arrays.values())
                except Declined as reason:
                    tally.passed_by(str(reason))
                except Exception as error:
                    tally.fail(f"{case.name}: {ask}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
                else:
                    tally.judged += 1


@check("lazy.result", "A lazy argument gives a lazy result.", needs=("lazy",), anybody=False)
def result(context: Context, tally: Tally) -> None:
    d = context.dtypes[-1]
    case = dense_cases.plain(d)
    for ask, array in zip(ASKS, context.answers(case, ASKS), strict=True):
        tally.true(context.backend.owns(array), f"{ask}: the result is not a lazy array")


@_unknown(
    "lazy.unknown",
    "An unknown batch length gives the same numbers as a known one, for the loss, the derivatives and `where`.",
    "as values and derivatives",
)
def unknown(context: Context, tally: Tally) -> None:
    b = context.backend
    for d in context.dtypes:
        for theme in ("plain", "weight", "where"):
            for case in dense_cases.optioned(theme, d):
                if len(case.input.shape) < 2:
                    continue
                given: dict[str, Any] = {"input": b.unknown(case.input), "target": b.unknown(case.target)}
                for name in ("weight", "where"):
                    value = getattr(case, name)
                    if isinstance(value, Tensor):
                        reaches = len(value.shape) == len(case.input.shape)
                        given[name] = b.unknown(value) if reaches else b.make(value)
                _judge(context, tally, case, given)


@_unknown(
    "lazy.disagreement",
    "Lengths that disagree at run time are refused inside the block, never broadcast.",
)
def disagreement(context: Context, tally: Tally) -> None:
    b = context.backend
    d = context.dtypes[-1]
    five, three = dense_cases.plain(d, (6, 3)), dense_cases.plain(d, (4, 3))
    one = Tensor((2, 3), (1.0, 0.0, 1.0, 0.0, 1.0, 1.0), d)
    for target in (three.target, one):
        for ask in (Ask("loss", "mean"), Ask("loss", "none"), Ask("gradient", "mean"), Ask("hessian", "mean")):
            given = {"input": b.unknown(five.input), "target": b.unknown(target)}
            try:
                seen = b.to_list(context.one(ask, given))
            except ValueError:
                tally.judged += 1
            else:
                tally.fail(f"6 rows against {target.shape[0]}: {ask} gave {seen[:4]}")


def _of_ones(shape: tuple[int, ...], dtype: str) -> Tensor:
    one: Any = True if dtype == "bool" else 1.0
    return Tensor(shape, (one,) * math.prod(shape), dtype)


@_unknown(
    "lazy.lies",
    "A block without the declared shape is refused for every argument: never broadcast, cut or read past its end.",
    offers=("loss", "gradient", "hessian"),
)
def lies(context: Context, tally: Tally) -> None:
    b, d = context.backend, context.dtypes[-1]
    case = dense_cases.plain(d, (6, 4))
    declared = {"input": (6, 4), "target": (6, 4), "weight": (6, 1), "pos_weight": (4,), "where": (6, 4)}
    for name, shape in (*declared.items(), ("weight", (4,)), ("where", (6, 1)), ("grad_output", (6,))):
        dtype = "bool" if name == "where" else d
        for axis in range(len(shape)):
            for length in (0, 1, shape[axis] - 1, shape[axis] + 1, 2 * shape[axis] + 1):
                if length == shape[axis]:
                    continue
                actual = (*shape[:axis], length, *shape[axis + 1 :])
                given = {"input": b.make(case.input), "target": b.make(case.target)}
                lie = b.lying(_of_ones(shape, dtype), _of_ones(actual, dtype))
                asks = [Ask("loss", "none"), Ask("loss"), Ask("gradient", "none"), Ask("hessian")]
                if name == "grad_output":
                    asks = [Ask("gradient", "none", wrt, (1.0,)) for wrt in ("input", "target")]
                else:
                    given[name] = lie
                for ask in asks:
                    what = f"{name} {actual} where {shape} was declared: {ask}"
                    try:
                        seen = b.to_list(context.one(ask, given, lie))
                    except ValueError as error:
                        tally.true(f"`{name}`" in str(error), f"{what}: the message does not name it: {error}")
                    else:
                        tally.fail(f"{what} gave {seen[:4]}")


@_unknown(
    "lazy.empty-chunks",
    "A piece of length 0, of the batch or of the classes, changes no value.",
    "as values and derivatives",
    offers=("loss", "gradient", "hessian"),
)
def empty_chunks(context: Context, tally: Tally) -> None:
    b, d = context.backend, context.dtypes[-1]
    cases = [case for theme in ("plain", "weight", "pos_weight", "where") for case in dense_cases.optioned(theme, d)]
    cuts = (((2, 4), (0, 4)), ((3, 3), (4, 0)), ((0, 6), (1, 0, 3)), ((2, 0, 4), (4,)), ((6, 0), (0, 2, 2)))
    for index, case in enumerate(c for c in cases if c.input.shape == (6, 4)):
        for own in (cuts[index % 5], cuts[(index + 2) % 5]):  # each cut with many options, but not with all
            given: dict[str, Any] = {}
            for name in ("input", "target", "weight", "pos_weight", "where"):
                value = getattr(case, name)
                if isinstance(value, Tensor):
                    pieces = own[len(own) - len(value.shape) :]
                    given[name] = b.pieces(
                        value, [(1,) if n == 1 else c for n, c in zip(value.shape, pieces, strict=True)]
                    )
            _judge(context, tally, case, given)


@_unknown(
    "lazy.sums",
    "A weight, a mask or a cotangent that is a lazy sum, whose block may be a scalar, acts like the number.",
    offers=("loss", "gradient"),
)
def sums(context: Context, tally: Tally) -> None:
    b, d = context.backend, context.dtypes[-1]
    case = dense_cases.plain(d, (6, 4))
    given = {"input": b.make(case.input), "target": b.make(case.target)}
    for name in ("weight", "pos_weight", "grad_output"):
        two = b.summed(_of_ones((2,), d))
        for ask in (Ask("loss"), Ask("gradient"))[name == "grad_output" :]:
            found, right = (
                b.to_list((context.subject.loss if ask.quantity == "loss" else context.subject.grad)(**given, **option))
                for option in ({name: two}, {name: 2.0})
            )
            tally.exactly(found, right, f"{name}: {ask}")
    everything = b.summed(_of_ones((2,), d)) > 0
    found, right = (b.to_list(context.subject.loss(**given, where=m)) for m in (everything, None))
    largest = max(abs(v) for v in right)
    room = [8 * FORMATS[d].u * largest] * len(right)
    tally.values(found, right, room, "where", d)


@_unknown(
    "lazy.unknown-classes",
    "An unknown number of classes is refused, with the remedy.",
)
def unknown_classes(context: Context, tally: Tally) -> None:
    b = context.backend
    case = dense_cases.plain(context.dtypes[-1])
    try:
        context.subject.loss(input=b.unknown(case.input), target=b.unknown(case.target), axis=0)
    except ValueError as error:
        tally.true("compute_chunk_sizes" in str(error), f"the message does not name the remedy: {error}")
    else:
        tally.fail("a class axis of unknown length was accepted")
