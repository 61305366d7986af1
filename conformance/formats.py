"""The four binary formats as numbers: rounding, spacing and stepping in pure Python, exact.

Values of every format are Python floats (each of them is a float64). Imports no array library, and supports no
floating dtype beyond the four of the contract.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: `precision` bits, exponents `emin` (smallest normal) to `emax`."""

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def u(self) -> float:
        """The unit roundoff, 2**-precision: the largest relative error of one rounding."""
        return math.ldexp(1.0, -self.precision)

    @property
    def max(self) -> float:
        """The largest finite value."""
        return math.ldexp(2.0 - math.ldexp(1.0, 1 - self.precision), self.emax)

    @property
    def min_normal(self) -> float:
        """The smallest positive normal value."""
        return math.ldexp(1.0, self.emin)

    @property
    def tiny(self) -> float:
        """The smallest positive (subnormal) value, which is also the smallest spacing."""
        return math.ldexp(1.0, self.emin - self.precision + 1)


FORMATS = {
    "float16": Format("float16", 11, -14, 15),
    "bfloat16": Format("bfloat16", 8, -126, 127),
    "float32": Format("float32", 24, -126, 127),
    "float64": Format("float64", 53, -1022, 1023),
}
INTEGERS = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


def is_floating(dtype: str) -> bool:
    """Whether `dtype` names one of the four floating formats."""
    return dtype in FORMATS


def promote(dtypes: Iterable[str]) -> str:
    """The result type of floating dtypes by name; float16 with bfloat16 gives float32, as in torch and JAX."""
    names = set(dtypes)
    for wide in ("float64", "float32"):
        if wide in names:
            return wide
    if len(names) == 1:
        return names.pop()
    return "float32"


def ulp(value: float, dtype: str) -> float:
    """The spacing of `dtype` in the binade of |value|; below the normal range, the smallest spacing."""
    form = FORMATS[dtype]
    if not math.isfinite(value):
        return math.nan
    exponent = form.emin if value == 0 else max(math.frexp(value)[1] - 1, form.emin)
    return math.ldexp(1.0, min(exponent, form.emax) - form.precision + 1)


def round_to(value: float, dtype: str) -> float:
    """The member of `dtype` nearest to `value`, ties to even; beyond the range, an infinity."""
    if dtype == "float64" or not math.isfinite(value) or value == 0:
        return value
    form = FORMATS[dtype]
    exponent = max(math.frexp(value)[1] - form.precision, form.emin - form.precision + 1)
    rounded = math.ldexp(float(round(math.ldexp(value, -exponent))), exponent)
    if abs(rounded) > form.max:
        return math.copysign(math.inf, value)
    return rounded if rounded else math.copysign(0.0, value)


def ordinal(value: float, dtype: str) -> int:
    """The index of a member of `dtype` when its finite values are counted upwards from 0 (both zeros are 0)."""
    form = FORMATS[dtype]
    size = abs(value)
    if math.isinf(size):
        index = (form.emax - form.emin + 2) << (form.precision - 1)  # one past the largest finite value
    elif size < form.min_normal:
        index = int(size / form.tiny)
    else:
        exponent = math.frexp(size)[1] - 1
        fraction = int(math.ldexp(size, form.precision - 1 - exponent)) - (1 << (form.precision - 1))
        index = ((exponent - form.emin + 1) << (form.precision - 1)) + fraction
    return -index if value < 0 else index


def from_ordinal(index: int, dtype: str) -> float:
    """The inverse of `ordinal`; one step past the largest finite value is an infinity."""
    form = FORMATS[dtype]
    biased, fraction = divmod(abs(index), 1 << (form.precision - 1))
    if biased == 0:
        size = fraction * form.tiny
    elif biased - 1 + form.emin > form.emax:
        size = math.inf
    else:
        size = math.ldexp(float(fraction + (1 << (form.precision - 1))), biased + form.emin - form.precision)
    return -size if index < 0 else size


def step(value: float, dtype: str, count: int) -> float:
    """The member of `dtype` that is `count` steps above (below if negative) the one nearest to `value`."""
    return from_ordinal(ordinal(round_to(value, dtype), dtype) + count, dtype)


def is_power_of_two(value: float) -> bool:
    """Whether multiplying by `value` is exact in the normal range: 0 and ±2**k (infinities and NaN count, too)."""
    return not math.isfinite(value) or abs(math.frexp(value)[0]) in (0.0, 0.5)
