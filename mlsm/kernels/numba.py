"""The fused pass over host memory, compiled by Numba: NumPy arrays (Dask's blocks too) and CPU tensors, not copied.

Serves every option, dtype and layout. Chooses threads, and tells the compiled code where each operand is in memory; the
arithmetic is in `_numba_loops`. Numba itself is imported by the first call that is served.
"""

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np

from .. import _policy
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Layout, Problem, Repeated
from . import _derivatives, _threads

# Tuning, measured on two cores with AVX-512. ALONE: to pass a part to a thread costs 11 us, and a quarter of a million
# elements take 200 us.
ALONE: Final = 2**18  # the fewest elements of a thread
ELEMENTS: Final = 2**17  # of a block of derivatives: a call of compiled code takes 5 us, as long as 10,000 elements
SLAB: Final = (
    64  # float32 rows that are copied together if neighbouring classes are farther apart than neighbouring rows
)

if find_spec("numba") is None:  # raised here, for the kernel table, and not by the first call
    raise ModuleNotFoundError("No module named 'numba'", name="numba")


@cache
def _switched_off() -> str | None:
    """Why Numba compiles nothing here, or None. Found once: importing the functions to compile fixes the setting."""
    from numba import config

    if config.DISABLE_JIT:  # type: ignore[attr-defined]  # Numba defines its settings at run time
        return "Numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    _loops()
    return None


@cache  # an import statement costs half a microsecond even if the module is already imported
def _loops() -> ModuleType:
    """The module with the compiled functions; importing it imports Numba."""
    from . import _numba_loops

    return _numba_loops


# ---------------------------------------------------------------- what is served


def accepts(problem: Problem) -> str | None:
    if problem.library == "torch" and problem.device.type != "cpu":
        return f"it works on host memory, and the tensors are on {problem.device}"
    for meta in problem[2:7]:  # input, target, weight, pos_weight, where
        if meta is None:
            continue
        if meta.layout is Layout.FOREIGN and problem.library == "torch":
            return "it reads memory directly, and PyTorch negates one of the tensors when it is read"
        if meta.dtype not in _READ:
            return f"it does not read dtype {meta.dtype}"
    return _switched_off()


def note(problem: Problem) -> str | None:
    """What a first call has to do in addition: compile, unless this process or the cache on disk has the code."""
    fused = _loops().fused
    one = (np.float64 if problem.dtype.startswith("float64") else np.float32)(1)
    signature = _signature(one)
    if signature in fused.overloads or _kept(fused, signature):
        return None
    where = fused.stats.cache_path
    kept = f"stores the code in {where}" if where else "cannot store the code, so that every process compiles again"
    return f"its first call in {problem.dtype} compiles for some seconds and {kept}"


def _signature(one: Any) -> tuple[Any, ...]:
    """The argument types of `fused` for arithmetic in the dtype of `one`."""
    from numba import typeof

    return tuple(map(typeof, (one, 0, 0, 0, np.empty(0, np.int64), *[0] * 9, 0.0, 0.0, 0.0)))


def _kept(dispatcher: Any, signature: tuple[Any, ...]) -> bool:
    """Whether the cache on disk has the code. Numba has no public function for this; a test notices if it changes."""
    if dispatcher.stats.cache_path is None:
        return False
    cache = dispatcher._cache
    try:
        kept = cache._cache_file._load_index()
    except Exception:  # an index that cannot be read counts as absent, and a pickle may fail in any way
        return False
    return cache._index_key(signature, dispatcher.targetctx.codegen()) in kept


# ---------------------------------------------------------------- the seam

# As in `_numba_loops`, which is not imported yet.
ROWS, GRADIENT, HESSIAN, TOTAL, MEAN, COUNT = 1, 2, 4, 8, 16, 32
FEW: Final = 8192


def rows(o: Operands) -> Any:
    return _run(o, None, ROWS)[0]


def rows_vjp(o: Operands, g: Any) -> Any:
    return _run(o, g, GRADIENT)[1]


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return _run(o, g, ROWS | GRADIENT)


def curvature(o: Operands, g: Any) -> Any:
    return _run(o, g, HESSIAN)[1]


