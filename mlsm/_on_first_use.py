"""Modules of a package that are imported when they are first used as attributes (PEP 562)."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def on_first_use(package: Any, *names: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the package whose `globals()` these are."""
    own: str = package["__name__"]

    def getattr_(name: str) -> Any:
        if name in names:
            return import_module(f"{own}.{name}")  # the import sets the attribute, so this runs once
        raise AttributeError(f"module {own!r} has no attribute {name!r}")

    def dir_() -> list[str]:
        return sorted({*package, *names})

    return getattr_, dir_
