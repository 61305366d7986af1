"""A library that warns: one check reports its warnings, and the numbers are still judged."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from ..backends.numpy import NumPy
from ..check import Context
from ..subjects import Mlsm
from ..suite import by_id, run_check


class Noisy(NumPy):
    """NumPy with a warning at every call."""

    def call(self, function: Any, *arrays: Any) -> Any:
        warnings.warn("this library complains", DeprecationWarning, stacklevel=2)
        return super().call(function, *arrays)


@pytest.mark.parametrize(("silent", "verdict"), [(True, "fail"), (False, "pass")])
def test_numbers_of_a_library_that_may_warn_are_still_judged(silent: bool, verdict: str) -> None:
    backend = type("Backend", (Noisy,), {"silent": silent})()
    found = run_check(by_id("values.hard"), Context(backend, Mlsm(), "smoke"))
    assert found.status == verdict, found.reason
    assert found.cases > 0 or silent


@pytest.mark.parametrize("silent", [True, False])
def test_its_warnings_are_reported(silent: bool) -> None:
    backend = type("Backend", (Noisy,), {"silent": silent})()
    found = run_check(by_id("special.silent"), Context(backend, Mlsm(), "smoke"))
    assert found.status == "fail"
    assert "this library complains" in found.reason
