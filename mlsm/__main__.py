"""`python -m mlsm`: the installed array libraries, their devices, and the kernel that would serve each dtype.

Imports every array library that is installed, because nothing has imported them yet; computes no loss.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
import warnings
from collections.abc import Callable
from typing import Any

from . import __version__, explain

# The module, and the distributions that its version is read from: the first that is installed.
_LIBRARIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "numpy": ("numpy", ("numpy",)),
    "torch": ("torch", ("torch",)),
    "jax": ("jax.numpy", ("jax",)),
    "dask": ("dask.array", ("dask",)),
    "cupy": ("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy")),
    "array_api_strict": ("array_api_strict", ("array-api-strict",)),
}
_ENGINES = ("numba", "ml_dtypes", "array-api-compat")
_DTYPES = ("float32", "float64", "float16", "bfloat16")


def _devices(library: str) -> list[str]:
    if library == "torch":
        import torch

        return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if library == "jax":
        import jax

        return [str(device) for device in jax.devices()]
    if library == "cupy":
        import cupy

        return [f"cuda:{i}" for i in range(cupy.cuda.runtime.getDeviceCount())]
    return ["cpu"]


def _sample(library: str, xp: Any, dtype: str, device: str) -> Any:
    """Two rows of three logits of this dtype; raises an error if the library does not have it here."""
    if library == "torch":
        return xp.zeros((2, 3), dtype=getattr(xp, dtype), device=device)
    if library in ("numpy", "dask"):
        return xp.zeros((2, 3), dtype=importlib.import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX without x64 gives float32 for float64, with a warning
        return xp.zeros((2, 3), dtype=getattr(xp, dtype))


def _examined(library: str) -> dict[str, Any]:
    """One library: its version, its devices, and the kernel that would serve each device and dtype."""
    module, distributions = _LIBRARIES[library]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return {"installed": False, "reason": f"no module named {module.partition('.')[0]!r}"}
    found: dict[str, Any] = {"installed": True, "version": _version(*distributions)}
    try:
        xp = importlib.import_module(module)
        found["devices"] = _devices(library)
    except Exception as error:  # a broken driver may raise any error, and the report shows it
        return {**found, "usable": False, "reason": f"{type(error).__name__}: {error}"}
    found["usable"] = bool(found["devices"])
    found["kernels"] = []
    for device in found["devices"]:
        for dtype in _DTYPES:
            try:
                x = _sample(library, xp, dtype, device)
            except (AttributeError, ImportError, TypeError, Warning) as error:
                reason = f"no {dtype} here: {str(error).partition('. ')[0]}"
                if library == "jax" and dtype == "float64":
                    reason = 'off: jax.config.update("jax_enable_x64", True) before the first array turns float64 on'
                found["kernels"].append({"device": device, "dtype": dtype, "chosen": None, "reason": reason})
                continue
            told = explain(x, x)
            found["kernels"].append(
                {"device": device, "dtype": dtype, "chosen": told.chosen, "declined": dict(told.reasons)}
            )
    return found


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _threads() -> int:
    """How many threads a kernel on a CPU uses; 1 if the kernels' folder was deleted."""
    try:
        from .kernels import _threads as threads
    except ImportError:
        return 1
    return threads.allowed(tensors=False)


def report() -> dict[str, Any]:
    """Everything that the command prints, as plain data."""
    return {
        "mlsm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "engines": {name: _version(name) for name in _ENGINES},
        "threads": _threads(),
        "libraries": {name: _examined(name) for name in _LIBRARIES},
    }


def _print(told: dict[str, Any], say: Callable[[str], None], why: bool) -> None:
    say(f"mlsm {told['mlsm']}, Python {told['python']}, {told['platform']}")
    say("packages: " + ", ".join(f"{name} {version or 'not installed'}" for name, version in told["engines"].items()))
    say(f"threads: a CPU kernel uses up to {told['threads']} (set OMP_NUM_THREADS for fewer)\n")
    say(f"{'library':<24} {'device':<8} {'dtype':<9} kernel")
    for name, library in told["libraries"].items():
        shown = f"{name} {library.get('version') or ''}".rstrip()
        if not library["installed"]:
            say(f"{shown:<24} not installed")
            continue
        if not library["usable"]:
            say(f"{shown:<24} not usable: {library.get('reason', 'no device')}")
            continue
        for line in library["kernels"]:
            say(f"{shown:<24} {line['device']:<8} {line['dtype']:<9} {line['chosen'] or line['reason']}")
            for kernel, reason in line.get("declined", {}).items() if why else ():
                say(f"{'':<43} {kernel}: {reason}")
    if not why:
        say('\n"generic" is the formula in the library\'s own operations, without a kernel.')
        say("--why prints for each line why the other kernels are not used.")


def main(arguments: list[str] | None = None) -> int:
    """Run the command. The exit status is 1 if `warm` cannot compile, else 0, whatever is installed."""
    parser = argparse.ArgumentParser(prog="python -m mlsm", description=__doc__)
    parser.add_argument("--why", action="store_true", help="print for each line why the other kernels are not used")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("command", nargs="?", choices=["warm"], help="compile the numba kernel now, for all processes")
    options = parser.parse_args(arguments)
    if options.command == "warm":
        from ._warm import warm

        return warm(print)
    told = report()
    if options.json:
        json.dump(told, sys.stdout, indent=2)
        print()
    else:
        _print(told, print, options.why)
    return 0


if __name__ == "__main__":
    sys.exit(main())
