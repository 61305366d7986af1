"""CUDA tensors if CuPy is not installed: the fused pass, compiled by Triton, which PyTorch's wheels include.

Serves eager tensors on a GPU; compilers and function transforms get the generic code. Chooses blocks and passes tensors
on; the functions to compile are in `_triton.py`. Triton is imported by the first call that is served. Needs the C
compiler with which Triton builds its launcher, and declines if there is none.

Written and tested without a GPU, in Triton's interpreter: accuracy and speed on a device are not measured.
"""

import math
import os
import shutil
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

from .._core import Operands
from .._dispatch import Kernel
from .._policy import name
from .._problem import Problem
from ._cuda import AXES, GRADIENT, HESSIAN, ROWS, declined, fit

if find_spec("triton") is None:  # raised on import, which the table of kernels expects, and not by the first call
    raise ModuleNotFoundError("No module named 'triton'", name="triton")

# Not measured on hardware yet. These three and the number of classes determine the order of a sum.
WIDE: Final = 1024  # classes of a block, at most: eight for each of 128 threads
BLOCK: Final = 1024  # elements of a block, at least, unless the rows are fewer
CHUNK: Final = 16384  # classes that one program reads; a longer row leaves parts


def accepts(problem: Problem) -> str | None:
    """None, or why this kernel does not serve the call."""
    if problem.device.type != "cuda":
        return f"it works on CUDA memory, and the tensors are on {problem.device}"
    return declined(problem) or _uncompiled()


@cache
def _uncompiled() -> str | None:
    """Why Triton cannot compile here; None if it can."""
    if os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"):
        return None
    return "Triton builds its launcher with a C compiler, but finds none (set CC, or install gcc or clang)"


def note(problem: Problem) -> str | None:
    """What a first call also does."""
    operands = (problem.input, problem.target, problem.weight, problem.pos_weight, problem.where)
    if any(key[: len(operands)] == tuple(v and v.dtype for v in operands) for key in _warm):
        return None
    return (
        "its first call with these dtypes and options compiles by Triton (seconds, unless its cache on disk has the "
        "code): make that call before a CUDA graph is captured"
    )


# ---------------------------------------------------------------- the seam


def rows(o: Operands) -> Any:
    return _run(o, None, ROWS)[0]


def rows_vjp(o: Operands, g: Any) -> Any:
    return _run(o, g, GRADIENT)[1]


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return _run(o, g, ROWS | GRADIENT)


def curvature(o: Operands, g: Any) -> Any:
    return _run(o, g, HESSIAN)[1]


_warm: set[tuple[Any, ...]] = set()  # what this process has compiled: dtypes, whether smoothed, and the mode


def _run(o: Operands, g: Any, mode: int) -> tuple[Any, Any]:
    import torch

    with torch.cuda.device(o.x.device):  # Triton works on the current device, and on PyTorch's current stream
        key = (*(None if v is None else name(v.dtype) for v in o[1:6]), bool(o.eps), mode)
        if key not in _warm and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "the kernel for these dtypes and options is not compiled yet, and cannot be while a CUDA graph is "
                'captured: make the same call once before the capture begins, or pass `kernel="generic"`.'
            )
        result = run(o, g, mode)
        _warm.add(key)
        return result


def run(o: Operands, g: Any, mode: int) -> tuple[Any, Any]:
    """The row losses and a derivative, as `mode` selects them; None for a result that it does not select."""
    import torch

    from . import _triton

    # A tensor may be a view that negates its memory; other tensors are not copied.
    read: Any = (None if v is None else v.resolve_neg().detach() for v in o[1:6])
    x, y, w, p, m = read
    batch, classes = tuple(x.shape[:-1]), x.shape[-1]
    fit(*(None if v is None else tuple(v.shape) for v in (x, y, w, p, m, g)))
    count, chunks = math.prod(batch), -(-classes // CHUNK)
    out = torch.empty_like(x) if mode & (GRADIENT | HESSIAN) else None
    sums = torch.empty((*batch, chunks), dtype=o.acc, device=x.device) if mode & ROWS else None
    divisor: Any = classes
    if m is not None:
        divisor = m.expand(x.shape).sum(-1, dtype=o.acc).clamp(min=1)
    scale = None if g is None else (g / divisor).to(o.dtype)
    if count:
        wide = min(WIDE, _power_of_two(classes))
        high = min(max(1, BLOCK // wide), _power_of_two(count))
        flat = [_bytes(v) for v in (x, y, w, p, m)]
        strides = [(*_strides(v, batch), _class_stride(v)) for v in flat]
        lengths = (*reversed(batch), *(1,) * AXES)[: AXES - 1]
        along_g = _strides(scale, batch, rows_only=True)
        along_out = (*_strides(out, batch), _class_stride(out))
        unused = x  # passed for an argument that is not read
        _triton.run[(-(-count // high) * chunks,)](
            *(unused if v is None else v for v in (*flat, scale, sums, out)),
            *(count, classes, chunks, *lengths),
            *(s for own in strides for s in own),
            *along_g,
            *along_out,
            WANT_ROWS=bool(mode & ROWS),
            WANT_GRADIENT=bool(mode & GRADIENT),
            WANT_HESSIAN=bool(mode & HESSIAN),
            DOUBLE=o.dtype == torch.float64,
            SMOOTH=bool(o.eps),
            KEEP=1 - o.eps,
            SHIFT=o.eps / 2,
            WEIGHTED=w is not None,
            POSITIVE=p is not None,
            MASKED=m is not None,
            Y_BOOL=y.dtype == torch.bool,
            W_BOOL=w is not None and w.dtype == torch.bool,
            P_BOOL=p is not None and p.dtype == torch.bool,
            CHUNK=CHUNK,
            HIGH=high,
            WIDE=wide,
            enable_fp_fusion=False,  # each operation rounds as `_triton.py` writes it
        )
    if sums is None:
        return None, out
    whole = sums[..., 0]
    if chunks > 1:
        whole = torch.empty(batch, dtype=o.acc, device=x.device)
        if count:
            _triton.finish[(count,)](sums, whole, chunks, WIDE=min(WIDE, _power_of_two(chunks)), enable_fp_fusion=False)
    return (whole / divisor).to(o.dtype), out


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _bytes(v: Any) -> Any:
    """A bool tensor as its bytes, of which every one but 0 is true."""
    import torch

    return v.view(torch.uint8) if v is not None and v.dtype == torch.bool else v


def _strides(v: Any, batch: tuple[int, ...], rows_only: bool = False) -> tuple[int, ...]:
    """The strides from row to row along each batch axis, the innermost first; 0 if all rows share the values."""
    if v is None:
        return (0,) * AXES
    shape, strides = (v.shape, v.stride()) if rows_only else (v.shape[:-1], v.stride()[:-1])
    own = [s if n > 1 else 0 for n, s in zip(reversed(shape), reversed(strides), strict=True)]
    return (*own, *(0,) * (AXES - len(own)))


def _class_stride(v: Any) -> int:
    return v.stride()[-1] if v is not None and v.ndim and v.shape[-1] > 1 else 0


KERNEL = Kernel("triton", ("torch",), accepts, rows, rows_vjp, rows_and_vjp, curvature, note)
