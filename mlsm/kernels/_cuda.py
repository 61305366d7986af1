"""The plan of the CUDA kernel: which calls it serves, how it is compiled for them, and how it is launched.

Decides from dtypes, shapes, strides and addresses alone, so nothing here needs CuPy, a driver or a GPU: the same plan
is carried out by a device (`cupy.py`) and, in the tests, by a host that runs `_cuda.cu` thread by thread. Reads and
copies no data.

All tuning numbers below are counted or reasoned, not measured: no GPU was available when they were chosen.
`conformance/gpu.sh` measures them on a machine with a GPU; add each measured figure next to its number.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from .._core import Operands
from .._problem import Meta, Problem

# Not measured on hardware yet.
THREADS: Final = 256  # of a block; its warps hardly wait for each other, so the number matters little
RESIDENT: Final = (3, 2)  # blocks that fit a multiprocessor, of float32 and of float64: 80 and 128 registers (ptxas);
# one block less if a mask or a weight per class needs registers too, which would otherwise spill to memory (ptxas)
ACROSS: Final = 512  # of a block whose neighbouring threads are neighbouring rows: 16 rows or more, so whole sectors
SHARED: Final = 48 * 1024  # bytes of shared memory that a block may have without opting in to more
STAGED: Final = 256  # classes from which on a row is read in place: the sectors at its ends are then a small part of it
OWN: Final = 16  # classes of a copied row per lane: with two float32 operands 128 bytes of shared memory
START: Final = 3  # the cost of a lane before its first class (its addresses, its logarithm), in classes

# The same numbers as in _cuda.cu, where they are compiled in.
CHUNK: Final = 2048  # classes that a group of lanes reads in one pass
AXES: Final = 4  # batch axes with strides of their own
LANES: Final = 32  # of a group, at most: a warp
_TYPES = (
    *("none", "float16", "bfloat16", "float32", "float64"),
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool"),
)
CODES: Final = {name: code for code, name in enumerate(_TYPES)}
_SIZES: Final = {"none": 0, "bool": 1, "bfloat16": 2} | {
    n: int(n.lstrip("uintfloa")) // 8 for n in _TYPES if n[-1].isdigit() and n != "bfloat16"
}
ROWS: Final = 1
GRADIENT: Final = 2
HESSIAN: Final = 4

# No -use_fast_math and none of its parts: subnormals stay, division is correctly rounded, nothing is contracted.
OPTIONS: Final = ("-std=c++17", "-fmad=false", "--ftz=false", "--prec-div=true")


def source() -> str:
    """The CUDA C++ source."""
    return Path(__file__).with_name("_cuda.cu").read_text(encoding="utf-8")


# ---------------------------------------------------------------- which calls are served


def declined(problem: Problem) -> str | None:
    """Why the kernel cannot read these operands, on any device; None if it can."""
    for argument, own in (("input", problem.input), ("target", problem.target)):
        if own.dtype not in CODES:
            return f"it does not read `{argument}` of dtype {own.dtype}"
    if len(problem.input.shape) > AXES + 1:
        return f"it takes at most {AXES} batch axes; `input` has {len(problem.input.shape) - 1}"
    return None


# ---------------------------------------------------------------- which lanes read which classes


@cache
def lanes_of(classes: int) -> tuple[int, bool]:
    """How many lanes share a row, and whether each takes four neighbouring classes at a time or single ones.

    It depends on the number of classes alone, because it determines the order of a row's sum. The cost of a choice is
    the number of classes that its lanes could work on, idle lanes included, plus eight classes for each 32-byte sector
    of float32 that their loads touch; of equal costs, more lanes win. Rows whose length is not a multiple of four are
    not aligned, and are read by single classes.

    Short rows are copied to shared memory in one piece, which wastes no sector. Their cost is that of the classes, of
    which a lane has up to `OWN`, and of the start of each further lane.
    """
    steps = {
        (lanes, wide): 4 * -(-classes // (4 * lanes)) if wide else -(-classes // lanes)
        for lanes in (1, 2, 4, 8, 16, 32)
        for wide in ((True, False) if classes % 4 == 0 else (False,))
    }

    def cost(choice: tuple[int, bool]) -> float:
        (lanes, wide), own = choice, steps[choice]
        if classes < STAGED:
            return lanes * (own * (1 if wide else 1.05) + START)  # single reads are a twentieth of the work more
        a_load = lanes * (4 if wide else 1)  # classes; a load may begin anywhere in a sector
        return lanes * own + 8 * (classes / 8 + -(-classes // a_load) * (1 / 2 if wide else 7 / 8))

    if classes < STAGED:
        choices = [choice for choice, own in steps.items() if own <= OWN]
    else:
        choices = [(lanes, wide) for lanes, wide in steps if lanes >= 16 and wide == (classes % 4 == 0)]
    return min(choices, key=lambda choice: (cost(choice), -choice[0]))


# ---------------------------------------------------------------- how it is launched


Macros: TypeAlias = tuple[str, ...]  # the options of one compilation, as "-DNAME=NUMBER"


class View(NamedTuple):
    """The memory of an array."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class Device(Protocol):
    """It carries out a plan: it makes arrays on the device of the operands, and runs the source."""

    def view(self, array: Any) -> View: ...
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any: ...
    def like(self, array: Any) -> Any:
        """An uninitialised array with the shape, dtype and order of another."""

    def processors(self) -> int:
        """The number of multiprocessors."""

    def launch(self, name: str, macros: Macros, grid: int, block: int, shared: int, arguments: Any) -> None: ...


