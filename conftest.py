"""Makes pytest ignore files that are named after an array library or an engine that is not installed.

Such a file imports that library at its top, and pytest imports a file to find its doctests. Every other file is
collected, and a failing import there is an error.
"""

import importlib
import importlib.util
from functools import cache
from pathlib import Path

# Name of the file, without a leading underscore -> the module that must be importable.
_NEEDS = {
    "cupy": "cupy",
    "dask": "dask",
    "jax": "jax",
    "numba": "numba",
    "numba_loops": "numba",
    "strict": "array_api_strict",
    "torch": "torch",
    "transformers": "transformers",
    "triton": "triton",
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """True for such a file; None leaves the decision to other hooks."""
    module = _NEEDS.get(collection_path.stem.lstrip("_")) if collection_path.suffix == ".py" else None
    return True if module is not None and not _importable(module) else None


@cache
def _importable(module: str) -> bool:
    """Whether it is installed; for CuPy, which can be installed without CUDA, whether it can be imported."""
    if importlib.util.find_spec(module) is None:
        return False
    if module == "cupy":
        try:
            importlib.import_module(module)
        except Exception:  # without a driver the exception may be of any class
            return False
    return True
