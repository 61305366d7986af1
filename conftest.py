"""What pytest passes over in this checkout: files named after an array library or an engine that is not here.

Such a file imports what it is named after at its top, and doctests are looked for by importing. Everything else is
collected, and an import that fails there is an error.
"""

import importlib
import importlib.util
from functools import cache
from pathlib import Path

# By the name of the file, without an underscore in front: the module that must be importable.
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
    """True for such a file; None leaves the question to others."""
    module = _NEEDS.get(collection_path.stem.lstrip("_")) if collection_path.suffix == ".py" else None
    return True if module is not None and not _importable(module) else None


@cache
def _importable(module: str) -> bool:
    """Whether it is installed; of CuPy, which can be installed where no CUDA is, whether it can be imported."""
    if importlib.util.find_spec(module) is None:
        return False
    if module == "cupy":
        try:
            importlib.import_module(module)
        except Exception:  # whatever the absent driver makes of it
            return False
    return True
