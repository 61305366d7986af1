"""The import names of the suite are those of the documentation, independent of the folders of its files."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = __package__.partition(".")[0]
HOMES = {
    "oracle": "reference.oracle",
    "bounds": "reference.bounds",
    "peers": "subjects.peers",
    "backends": "backends.base",
    "subjects": "subjects.base",
    "suite": "suite",
    "tensors": "tensors",
    "strategies": "strategies",
    "check": "check",
}


def defined(module: str) -> set[str]:
    """The public names that a module itself defines."""
    found = importlib.import_module(f"{PACKAGE}.{module}")
    assert found.__file__ is not None
    names: set[str] = set()
    for node in ast.parse(Path(found.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    names = {name for name in names if not name.startswith("_")}
    promised: set[str] = set(getattr(found, "__all__", names))  # `bounds` lists its public names
    return promised


@pytest.mark.parametrize("name", HOMES)
def test_a_documented_module_exports_all_public_names_of_its_source(name: str) -> None:
    offered, home = (importlib.import_module(f"{PACKAGE}.{module}") for module in (name, HOMES[name]))
    names = defined(HOMES[name])
    assert names
    for one in names:
        assert getattr(offered, one) is getattr(home, one), one
