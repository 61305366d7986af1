"""How an error message spells a value that came: its repr, where that can be had. Nothing else."""

from typing import Any


def spelled(value: Any) -> str:
    """repr(value); an integer too long for Python to print, which would raise an error of its own, by its size."""
    if isinstance(value, int) and value.bit_length() > 4096:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)
