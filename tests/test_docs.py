"""The README and the pages of docs/: every code block runs and prints what the page shows, and every name exists.

A page is one session: its blocks run in order and share their names. `python` blocks are scripts, whose output is the
`text` block that follows; `pycon` blocks are doctests; `sh` blocks are commands, which are run if they are quick, and
checked against the Makefile and pyproject.toml if they install or take minutes. Any other language is an error, so that
no block is left untested. A page names the libraries that it needs in its front matter (`needs:`).
"""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tomllib
import types
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mlsm
from mlsm._core import Operands
from mlsm._problem import Problem
from mlsm_conformance import backends
from mlsm_conformance.check import GROUPS
from mlsm_conformance.suite import BackendSuite, UnknownCheck, select

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *(p for p in DOCS.rglob("*.md") if "examples" not in p.parts)])
SHOWN = {"python", "pycon", "sh", "text", "markdown", "math"}
DIRECTIVE = re.compile(r"\{[\w:.-]+\}")

FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.M | re.S)


class Block(NamedTuple):
    language: str
    body: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, without directives of Sphinx, which are not code."""
    text = page.read_text(encoding="utf-8")
    found = [Block(m["language"].strip(), m["body"], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]
    return [b for b in found if not DIRECTIVE.match(b.language)]


def needs(page: Path) -> tuple[list[str], list[str]]:
    """The front matter's `needs:` (modules) and `devices:` of a page."""
    head = re.match(r"---\n(.*?)\n---\n", page.read_text(encoding="utf-8"), re.S)
    lines = dict(line.split(":", 1) for line in head[1].splitlines() if ":" in line) if head else {}
    return lines.get("needs", "").split(), lines.get("devices", "").split()


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def skip_unless_here(page: Path) -> None:
    modules, devices = needs(page)
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name(page)} needs {module}, which is not installed")
    if "cuda" in devices:
        import cupy

        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            pytest.skip(f"{name(page)} needs a CUDA device: {error}")


# ---------------------------------------------------------------- the blocks run


