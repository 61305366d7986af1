"""What labels and the linear head ask of one array library, a file each; `base` answers for every other.

A file is imported when an array of its library has arrived.
"""

from functools import cache
from importlib import import_module

from .base import Base

# The libraries that have a file of their own here, by the name of the file.
_FILES = {"numpy": "numpy", "cupy": "cupy", "torch": "torch", "jax": "jax", "dask": "dask"}


@cache
def of(library: str) -> Base:
    """The answers of this library."""
    file = _FILES.get(library)
    if file is None:
        return Base()
    record: Base = import_module(f"{__package__}.{file}").MANY
    return record
