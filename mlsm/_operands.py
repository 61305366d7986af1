"""The arguments of a checked call as the operands of the formula: numbers and lists as arrays, the class axis last.

Copies no array. Refuses only a number that no float can hold, which shows in its conversion.
"""

import math
from numbers import Real
from typing import Any

from ._typing import DType, Namespace
from .libraries.base import Library


def operand(library: Library, value: Any, argument: str, compute: DType, device: Any, axis: int, input: Any) -> Any:
    """A weight or mask as an array whose class axis, if it has one, is the last."""
    ndim = input.ndim
    if isinstance(value, Real):
        return number(library, value, argument, compute, device)
    if isinstance(value, list | tuple):
        with library.on(device):
            floats = _floats(value, argument, library.dtype_name(compute))
            value = library.xp.asarray(floats, dtype=compute, device=device)
        value = library.replicated(value, input)
    if axis == ndim - 1 or not value.ndim:
        return value
    return class_axis_last(library.xp, value[(*(None,) * (ndim - value.ndim), ...)], axis, ndim)


def class_axis_last(xp: Namespace, value: Any, axis: int, ndim: int) -> Any:
    """The array with the class axis at the end; if it has none (an axis of `ndim`), one of length 1 is added."""
    if axis == ndim:
        return value[..., None]
    return value if axis == ndim - 1 else xp.moveaxis(value, axis, -1)


def number(library: Library, value: Any, argument: str, dtype: DType, device: Any) -> Any:
    """A Python number as a 0-d array."""
    return library.zero_d(_float(value, argument, library.dtype_name(dtype)), dtype, device)


def _floats(value: Any, argument: str, dtype: str) -> Any:
    if isinstance(value, list | tuple):
        return [_floats(v, argument, dtype) for v in value]
    return _float(value, argument, dtype)


# The largest number, and the midpoint between it and the next power of two: from there on rounding gives infinity.
_LARGEST = {"float32": (math.ldexp(2 - 2.0**-23, 127), math.ldexp(2 - 2.0**-24, 127))}


def _float(value: Any, argument: str, dtype: str) -> float:
    """The number as a float in the range of the dtype; beyond the range it is ±inf, as rounding gives."""
    try:
        number = float(value)
    except OverflowError:
        # Not by str, which refuses integers of more than 4300 digits.
        digits = int(int(abs(value)).bit_length() * math.log10(2)) + 1
        raise ValueError(f"`{argument}` must fit into a float; got a number of about {digits} digits.") from None
    largest, midpoint = _LARGEST.get(dtype, (math.inf, math.inf))
    if abs(number) > largest:  # rounded here, because PyTorch refuses a number outside the range
        return math.copysign(largest if abs(number) < midpoint else math.inf, number)
    return number
