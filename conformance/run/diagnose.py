"""The mistakes of a foreign loss, in words, from a few small calls before it is judged.

Finds out how to call the loss (its reductions, whether it has second derivatives), and which known mistakes it has.
A `Cause` is a sentence and a predicate of violations; it changes no verdict. Raises `Unjudgeable` if every call
raises the same exception, because the checks would show nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..backends import Unsupported
from ..cases import dense_cases
from ..check import FAILURES, Ask, Cause, Context, exact, raised
from ..formats import FORMATS, round_to
from ..reference.bounds import ulp_error
from ..subjects import Declined, Foreign
from ..tensors import Case, Tensor
from .tally import Violation

REDUCTIONS = ("none", "mean", "sum")
INF = math.inf
HALVES = ("float16", "bfloat16")
FACTORS: tuple[tuple[str, Callable[[Case], float]], ...] = (
    ("-1 times", lambda case: -1.0),
    ("twice", lambda case: 2.0),
    ("half of", lambda case: 0.5),
    ("1/ln 2 times (base-2 logarithms)", lambda case: 1 / math.log(2)),
    ("1/C of", lambda case: 1 / case.classes),
    ("C times", lambda case: float(case.classes)),
    ("1/N of", lambda case: 1 / math.prod(case.batch)),
    ("N times", lambda case: float(math.prod(case.batch))),
    ("1/(N*C) of", lambda case: 1 / len(case.input.values)),
    ("N*C times", lambda case: float(len(case.input.values))),
)
"""(words, factor) for results that are a multiple of the right one, for a case of N rows and C classes."""


class Unjudgeable(Exception):
    """Every call raises the same exception: there is nothing to judge, and the message has the likely remedy."""


def diagnose(context: Context) -> list[str]:
    """What a reader should know first, in sentences; sets the causes and the questions to the subject."""
    assert isinstance(context.subject, Foreign)
    with warnings.catch_warnings(), context.backend.session():
        warnings.simplefilter("ignore")
        return _Examination(context, context.subject).told()


class _Examination:
    """The examination of one loss on one backend."""

    def __init__(self, context: Context, subject: Foreign) -> None:
        self.context = context
        self.subject = subject
        self.name = subject.called
        self.lines: list[str] = []
        self.errors: list[BaseException] = []

    def told(self) -> list[str]:
        self.context.causes = []
        if not self.context.dtypes:
            return []
        dtype = "float32" if "float32" in self.context.dtypes else self.context.dtypes[-1]
        self.reductions(dtype)
        for dtype in self.context.dtypes:
            self.types(dtype)
        wide = self.context.dtypes[-1]
        self.factors(wide, "loss")
        self.infinities(wide)
        self.digits(wide)
        self.subnormals()
        self.tails(wide)
        self.soft_tails(wide)
        self.targets()
        self.unsigned()
        self.halves()
        if "gradient" in self.subject.offers:
            self.gradient(wide)
        self.second(wide)
        return self.lines

    # -------------------------------------------------------- asking

    def array(self, case: Case, ask: Ask) -> Any:
        """The answer, or None if there is none."""
        try:
            return self.context.backend.force(self.context.answer(case, ask))
        except (Declined, Unsupported):
            return None
        except FAILURES as error:
            self.errors.append(error)
            return None

    def values(self, case: Case, ask: Ask) -> list[float] | None:
        """The numbers of the answer, if their count is right."""
        array = self.array(case, ask)
        try:
            seen = None if array is None else self.context.backend.to_list(array)
        except FAILURES:
            return None
        return seen if seen is not None and len(seen) == len(exact(case, ask).values) else None

    def cause(self, sentence: str, check: str, explains: Callable[[Violation], bool]) -> None:
        self.lines.append(f"{self.name} {sentence}")
        self.context.causes.append(Cause(f"{self.name} {sentence}", explains, check))

    def column(self, dtype: str, pairs: Sequence[tuple[float, float]], target: str = "") -> Case:
        shape = (len(pairs), 1)
        y = Tensor(shape, tuple(round_to(y, target or dtype) for _, y in pairs), target or dtype)
        return Case(f"{dtype}-diagnosis", Tensor(shape, tuple(round_to(x, dtype) for x, _ in pairs), dtype), y)

    # -------------------------------------------------------- how to call it

    def reductions(self, dtype: str) -> None:
        case = dense_cases.plain(dtype)
        if self.subject.elementwise:
            case = self.column(dtype, [(0.5, 1.0), (-2.0, 0.0)])
        if "reduction" in self.subject.options and not self.subject.elementwise:
            arrays = {r: self.array(case, Ask("loss", r)) for r in REDUCTIONS}
            without = [r for r in REDUCTIONS if arrays[r] is None]
            if len(without) < 3:
                self.subject.reductions = frozenset(REDUCTIONS) - set(without)
                for r, error in zip(without, self.errors, strict=False):
                    self.lines.append(f"{self.name} is not asked for reduction {r!r}: {raised(error)}")
            self.unless_judgeable(len(without) == 3)
            self.shape(case, "none", arrays["none"])
            return
        array = self.array(case, Ask("loss", "none"))
        self.unless_judgeable(array is None)
        shape = self.shape(case, "", array)
        if shape == () and not self.subject.elementwise:
            seen = self.numbers(array)
            right = {r: exact(case, Ask("loss", r)).values[0] for r in ("mean", "sum")}
            is_sum = seen is not None and abs(seen[0] - right["sum"]) < abs(seen[0] - right["mean"])
            word = "sum" if is_sum else "mean"
            self.subject.reductions = frozenset({word})
            self.lines.append(f"{self.name} has no `reduction`: judged as {word} only")
        elif not self.subject.elementwise:
            self.lines.append(f"{self.name} has no `reduction`: judged as none only")

    def unless_judgeable(self, nothing: bool) -> None:
        """Raise `Unjudgeable` if every call raised the same exception, and none ended the program."""
        said = {raised(e) for e in self.errors}
        if not nothing or len(said) != 1 or isinstance(self.errors[0], SystemExit):
            return
        library = self.context.backend.library
        other = "torch" if library != "torch" else "numpy"
        raise Unjudgeable(
            f"{self.subject.name} cannot be called with {library} arrays ({said.pop()}): name the backend whose arrays "
            f"it takes, `run {other} --impl {self.subject.name}`"
        )

    def numbers(self, array: Any) -> list[float] | None:
        try:
            return self.context.backend.to_list(array)
        except FAILURES:
            return None

    def shape(self, case: Case, reduction: str, array: Any) -> tuple[int, ...] | None:
        """The shape of the answer for "none" (or without a reduction); adds a cause if it is wrong."""
        if array is None:
            return None
        try:
            owned = self.context.backend.owns(array)
            shape = self.context.backend.shape_of(array)
        except FAILURES:
            owned, shape = False, ()
        if not owned:
            kind = type(array)
            told = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
            self.cause(
                f"returns a {told}, not an array of {self.context.backend.library}",
                "types.library",
                lambda v: v.kind == "type" or "raised" in v.text,
            )
            return None
        if shape == case.input.shape and shape != case.batch:
            count, rows = math.prod(shape), math.prod(case.batch)
            self.cause(
                f"returns one value per element, {count} for {rows} rows: average over the classes "
                "(or pass `--elementwise`)",
                "types.shape",
                lambda v: (v.kind == "type" and ("values, " in v.text or "shape" in v.text)) or v.kind == "raised",
            )
        return shape

    def second(self, dtype: str) -> None:
        """Whether it offers second derivatives: a separate capability, whose absence does not hide the first ones."""
        if "hessian" not in self.subject.offers:
            return
        before = len(self.errors)
        case = self.column(dtype, [(0.5, 1.0), (-1.0, 0.0)])
        for reduction in ("none", "mean", "sum"):
            if reduction in self.subject.reductions and self.values(case, Ask("hessian", reduction)) is not None:
                words = "has a second derivative that loses its digits in the tail, as s*(1 - s) does"
                self.gradients(dtype, "hessian", words)
                return
        why = raised(self.errors[-1]) if len(self.errors) > before else "no result could be read"
        self.subject.give_up("hessian", f"{self.name} offers no second derivative ({why})")
        self.lines.append(f"{self.name} offers no second derivative, so none is asked for: {why}")

    # -------------------------------------------------------- known mistakes

    def asked(self) -> str:
        """The reduction to ask for."""
        return self.context.reduction

    def types(self, dtype: str) -> None:
        case = self.column(dtype, [(0.5, 1.0), (-1.0, 0.0)])
        array = self.array(case, Ask("loss", self.asked()))
        try:
            seen = None if array is None else self.context.backend.dtype_of(array)
        except FAILURES:
            return
        if seen is None or seen == dtype:
            return
        narrower = seen in FORMATS and FORMATS[seen].precision < FORMATS[dtype].precision
        self.cause(
            f"returned {seen}, the contract's dtype is {dtype}",
            "types.dtype",
            lambda v: (
                (v.kind == "type" and f"{seen!r}, expected {dtype!r}" in v.text)
                or (narrower and v.dtype == dtype and v.kind == "value" and v.seen == round_to(v.seen, seen))
            ),
        )

    def factors(self, dtype: str, quantity: str) -> None:
        """Whether every value is a constant times the right one."""
        case = dense_cases.plain(dtype, (6, 5), "factors", soft=False)
        if self.subject.elementwise:
            case = self.column(dtype, [(0.5, 1.0), (-2.0, 0.0), (1.5, 0.0)])
        wrong: dict[str, list[str]] = {}
        factors: dict[tuple[str, str], Callable[[Case], float]] = {}
        for reduction in REDUCTIONS:
            ask = Ask(quantity, reduction)
            seen = self.values(case, ask) if reduction in self.subject.reductions else None
            if seen is None:
                continue
            ratios = [s / r for s, r in zip(seen, exact(case, ask).values, strict=True)]
            if max(abs(r - 1) for r in ratios) < 1e-2:
                continue
            for words, factor in FACTORS:
                k = factor(case)
                if abs(k - 1) > 1e-9 and all(abs(r / k - 1) < 1e-2 for r in ratios):
                    wrong.setdefault(words, []).append(reduction)
                    factors[reduction, words] = factor
                    break
            if quantity == "gradient" and not any(seen):
                wrong.setdefault("0, and not", []).append(reduction)
        for words, reductions in wrong.items():
            where = "" if set(reductions) == self.subject.reductions else f" (reduction {' and '.join(reductions)})"
            noun = "every value" if quantity == "loss" else "every gradient"
            if words == "0, and not":
                sentence = f"has a {quantity} of 0 everywhere{where}"
            else:
                sentence = f"is off by a factor: {noun} is {words} the right one{where}"
            of = {r: factors.get((r, words), lambda case: 0.0) for r in reductions}
            self.cause(
                sentence,
                "values.plain" if quantity == "loss" else "derivatives.plain",
                lambda v, of=of: (
                    v.question is not None  # type: ignore[misc]  # mypy does not type a lambda's default
                    and (quantity == "loss" or v.question.quantity != "loss")
                    and v.question.reduction in of
                    and abs(v.seen - of[v.question.reduction](v.question.case) * v.right)
                    <= 1e-2 * abs(v.seen or v.right)
                ),
            )

    def infinities(self, dtype: str) -> None:
        found = []
        for x, y in ((INF, 1.0), (-INF, 0.0), (INF, 0.0), (-INF, 1.0)):
            case = self.column(dtype, [(x, y)])
            seen, right = self.values(case, Ask("loss", self.asked())), exact(case, Ask("loss", "mean")).values[0]
            if seen and math.isnan(seen[0]):
                found.append(((x > 0) == (y == 1), f"at x={x}, y={y} it returns nan, exactly {right!r}"))
        if not found:
            return
        agreeing = all(matching for matching, _ in found)
        where = "that agree with their label" if agreeing else "whether or not they agree with their label"
        self.cause(
            f"gives NaN at infinite logits{'' if agreeing else ','} {where}: {found[0][1]}",
            "special.infinite",
            lambda v: v.kind == "value" and math.isnan(v.seen) and _infinite(v),
        )

    def digits(self, dtype: str) -> None:
        """Whether a float64 result has only the digits of a narrower format."""
        case = self.column(dtype, [(x / 4, 0.0) for x in range(-8, 9)])
        ask = Ask("loss", self.asked())
        seen, right = self.values(case, ask), exact(case, ask).values
        if dtype != "float64" or seen is None or any("returned float32" in c.sentence for c in self.context.causes):
            return
        off = [abs(s / r - 1) for s, r in zip(seen, right, strict=True)]
        if 2.0**-36 < max(off) < 2.0**-20:
            at = off.index(max(off))
            self.cause(
                f"is only as exact in float64 as in float32: at x={case.input.values[at if len(off) > 1 else 0]}, "
                f"y=0.0 it returns {seen[at]!r}, exactly {right[at]!r}",
                "values.hard",
                lambda v: v.kind == "value" and v.dtype == "float64" and _of_size(v, 2.0**-22),
            )

    def subnormals(self) -> None:
        """Whether subnormal float32 results are flushed to 0, on a backend that does not declare it."""
        if "float32" not in self.context.dtypes or "float32" in self.context.flush:
            return
        case = self.column("float32", [(-90.0, 0.0), (90.0, 1.0)])
        ask = Ask("loss", self.asked())
        seen, right = self.values(case, ask), exact(case, ask).values
        if seen and seen[0] == 0 and self.values(self.column("float32", [(-80.0, 0.0)]), ask) not in ([0.0], None):
            self.cause(
                f"flushes subnormal numbers to 0: at x=-90.0, y=0.0 it returns 0.0, exactly {right[0]!r}",
                "values.tail",
                lambda v: v.kind == "value" and v.seen == 0 and abs(v.right) < FORMATS[v.dtype or "float32"].min_normal,
            )

    def tails(self, dtype: str) -> None:
        """Where the loss of a label that agrees with its logit loses its digits, on each side of 0."""
        lost: dict[float, tuple[float, str]] = {}
        for sign, y in ((-1.0, 0.0), (1.0, 1.0)):
            for size in (6.0, 8.0, 10.0, 12.0, 15.0, 17.0, 20.0, 25.0, 30.0, 36.0, 38.0, 40.0):
                case = self.column(dtype, [(sign * size, y)])
                ask = Ask("loss", self.asked())
                seen, right = self.values(case, ask), exact(case, ask).values[0]
                if seen is None or not math.isfinite(seen[0]):
                    break
                off = abs(seen[0] / right - 1)
                if off > 2.0**8 * FORMATS[dtype].u:
                    if size > 6 or off < 0.5:  # a large error at once is another mistake
                        lost[sign] = size, f"at x={sign * size}, y={y} it returns {seen[0]!r}, exactly {right!r}"
                    break
        if not lost:
            return
        (sign, (size, shown)), *other = lost.items()
        if other and other[0][1][0] == size:
            where = f"on both sides, from |x| = {size:g} on"
        else:
            where = f"{'below' if sign < 0 else 'above'} {sign * size:g}"
            if other:
                where += f" and above {other[0][1][0]:g}"
        self.cause(f"loses the tail {where}: {shown}", "values.tail", lambda v: _tail(v, frozenset(lost)))

    def soft_tails(self, dtype: str) -> None:
        y = 1 - 2 * FORMATS[dtype].u
        case = self.column(dtype, [(1e4, y)])
        ask = Ask("loss", self.asked())
        seen, right = self.values(case, ask), exact(case, ask).values[0]
        if seen and abs(seen[0] - right) > 1e-2 * right:
            self.cause(
                f"loses digits at a soft target next to 0 or 1: at x=10000.0, y={y!r} it returns {seen[0]!r}, "
                f"exactly {right!r}",
                "values.soft-tail",
                lambda v: (
                    v.kind == "value" and (pair := _pair(v)) is not None and abs(pair[0]) >= 1 and 0 < pair[1] < 1
                ),
            )

    def targets(self) -> None:
        if not {"float32", "float64"} <= set(self.context.dtypes):
            return
        case = self.column("float32", [(50.0, 1 - 2.0**-30)], "float64")
        ask = Ask("loss", self.asked())
        seen, right = self.values(case, ask), exact(case, ask).values[0]
        if seen and seen[0] < right / 2:
            self.cause(
                "rounds targets to the logits' dtype: at x=50.0 (float32), y=1-2**-30 (float64) it returns "
                f"{seen[0]!r}, exactly {right!r}",
                "values.dtypes",
                _beside_a_wider_target,
            )
            return
        case = self.column("float32", [(x / 4, 0.1) for x in range(-20, 21)], "float64")
        ask = Ask("loss", self.asked())
        seen, exactly = self.values(case, ask), exact(case, ask).values
        off = [abs(s / r - 1) for s, r in zip(seen or exactly, exactly, strict=True)]
        if max(off) > FORMATS["float32"].u / 8:
            at = off.index(max(off))
            self.cause(
                "computes in the narrower dtype where logits and target have different dtypes: at "
                f"x={case.input.values[at if len(off) > 1 else 0]!r} (float32), y=0.1 (float64) it returns "
                f"{(seen or exactly)[at]!r}, exactly {exactly[at]!r}",
                "values.dtypes",
                _of_two_dtypes,
            )

    def unsigned(self) -> None:
        """Whether 1 - y is computed in the target's own unsigned integers."""
        case = dataclasses.replace(self.column("float32", [(2.0, 2.0)]), target=Tensor((1, 1), (2,), "uint8"))
        ask = Ask("loss", self.asked())
        seen, right = self.values(case, ask), exact(case, ask).values
        if seen and abs(seen[0] - right[0]) > 1:
            self.cause(
                "subtracts an unsigned target from 1, which wraps around: at x=2.0, y=2 (uint8) it returns "
                f"{seen[0]!r}, exactly {right[0]!r}",
                "special.hazards",
                lambda v: v.question is not None and v.question.case.target.dtype.startswith("uint"),
            )

    def halves(self) -> None:
        ask = Ask("loss", self.asked())
        if ask.reduction != "none":
            return
        for dtype in HALVES:
            if dtype not in self.context.dtypes:
                continue
            case = self.column(dtype, [(x / 8, y) for x in range(-64, 65, 3) for y in (0.0, 1.0)])
            seen = self.values(case, ask)
            if seen is None:
                continue
            off = [
                abs(s - round_to(r, dtype)) / max(abs(r), 2.0**-14)
                for s, r in zip(seen, exact(case, ask).values, strict=True)
            ]
            if max(off) > 3 * FORMATS[dtype].u:
                self.narrow(
                    case, seen, off.index(max(off)), f"computes in {dtype} instead of a wider dtype", "values.hard"
                )
                continue
            # A loss that widens inside and rounds between two operations has one more rounding.
            case = self.column(dtype, [(x / 8, y) for x in range(-64, 65) for y in (0.0, 0.3, 0.7, 1.0)])
            seen = self.values(case, ask)
            right = exact(case, ask).values
            off = [ulp_error(s, r, dtype) for s, r in zip(seen or right, right, strict=True)]
            if seen is not None and max(off) > 0.6:
                words = f"rounds to {dtype} more than once"
                self.narrow(case, seen, off.index(max(off)), words, "values.soft")

    def narrow(self, case: Case, seen: Sequence[float], at: int, words: str, check: str) -> None:
        """Add the cause `words` of a 16-bit dtype, with the result at one place."""
        dtype, (x, y) = case.input.dtype, (case.input.values[at], case.target.values[at])
        right = exact(case, Ask("loss", "none")).values[at]
        self.cause(
            f"{words}: at x={x}, y={y} it returns {seen[at]!r}, exactly {right!r}",
            check,
            lambda v: v.kind == "value" and (v.dtype == dtype or v.text.startswith(dtype)),
        )

    def gradients(self, dtype: str, quantity: str, words: str) -> None:
        """Where a derivative loses its digits far from 0."""
        for x, y in ((17.0, 1.0), (-17.0, 0.0), (17.0, 0.0), (-17.0, 1.0)):
            x = x * (2 if dtype == "float64" else 1)
            case = self.column(dtype, [(x, y)])
            near = self.column(dtype, [(0.5, 1.0), (-0.5, 0.0)])
            ask = Ask(quantity, self.asked())
            seen, sound = self.values(case, ask), self.values(near, ask)
            right = exact(case, ask).values[0]
            beside = zip(sound or [], exact(near, ask).values, strict=False)
            if seen is None or sound is None or any(abs(s / r - 1) > 1e-2 for s, r in beside):
                continue
            if not abs(seen[0] / right - 1) < 1e-3:
                self.cause(
                    f"{words}: at x={x}, y={y} it is {seen[0]!r}, exactly {right!r}",
                    "derivatives.tail",
                    lambda v: (
                        v.kind == "value"
                        and v.question is not None
                        and v.question.quantity == quantity
                        and (pair := _pair(v)) is not None
                        and abs(pair[0]) >= 1
                    ),
                )
                return

    def gradient(self, dtype: str) -> None:
        self.factors(dtype, "gradient")
        self.gradients(dtype, "gradient", "has a gradient that loses its digits in the tail, as sigmoid(x) - y does")
        self.exponent(dtype)
        ask = Ask("gradient", self.asked())
        case = self.column(dtype, [(0.0, 1.0), (0.0, 0.0)])
        seen = self.values(case, ask)
        plain = self.column(dtype, [(0.5, 1.0), (-0.5, 0.0)])
        beside = self.values(plain, ask)
        sound = beside is not None and all(
            abs(s - r) < 1e-3 for s, r in zip(beside, exact(plain, ask).values, strict=True)
        )
        right = exact(case, ask).values
        if seen and sound and any(not abs(s - r) < 1e-3 for s, r in zip(seen, right, strict=True)):
            self.cause(
                f"has the wrong gradient at 0: at x=0.0, y=1.0 its gradient is {seen[0]!r}, exactly {right[0]!r}",
                "special.zero",
                lambda v: (pair := _pair(v)) is not None and pair[0] == 0 and "gradient" in v.text,
            )

    def exponent(self, dtype: str) -> None:
        """Whether a gradient is exp(x - softplus(x)), whose rounded exponent gives an error relative to |x|."""
        u = FORMATS[dtype].u
        case = self.column(
            dtype, [(x if y else -x, y) for x in (11.0, 13.5, 15.0, 16.0, 17.0, 19.0, 23.5, 27.0) for y in (0.0, 1.0)]
        )
        ask = Ask("gradient", self.asked())
        seen, right = self.values(case, ask), exact(case, ask).values
        if seen is None:
            return
        off = [abs(s / r - 1) / u for s, r in zip(seen, right, strict=True)]
        if max(off) > 8 and all(o <= 4 + 4 * abs(x) for o, x in zip(off, case.input.values, strict=True)):
            at = off.index(max(off))
            x, y = case.input.values[at], case.target.values[at]
            self.cause(
                "has a gradient that loses a bit with every doubling of |x|, as exp(x - softplus(x)) does, whose "
                f"exponent is rounded: at x={x}, y={y} it is {seen[at]!r}, exactly {right[at]!r}",
                "derivatives.tail",
                _of_exponent,
            )


