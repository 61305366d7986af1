"""The fused pass over host memory, compiled by Numba: NumPy arrays (Dask's blocks too) and CPU tensors, not copied.

Serves no mask, no weight of single rows or elements, and no tensor on another device. Chooses arrays, threads and
blocks; the arithmetic stands in `_numba_loops`. Numba itself is imported by the first call that is served.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

import numpy as np

from .. import _policy
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Meta, Problem
from . import _derivatives, _threads

# Tuning, measured on two cores with AVX-512. ALONE: a part costs 11 us to hand over and a quarter of a million elements
# take 200 us. CONVERTED: 2^13 2.8, 2^15 1.9, 2^17 1.9 ns an element of loss and gradient in float16.
ALONE: Final = 2**18  # elements a thread has at least
CONVERTED: Final = 2**15  # elements of a block that is converted before it is read: 128 KiB of float32 an array
ELEMENTS: Final = 2**17  # of a block of derivatives: a call of compiled code takes 5 us, as long as 10,000 elements
WIDEST: Final = 2**18  # classes of a row that is converted whole, since a block has one row at least: 1 MiB an array
SAFE: Final = 2.0**127  # a number below it is cast to float32 without a flag; a guard around it takes 0.3 us

if find_spec("numba") is None:  # said here, where the table asks, and not by the first call
    raise ModuleNotFoundError("No module named 'numba'", name="numba")

_NO_SCALE: Final = {np.float32: np.float32(0), np.float64: np.float64(0)}
_READ: Final = frozenset(
    {"bool", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
_NATIVE: Final = frozenset(np.dtype(name) for name in _READ)  # a byte-swapped dtype equals none of them


@cache
def _switched_off() -> str | None:
    """Why Numba compiles nothing here; asked once, with the import of what it compiles, which decides it for good."""
    from numba import config

    if config.DISABLE_JIT:  # type: ignore[attr-defined]  # Numba makes its settings as the module runs
        return "Numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    _loops()
    return None


@cache  # an import statement costs half a microsecond even where nothing is left to import
def _loops() -> ModuleType:
    """What is compiled; importing it imports Numba."""
    from . import _numba_loops

    return _numba_loops


# ---------------------------------------------------------------- what is served


def accepts(problem: Problem) -> str | None:
    if problem.where is not None:
        return "it does not mask (`where` was given)"
    if problem.library == "torch" and problem.device.type != "cpu":
        return f"it works on host memory, and the tensors are on {problem.device}"
    x, y = problem.input, problem.target
    if y.dtype not in _READ and y.dtype not in _policy.HALVES:
        return f"it does not read targets of dtype {y.dtype}"
    if problem.weight is not None or problem.pos_weight is not None:
        for argument, meta in (("weight", problem.weight), ("pos_weight", problem.pos_weight)):
            if meta is not None and any(n != 1 for n in meta.shape[:-1]):
                return f"`{argument}` differs between rows; it serves one number, or one a class"
    if not (_as_it_is(x) and _as_it_is(y)):
        if x.shape[-1] is None or x.shape[-1] > WIDEST:
            return f"rows of more than {WIDEST} classes would have to be converted whole"
        if len(x.shape) > 2 and not (x.layout == y.layout == "C"):
            return "it reads strided arrays with one batch axis only"
    return _switched_off()


def _as_it_is(meta: Meta) -> bool:
    """Whether the loops can read it where it lies; else it is converted block by block."""
    return meta.layout == "C" and meta.dtype in _READ


def note(problem: Problem) -> str | None:
    """What a first call has to do besides: compile, unless this process or the cache on disk has done so."""
    from numba import typeof

    fused = _loops().fused
    real = np.float64 if problem.dtype.startswith("float64") else np.float32
    x, y = (
        np.empty((0, 1), "float32" if m.dtype in _policy.HALVES else m.dtype) for m in (problem.input, problem.target)
    )
    w, p = (
        None if m is None else 0.0 if all(n == 1 for n in m.shape) else np.empty(0, real)
        for m in (problem.weight, problem.pos_weight)
    )
    smooth = (0.0, 0.0) if problem.label_smoothing else None
    missing = []
    for function, results in (
        ("the loss", (np.empty(0, real), None)),
        ("grad", (None, np.empty((0, 1), x.dtype))),
        ("value_and_grad", (np.empty(0, real), np.empty((0, 1), x.dtype))),
    ):
        signature = tuple(map(typeof, (x, y, w, p, smooth, real(0), *results)))
        if signature not in fused.overloads and not _kept(fused, signature):
            missing.append(function)
    if not missing:
        return None
    where = fused.stats.cache_path
    kept = f"keeps the code in {where}" if where else "can write the code nowhere, so that every process compiles anew"
    return (
        f"its first call with these dtypes and options compiles ({', '.join(missing)}; about a second each) and {kept}"
    )


def _kept(dispatcher: Any, signature: tuple[Any, ...]) -> bool:
    """Whether the cache on disk has the code. Numba has no public question for this; a test notices if it moves."""
    if dispatcher.stats.cache_path is None:
        return False
    cache = dispatcher._cache
    try:
        kept = cache._cache_file._load_index()
    except Exception:  # what cannot be read is not there, and a pickle may fail in any way
        return False
    return cache._index_key(signature, dispatcher.targetctx.codegen()) in kept


# ---------------------------------------------------------------- the seam


def rows(o: Operands) -> Any:
    return _fused(o, None, True, False)[0]


def rows_vjp(o: Operands, g: Any) -> Any:
    return _fused(o, g, False, True)[1]


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return _fused(o, g, True, True)


def curvature(o: Operands, g: Any) -> Any:
    real = np.float64 if o.dtype == o.acc else np.float32
    w, p, smooth = _options(o)
    bent = _loops().bent

    def work(x: Any, y: Any, scale: Any, rows: Any, out: Any) -> None:
        bent(x, y, w, p, smooth, scale, out)

    return _run(o, work, real, _scale(o, g, real), False, True)[1]


def _fused(o: Operands, g: Any, want_rows: bool, want_slope: bool) -> tuple[Any, Any]:
    real = np.float64 if o.dtype == o.acc else np.float32
    w, p, smooth = _options(o)
    fused = _loops().fused

    def work(x: Any, y: Any, scale: Any, rows: Any, slope: Any) -> None:
        fused(x, y, w, p, smooth, scale, rows, slope)

    return _run(o, work, real, _scale(o, g, real) if want_slope else _NO_SCALE[real], want_rows, want_slope)


def accepts_derivatives(problem: Problem) -> str | None:
    """Any layout, weight and mask: what is not ready is made so block by block, by NumPy."""
    if problem.library == "torch" and problem.device.type != "cpu":
        return f"it works on host memory, and the tensors are on {problem.device}"
    return _derivatives.unreadable(problem)


def derivatives(o: Operands, scale: Any, least: float) -> tuple[Any, Any]:
    arrays = _derivatives.host(o)
    scale = scale if scale is None or arrays is o else _host(scale)
    real = np.float64 if o.dtype == o.acc else np.float32
    elements = _loops().elements

    def work(x: Any, y: Any, w: Any, p: Any, m: Any, smooth: Any, least: Any, slope: Any, bend: Any) -> None:
        elements(_host(x), _host(y), w, p, m, smooth, real(least), slope, bend)

    with np.errstate(all="ignore"):
        found = _derivatives.derivatives(arrays, scale, least, work, ELEMENTS)
    if arrays is o:
        return found
    from torch import from_numpy

    return from_numpy(found[0]), from_numpy(found[1])


# ---------------------------------------------------------------- arrays


def _host(values: Any) -> Any:
    """An array or a CPU tensor as a NumPy array of the same memory."""
    if not isinstance(values, np.ndarray):
        values = values.numpy(force=True)  # "force" past requires_grad; nothing is copied on the CPU
    elif not values.flags.writeable:
        values = np.asarray(_Unlocked(values))
    return values


class _Unlocked:
    """The memory of a read-only array without the lock, for loops that write to their results alone.

    Numba counts the lock as a part of the type: every call would compile anew for read-only logits, targets, or both.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}
        self.array = array  # kept as long as the view is