def reduced(problem: Problem, o: Operands, g: float | None) -> tuple[Any, Any] | None:
    """The reduced loss, and its gradient times g, by one call of compiled code, if the batch is small; else None."""
    _, x, y, w, p, m, eps, dtype, acc, _, _ = o
    tensors = not isinstance(x, np.ndarray)
    plan = problem.plan if type(problem) is Repeated else None
    if plan is None:
        if tensors:
            given = [None if v is None else (v.dtype, v.shape, v.stride()) for v in (x, y, w, p, m)]
        else:
            given = [None if v is None else (v.dtype, v.shape, v.strides) for v in (x, y, w, p, m)]
        plan = _small_plan(dtype == acc, eps != 0, tensors, *given)
        if plan is None:
            return None
        if type(problem) is Repeated:
            problem.plan = plan
    one, numbers, rows, elements = plan
    if elements >= 2 * ALONE and _threads.allowed(tensors) > 1:
        return None
    mode = ROWS | (MEAN if problem.reduction == "mean" else TOTAL) | (0 if g is None else GRADIENT)
    if tensors:
        value = o.xp.empty_like(_scalar(dtype))
        out = None if g is None else o.xp.empty_like(x) if x.is_contiguous() else x.new_empty(x.shape)
        places = [0 if v is None else v.data_ptr() for v in (x, y, w, p, m, None, None, out, value)]
    else:
        value = np.empty((), one.dtype)
        out = None if g is None else np.empty(x.shape, x.dtype)
        places = [0 if v is None else _address(v) for v in (x, y, w, p, m, None, None, out, value)]
    _loops().fused(one, mode, 0, rows, numbers, *places, 1.0 if g is None else g, 1 - eps, eps / 2)
    return value if tensors else value[()], out


def observed_rows(o: Operands) -> float | None:
    """How many rows have an observed class, at least 1. NumPy's `any` takes 22 ns for a row of 20 classes: more than
    the loss of the row.

    None for a mask that broadcasts, is not contiguous along the classes or has one class: NumPy is faster there.
    """
    m = _as_array(o.m)
    classes, double = o.x.shape[-1], o.dtype == o.acc
    if m.shape != o.x.shape or classes == 1 or m.strides[-1] != 1:
        return None
    own = (_code(m.dtype), m.shape, m.strides)
    plan = _plan(double, False, own, own, None, None, (_MASK, m.shape, m.strides), None)
    one = np.float64(1) if double else np.float32(1)
    found: list[float] = []

    def part(i: int, j: int) -> None:
        count = np.zeros(())
        places = [0, 0, 0, 0, _address(m), 0, 0, 0, _address(count)]
        _loops().fused(one, COUNT, i, j, plan.numbers, *places, 1.0, 1.0, 0.0)
        found.append(float(count))

    _in_parts(part, plan.rows, classes, not isinstance(o.m, np.ndarray))
    return max(1.0, sum(found))


@cache
def _scalar(dtype: Any) -> Any:
    """A template for `empty_like`, which takes half the time of `new_empty`."""
    import torch

    return torch.empty((), dtype=dtype, device="cpu")


@lru_cache(maxsize=1024)
def _small_plan(double: bool, smooth: bool, tensors: bool, *given: Any) -> Any:
    """For a call that `reduced` serves: 1 in the dtype of the arithmetic, the plan, and how many rows and elements it
    has. None for other calls."""
    shape = given[0][1]
    rows, classes = prod(shape[:-1]), shape[-1]
    if not rows or (rows > FEW and (classes > 1 or double or given[4] is not None)):
        return None
    operands: list[View | None] = []
    for k, operand in enumerate(given):
        if operand is None:
            operands.append(None)
            continue
        dtype, own, strides = operand
        step = dtype.itemsize if tensors else 1  # tensors count strides in elements
        operands.append((_MASK if k == 4 else _code(dtype), tuple(own), tuple(step * n for n in strides)))
    assert operands[0] is not None
    assert operands[1] is not None
    plan = _plan(double, smooth, operands[0], operands[1], *operands[2:], None)
    if plan.back is not None:
        return None
    return np.float64(1) if double else np.float32(1), plan.numbers, rows, rows * classes


