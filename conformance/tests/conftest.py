"""The level of `pytest conformance`: `--conformance-level smoke|quick|full|exhaustive`, quick by default."""

from __future__ import annotations

import pytest

from ..backends import several_host_devices
from ..check import LEVELS
from ..suite import BackendSuite


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    parser.addoption("--conformance-level", choices=LEVELS, default="quick", help="level of the suite's own classes")
    parser.addoption("--replay", default="numpy", metavar="BACKEND", help="the backend of test_replay.py")


def pytest_configure(config: pytest.Config) -> None:
    """Set the level before any class is collected; a class with its own level keeps it. Also set JAX's devices."""
    several_host_devices()
    BackendSuite.level = config.getoption("--conformance-level")
