"""The installation: names, files, one version, and an import that takes almost no time.

Builds the sdist and the wheel from a copy of the checkout, without the network, with the setuptools that is installed.
"""

import ast
import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import mlsm
from mlsm_conformance import backends

from ._support import python

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = {"mlsm": ROOT / "mlsm", "mlsm_conformance": ROOT / "conformance"}
pytestmark = pytest.mark.skipif(
    not (ROOT / "conformance").is_dir(), reason="the sources are absent: there is nothing to build from"
)


# ---------------------------------------------------------------- importing


def test_the_suite_is_installed_under_its_own_name_only(tmp_path: Path) -> None:
    """From outside the checkout: there a folder named conformance is importable, as any folder is."""
    assert python("import mlsm_conformance; print(mlsm_conformance.__name__)", cwd=tmp_path) == "mlsm_conformance"
    with pytest.raises(AssertionError, match="No module named 'conformance'"):
        python("import conformance", cwd=tmp_path)


# ---------------------------------------------------------------- the content of pyproject.toml


def packages_in_the_tree() -> list[str]:
    """The package name of every folder with Python files to install."""
    found = []
    for name, folder in SOURCES.items():
        for inner in (folder, *folder.rglob("*")):
            if inner.is_dir() and "tests" not in inner.relative_to(folder).parts and any(inner.glob("*.py")):
                found.append(".".join((name, *inner.relative_to(folder).parts)))
    return sorted(found)


def test_every_package_is_listed() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    if not (ROOT / "mlsm" / "kernels").is_dir():
        listed = [name for name in listed if name != "mlsm.kernels"]  # deleting it must break nothing
    assert sorted(listed) == packages_in_the_tree()


def test_every_package_has_an_init() -> None:
    """A folder without one would be a namespace package, to which any other distribution could add files."""
    for name in packages_in_the_tree():
        first, _, rest = name.partition(".")
        assert (SOURCES[first].joinpath(*rest.split(".")) if rest else SOURCES[first]).joinpath("__init__.py").exists()


def test_runtime_needs_two_packages() -> None:
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in PROJECT["project"]["dependencies"]}
    assert names == {"array-api-compat", "numpy"}


def test_one_version() -> None:
    """`mlsm/_version.py` is the source; the installation, the citation and the changelog repeat it."""
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert importlib.metadata.version("mlsm") == mlsm.__version__
    (assignment,) = [
        node for node in ast.parse((ROOT / "mlsm/_version.py").read_text()).body if isinstance(node, ast.Assign)
    ]
    assert ast.literal_eval(assignment.value) == mlsm.__version__
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == mlsm.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == mlsm.__version__


# ---------------------------------------------------------------- commands and jobs


