"""How an error message spells a value that came: its repr, where that can be had. Nothing else."""

from typing import Any


def spelled(value: Any) -> str:
    """repr(value); by its size or type where that raises an error of its own, as for a number of 5000 digits."""
    if isinstance(value, int) and value.bit_length() > 4096:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except Exception:
        return f"a {type(value).__qualname__}"
