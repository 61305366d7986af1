"""How an error message spells what came and what was expected: values, shapes, names. Nothing else."""

from collections.abc import Sequence
from typing import Any

from ._problem import Shape


def spelled(value: Any) -> str:
    """repr(value); by its size or type where that raises an error of its own, as for a number of 5000 digits."""
    if isinstance(value, int) and value.bit_length() > 4096:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except Exception:
        return f"a {type(value).__qualname__}"


def quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def plain(shape: Shape) -> str:
    """A shape as Python spells it, with a word for every length that is not known."""
    inside = ", ".join("unknown" if n is None else str(n) for n in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"