def _session(page: Path, found: list[Block]) -> None:
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    sys.modules[module.__name__] = module  # so that the page's definitions can be pickled
    globs = module.__dict__
    parser, flags = doctest.DocTestParser(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    try:
        for i, block in enumerate(found):
            where = f"{name(page)}:{block.line}"
            if block.language == "python":
                printed = io.StringIO()
                code = compile("\n" * block.line + block.body, str(page), "exec")
                with contextlib.redirect_stdout(printed):
                    exec(code, globs)  # the page is part of this project, and the test must run it
                shown = found[i + 1].body if i + 1 < len(found) and found[i + 1].language == "text" else ""
                same = doctest.OutputChecker().check_output(shown, printed.getvalue(), flags)
                assert same, f"{where} prints\n{printed.getvalue()}\nand the page shows\n{shown}"
                _suites(globs, where)
            elif block.language == "pycon":
                test = parser.get_doctest(block.body, globs, where, str(page), block.line)
                assert test.examples, f"{where}: a pycon block without a prompt"
                runner, told = doctest.DocTestRunner(optionflags=flags, verbose=False), io.StringIO()
                runner.run(test, out=told.write, clear_globs=False)
                globs.update(test.globs)
                assert not runner.failures, told.getvalue()
    finally:
        del sys.modules[module.__name__]


def _suites(globs: dict[str, Any], where: str) -> None:
    """Run a test class of a page once, when it is defined, as pytest would run it at level smoke."""
    for name, value in list(globs.items()):
        if not (isinstance(value, type) and issubclass(value, BackendSuite) and value.__module__ == globs["__name__"]):
            continue
        passed = 0
        for check in select(value.checks, "smoke"):
            with contextlib.suppress(pytest.skip.Exception):  # declined by a kernel, or not declared by a backend
                value().test_conforms(check)
                passed += 1
        assert passed, f"{where}: {name} judges nothing"
        del globs[name]


# PyTorch's forward mode scripts a few decompositions at its first use.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_run(page: Path) -> None:
    found = blocks(page)
    for block in found:
        assert block.language in SHOWN, f"{name(page)}:{block.line}: no test runs a block of {block.language!r}"
    if not any(b.language in ("python", "pycon") for b in found):
        return
    skip_unless_here(page)
    known = set(backends.names())
    _session(page, found)
    for added in set(backends.names()) - known:  # later tests must not see what a page has registered
        backends.unregister_backend(added)


# ---------------------------------------------------------------- the commands exist


def commands(page: Path) -> list[tuple[int, list[str]]]:
    found = []
    for block in blocks(page):
        if block.language == "sh":
            body = block.body.replace("\\\n", " ")
            found += [(block.line, shlex.split(line, comments=True)) for line in body.splitlines() if line.strip()]
    return [(line, words) for line, words in found if words]


QUICK = {"mlsm": None, "mlsm_conformance": ("list", "show")}  # module -> subcommands that are run here (None: all)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name)
def test_commands_exist(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line, words in commands(page):
        where = f"{name(page)}:{line}: {shlex.join(words)}"
        if words[0] == "make":
            assert words[1] in targets, f"{where}: no such target"
        elif words[0] in ("pip", "python") and "install" in words:
            rest = words[words.index("install") + 1 :]
            for option, word in pairwise(rest):
                assert option != "--group" or word in project["dependency-groups"], f"{where}: no group {word}"
            for word in rest:
                for extra in re.findall(r"\[(.*?)\]", word):
                    known = project["project"]["optional-dependencies"]
                    assert all(e in known for e in extra.split(",")), f"{where}: no extra {extra}"
        elif words[:2] == ["python", "-m"]:
            module, quick = words[2], QUICK.get(words[2], ())
            assert importlib.util.find_spec(module) is not None, f"{where}: no module {module}"
            if quick is None or (len(words) > 3 and words[3] in quick):
                done = subprocess.run(
                    [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{where}: {done.stderr}"
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), f"{where}: no such file"
        else:
            assert words[0] in ("git", "cd"), f"{where}: no test checks such a command"


# ---------------------------------------------------------------- links and names


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_has_a_target(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        there = page if not path else page.parent / path
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{name(page)} links to the heading {target}"


def public_names() -> list[str]:
    return sorted(set(mlsm.__all__) - {"__version__"})


def documented(reference: str) -> set[str]:
    return set(re.findall(r"^\.\. auto(?:function|class|exception|data)::\s+([\w.]+)", reference, re.M))


def undocumented(reference: str) -> list[str]:
    return [n for n in public_names() if f"mlsm.{n}" not in documented(reference)]


def test_every_public_name_is_in_the_reference() -> None:
    reference = (DOCS / "api.md").read_text(encoding="utf-8")
    assert not undocumented(reference)
    assert "mlsm.nn.torch.MultiLabelSoftMarginLoss" in documented(reference)
    for dotted in documented(reference):  # and no name that was removed
        module, _, attribute = dotted.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is not None


def test_a_missing_name_is_found() -> None:
    reference = (DOCS / "api.md").read_text(encoding="utf-8")
    assert undocumented(reference.replace("mlsm.hessian_diag", "mlsm.hessian")) == ["hessian_diag"]


@pytest.mark.parametrize(("head", "record"), [("operand", Operands), ("of a problem", Problem)])
def test_the_fields_that_a_kernel_gets_are_listed(head: str, record: Any) -> None:
    text = (DOCS / "write-a-kernel.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| {head} \| is \|\n\|.*\n((?:\|.*\n)+)", text, re.M)
    assert table
    listed = [name for row in table[1].splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert listed == list(record._fields)


def test_the_groups_of_the_suite_are_listed() -> None:
    text = (DOCS / "suite.md").read_text(encoding="utf-8")
    table = re.search(r"^\| group \| .*\n\|.*\n((?:\|.*\n)+)", text, re.M)
    assert table
    assert re.findall(r"^\| `(\w+)` ", table[1], re.M) == list(GROUPS)


def test_readme_fits_a_screen_and_stands_alone() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    first = next(b for b in blocks(ROOT / "README.md") if b.language == "python")
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(first.body))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert {"numpy", "torch", "dask", "mlsm"} <= imported


# ---------------------------------------------------------------- tests of this test


SUITE = "from mlsm_conformance.suite import BackendSuite\nclass TestIt(BackendSuite):\n    backend = 'numpy'\n"


@pytest.mark.parametrize(
    "body",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```pycon\n>>> 1 + 1\n3\n```\n",
        "```pycon\nno prompt\n```\n",
        "```python\nprint('shown nowhere')\n```\n",
        "```text\n```\n\n```perl\nprint 1\n```\n",
        f"```python\n{SUITE}    checks = ('values.no-such-check',)\n```\n",
        f"```python\n{SUITE}    kernel, checks = 'nobody', ('values',)\n```\n",  # skipped throughout
    ],
)
def test_wrong_pages_fail(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(body, encoding="utf-8")
    with pytest.raises((AssertionError, UnknownCheck)):
        test_blocks_run(page)
