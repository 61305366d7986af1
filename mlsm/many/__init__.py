"""What labels and the linear head ask of one array library, a file each; `base` answers for every other.

A file is imported when an array of its library has arrived: by a statement, which a compiler can look through.
"""

from collections.abc import Callable

from .base import Base


def _numpy() -> Base:
    from .numpy import MANY

    return MANY


def _cupy() -> Base:
    from .cupy import MANY

    return MANY


def _torch() -> Base:
    from .torch import MANY

    return MANY


def _jax() -> Base:
    from .jax import MANY

    return MANY


def _dask() -> Base:
    from .dask import MANY

    return MANY


_FILES: dict[str, Callable[[], Base]] = {
    "numpy": _numpy,
    "cupy": _cupy,
    "torch": _torch,
    "jax": _jax,
    "dask": _dask,
}


def of(library: str) -> Base:
    """The answers of this library."""
    return _FILES.get(library, Base)()
