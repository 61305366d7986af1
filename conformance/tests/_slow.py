"""Which parameters of a test are slow: `make test` leaves them out, `make test-slow` runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest


def slow_where(slow: Callable[[Any], bool], values: Sequence[Any]) -> list[Any]:
    """The parameters, with the mark on those for which `slow` is true; a tuple is one set of several."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) if slow(v) else v for v in values
    ]
