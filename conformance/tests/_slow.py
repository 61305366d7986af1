"""Skips of tests whose library is not installed, and the mark of slow parameters (`make test-slow`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ..backends import Backend, NotInstalled, find


def backend_or_skip(name: str) -> Backend:
    """The backend of this name, or a skip that names what is missing."""
    try:
        return find(name)
    except NotInstalled as absent:
        pytest.skip(str(absent))


def slow_where(slow: Callable[[Any], bool], values: Sequence[Any]) -> list[Any]:
    """The parameters, with the mark on those for which `slow` is true; a tuple is one set of several."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) if slow(v) else v for v in values
    ]
