"""Every input: all 65,536 values of a half precision, and the whole float32 domain of hard targets.

`sweep` judges any callable that maps (logits, targets, quantity) to the bare element's loss, gradient or Hessian, in
blocks, and keeps the worst error by logit for a plot. The reference is float64 arithmetic of NumPy in the two-softplus
form, which is checked against `exact` on samples. Has no weights, reductions or float64: those are too many inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..formats import FORMATS, round_to
from .budget import LIMITS

Floats: TypeAlias = NDArray[np.float64]
Evaluate: TypeAlias = Callable[[Floats, Floats, str], Floats]
"""(logits, targets, "loss" | "gradient" | "hessian") -> elementwise results, all float64 arrays of one length whose
values are members of the dtype that is judged; an adapter casts both ways, which is exact."""

QUANTITIES = ("loss", "gradient", "hessian")
SOFT = (0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 2.0**-7)
BLOCK = 1 << 18
# float32 hard targets: below 2**-26 the loss is ln 2 and above 104 the tail is 0, in every formula.
FIRST, LAST = 2.0**-26, 103.97209


@dataclass
class Sweep:
    """The result of a sweep: element count, the worst error (1 = its bound) and its place, the worst ULP by logit."""

    dtype: str
    quantity: str
    bound: float
    count: int = 0
    worst: float = 0.0
    ulp: float = 0.0
    where: tuple[float, float] = (math.nan, math.nan)
    violations: int = 0
    examples: list[tuple[float, float, float, float]] = field(default_factory=list)
    """The first violations: logit, target, observed, exact."""
    profile: dict[int, float] = field(default_factory=dict)
    """floor(logit) to the worst error in ULP within [floor, floor + 1); a soft gradient's in ULP of its terms."""

    @property
    def conforms(self) -> bool:
        """Whether every element kept its bound."""
        return self.violations == 0