def _beside_a_wider_target(v: Violation) -> bool:
    if v.question is None:
        return False
    x, y = (tensor.dtype for tensor in (v.question.case.input, v.question.case.target))
    return y in FORMATS and FORMATS[y].precision > FORMATS[x].precision


def _of_two_dtypes(v: Violation) -> bool:
    if v.question is None or v.kind != "value":
        return False
    x, y = (tensor.dtype for tensor in (v.question.case.input, v.question.case.target))
    return x != y and {x, y} <= set(FORMATS)


def _of_exponent(v: Violation) -> bool:
    """Whether a gradient is off by at most the error of exp(x - softplus(x)), in either of its two terms."""
    pair = _pair(v)
    if pair is None or v.kind != "value" or v.question is None or v.question.quantity != "gradient":
        return False
    x, y, u = *pair, FORMATS[v.dtype].u
    on = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x)) if x > -700 else 0.0
    terms, slope = abs(1 - y) * on + abs(y) * (1 - on), on - y
    return bool(slope) and abs(v.seen - v.right) <= (4 + 4 * abs(x)) * u * abs(v.right * terms / slope)


def _pair(v: Violation) -> tuple[float, float] | None:
    return None if v.question is None else v.question.pair(v.place)


def _infinite(v: Violation) -> bool:
    """Whether a value depends on an infinite logit."""
    if v.question is None:
        return bool(re.search(r"x=-?inf|[+-]inf", v.text))
    return any(math.isinf(v.question.case.input.values[i]) for i in v.question.places(v.place))