def _options(o: Operands) -> tuple[Any, Any, tuple[float, float] | None]:
    if o.w is None and o.p is None and not o.eps:
        return None, None, None
    smooth = (1 - o.eps, o.eps / 2) if o.eps else None
    return _per_class(o, o.w, "weight"), _per_class(o, o.p, "pos_weight"), smooth


def _per_class(o: Operands, values: Any, argument: str) -> Any:
    """A weight as None, a number, or a contiguous array of a number a class, in the compute dtype."""
    if values is None:
        return None
    values = _host(o.xp.astype(values, o.dtype, copy=False)).reshape(-1)
    if values.size not in (1, o.x.shape[-1]):
        raise ValueError(f"`{argument}` must be one number, or one a class, {o.x.shape[-1]}; got {values.size}.")
    return float(values[0]) if values.size == 1 else np.ascontiguousarray(values)


def _scale(o: Operands, g: Any, real: Any) -> Any:
    """What each row's derivative is multiplied by: a number, or one a row. The divisors meet in float64."""
    if g.ndim == 0:
        scale = float(g) / o.x.shape[-1]
        if abs(scale) < SAFE:
            return real(scale)
    with np.errstate(all="ignore"):  # a tensor's call has no guard of its own
        if g.ndim == 0:
            return real(scale)
        return np.ascontiguousarray(_host(g).reshape(-1) / o.x.shape[-1], dtype=real)


