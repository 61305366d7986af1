"""Every check of the suite, in the order in which they run: prerequisites first, then one file per group."""

from __future__ import annotations

from ..check import Check
from ..tensors import Case
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


def find_case(name: str) -> Case:
    """The case of this name, from the catalogue or from the suite's own packs; KeyError where there is none."""
    from ..cases import dense_cases
    from ..cases.catalogue import catalogue
    from ..formats import FORMATS

    for case in catalogue("full", tuple(FORMATS)):
        if case.name == name:
            return case
    for dtype in FORMATS:
        for theme in dense_cases.ELEMENTWISE:
            if dense_cases.elementwise(theme, dtype).name == name:
                return dense_cases.elementwise(theme, dtype)
        for theme in dense_cases.THEMES:
            for case in dense_cases.optioned(theme, dtype) if theme != "layouts" else ():
                if case.name == name:
                    return case
    raise KeyError(f"no case is called {name!r}")