def _tail(v: Violation, signs: frozenset[float]) -> bool:
    """Whether a wrong value is the loss of a label that agrees with its logit: digits get lost from |x| = 1 on."""
    pair = _pair(v)
    if v.kind != "value" or v.question is None or v.question.quantity != "loss":
        return False
    if pair is not None and any(pair[0] * sign >= 1 and pair[1] == (1.0 if sign > 0 else 0.0) for sign in signs):
        return True
    # With a soft label, or among other elements, the error has the size of the rounded logits.
    logits = [v.question.case.input.values[i] for i in v.question.places(v.place)]
    return any(x * sign >= 1 for x in logits for sign in signs) and _of_size(v, 8 * FORMATS[v.dtype].u)


def _of_size(v: Violation, part: float) -> bool:
    """Whether a value is off by at most this fraction of its logits, or of itself."""
    if v.question is None or not math.isfinite(v.seen):
        return False
    case, weight = v.question.case, v.question.case.weight
    places = v.question.places(v.place)
    count = case.classes * (math.prod(case.batch) if v.question.reduction == "mean" else 1)
    scale = max((abs(w) for w in weight.values), default=1.0) if isinstance(weight, Tensor) else 1.0
    room = sum(1 + abs(case.input.values[i]) for i in places) / count * max(1.0, scale)
    return abs(v.seen - v.right) <= part * max(room, abs(v.right))
