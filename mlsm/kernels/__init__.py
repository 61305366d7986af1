"""Our fused kernels, one a file, any of which may be deleted without changing a result, and the order of preference.

Offers no file that is not there, and imports none: a file is imported when an array that it serves has arrived.
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
    """The kernel files that exist, and what they serve."""
    return {name: serves for name, serves in _SERVES.items() if find_spec(f"{__package__}.{name}") is not None}