def half_inputs(dtype: str) -> Floats:
    """All 65,536 values of "float16" or "bfloat16", NaNs and infinities included, as float64."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float64)
    if dtype == "bfloat16":
        with np.errstate(invalid="ignore"):  # the cast quiets signalling NaNs, as wanted
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    raise ValueError(f"`dtype` is 'float16' or 'bfloat16', not {dtype!r}")


def half_blocks(dtype: str) -> Iterator[tuple[Floats, Floats]]:
    """Blocks of (logits, targets): every half input with targets 0, 1 and eight soft ones."""
    logits = half_inputs(dtype)
    for y in (0.0, 1.0, *SOFT):
        yield logits, np.full_like(logits, round_to(y, dtype))


def float32_count(stride: int = 16) -> int:
    """How many sizes |x| `float32_blocks` visits, each with both signs and targets; 273.7 million at stride 1."""
    return -(-(_bits(LAST) - _bits(FIRST)) // stride)


def float32_blocks(stride: int = 16, block: int = BLOCK) -> Iterator[tuple[Floats, Floats]]:
    """Blocks of (logits, targets): every `stride`-th float32 between `FIRST` and `LAST`, both signs, targets 0 and 1.

    A right loss depends on |x| and on whether the signs match, so half of this would suffice for it; a formula like
    (1-y)x + softplus(-x) is right for one sign and loses every digit for the other.
    """
    for start in range(_bits(FIRST), _bits(LAST), block * stride):
        stop = min(start + block * stride, _bits(LAST))
        logits = np.arange(start, stop, stride, dtype=np.uint32).view(np.float32).astype(np.float64)
        for signed in (logits, -logits):
            for y in (0.0, 1.0):
                yield signed, np.full_like(logits, y)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def reference(x: Floats, y: Floats, quantity: str) -> Floats:
    """The exact quantity to a few float64 ULP of its terms, for hard or soft targets in [0, 1] and any logit."""
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        near, far = np.log1p(e), np.abs(x) + np.log1p(e)  # softplus(-|x|), softplus(|x|)
        small, large = e / (1 + e), 1 / (1 + e)
        right = np.signbit(x) == 0
        if quantity == "hessian":
            return np.asarray(small * large)
        first = y if quantity == "loss" else -y
        left_part = np.where(right, near, far) if quantity == "loss" else np.where(right, small, large)
        right_part = np.where(right, far, near) if quantity == "loss" else np.where(right, large, small)
        one, other = _times(first, left_part), _times(1 - y, right_part)
        return np.asarray(one + other)


def _times(coefficient: Floats, value: Floats) -> Floats:
    return np.where((coefficient == 0) & np.isinf(value), 0.0, coefficient * value)


def spacing(value: Floats, dtype: str) -> Floats:
    """The spacing of `dtype` at |value|, elementwise."""
    form = FORMATS[dtype]
    exponent = np.clip(np.frexp(value)[1] - 1, form.emin, form.emax)
    return np.asarray(np.ldexp(1.0, np.where(value == 0, form.emin, exponent) - form.precision + 1))


def allowed(x: Floats, y: Floats, exact: Floats, dtype: str, quantity: str, limits: str) -> Floats:
    """The absolute error allowed to each element: the scalar bounds of `budget` for unit scale, vectorised."""
    compute, limit = "float32", LIMITS[limits]["float32"]
    hard = (y == 0) | (y == 1)
    if quantity == "hessian":
        error = limit.hessian * spacing(exact, compute)
    elif quantity == "loss":
        error = np.where(hard, limit.loss, limit.soft_loss) * spacing(exact, compute)
    else:
        with np.errstate(all="ignore"):
            e = np.exp(-np.abs(x))
            s = e / (1 + e)
        t = np.where(x >= 0, 1 - y, y)
        terms = t + (limit.exp / (1 + e) + 2) * s
        soft = FORMATS[compute].u * terms + 0.5 * spacing(exact, compute) + FORMATS[compute].tiny
        error = np.where(hard, limit.gradient * spacing(exact, compute), soft)
    if dtype == compute:
        return np.asarray(error)
    return np.asarray(error + 0.5 * spacing(np.abs(exact) + error, dtype))


def _size(x: Floats, y: Floats, exact: Floats, quantity: str) -> Floats:
    """The size that an error is relative to: the value, or for a soft gradient its terms, since it has a root."""
    if quantity != "gradient":
        return exact
    e = np.exp(-np.abs(x))
    terms = np.where(x >= 0, 1 - y, y) + e / (1 + e)
    return np.where((y == 0) | (y == 1), exact, terms)


def sweep(
    evaluate: Evaluate,
    dtype: str,
    quantity: str,
    *,
    stride: int = 16,
    limits: str = "generic",
    flush: frozenset[str] = frozenset(),
    blocks: Iterator[tuple[Floats, Floats]] | None = None,
    progress: Callable[[int], object] | None = None,
    keep: int = 8,
) -> Sweep:
    """Judge `evaluate` on every block for `dtype`; `progress` gets the number of elements of each finished block.

    `flush` names the dtypes whose subnormals the library gives as 0 (the compute dtype of a half is float32).
    """
    limit = LIMITS[limits]["float32"]
    bound = {"loss": limit.loss, "gradient": limit.gradient, "hessian": limit.hessian}[quantity]
    seen = Sweep(dtype, quantity, bound if dtype == "float32" else 0.51)
    given = blocks if blocks is not None else (float32_blocks(stride) if dtype == "float32" else half_blocks(dtype))
    for x, y in given:
        _judge_block(seen, x, y, np.asarray(evaluate(x, y, quantity), dtype=np.float64), limits, flush, keep)
        if progress is not None:
            progress(x.size)
    return seen


def _judge_block(
    seen: Sweep, x: Floats, y: Floats, observed: Floats, limits: str, flush: frozenset[str], keep: int
) -> None:
    if observed.shape != x.shape:
        raise ValueError(f"`evaluate` gave {observed.shape} for {x.shape} elements")
    form, exact = FORMATS[seen.dtype], reference(x, y, seen.quantity)
    with np.errstate(all="ignore"):
        off = np.abs(observed - exact)
        error = off / allowed(x, y, exact, seen.dtype, seen.quantity, limits)
        ulps = off / spacing(_size(x, y, exact, seen.quantity), seen.dtype)
    lows = [FORMATS[name].min_normal for name in flush & {"float32", seen.dtype}]
    flushed = (np.abs(exact) < max(lows, default=0.0) * (1 + 2.0**-10)) & (observed == 0)
    # beyond the range of the dtype an infinity is right, and special values must be equal
    over = np.sign(observed) * exact >= form.max + 2.0 ** (form.emax - form.precision)
    same = (observed == exact) | (np.isnan(observed) & np.isnan(exact)) | flushed | (np.isinf(observed) & over)
    special = ~(np.isfinite(observed) & np.isfinite(exact)) | flushed
    error = np.where(same, 0.0, np.where(special, np.inf, error))
    ulps = np.where(same, 0.0, np.where(special, np.inf, ulps))
    seen.count += x.size
    place = int(np.argmax(error))
    if error[place] >= seen.worst:
        seen.worst, seen.where = float(error[place]), (float(x[place]), float(y[place]))
    seen.ulp = max(seen.ulp, float(ulps.max()))
    wrong = np.flatnonzero(error > 1)
    seen.violations += wrong.size
    for i in wrong[: max(0, keep - len(seen.examples))]:
        seen.examples.append((float(x[i]), float(y[i]), float(observed[i]), float(exact[i])))
    inside = np.abs(x) < 1024
    floors = np.floor(x[inside]).astype(np.int64)
    peaks = np.zeros(2048)
    np.maximum.at(peaks, floors + 1024, ulps[inside])
    for bucket in np.unique(floors):
        seen.profile[int(bucket)] = max(seen.profile.get(int(bucket), 0.0), float(peaks[bucket + 1024]))


__all__: Sequence[str] = [
    "QUANTITIES",
    "SOFT",
    "Evaluate",
    "Sweep",
    "allowed",
    "float32_blocks",
    "float32_count",
    "half_blocks",
    "half_inputs",
    "reference",
    "spacing",
    "sweep",
]
