"""How an error message spells values, shapes and names. Nothing else."""

from collections.abc import Sequence
from typing import Any

from ._problem import Shape


def spelled(value: Any) -> str:
    """repr(value), or the size or type if repr raises an error, as for an integer of 5000 digits."""
    if isinstance(value, int) and value.bit_length() > 4096:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except Exception:
        return f"a {type(value).__qualname__}"


def quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def plain(shape: Shape) -> str:
    """A shape as Python spells it, with "unknown" for every length that is not known."""
    inside = ", ".join("unknown" if n is None else str(n) for n in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"
