"""CuPy arrays, and CUDA tensors without a copy: the fused pass over device memory, compiled by CuPy.

Serves CUDA memory only, and arrays of one device. Works on that device and on the current stream of the library of the
arrays, and waits only for the compiler, at a first call. Passes arrays on: `_cuda.py` plans the launch, and the
arithmetic is in `_cuda.cu`. CuPy itself is imported by the first call that is served, because this file is imported for
every tensor, and a tensor in host memory is not a reason to load a CUDA library.

It is not measured on hardware: it was written and tested without a GPU. The tests compile it for four architectures,
and run the conformance catalogue on its arithmetic on the host.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from .._core import Operands
from .._dispatch import Kernel
from .._policy import name
from .._problem import Problem
from ._cuda import GRADIENT, HESSIAN, OPTIONS, ROWS, Macros, View, declined, run, source, variants

if find_spec("cupy") is None:  # raised on import, which the table of kernels expects, and not by the first call
    raise ModuleNotFoundError("No module named 'cupy'", name="cupy")


def accepts(problem: Problem) -> str | None:
    """None, or why this kernel does not serve the call."""
    if problem.library == "torch" and problem.device.type != "cuda":
        return f"it works on CUDA memory, and the tensors are on {problem.device}"
    reason = declined(problem)
    if reason is None and _on_rocm(problem.library):
        reason = "its source is CUDA, but this CuPy, or this PyTorch, is built for ROCm"
    return reason


def note(problem: Problem) -> str | None:
    """What a first call also does: it compiles, if this process has not yet. For arrays in C order, because strides are
    not known here."""
    missing = [what for what, macros in variants(problem).items() if macros not in _warm]
    if not missing:
        return None
    return (
        f"its first call with these dtypes and options compiles by NVRTC ({', '.join(missing)}; some seconds, unless "
        "CuPy's cache on disk has the code): make that call before a CUDA graph is captured"
    )


@cache
def _on_rocm(library: str) -> bool:
    """PyTorch's ROCm builds call their devices "cuda" too."""
    import cupy

    if library == "torch":
        import torch

        if torch.version.hip is not None:
            return True
    return bool(cupy.cuda.runtime.is_hip)


# ---------------------------------------------------------------- the seam


def rows(o: Operands) -> Any:
    return _run(o, None, ROWS)[0]


def rows_vjp(o: Operands, g: Any) -> Any:
    return _run(o, g, GRADIENT)[1]


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return _run(o, g, ROWS | GRADIENT)


def curvature(o: Operands, g: Any) -> Any:
    return _run(o, g, HESSIAN)[1]


def _run(o: Operands, g: Any, mode: int) -> tuple[Any, Any]:
    import cupy

    if isinstance(o.x, cupy.ndarray):
        with o.x.device:  # CuPy looks up the current stream of the current device
            return run(o, g, mode, _CuPy(cupy, o.x.device))
    import torch

    # A tensor may be a view that negates its memory; other tensors are not copied.
    o = o.holding(*(None if v is None else v.resolve_neg() for v in o[1:6]))
    device = o.x.device
    # On PyTorch's stream, because its caching allocator frees memory in the order of that stream.
    with (
        torch.cuda.device(device),
        cupy.cuda.Device(device.index),
        _shared(torch.cuda.current_stream(device).cuda_stream),
    ):
        return run(o, g, mode, _Torch(cupy, torch, device))


def _shared(stream: int) -> Any:
    """Another library's stream as CuPy's current one."""
    import cupy

    if int(cupy.__version__.partition(".")[0]) < 14:
        return cupy.cuda.ExternalStream(stream)
    return cupy.cuda.Stream.from_external(_Stream(stream))  # since CuPy 14; ExternalStream warns there


class _Stream(NamedTuple):
    """A stream in the CUDA stream protocol, which PyTorch's own streams support in its later releases only."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address  # the protocol's version first


# ---------------------------------------------------------------- arrays of CuPy and of PyTorch


_warm: set[Macros] = set()  # what this process has compiled or found on disk,
_loaded: set[tuple[str, Macros, int]] = set()  # and for which functions and devices


@cache
def _compiled(function: str, macros: Macros) -> Any:
    """A function of the source. CuPy compiles it at its first launch on a device, and keeps the code on disk."""
    import cupy

    return cupy.RawModule(code=source(), options=(*OPTIONS, *macros), backend="nvrtc").get_function(function)


@cache
def _processors(device: int) -> int:
    from cupy.cuda import runtime

    return int(runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, device))


class _Launcher:
    def __init__(self, cupy: Any, device: Any) -> None:
        self._cupy, self._device = cupy, device
        self._number = cupy.cuda.runtime.getDevice()

    def processors(self) -> int:
        return _processors(self._number)

    def launch(self, name: str, macros: Macros, grid: int, block: int, shared: int, arguments: Any) -> None:
        key = (name, macros, self._number)
        if key not in _loaded and self._cupy.cuda.get_current_stream().is_capturing():
            raise RuntimeError(
                "the kernel for these dtypes and options is not compiled yet, and cannot be while a CUDA graph is "
                "captured: make the same call once before the capture begins (`mlsm.explain` says whether it has to "
                'compile), or pass `kernel="generic"`.'
            )
        # CuPy passes addresses and integers as int64 and floats as float64, as the source declares them.
        _compiled(name, macros)((grid,), (block,), arguments, shared_mem=shared)
        _loaded.add(key)
        _warm.add(macros)

    def here(self, array: Any) -> Any:
        """The array, if it is on the device of the logits: its address is meaningless on another device."""
        if array.device != self._device:
            raise ValueError(f"every array must be on the device of `input`, {self._device}; got {array.device}.")
        return array


class _CuPy(_Launcher):
    def view(self, array: Any) -> View:
        array, size = self.here(array), array.itemsize
        return View(array.data.ptr, name(array.dtype), array.shape, tuple(s // size for s in array.strides))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._cupy.empty(shape, dtype)

    def like(self, array: Any) -> Any:
        return self._cupy.empty_like(array)


class _Torch(_Launcher):
    def __init__(self, cupy: Any, torch: Any, device: Any) -> None:
        super().__init__(cupy, device)
        self._torch = torch

    def view(self, array: Any) -> View:
        array = self.here(array)
        return View(array.data_ptr(), name(array.dtype), tuple(array.shape), array.stride())

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._torch.empty(shape, dtype=dtype, device=self._device)

    def like(self, array: Any) -> Any:
        return self._torch.empty_like(array, requires_grad=False)


KERNEL = Kernel("cupy", ("cupy", "torch"), accepts, rows, rows_vjp, rows_and_vjp, curvature, note)
