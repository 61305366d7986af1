"""Frozen answers of one element, so that the oracle can be judged without mpmath.

`golden.json` holds [logit, target, loss, gradient, hessian] as hexadecimal floats, unit scale, each next to the exact
value. It was written by ``python -m mlsm_conformance.reference.exact > golden.json`` in this folder, and a test
writes it again. Computes nothing.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import NamedTuple


class Golden(NamedTuple):
    """One frozen element; every number is the float64 nearest to the exact one."""

    x: float
    y: float
    loss: float
    gradient: float
    hessian: float


def text() -> str:
    """The table as it was written."""
    return resources.files(__package__).joinpath("golden.json").read_text(encoding="utf-8")


def table() -> tuple[Golden, ...]:
    """All frozen elements."""
    return tuple(Golden(*map(float.fromhex, row)) for row in json.loads(text()))