def accepts_derivatives(problem: Problem) -> str | None:
    """Any layout, weight and mask: NumPy converts operands block by block if necessary."""
    if problem.library == "torch" and problem.device.type != "cpu":
        return f"it works on host memory, and the tensors are on {problem.device}"
    return _derivatives.unreadable(problem)


def derivatives(o: Operands, scale: Any, least: float) -> tuple[Any, Any]:
    arrays = _derivatives.host(o)
    scale = scale if scale is None or arrays is o else _as_array(scale)
    one = np.float64(1) if o.dtype == o.acc else np.float32(1)
    elements = _loops().elements

    def work(x: Any, y: Any, w: Any, p: Any, m: Any, smooth: Any, least: Any, gradient: Any, hessian: Any) -> None:
        places = [0 if v is None else _address(v) for v in (x, y, w, p, m, gradient, hessian)]
        elements(one, x.size, *places, least, *(smooth or (1.0, 0.0)))

    with np.errstate(all="ignore"):
        found = _derivatives.derivatives(arrays, scale, least, work, ELEMENTS)
    if arrays is o:
        return found
    return _tensor(o.xp, found[0], o.x.dtype), _tensor(o.xp, found[1], o.x.dtype)


# ---------------------------------------------------------------- arrays


def _run(o: Operands, g: Any, mode: int) -> tuple[Any, Any]:
    """The results that `mode` selects for all rows, by threads if the call is large enough."""
    # One by one, because a generator takes as long as what it does here.
    x, y, w, p, m = _as_array(o.x), _as_array(o.y), o.w, o.p, o.m
    w = w if w is None else _as_array(w)
    p = p if p is None else _as_array(p)
    m = m if m is None else _as_array(m)
    scale, each = (1.0, None) if g is None else (float(g), None) if not g.ndim else (1.0, _as_array(g))
    if each is not None and each.dtype != np.float64:
        each = each.astype(np.float64)
    double = o.dtype == o.acc
    plan = _plan(
        double,
        bool(o.eps),
        (_code(o.x.dtype), x.shape, x.strides),
        (_code(o.y.dtype), y.shape, y.strides),
        None if w is None else (_code(o.w.dtype), w.shape, w.strides),
        None if p is None else (_code(o.p.dtype), p.shape, p.strides),
        None if m is None else (_MASK, m.shape, m.strides),
        None if each is None else (_NUMBERS, each.shape, each.strides),
        mode == ROWS | GRADIENT and x.itemsize == 2,
    )
    tensors = not isinstance(o.x, np.ndarray)
    one = np.float64(1) if double else np.float32(1)
    rows = np.empty(plan.batch, one.dtype) if mode & ROWS else None
    out = np.empty(plan.shape, x.dtype) if mode & ~ROWS else None
    arrays = (x, None if mode == HESSIAN and p is None else y, w, p, m, each, rows, out)
    places = [0 if v is None else _address(v) for v in arrays]
    keep, add = 1 - o.eps, o.eps / 2
    fused = _loops().fused

    def part(i: int, j: int) -> None:
        fused(one, mode, i, j, plan.numbers, *places, 0, scale, keep, add)

    _in_parts(part, plan.rows, x.shape[-1], tensors)
    if plan.back is not None:
        rows = None if rows is None else rows.transpose(plan.batch_back)
        out = None if out is None else out.transpose(plan.back)
    if tensors:
        return _tensor(o.xp, rows, o.dtype), _tensor(o.xp, out, o.x.dtype)
    return rows if rows is None or rows.ndim else rows[()], out