def run(o: Operands, g: Any, mode: int, device: Device) -> tuple[Any, Any]:
    """The row losses and a derivative, as `mode` selects them; None for a result that it does not select."""
    batch, classes = tuple(o.x.shape[:-1]), o.x.shape[-1]
    operands = [None if a is None else device.view(a) for a in (o.x, o.y, o.w, o.p, o.m, g)]
    fit(*(None if v is None else v.shape for v in operands))
    rows = device.empty(batch, o.dtype) if mode & ROWS else None
    out = device.like(o.x) if mode & (GRADIENT | HESSIAN) else None
    count = math.prod(batch)
    if not count:
        return rows, out
    chunks = -(-classes // CHUNK)
    masked = o.m is not None
    parts = device.empty((count, chunks), o.xp.float64) if (masked or mode & ROWS) and chunks > 1 else None
    counts = device.empty((count,), o.xp.float64) if masked and chunks > 1 else None
    views = [*operands, *(None if a is None else device.view(a) for a in (counts, rows, parts, out))]
    addresses = [0 if v is None else v.address for v in views]
    x, y, w, p, m, scale, *_, result = (None if v is None else v[1:] for v in views)
    double = o.dtype == o.xp.float64
    processors = device.processors()
    for name, macros, grid, block, shared, numbers in _launches(
        x, y, w, p, m, scale, result, mode, double, o.eps, processors
    ):
        device.launch(name, macros, grid, block, shared, (*addresses, *numbers))
    return rows, out


def fit(x: Any, *others: tuple[int, ...] | None) -> None:
    """Check the shapes of x, y, w, p, m and g again: nothing else keeps a kernel from reading outside of an array, and
    a block of a lazy array, or the call of a third party, may not have passed the checks of `_check`."""
    y, *spread, g = others
    if y != x:
        raise ValueError(f"`target` must have exactly the shape of `input`, {x}; got {y}.")
    for argument, own, whole in (
        *zip(("weight", "pos_weight", "where"), spread, [x] * 3, strict=True),
        ("grad_output", g, x[:-1]),
    ):
        if own is None:
            continue
        if len(own) > len(whole) or any(a not in (1, b) for a, b in zip(reversed(own), reversed(whole), strict=False)):
            raise ValueError(f"`{argument}` must broadcast to {whole} without enlarging it; got {own}.")


Launch: TypeAlias = tuple[str, Macros, int, int, int, tuple[float, ...]]


@lru_cache(maxsize=256)
def _launches(
    x: Any,
    y: Any,
    w: Any,
    p: Any,
    m: Any,
    scale: Any,
    result: Any,
    mode: int,
    double: bool,
    eps: float,
    processors: int,
) -> tuple[Launch, ...]:
    """The launches for arrays of these (dtype, shape, strides), without their addresses. Cached, because a training
    loop repeats them."""
    _, (*batch, classes), (*_, x_along) = x
    count, chunks = math.prod(batch), -(-classes // CHUNK)
    lanes, wide = lanes_of(classes)
    operands = (x, y, w, p, m, result, scale)
    axes = _merged(tuple(batch), *(_row_strides(v, batch, v is scale) for v in operands))
    # Whether rows and not classes are adjacent in memory; a class axis of stride 1 is read in whole pieces anyway.
    across = axes[0][0] > 1 and classes > 1 and abs(x_along) > max(1, abs(axes[0][1]))
    staged = classes < STAGED and _lies_flat(x, x) and (result is None or _lies_flat(result, x))
    by_row = w is not None and _class_stride(w) == 0
    summed = (16 if double else 8) if mode & ROWS or m else 0  # bytes a thread
    copied = [
        v if staged and v is not None and not (v is w and by_row) and _lies_flat(v, x) else None
        for v in (x, y, w, p, m)
    ]

    def places(block: int) -> tuple[list[int], int]:
        """Where each copy begins in shared memory, and where the last one ends."""
        at, found = block * summed, []
        for v in copied:
            found.append(-1 if v is None else at)
            if v is not None:
                at += -(-block // lanes * classes * _SIZES[v[0]] // 16) * 16 + 16
        return found, at

    block = ACROSS if across else THREADS
    while places(block)[1] > SHARED and block > LANES:
        block //= 2
    copies, shared = places(block)
    resident = 1 if across else RESIDENT[double] - (m is not None or p is not None or (w is not None and not by_row))
    macros = (
        *(f"-D{name}_TYPE={CODES[v[0]] if v else 0}" for name, v in zip("XYWPG", (x, y, w, p, scale), strict=True)),
        f"-DDOUBLE={int(double)}",
        f"-DMODE={mode}",
        f"-DSMOOTH={int(eps != 0)}",
        f"-DMASKED={int(m is not None)}",
        f"-DW_ROW={int(by_row)}",
        f"-DSTAGED={int(staged)}",
        f"-DTHREADS={block}",
        f"-DBLOCKS={resident}",
    )
    along = [_class_stride(v) for v in (x, y, w, p, m, result)]
    numbers = (*along, *(axis[i] for i in range(1 + len(operands)) for axis in axes), 1 / classes, 1 - eps, eps / 2)

    def launch(name: str, tasks: int, lanes: int, rows_first: bool, counting: bool = False) -> Launch:
        # No more blocks than run at once: each block loops over tasks, so no further block has to be started.
        grid = min(-(-tasks * lanes // block), processors * resident)
        shape = (classes, tasks, chunks, lanes.bit_length() - 1, int(wide), int(rows_first), int(counting))
        return name, macros, grid, block, shared, (*shape, *copies, *numbers)

    passes = [launch("mlsm_pass", count * chunks, lanes, across)]
    if m is not None and chunks > 1:
        passes[:0] = [
            launch("mlsm_count", count * chunks, lanes, across),
            launch("mlsm_finish", count, LANES, False, counting=True),
        ]
    if mode & ROWS and chunks > 1:
        passes.append(launch("mlsm_finish", count, LANES, False))
    return tuple(passes)


def variants(problem: Problem) -> dict[str, Macros]:
    """The macros of each function of a call, if its arrays are in C order."""

    def lying(meta: Meta | None) -> Any:
        if meta is None:
            return None
        shape = tuple(n or 0 for n in meta.shape)
        return meta.dtype, shape, tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))

    operands = problem.input, problem.target, problem.weight, problem.pos_weight, problem.where
    x, *others = map(lying, operands)
    g = ("float64", (), ())
    modes = {"the loss": ROWS, "grad": GRADIENT, "value_and_grad": ROWS | GRADIENT, "hessian_diag": HESSIAN}
    double = problem.dtype == "float64"
    return {
        what: _launches(
            x, *others, *((None, None) if mode == ROWS else (g, x)), mode, double, problem.label_smoothing, 1
        )[-1][1]
        for what, mode in modes.items()
    }


def _class_stride(v: Any) -> int:
    """The stride from one class to the next; 0 if there is one value for all classes, or no array."""
    return v[2][-1] if v is not None and v[1] and v[1][-1] > 1 else 0


def _row_strides(v: Any, batch: Sequence[int], rows_only: bool) -> tuple[int, ...]:
    """The strides from row to row along each batch axis; 0 if the array is the same for all rows, or was not given."""
    if v is None:
        return (0,) * len(batch)
    _, shape, strides = v
    if not rows_only:
        shape, strides = shape[:-1], strides[:-1]
    own = tuple(s if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
    return (0,) * (len(batch) - len(own)) + own


def _lies_flat(v: Any, x: Any) -> bool:
    """Whether the array has a value for every logit and is contiguous in C order."""
    _, shape, strides = v
    expected = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and s != expected:
            return False
        expected *= n
    return bool(shape == x[1])


def _merged(batch: tuple[int, ...], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """`AXES` batch axes, innermost first, as (length, a stride for each array), after merging contiguous axes."""
    axes: list[tuple[int, ...]] = []
    for i in reversed(range(len(batch))):
        here = (batch[i], *(s[i] for s in strides))
        if batch[i] == 1:
            continue
        if axes and all(outer == axes[-1][0] * inner for outer, inner in zip(here[1:], axes[-1][1:], strict=True)):
            axes[-1] = (axes[-1][0] * batch[i], *axes[-1][1:])
        else:
            axes.append(here)
    return axes + [(1,) + (0,) * len(strides)] * (AXES - len(axes))