def _run(
    o: Operands, work: Callable[..., None], real: Any, scale: Any, want_rows: bool, want_slope: bool
) -> tuple[Any, Any]:
    """`work` over all rows, by blocks where they must be converted and by threads where that pays."""
    x, y = o.x, o.y
    classes, batch = x.shape[-1], x.shape[:-1]
    tensors = not isinstance(x, np.ndarray)
    direct = _lies_ready(x) and _lies_ready(y)
    if direct:
        x, y = _host(x), _host(y)
    if y.shape != x.shape:  # the loops go by the lengths of x, and compare none
        raise ValueError(f"`target` must have the shape of `input`, {tuple(x.shape)}; got {tuple(y.shape)}.")
    if len(batch) != 1:
        x, y = x.reshape(-1, classes), y.reshape(-1, classes)
    count = x.shape[0]
    if scale.ndim and scale.size != count:
        raise ValueError(f"`grad_output` must be one number, or one a row, {count}; got {scale.size}.")
    rows: Any = np.empty(count, real) if want_rows else None
    slope: Any = None
    if want_slope:
        if tensors and not direct:
            slope = o.xp.empty((count, classes), dtype=x.dtype, device=x.device)
        else:
            slope = np.empty((count, classes), x.dtype)

    elements = count * classes
    threads = min(_threads.allowed(tensors), elements // ALONE) if elements >= 2 * ALONE else 1
    if direct and threads == 1:
        work(x, y, scale, rows, slope)
    else:
        part = _plain if direct else _converted
        _threads.spread(threads, count, lambda i, j: part(o, work, x[i:j], y[i:j], *_cut(i, j, scale, rows, slope)))
    if len(batch) != 1:
        rows = None if rows is None else rows.reshape(batch)
        slope = None if slope is None else slope.reshape(o.x.shape)
    if not tensors:
        return (rows if batch or rows is None else rows[()]), slope
    from torch import from_numpy

    rows = None if rows is None else from_numpy(rows)
    return rows, from_numpy(slope) if isinstance(slope, np.ndarray) else slope


def _lies_ready(values: Any) -> bool:
    """What `_as_it_is` says of the metadata, said of the array."""
    if isinstance(values, np.ndarray):
        flags = values.flags
        return values.dtype in _NATIVE and flags.c_contiguous and flags.aligned
    return _policy.name(values.dtype) in _READ and bool(values.is_contiguous())


def _cut(i: int, j: int, *arrays: Any) -> tuple[Any, ...]:
    """The rows i:j of what has rows; None and a number as they are."""
    return tuple(a if a is None or a.ndim == 0 else a[i:j] for a in arrays)


def _plain(o: Operands, work: Callable[..., None], x: Any, y: Any, scale: Any, rows: Any, slope: Any) -> None:
    work(x, y, scale, rows, slope)


def _converted(o: Operands, work: Callable[..., None], x: Any, y: Any, scale: Any, rows: Any, slope: Any) -> None:
    """Blocks of rows made contiguous and native, half precision as float32, by their own library; results cast back."""
    count, classes = x.shape
    step = max(1, CONVERTED // classes)
    with np.errstate(all="ignore"):  # threads do not inherit the caller's
        for i in range(0, count, step):
            j = min(count, i + step)
            block = _ready(o, x[i:j])
            own_scale, own_rows, own_slope = _cut(i, j, scale, rows, slope)
            out = None if slope is None else np.empty(block.shape, block.dtype)
            work(block, _ready(o, y[i:j]), own_scale, own_rows, out)
            if out is not None:
                own_slope[...] = _like(o, out, own_slope)


def _ready(o: Operands, values: Any) -> Any:
    """A block as the loops read it: contiguous, native, half precision as float32."""
    name = _policy.name(values.dtype)
    if not isinstance(values, np.ndarray):
        return _host((values.to(o.xp.float32) if name in _policy.HALVES else values).contiguous())
    if name != "float16":
        to = np.float32 if name in _policy.HALVES else values.dtype.newbyteorder("=")
        return _host(np.array(values, dtype=to, order="C"))
    halves = np.array(values, dtype=np.float16, order="C")
    out = np.empty(halves.shape, np.float32)
    _loops().widen(halves.view(np.uint16).reshape(-1), out.reshape(-1))
    return out


def _like(o: Operands, values: Any, result: Any) -> Any:
    """A block of results, to be put into `result`, which rounds it to its own dtype where that is not done here."""
    if not isinstance(result, np.ndarray):
        return o.xp.from_numpy(values)
    if _policy.name(result.dtype) != "float16":
        return values
    halves = np.empty(values.shape, np.float16)
    _loops().narrow(values.reshape(-1), halves.view(np.uint16).reshape(-1))
    return halves


KERNEL = Kernel(
    name="numba",
    libraries=("numpy", "torch"),
    accepts=accepts,
    rows=rows,
    rows_vjp=rows_vjp,
    rows_and_vjp=rows_and_vjp,
    curvature=curvature,
    note=note,
    derivatives=derivatives,
    accepts_derivatives=accepts_derivatives,
)
