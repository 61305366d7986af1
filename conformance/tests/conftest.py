"""How deep `pytest conformance` goes: `--conformance-level smoke|quick|full|exhaustive`, quick unless said
otherwise."""

from __future__ import annotations

import pytest

from ..backends import several_host_devices
from ..check import LEVELS
from ..suite import BackendSuite


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    parser.addoption("--conformance-level", choices=LEVELS, default="quick", help="level of the suite's own classes")
    parser.addoption("--replay", default="numpy", metavar="BACKEND", help="where test_replay.py pastes lines")


def pytest_configure(config: pytest.Config) -> None:
    """Set the level before any class is collected; a class that says its own keeps it. And JAX's devices, likewise."""
    several_host_devices()
    BackendSuite.level = config.getoption("--conformance-level")
