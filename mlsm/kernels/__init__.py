"""Our fused kernels, one per file, and their order of preference. Any file may be deleted without changing a result.

Lists only files that exist, and imports none: a file is imported when an array that it serves is first passed.
"""

from importlib.util import find_spec

# In order of preference, with the libraries whose arrays each file serves.
_SERVES = {
    "numba": ("numpy", "torch"),
    "numpy": ("numpy", "torch"),
    "cupy": ("cupy", "torch"),
    "triton": ("torch",),
    "dask": ("dask",),
}


def present() -> dict[str, tuple[str, ...]]:
    """The kernel files that exist, and the libraries that each serves."""
    return {name: serves for name, serves in _SERVES.items() if find_spec(f"{__package__}.{name}") is not None}
