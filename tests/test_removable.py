"""mlsm/kernels/ can be deleted: a copy of the package without it passes the tests, with all results in their bounds.

A separate process has the copy before the installed package on its path, and runs a representative part of the tests;
tests of kernels, of speed and of memory are skipped with the reason.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import mlsm

HERE = pathlib.Path(__file__).parent
# Whole files, and from the slow ones the tests of the libraries that the kernels serve.
PART = [
    "test_reduce.py",
    "test_check_refusals.py",
    "test_dispatch.py",
    "test_module.py",
    "test_layouts.py",
    "autograd/test_torch.py",
    "test_core.py",
]
CHOICE = "not (jax or dask or strict or second_order or every_point or gradgradcheck or eight_threads)"


# An editable install finds each package of the checkout, so that `mlsm.kernels` would still be there.
SITE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the package, without its kernels, and with the tests."""
    root = tmp_path_factory.mktemp("without-kernels")
    assert mlsm.__file__ is not None
    package = pathlib.Path(mlsm.__file__).parent
    shutil.copytree(package, root / "mlsm", ignore=shutil.ignore_patterns("kernels", "__pycache__"))
    shutil.copytree(HERE, root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    import mlsm_conformance

    suite = pathlib.Path(mlsm_conformance.__path__[0])
    shutil.copytree(suite, root / "mlsm_conformance", ignore=shutil.ignore_patterns("__pycache__", "test_*.py"))
    (root / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    # The tests need the project's settings of pytest: the markers, and that warnings are errors.
    shutil.copy(HERE.parent / "pyproject.toml", root / "pyproject.toml")
    return root


def _run(root: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def test_the_copy_is_tested(copy: pathlib.Path) -> None:
    code = "import mlsm, importlib.util as u; print(mlsm.__file__, u.find_spec('mlsm.kernels'))"
    done = _run(copy, "-W", "error", "-c", code)
    assert done.stdout.split() == [str(copy / "mlsm" / "__init__.py"), "None"], done.stderr


def test_the_reference_serves_every_library(copy: pathlib.Path) -> None:
    code = """
import numpy as np, mlsm
x = np.zeros((2, 3), dtype=np.float32)
assert mlsm.explain(x, x).chosen == "generic"
assert mlsm.multilabel_soft_margin_loss(x, x) == np.float32(np.log(2))
"""
    done = _run(copy, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_tests_pass(copy: pathlib.Path) -> None:
    if not (HERE.parent / "pyproject.toml").is_file():
        pytest.skip("the tests are not in a checkout")
    done = _run(
        copy, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", CHOICE, *(f"tests/{name}" for name in PART)
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "mlsm/kernels/ is deleted" in done.stdout  # tests of kernels are skipped with this reason