def workflow() -> str:
    return (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")


def readme_arguments() -> list[str]:
    """The arguments of pytest in the README's lines without make."""
    (line,) = re.findall(r"^python -m pytest (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    arguments: list[str] = line.split()
    return arguments


@pytest.mark.slow  # collects every test once more
def test_the_lines_without_make_collect() -> None:
    """They collect every file that can be imported here, without an error for the others."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *readme_arguments()], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "mlsm/_loss.py::" in done.stdout
    assert ("libraries/cupy.py" in done.stdout) <= (find_spec("cupy") is not None)


@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="an sdist has no dot-folders")
def test_every_backend_is_required_somewhere() -> None:
    """By `make test` and by a job of the workflow: every backend that needs no device must be present. Backends that
    take minutes are in the workflow alone; `make test` has them at level smoke."""
    device = {"torch-cuda", "cupy"}
    minutes = {"jax-sharded", "jax-sharded-explicit", "torch-dtensor", "torch-dtensor-class"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    listed = re.search(r"^CPU_BACKENDS := (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == set(backends.names()) - device - minutes
    jobs = re.findall(r"backends: ([a-z0-9 -]+?) *(?:}|$)", workflow(), re.MULTILINE)
    assert {name for job in jobs for name in job.split()} == set(backends.names()) - device


@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="an sdist has no dot-folders")
def test_every_action_is_pinned_by_commit() -> None:
    used = re.findall(r"uses: (\S+)", workflow())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action


@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="an sdist has no dot-folders")
def test_promised_and_exercised_are_compared(tmp_path: Path) -> None:
    """The last job of the workflow, on a page and records made here: it must report a difference on either side."""
    page = "| backend | library |\n| --- | --- |\n| numpy | a |\n| `torch` (numba) | b |\n| cupy | c |\n\n| backend |\n"
    (tmp_path / "support.md").write_text(page)

    def verdict(*names: str, status: str = "pass") -> tuple[int, str]:
        record = {"backends": [{"name": name, "checks": [{"status": status}]} for name in names]}
        (tmp_path / "record.json").write_text(json.dumps(record))
        command = [sys.executable, str(ROOT / ".ci" / "promised.py"), "support.md", "record.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.strip()

    assert verdict("numpy", "torch") == (0, "the exercised backends are the promised ones")
    assert verdict("numpy") == (1, "promised, but not exercised: torch")
    assert verdict("numpy", "torch", "jax") == (1, "exercised, but not promised: jax")
    assert verdict("numpy", "torch", status="skip")[0] == 1


# ---------------------------------------------------------------- building


BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def build(kind: str, tree: Path, out: Path) -> Path:
    """The only file that the build backend makes from a source tree."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, because building writes into the tree and a test must not change the checkout."""
    pytest.importorskip("setuptools", minversion="77", reason="the build backend is not installed")
    copy = tmp_path_factory.mktemp("checkout") / "mlsm"
    made = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=made)
    if not (copy / "mlsm" / "kernels").is_dir():
        text = (copy / "pyproject.toml").read_text(encoding="utf-8").replace('    "mlsm.kernels",\n', "")
        (copy / "pyproject.toml").write_text(text, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the unpacked sdist, as distributors do."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def test_wheel_has_every_file_and_no_other(wheel: Path) -> None:
    expected = set()
    for name, folder in SOURCES.items():
        for file in folder.rglob("*"):
            if (
                file.is_file()
                and "tests" not in file.relative_to(folder).parts
                and file.suffix in {".py", ".json", ".typed", ".css", ".js", ".html", ".txt", ".cu"}
            ):
                expected.add(f"{name}/{file.relative_to(folder).as_posix()}")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {"mlsm/py.typed", "mlsm_conformance/py.typed"} <= held
    assert "mlsm_conformance/reference/golden.json" in held


def test_wheel_has_no_top_level_conformance(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"mlsm", "mlsm_conformance", f"mlsm-{mlsm.__version__}.dist-info"}


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"mlsm-{mlsm.__version__}.dist-info/METADATA"))
        assert f"mlsm-{mlsm.__version__}.dist-info/licenses/LICENSE" in archive.namelist()
    assert metadata["Version"] == mlsm.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    extras = {"torch", "jax", "dask", "cupy12", "cupy13", "fast", "conformance", "strategies", "demo"}
    extras |= {"xgboost", "lightgbm", "sklearn", "transformers"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras


def test_sdist_has_the_files_that_a_distributor_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "conftest.py", "pyproject.toml"}
    needed |= {"tests/test_packaging.py", "docs/examples/seven_segments.py", "conformance/reference/golden.json"}
    needed |= {"conformance/gpu.sh", "conformance/tests/conftest.py", "conformance/tests/test_judges.py"}
    assert needed <= held
    assert not [name for name in held if "__pycache__" in name or name.startswith((".venv", "build"))]


def test_a_type_checker_sees_both_packages(wheel: Path, tmp_path: Path) -> None:
    """Installed as for a user, without the sources: annotations count only with a `py.typed` file."""
    pytest.importorskip("mypy", reason="this test runs it")
    environment, user = tmp_path / "environment", tmp_path / "user.py"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.rglob("site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    user.write_text(
        "import mlsm\n"
        "from mlsm_conformance.suite import BackendSuite\n"
        "from mlsm_conformance.tensors import Tensor\n"
        "class TestMine(BackendSuite):\n    backend = 'numpy'\n"
        "reveal_type(Tensor((1,), (0.0,), 'float32').shape)\n"
        "reveal_type(mlsm.MultiLabelSoftMarginLoss().reduction)\n"
        "mlsm.nonesuch\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path / 'cache'}"]
    command += [f"--python-executable={environment / 'bin' / 'python'}", "--config-file=", str(user)]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    said = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False).stdout
    assert "py.typed" not in said, said
    assert 'Revealed type is "tuple[int, ...]"' in said.replace("builtins.", ""), said
    assert "Literal['" in said, said
    assert 'Module has no attribute "nonesuch"' in said, said
    assert said.strip().splitlines()[-1].startswith("Found 1 error"), said


def test_wheel_alone_with_numpy_alone_passes_the_smoke_level(wheel: Path, tmp_path: Path) -> None:
    """An environment with the wheel, NumPy and array-api-compat, without other packages and without the sources."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    interpreter = environment / "bin" / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([interpreter, "-c", purelib], capture_output=True, text=True, check=True).stdout.strip())
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("numpy", "numpy.libs", "array_api_compat"):
        source = Path(sysconfig.get_path("purelib"), name)
        if source.exists():
            (site / name).symlink_to(source)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(interpreter), "-m", "mlsm_conformance", "run", "--level", "smoke", "--require", "numpy"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
