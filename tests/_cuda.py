"""Helpers for tests of the CUDA kernel on a machine without a GPU: `_cuda.cu` as a host library, and NVRTC.

Builds and calls; judges nothing. A missing compiler is a skip that names it.
"""

import ctypes
import functools
import importlib.util
import math
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm._problem import Problem

FOLDER = Path(__file__).parent
# IEEE arithmetic as written, like on the device: no contraction, no reassociation.
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC")

UNWRITTEN = 77  # the value of an array before it is written, so that a result that is never written shows
MARGIN = 1024


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mlsm-cuda-host-")  # removed when the process ends


@functools.cache
def host(double: bool, counting: bool = False) -> ctypes.CDLL:
    """The kernel's source as a library of this machine, for one compute dtype; or one that counts what warps do."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (c++, g++, clang++) to build the kernel's arithmetic for the host")
    kernels = Path(mlsm.__file__).parent / "kernels"
    out = Path(_folder().name) / f"double{int(double)}{int(counting)}.so"
    macros = (f"-DDOUBLE={int(double)}", f"-DCOUNTING={int(counting)}")
    command = [compiler, *FLAGS, *macros, f"-I{kernels}", "-o", str(out), str(FOLDER / "_cuda_host.cpp")]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(out))


class HostDevice:
    """NumPy arrays as device memory, and the host library as the device."""

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards
        self._made = threading.local()  # with a margin around each, to detect writes outside it

    def view(self, array: Any) -> Any:
        from mlsm import _policy
        from mlsm.kernels._cuda import View

        strides = tuple(s // array.itemsize for s in array.strides)
        return View(array.ctypes.data, _policy.name(array.dtype), array.shape, strides)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        size = math.prod(shape)
        around = np.full(size + 2 * MARGIN, UNWRITTEN, dtype)
        self._made.__dict__.setdefault("around", deque(maxlen=3)).append(around)
        return around[MARGIN : MARGIN + size].reshape(shape)

    def like(self, array: Any) -> Any:
        return self.empty(array.shape, array.dtype) if array.flags.c_contiguous else np.full_like(array, UNWRITTEN)

    def processors(self) -> int:
        return 2

    def launch(self, name: str, macros: tuple[str, ...], grid: int, block: int, shared: int, arguments: Any) -> None:
        launch(name, macros, grid, block, shared, arguments, self.backwards)
        for around in self._made.__dict__.get("around", ()):
            assert (around[:MARGIN] == UNWRITTEN).all()
            assert (around[-MARGIN:] == UNWRITTEN).all()


def launch(
    name: str,
    macros: Sequence[str],
    grid: int,
    block: int,
    shared: int,
    arguments: Sequence[Any],
    backwards: bool = False,
    counting: bool = False,
) -> None:
    """One launch of the kernel `name`, compiled with these macros, executed by the host."""
    said = {key: int(value) for key, _, value in (macro.removeprefix("-D").partition("=") for macro in macros)}
    order = ("X_TYPE", "Y_TYPE", "W_TYPE", "P_TYPE", "G_TYPE", "MODE", "SMOOTH", "MASKED", "W_ROW", "STAGED")
    codes = (ctypes.c_int * len(order))(*(said[key] for key in order))
    assert block <= said["THREADS"]
    passed = [ctypes.c_double(v) if isinstance(v, float) else ctypes.c_longlong(v) for v in arguments]
    kernel = ("mlsm_pass", "mlsm_finish", "mlsm_count").index(name)
    sizes = (ctypes.c_longlong(grid), ctypes.c_longlong(block), ctypes.c_longlong(shared))
    host(bool(said["DOUBLE"]), counting).run(kernel, int(backwards), codes, *sizes, *passed)


def on_host(name: str, device: HostDevice) -> Any:
    """A kernel for NumPy arrays that runs the CUDA kernel's code."""
    from mlsm._dispatch import Kernel
    from mlsm.kernels import _cuda

    def accepts(problem: Problem) -> str | None:
        if "foreign" in (problem.input.layout, problem.target.layout):
            return "device memory is never byte-swapped or unaligned"
        return _cuda.declined(problem)

    return Kernel(  # g may be a NumPy scalar, which has no address; a device has 0-d arrays instead
        name,
        ("numpy",),
        accepts,
        lambda o: _cuda.run(o, None, _cuda.ROWS, device)[0],
        lambda o, g: _cuda.run(o, np.asarray(g), _cuda.GRADIENT, device)[1],
        lambda o, g: _cuda.run(o, np.asarray(g), _cuda.ROWS | _cuda.GRADIENT, device),
        lambda o, g: _cuda.run(o, np.asarray(g), _cuda.HESSIAN, device)[1],
    )


# ---------------------------------------------------------------- NVRTC


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """NVIDIA's run-time compiler, which needs neither a driver nor a GPU, from its wheel."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else None
    found = sorted(p for place in places or () for p in Path(place).glob("*/lib/libnvrtc.so.*") if "alt" not in p.name)
    if not found:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    for builtins in found[-1].parent.glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC searches only the library path for it
    return ctypes.CDLL(str(found[-1]))


def compile_for(architecture: str, source: str, options: Sequence[str]) -> bytes:
    """The machine code for an architecture such as "sm_90", or an AssertionError with the compiler's log."""
    library, program = nvrtc(), ctypes.c_void_p()
    text = source.encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"_cuda.cu", 0, None, None) == 0
    try:
        given = [f"--gpu-architecture={architecture}".encode(), *(o.encode() for o in options)]
        status = library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        said = log.value.decode()
        assert status == 0, f"{architecture} {options}: {said}"
        assert "warning" not in said, f"{architecture} {options}: {said}"
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        assert library.nvrtcGetCUBIN(program, code) == 0
        return code.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