def _in_parts(part: Callable[[int, int], None], rows: int, classes: int, tensors: bool) -> None:
    """part(i, j) over all rows, by threads if there are enough elements."""
    elements = rows * classes
    threads = min(_threads.allowed(tensors), elements // ALONE) if elements >= 2 * ALONE else 1
    if threads > 1:
        _threads.spread(threads, rows, part)
    elif elements:
        part(0, rows)


def _as_array(values: Any) -> Any:
    """An array, or a CPU tensor's memory as one; bfloat16, which NumPy does not have, is viewed as integers."""
    if isinstance(values, np.ndarray):
        return values
    if _policy.name(values.dtype) == "bfloat16":
        import torch

        values = values.view(torch.int16)
    return values.numpy(force=True)  # "force" ignores requires_grad; nothing is copied on the CPU


def _tensor(xp: Any, values: Any, dtype: Any) -> Any:
    if values is None:
        return None
    found = xp.from_numpy(values)
    return found if found.dtype == dtype else found.view(dtype)


def _slow_address(array: np.ndarray[Any, Any]) -> int:
    return array.ctypes.data


def _fast_address(array: np.ndarray[Any, Any]) -> int:
    """The pointer at the start of NumPy's array object: an eighth of the time of `.ctypes.data`."""
    return ctypes.c_size_t.from_address(id(array) + object.__basicsize__).value


def _finder() -> Any:
    """`_fast_address` if it is right here: NumPy guarantees the position to programs in C, but not to Python."""
    probe = np.empty(3)
    return _fast_address if _fast_address(probe) == probe.ctypes.data else _slow_address


_address = _finder()


# ---------------------------------------------------------------- where the operands are in memory


@cache
def _code(dtype: Any) -> int:
    """A dtype as a number of `_numba_loops`: its kind, its number of bytes, and whether their order is swapped."""
    swapped = isinstance(dtype, np.dtype) and not dtype.isnative
    return _KINDS.index(_policy.name(dtype)) * 64 + int(dtype.itemsize) + 16 * swapped


_KINDS: Final = (
    "bool", "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64",
)  # fmt: skip
_READ: Final = frozenset(_KINDS)
_MASK: Final = len(_KINDS) * 64 + 1  # bytes, which are only copied
_HALVES: Final = tuple(_KINDS.index(name) * 64 + 2 for name in ("float16", "bfloat16"))
_NUMBERS: Final = _KINDS.index("float64") * 64 + 8
BLOCK: Final = 1024  # elements that the compiled code processes together
NARROW: Final = 64  # largest number of classes with a logarithm for each element

View = tuple[int, tuple[int, ...], tuple[int, ...]]  # code, shape and strides of an operand


class _Plan(NamedTuple):
    """How the compiled code iterates over the operands of a call."""

    numbers: np.ndarray[Any, Any]  # the plan as `_numba_loops` indexes it
    rows: int
    shape: tuple[int, ...]  # of a derivative, with its axes in the memory order of the logits
    batch: tuple[int, ...]  # of the row losses, likewise
    back: tuple[int, ...] | None  # the permutation to the caller's order, None if there is nothing to permute
    batch_back: tuple[int, ...]


@lru_cache(maxsize=1024)
def _plan(
    double: bool, smooth: bool, x: View, y: View, w: View | None, p: View | None, m: View | None, g: View | None,
    both: bool = False,
) -> _Plan:  # fmt: skip
    """The plan visits rows in the memory order of the logits, by as few batch axes as all operands allow.

    `both`: whether loss and gradient are wanted. Then float16 and bfloat16 are read and written in place if there are
    more than NARROW classes, logits and targets have the same dtype and neighbouring classes, and there is no option.
    """
    code, shape, strides = x
    classes, ndim = shape[-1], len(shape)
    if y[1] != shape:  # the loops use the lengths of x, and compare none
        raise ValueError(f"`target` must have the shape of `input`, {shape}; got {y[1]}.")
    if g is not None and g[1] != shape[:-1]:
        raise ValueError(f"`grad_output` must be one number, or one per row, {shape[:-1]}; got {g[1]}.")
    names = ("input", "target", "weight", "pos_weight", "where")
    steps = [_steps(v, name, shape) for v, name in zip((x, y, w, p, m), names, strict=True)]
    steps.append([0] * ndim if g is None else [*_steps(g, "grad_output", shape[:-1]), 0])
    order = _order(shape, strides)
    dense, size = [0] * ndim, code % 16
    for axis in reversed(order):
        dense[axis], size = size, size * shape[axis]
    steps.append(dense)
    batch_order = [axis for axis in order if axis != ndim - 1]
    axes: list[tuple[int, list[int]]] = []  # lengths, and the step of each operand
    for axis in batch_order:
        n, step = shape[axis], [s[axis] for s in steps]
        if n == 1:
            continue
        if axes and all(outer == n * inner for outer, inner in zip(axes[-1][1], step, strict=True)):
            axes[-1] = (axes[-1][0] * n, step)
        else:
            axes.append((n, step))
    axes = axes or [(1, [0] * 7)]
    cell = 8 if double else 4
    real = (_KINDS.index("float64") if double else _KINDS.index("float32")) * 64 + cell
    codes = [0 if v is None else v[0] for v in (x, y, w, p, m, g, x)]
    by_class = [code % 16 if classes == 1 else s[-1] for code, s in zip(codes, steps, strict=True)]
    unit = max(1, BLOCK // classes)
    by_row = w is not None and classes > NARROW and (not w[1] or w[1][-1] == 1)
    present = [k for k, v in enumerate((x, y, w, p, m, None, x)) if v is not None and not (k == 2 and by_row)]
    inner = axes[-1][1]
    # If rows are closer to each other in memory than classes, many rows are copied at a time.
    near = any(abs(inner[k]) < abs(by_class[k]) and inner[k] for k in present)
    across = near and unit == 1
    slab = SLAB >> double if across else min(4 * unit, BLOCK) if near else unit
    width = min(classes, BLOCK)
    pitch = width + 16 if across else width
    joint = p is None and classes > NARROW and (w is None or by_row)

    def lies(k: int) -> bool:
        """Whether the elements that are computed together are neighbours in memory."""
        size = codes[k] % 16
        merged = unit == 1 or axes[-1][0] == 1 or inner[k] == classes * size
        return bool(by_class[k] == size and merged and (len(axes) == 1 or slab == 1))

    alone = w is None and p is None and m is None and not smooth
    half = both and alone and joint and code in _HALVES and y[0] == code and all(map(lies, (0, 1, 6)))
    operands: list[int] = []
    for k, own in enumerate(codes):
        direct = k in present and (half or own in (real, _MASK)) and lies(k)
        fixed = not any(s[k] for _, s in axes) and (classes <= BLOCK or not by_class[k])
        down = inner[k] if direct else pitch if own == _MASK else pitch * cell
        operands += [own, direct, fixed, by_class[k], down, *(s[k] for _, s in axes)]
    copies = not all(operands[k * (5 + len(axes)) + 1] for k in present) or by_row
    room = slab * pitch if copies else 0
    numbers = [classes, len(axes), unit, slab, pitch, room, joint, by_row, smooth, code // 64 if half else 0]
    numbers += [n for n, _ in axes] + operands
    plain = order == list(range(ndim))
    batch_back = np.argsort(np.asarray(batch_order, np.intp))
    return _Plan(
        np.asarray(numbers, np.int64),
        prod(shape[:-1]),
        tuple(shape[axis] for axis in order),
        tuple(shape[axis] for axis in batch_order),
        None if plain else tuple(map(int, np.argsort(order))),
        tuple(map(int, batch_back)),
    )


def _steps(v: View | None, argument: str, shape: tuple[int, ...]) -> list[int]:
    """The bytes from one element to the next along each axis of the logits, 0 along a broadcast axis."""
    if v is None:
        return [0] * len(shape)
    _, own, strides = v
    added = len(shape) - len(own)
    if added < 0 or any(n not in (1, of) for n, of in zip(own, shape[added:], strict=True)):
        raise ValueError(f"`{argument}` must broadcast to the shape of `input`, {shape}; got {own}.")
    return [0] * added + [0 if n == 1 else step for n, step in zip(own, strides, strict=True)]


def _order(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """The axes from the largest step in memory to the smallest; unchanged if one of them is broadcast."""
    axes = list(range(len(shape)))
    steps = [abs(step) for n, step in zip(shape, strides, strict=True) if n > 1]
    if 0 in steps or steps == sorted(steps, reverse=True):
        return axes
    return sorted(axes, key=lambda axis: -abs(strides[axis]) if shape[axis] > 1 else 0)


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
    reduced=reduced,
    observed_rows=observed_rows,
)
