"""The dataclass of one contestant of the benchmark. Measures nothing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .cases import Case, Data

Work = Callable[[], Any]


@dataclass(frozen=True)
class Candidate:
    """One way to do the work. `make` prepares (moves data, traces, compiles) and returns the work to time."""

    name: str
    library: str
    way: str
    """One of `bench_cases.WORKS`."""
    make: Callable[[], Work]
    ours: bool = False
    kernel: str = ""
    forced: bool = False
    """The kernel was named, and is not the one that the dispatch would choose: for the tables, not for the picture."""
    compiled: bool = False
    """Takes seconds to prepare: left out by --quick."""
    value: float | None = None
    """The exact loss of its arguments, if they are not those of the case."""


Builder = Callable[[Case, Data, str], Iterator[Candidate]]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def library(name: str) -> Any:
    """A module, imported now. Typed as Any, so that mypy's result does not depend on the installed libraries."""
    return importlib.import_module(name)
