"""Fixtures of the tests: each installed library, seeded random numbers, and a kernel table that is restored."""

import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlsm import _dispatch
from mlsm_conformance.backends import several_host_devices

from . import _support

several_host_devices()  # here, because it must happen before the first test file that uses JAX

# A program that needs an engine which `make test` does not install (`make mutants`): no doctests are collected.
collect_ignore = ["mutants.py"]
_NO_PARAMETERS: Any = SimpleNamespace(params={})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks for `make parallel`: tests for one thread only. (A hook, because it depends on a fixture's parameter.)"""
    for item in items:
        chosen: dict[str, Any] = getattr(item, "callspec", _NO_PARAMETERS).params
        if "jax-x64" in (chosen.get("library"), chosen.get("route")):
            item.add_marker(pytest.mark.thread_unsafe(reason="JAX's float64 is switched on for one thread only"))


@pytest.fixture(params=_support.LIBRARIES)
def library(request: pytest.FixtureRequest) -> Iterator[_support.Library]:
    """Each installed library in its own configuration; NumPy's floating-point flags are errors."""
    found = _support.find(request.param)
    with found.session():
        yield found


@pytest.fixture(params=_support.ROUTES)
def route(request: pytest.FixtureRequest) -> Iterator[_support.Route]:
    """Each installed library in its own configuration, with the default choice of kernel and with the reference."""
    name, kernel = _support.ROUTES[request.param]
    found = _support.find(name)
    with found.session():
        yield found, kernel


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers seeded by the test's name, so that a failure repeats alone and in any order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def table() -> Iterator[None]:
    """Unregister every kernel that a test registered and did not unregister itself."""
    before = _dispatch._registered
    yield
    for kernel in [k for k in _dispatch._registered if k not in before]:
        _dispatch.unregister_kernel(kernel.name)
