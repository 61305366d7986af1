"""Every check of the suite, in the order in which they run: prerequisites first, then one file per group."""

from __future__ import annotations

from ..check import Check
from . import (
    derivatives,
    determinism,
    elements,
    labels,
    large,
    laws,
    lazy,
    memory,
    namespace,
    purity,
    refusals,
    special,
    transforms,
    types,
    values,
)

CHECKS: tuple[Check, ...] = tuple(
    found
    for module in (
        namespace,
        values,
        large,
        derivatives,
        elements,
        labels,
        laws,
        special,
        types,
        purity,
        lazy,
        determinism,
        memory,
        refusals,
        transforms,
    )
    for found in vars(module).values()
    if isinstance(found, Check)
)
