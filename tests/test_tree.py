"""The tree of `mlsm/`: no import cycle, libraries are named only in their files, a call uses few files.

Reads the sources; test_imports.py tests the time and the effects of imports.
"""

import ast
import graphlib
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

import mlsm
import mlsm_conformance

assert mlsm.__file__ is not None
PACKAGE = pathlib.Path(mlsm.__file__).parent
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}

# ---------------------------------------------------------------- imports


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of code that runs, without code for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and re.search(r"\bTYPE_CHECKING\b", ast.unparse(child.test)):
            for rest in child.orelse:
                yield rest
                yield from run_nodes(rest)
            continue
        yield child
        yield from run_nodes(child)


def imports(root: pathlib.Path) -> dict[str, set[str]]:
    """The modules of a package that each of its modules imports, anywhere in the file; a package is its `__init__`."""
    modules = {}
    for path in root.rglob("*.py"):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        targets = []
        for node in run_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
                stem = ".".join(filter(None, (base, node.module)))
                targets += [f"{stem}.{a.name}" if f"{stem}.{a.name}" in modules else stem for a in node.names]
        found[name] = {target for target in targets if target in modules}
    return found


def test_there_is_no_import_cycle() -> None:
    """Neither at the top of files nor inside functions, which would only hide a cycle."""
    found = imports(PACKAGE)
    assert "mlsm._core" in found["mlsm._check"]  # imports are found
    assert "mlsm.libraries.torch" in found["mlsm.libraries"]
    graphlib.TopologicalSorter(found).prepare()


@pytest.mark.parametrize(
    "late", ["from . import a", "from .a import x", "import p.a", "def f():\n    from .a import x", "from p.a import x"]
)
def test_an_import_cycle_is_found(tmp_path: pathlib.Path, late: str) -> None:
    root = tmp_path / "p"
    root.mkdir()
    for name, code in {"__init__": "", "a": "from . import b", "b": "from .c import x", "c": late}.items():
        (root / f"{name}.py").write_text(code, encoding="utf-8")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports(root)).prepare()
    (root / "c.py").write_text(
        f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {late.splitlines()[-1].strip()}"
    )
    graphlib.TopologicalSorter(imports(root)).prepare()


# ---------------------------------------------------------------- files that name a library

LIBRARIES = ("numpy", "torch", "jax", "dask", "cupy", "array_api_strict", "array_api_compat", "ml_dtypes", "numba")


def named(code: str) -> set[str]:
    """The libraries that code names: in an import, as a name, or as a whole string. Not in text."""
    words: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            words.append(node.id)
        elif isinstance(node, ast.Attribute):
            words.append(node.attr)
        elif isinstance(node, ast.alias):
            words += [node.name, node.asname or ""]
        elif isinstance(node, ast.ImportFrom):
            words.append(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value):
            words.append(node.value)
    parts = {part for word in words for part in word.split(".")}
    return parts & set(LIBRARIES)


@pytest.mark.parametrize(
    "name",
    [
        *("_check", "_core", "_dispatch", "_loss", "_operands", "_policy", "_problem", "_reduce"),
        *(f"many_classes/{name}" for name in ("_check", "_linear", "_row_blocks", "_targets")),
    ],
)
def test_files_for_every_library_name_none(name: str) -> None:
    assert named(FILES[f"{name}.py"].read_text(encoding="utf-8")) == set()


def test_pytorch_is_named_in_its_own_files_only() -> None:
    belongs = ("libraries/torch.py", "autograd/", "nn/torch.py", "kernels/", "integrations/")
    # Three more name only a module or a distribution: the one that recognises a tensor, the one that imports the
    # module on first use, and the command that lists installed packages.
    names = ("libraries/__init__.py", "nn/__init__.py", "__main__.py")
    found = {
        file.replace("\\", "/") for file, path in FILES.items() if "torch" in named(path.read_text(encoding="utf-8"))
    }
    assert {file for file in found if not file.startswith(belongs)} == set(names)


@pytest.mark.parametrize(
    "code",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch.nn import Module",
        "from .torch import x",
        "import mlsm.autograd.torch as node",
        "x = library == 'torch'",
        "y = s['torch.nn']",
        "z = xp.torch",
    ],
)
def test_a_name_is_found(code: str) -> None:
    assert named(code) == {"torch"}
    assert named(f'"""In words: torch."""\nx = 1  # {code}\nraise ValueError("pass a tensor of torch")') == set()


# ---------------------------------------------------------------- the files of one call


def file_changes(call: Callable[[], Any]) -> list[str]:
    """The files of the package that a call enters, one entry for each change from one to another."""
    passed: list[str] = []

    def see(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)) and (not passed or passed[-1] != file):
            passed.append(file)

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return passed


@pytest.mark.parametrize(("library", "most"), [("numpy", 12), ("torch", 14)])
def test_a_call_changes_files_a_few_times_only(library: str, most: int, rng: np.random.Generator) -> None:
    """The last of four identical calls, of a size at which this overhead dominates."""
    x = rng.standard_normal((32, 20)).astype(np.float32)
    y: Any = (x > 0).astype(np.float32)
    if library == "torch":
        torch = pytest.importorskip("torch", reason="a tensor that requires a gradient enters the most files")
        x, y = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
    for _ in range(4):
        passed = file_changes(lambda: mlsm.multilabel_soft_margin_loss(x, y))
    assert passed[0].endswith("_loss.py")
    assert 4 <= len(passed) - 1 <= most, "\n".join(passed)


# ---------------------------------------------------------------- folders

MOST = 18  # the largest number of files in a folder


def crowded(root: pathlib.Path) -> list[str]:
    """The folders of a package with too many Python files."""
    folders = (root, *(path for path in root.rglob("*") if path.is_dir()))
    return [str(f.relative_to(root)) for f in folders if sum(1 for _ in f.glob("*.py")) > MOST]


def test_no_folder_has_too_many_files() -> None:
    suite = pathlib.Path(mlsm_conformance.__path__[0])
    assert (suite / "suite.py").is_file()
    assert (PACKAGE / "_core.py").is_file()
    assert crowded(suite) == crowded(PACKAGE) == []


def test_a_folder_with_too_many_files_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "inner").mkdir()
    for i in range(MOST + 1):
        (tmp_path / "inner" / f"file{i}.py").touch()
    assert crowded(tmp_path) == ["inner"]


def test_the_tests_have_the_folders_of_the_package() -> None:
    def folders(root: pathlib.Path) -> set[str]:
        return {path.parent.name for path in root.glob("*/*.py") if path.name != "__init__.py"}

    assert folders(pathlib.Path(__file__).parent) - {"typing"} == folders(PACKAGE)
