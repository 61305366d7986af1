"""Identities between results, which need no oracle; "to the bit" means that every bit is equal.

Where a law holds only within rounding, the sum of the bounds of the compared results is allowed.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

from ..check import Ask, Context, allowed, check, exact
from ..formats import FORMATS, round_to, step
from ..reference.bounds import ulp
from ..run.tally import Tally
from ..tensors import Case, Tensor

NONE = Ask("loss", "none")
GRADIENT, HESSIAN = Ask("gradient", "none"), Ask("hessian", "none")
WITHIN = "the sum of the bounds of the results compared"


@functools.cache
def points(dtype: str, count: int = 48) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seeded logits and targets; 1 - y is exact for each target (eighths)."""
    source = random.Random(f"laws-{dtype}")
    xs = [round_to(source.uniform(-12, 12), dtype) for _ in range(count - 6)]
    ys = [source.choice((0.0, 1.0, 0.125, 0.5, 0.75)) for _ in range(count - 6)]
    return (*xs, 0.0, -0.0, 8.0, -8.0, 20.0, -20.0), (*ys, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0)


def _case(name: str, dtype: str, xs: Sequence[float], ys: Sequence[float], columns: int = 1, **options: Any) -> Case:
    shape = (len(xs) // columns, columns)
    return Case(f"{dtype}-law-{name}", Tensor(shape, tuple(xs), dtype), Tensor(shape, tuple(ys), dtype), **options)


@functools.lru_cache(maxsize=4096)
def _kept(name: str, dtype: str, xs: tuple[float, ...], ys: tuple[float, ...], columns: int, weight: Any) -> Case:
    """A case that is the same object for every backend, so that its exact answers are computed once."""
    weight = Tensor((columns,), weight, dtype) if isinstance(weight, tuple) else weight
    return _case(name, dtype, xs, ys, columns, weight=weight)


def _bound(context: Context, case: Case, ask: Ask) -> tuple[float, ...]:
    return allowed(case, ask, context.limits(case), context.flush, context.accumulator)


def _bounds(context: Context, *results: tuple[Case, Ask]) -> list[float]:
    """How far the compared results may be apart: the sum of their bounds, value by value."""
    return [sum(parts) for parts in zip(*(_bound(context, case, ask) for case, ask in results), strict=True)]


def _each(context: Context, every: bool = False) -> list[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    """The dtypes and points of this backend (a variant that serves only some dtypes leaves out the others)."""
    out = []
    # Where calls are slow, one dtype: a law does not depend on the dtype.
    for d in context.dtypes if every else context.few_dtypes:
        xs, ys = points(d)
        if context.backend.serves(_kept("all", d, xs, ys, 1, None)):
            out.append((d, xs, ys))
    return out


def _mirrored(context: Context, tally: Tally, ask: Ask, sign: float) -> None:
    for d, xs, ys in _each(context):
        here = _kept("all", d, xs, ys, 1, None)
        there = _kept("mirror", d, tuple(-x for x in xs), tuple(1 - y for y in ys), 1, None)
        (a,), (b,) = context.numbers(here, ask), context.numbers(there, ask)
        tally.exactly(b, [sign * v for v in a], f"{d}: {ask} at (-x, 1-y)")


@check("laws.reflection", "loss(x, y) = loss(-x, 1-y), to the bit where 1-y is exact.")
def reflection(context: Context, tally: Tally) -> None:
    _mirrored(context, tally, NONE, 1.0)


@check("laws.odd", "gradient(x, y) = -gradient(-x, 1-y), to the bit.", offers=("gradient",), anybody=False)
def odd(context: Context, tally: Tally) -> None:
    _mirrored(context, tally, GRADIENT, -1.0)


@check("laws.even", "hessian(x, y) = hessian(-x, 1-y), to the bit.", offers=("hessian",), anybody=False)
def even(context: Context, tally: Tally) -> None:
    _mirrored(context, tally, HESSIAN, 1.0)


@check("laws.difference", "loss(x, 0) - loss(x, 1) = x.", WITHIN)
def difference(context: Context, tally: Tally) -> None:
    for d, xs, _ in _each(context):
        off, on = (_kept(f"all-{y}", d, xs, (y,) * len(xs), 1, None) for y in (0.0, 1.0))
        (a,), (b,) = context.numbers(off, NONE), context.numbers(on, NONE)
        room = _bounds(context, (off, NONE), (on, NONE))
        tally.values([p - q for p, q in zip(a, b, strict=True)], xs, room, f"{d}: loss(x,0)-loss(x,1)", d)


@check("laws.affine", "The loss is affine in the target.", WITHIN)
def affine(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        cases = [
            _kept("all", d, xs, ys, 1, None),
            *(_kept(f"all-{y}", d, xs, (y,) * len(xs), 1, None) for y in (0.0, 1.0)),
        ]
        (mid,), (off,), (on,) = (context.numbers(c, NONE) for c in cases)
        room = _bounds(context, *((c, NONE) for c in cases))
        line = [y * p + (1 - y) * q for y, p, q in zip(ys, on, off, strict=True)]
        tally.values(mid, line, room, f"{d}: loss(x,y)", d)


@check("laws.homogeneous", "Doubling the weight doubles the loss, to the bit.")
def homogeneous(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        light, heavy = (
            _kept(f"w{f}", d, xs, ys, 4, tuple(f * w for w in (1.0, 0.75, 2.0, 0.3125))) for f in (1.0, 2.0)
        )
        (a,), (b,) = context.numbers(light, NONE), context.numbers(heavy, NONE)
        tally.exactly(b, [2 * v for v in a], f"{d}: loss at twice the weight")


@check("laws.sign", "For targets in [0, 1] the loss is never negative.")
def sign(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        (seen,) = context.numbers(_kept("all", d, xs, ys, 1, None), NONE)
        for x, y, v in zip(xs, ys, seen, strict=True):
            tally.true(v >= 0, f"{d}: loss({x}, {y}) = {v}")


@check("laws.entropy", "The loss is at least the entropy of its target.", "the elementwise bound")
def entropy(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        case = _kept("all", d, xs, ys, 1, None)
        (seen,) = context.numbers(case, NONE)
        for x, y, v, room in zip(xs, ys, seen, _bound(context, case, NONE), strict=True):
            least = -math.fsum(p * math.log(p) for p in (y, 1 - y) if p > 0)
            tally.true(v >= least - room, f"{d}: loss({x}, {y}) = {v}, entropy {least}")


@check(
    "laws.monotone",
    "With target 1 the loss falls from one logit to the next, with target 0 it rises.",
    "the elementwise bound",
)
def monotone(context: Context, tally: Tally) -> None:
    for d, _, _ in _each(context):
        for start in (-18.0, -1.0, 0.5, 9.0):
            xs = tuple(step(start, d, k) for k in range(48))
            for y in (0.0, 1.0):
                case = _kept(f"run-{start}-{y}", d, xs, (y,) * len(xs), 1, None)
                (seen,) = context.numbers(case, NONE)
                room = _bound(context, case, NONE)
                for i in range(len(xs) - 1):
                    rise = (seen[i + 1] - seen[i]) * (1 if y == 0 else -1)
                    tally.true(rise >= -room[i] - room[i + 1], f"{d}: loss({xs[i + 1]}, {y}) turns by {rise}")


@check("laws.convex", "A chord of the loss is above it.", "the elementwise bounds of its three points")
def convex(context: Context, tally: Tally) -> None:
    for d, _, _ in _each(context):
        xs = tuple(round_to(-12 + k * 0.5, d) for k in range(48))
        case = _kept("chord", d, xs, (0.25,) * len(xs), 1, None)
        (seen,) = context.numbers(case, NONE)
        room = _bound(context, case, NONE)
        for i in range(1, len(xs) - 1):
            second_difference = (seen[i - 1] + seen[i + 1]) / 2 - seen[i]
            allowed = room[i - 1] + room[i] + room[i + 1]
            tally.true(second_difference >= -allowed, f"{d}: the loss bends down at {xs[i]} by {second_difference}")


@check("laws.class-permutation", "The order of the classes does not matter.", "the bound of a row")
def class_permutation(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        here = _kept("classes", d, xs, ys, 6, None)
        there = _kept("classes-turned", d, *_turned(xs, ys, 6), 6, None)
        (a,), (b,) = context.numbers(here, NONE), context.numbers(there, NONE)
        room = _bounds(context, (here, NONE), (there, NONE))
        tally.values(b, a, room, f"{d}: classes reversed", d)


def _turned(xs: Sequence[float], ys: Sequence[float], n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    def turn(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(v for i in range(0, len(values), n) for v in reversed(values[i : i + n]))

    return turn(xs), turn(ys)


@check("laws.batch-permutation", "The order of the rows changes no bit of any row.")
def batch_permutation(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        rows = [(xs[i : i + 6], ys[i : i + 6]) for i in range(0, len(xs), 6)]
        turned = list(reversed(rows))
        there = _kept(
            "rows-turned", d, tuple(v for r in turned for v in r[0]), tuple(v for r in turned for v in r[1]), 6, None
        )
        (a,), (b,) = context.numbers(_kept("classes", d, xs, ys, 6, None), NONE), context.numbers(there, NONE)
        tally.exactly(b, list(reversed(a)), f"{d}: rows reversed")


@check("laws.split", "A batch cut in two has the rows of the whole, to the bit.")
def split(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        (whole,) = context.numbers(_kept("classes", d, xs, ys, 6, None), NONE)
        parts: list[float] = []
        for lo, hi in ((0, 24), (24, len(xs))):
            parts += context.numbers(_kept(f"part-{lo}", d, xs[lo:hi], ys[lo:hi], 6, None), NONE)[0]
        tally.exactly(parts, whole, f"{d}: two parts")


@check("laws.reductions", "`mean` and `sum` are the mean and the sum of `none`.", "the bound of the reduced loss")
def reductions(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        case = _kept("classes", d, xs, ys, 6, None)
        asks = (NONE, Ask("loss", "sum"), Ask("loss", "mean"))
        rows, total, mean = context.numbers(case, *asks)
        for seen, right, ask in ((total, math.fsum(rows), asks[1]), (mean, math.fsum(rows) / len(rows), asks[2])):
            slack = math.fsum(_bound(context, case, NONE)) / (1 if ask is asks[1] else len(rows))
            tally.values(seen, [right], [_bound(context, case, ask)[0] + slack], f"{d}: {ask}", d)


@check(
    "laws.duplication",
    "A batch with every row twice has twice the sum and the same mean.",
    "the bound of the reduced loss",
)
def duplication(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        once, twice = _kept("classes", d, xs, ys, 6, None), _kept("twice", d, xs * 2, ys * 2, 6, None)
        for reduction, factor in (("sum", 2.0), ("mean", 1.0)):
            ask = Ask("loss", reduction)
            (a,), (b,) = context.numbers(once, ask), context.numbers(twice, ask)
            room = factor * _bound(context, once, ask)[0] + _bound(context, twice, ask)[0]
            tally.values(b, [factor * a[0]], [room], f"{d}: {reduction}", d)


@check(
    "laws.slope-bounds",
    "|gradient| <= w/C and 0 <= hessian <= w/(4C) for targets in [0, 1].",
    "the elementwise bound",
    offers=("gradient", "hessian"),
    anybody=False,
)
def gradient_bounds(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        case = _kept("w-bounds", d, xs, ys, 4, (1.0, 0.75, 2.0, 0.3125))
        gradient, hessian = context.numbers(case, GRADIENT, HESSIAN)
        rooms = zip(_bound(context, case, GRADIENT), _bound(context, case, HESSIAN), strict=True)
        for i, (g, h, (p, q)) in enumerate(zip(gradient, hessian, rooms, strict=True)):
            w = (1.0, 0.75, 2.0, 0.3125)[i % 4]
            tally.true(abs(g) <= w / 4 + p, f"{d}: gradient({xs[i]}, {ys[i]}) = {g}, w/C = {w / 4}")
            tally.true(0 <= h <= w / 16 + q, f"{d}: hessian({xs[i]}, {ys[i]}) = {h}, w/4C = {w / 16}")


@check(
    "laws.stationary",
    "The gradient is 0 where the logit is the logit of the target.",
    "the soft-target bound",
    offers=("gradient",),
    anybody=False,
)
def stationary(context: Context, tally: Tally) -> None:
    for d, _, _ in _each(context):
        ys = tuple((1 + k % 15) / 16 for k in range(48))
        xs = tuple(round_to(math.log(y / (1 - y)), d) for y in ys)
        case = _kept("stationary", d, xs, ys, 1, None)
        (seen,), bound = context.numbers(case, GRADIENT), _bound(context, case, GRADIENT)
        tally.values(seen, exact(case, GRADIENT).values, bound, f"{d}: gradient at logit(y)", d)
        # The rounding of the logit itself moves the gradient by at most h = 1/4 of half a spacing.
        room = max(bound) + ulp(3.0, d) / 8
        for y, v in zip(ys, seen, strict=True):
            tally.true(abs(v) <= room, f"{d}: gradient {v} at logit({y})")


@check(
    "laws.taylor",
    "loss, gradient and Hessian belong to one function: the error of a Taylor step is at most its remainder.",
    WITHIN + " + |h|^3/62",
    offers=("gradient", "hessian"),
    anybody=False,
)
def taylor(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        if d != "float64":
            continue
        xs, ys = xs[:32], ys[:32]
        h = 2.0**-12
        there = tuple(x + h for x in xs)
        here = _kept("taylor", d, xs, ys, 1, None)
        ahead = _kept("taylor-ahead", d, there, ys, 1, None)
        value, gradient, hessian = context.numbers(here, NONE, GRADIENT, HESSIAN)
        (seen,) = context.numbers(ahead, NONE)
        room = _bounds(context, (here, NONE), (ahead, NONE))
        line = [v + h * g + h * h / 2 * b for v, g, b in zip(value, gradient, hessian, strict=True)]
        # |third derivative| <= 1/(6 sqrt 3) < 6/62; the few roundings of the line itself are below the bounds' ULP.
        tally.values(
            seen, line, [r + h**3 / 62 + 2 * ulp(v, d) for r, v in zip(room, seen, strict=True)], f"{d}: step", d
        )


@check("laws.half", "A half-precision loss is the float32 loss of the same numbers, rounded once.", anybody=False)
def half(context: Context, tally: Tally) -> None:
    if "float32" not in context.dtypes:
        tally.passed_by("float32 is not among the dtypes of this run")
        return
    for d, xs, ys in _each(context, every=True):
        if d not in ("float16", "bfloat16"):
            continue
        narrow, wide = _kept("all", d, xs, ys, 1, None), _case("half", "float32", xs, ys)
        for ask in (NONE, GRADIENT, HESSIAN):
            (a,), (b,) = context.numbers(narrow, ask), context.numbers(wide, ask)
            right = [round_to(v, d) for v in b]
            if d in context.flush:
                right = [0.0 if abs(v) < FORMATS[d].min_normal else v for v in right]
                a = [0.0 if abs(v) < FORMATS[d].min_normal else v for v in a]
            tally.exactly(a, right, f"{d}: {ask}")


@check("laws.targets", "bool, uint8, int32 and floating targets 0 and 1 give the same bits.", anybody=False)
def targets(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        bits = [float(y >= 0.5) for y in ys]
        base = _kept("bits", d, xs, tuple(bits), 6, None)
        right = context.numbers(base, NONE, GRADIENT)
        for kind, convert in (("bool", bool), ("uint8", int), ("int32", int)):
            values: tuple[Any, ...] = tuple(convert(b) for b in bits)
            case = Case(f"{base.name}-{kind}", base.input, Tensor(base.input.shape, values, kind))
            for ask, seen, expected in zip((NONE, GRADIENT), context.numbers(case, NONE, GRADIENT), right, strict=True):
                tally.exactly(seen, expected, f"{d}: {ask} with {kind} targets")


@check("laws.padding", "A class of logit +inf and target 1 adds exactly 0: it only enters the divisor.")
def padding(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        (bare,) = context.numbers(_kept("all", d, xs, ys, 1, None), NONE)
        wide_x = tuple(v for x in xs for v in (x, math.inf))
        wide_y = tuple(v for y in ys for v in (y, 1.0))
        (padded,) = context.numbers(_kept("padded", d, wide_x, wide_y, 2, None), NONE)
        wanted = [v / 2 for v in bare]
        if d in context.flush or d in ("float16", "bfloat16"):
            # Half of a subnormal (or of a rounded half) is no longer exact: compare where it is.
            keep = [i for i, v in enumerate(wanted) if abs(v) >= FORMATS[d].min_normal]
            padded, wanted = [padded[i] for i in keep], [wanted[i] for i in keep]
        tally.exactly(padded, wanted, f"{d}: row padded by x=inf, y=1.0")


@check(
    "laws.linear",
    "The pullback is linear: twice the `grad_output`, twice the gradient, to the bit.",
    offers=("arguments",),
    anybody=False,
)
def linear(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        case = _kept("classes", d, xs, ys, 6, None)
        n = case.batch[0]
        once = tuple(0.25 * (k - 3) for k in range(n))
        asks = [Ask("gradient", "none", "input", tuple(f * v for v in once)) for f in (1.0, 2.0)]
        a, b = context.numbers(case, *asks)
        keep = [i for i, v in enumerate(a) if abs(v) >= FORMATS[d].min_normal or v == 0]
        tally.exactly([b[i] for i in keep], [2 * a[i] for i in keep], f"{d}: gradient")


@check(
    "laws.adjoint",
    "<R u, v> = <u, R* v>: the gradient of a reduction is its adjoint of the gradient of the rows.",
    WITHIN,
    offers=("arguments",),
    anybody=False,
)
def adjoint(context: Context, tally: Tally) -> None:
    for d, xs, ys in _each(context):
        case = _kept("classes", d, xs, ys, 6, None)
        n = case.batch[0]
        for reduction, share in (("sum", 1.0), ("mean", 1.0 / n)):
            ask = Ask("gradient", reduction)
            through = Ask("gradient", "none", "input", (share,) * n)
            a, b = context.numbers(case, ask, through)
            room = _bounds(context, (case, ask), (case, through))
            tally.values(a, b, room, f"{d}: {reduction}", d)
