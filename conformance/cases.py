"""The catalogue: every named case that a loss is judged on, generated for each input dtype.

Refuses randomness without a name and a seed, and any array library: neighbours of a threshold are stepped to in pure Python.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator

from .formats import FORMATS, from_ordinal, ordinal, promote, round_to, step
from .tensors import LAYOUTS, Case, Hazard, Nested, Number, Tensor

__all__ = ["LAYOUTS", "LEVELS", "Case", "Hazard", "Nested", "Number", "Tensor", "catalogue", "hazards"]
LEVELS = ("smoke", "quick", "full")
DTYPES = ("float32", "float64")


def catalogue(level: str = "quick", dtypes: Iterable[str] = DTYPES) -> tuple[Case, ...]:
    """Every case of `level` ("smoke" within "quick" within "full") whose input has one of `dtypes`; names are unique.

    The same objects come back for the same arguments, so the judges' memory of a case is shared between backends.
    A case that needs another dtype besides its input's (a pairing) appears only when `dtypes` holds that one, too.
    """
    return _catalogue(level, tuple(dtypes))


@functools.cache
def _catalogue(level: str, dtypes: tuple[str, ...]) -> tuple[Case, ...]:
    if level not in LEVELS:
        raise ValueError(f"`level` is one of {LEVELS}, not {level!r}")
    found = [case for dtype in dtypes for case in _cases(level, dtype, dtypes)]
    return tuple(found)


def hazards(dtypes: Iterable[str] = DTYPES) -> tuple[Hazard, ...]:
    """The rows of the hazard table for these input dtypes, with their answers; their cases are in the catalogue."""
    return ()


def _cases(level: str, dtype: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    values = (-3.0, -0.5, 0.0, 0.25, 2.0, 40.0)
    for name, target in (("hard", (1, 0, 1, 1, 0, 1)), ("soft", (0.25, 0.5, 0.75, 1.0, 0.0, 0.5))):
        yield Case(
            f"{dtype}-{name}",
            Tensor((2, 3), values, dtype),
            Tensor((2, 3), tuple(float(v) for v in target), dtype),
            tags=frozenset({name}),
        )
