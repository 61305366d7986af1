"""What the CUDA kernel is asked to do: which calls it serves, how it is compiled for them, and how it is launched.

Decides from dtypes, shapes, strides and addresses alone, so nothing here needs CuPy, a driver or a GPU: the same plan
is carried out by a device (`cupy.py`) and, in the tests, by a host that runs `_cuda.cu` thread by thread. Reads and
copies no data.

All tuning numbers below are reasoned, not measured: no GPU was at hand when they were chosen. What would be measured
is `python -m mlsm_conformance bench` on a machine with one; a figure that is found belongs beside its number.

What can be counted without one: in sm_90's machine code an element of the loss is 35 instructions and one of loss and
gradient 55, beside 5 for its loads and stores. By that a Hopper GPU reads float32 more slowly than it computes, so that
memory bounds it, and bfloat16 faster: there the arithmetic does.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from .._core import Operands
from .._problem import Problem

# Not measured on hardware yet.
THREADS: Final = 256  # of a block; blocks of warps that never wait for each other, so the size matters little
RESIDENT: Final = (3, 2)  # blocks that fit a multiprocessor, of float32 and of float64: 80 and 128 registers (ptxas)
ACROSS: Final = 512  # of a block whose neighbouring threads are neighbouring rows: 16 rows or more, so whole sectors
BLOCKS: Final = 2**20  # of a grid, at most; what is left over is taken in further turns

# The same numbers as in _cuda.cu, where they are part of what is compiled.
CHUNK: Final = 2048  # classes a group of lanes reads in one go
AXES: Final = 4  # batch axes with strides of their own
LANES: Final = 32  # of a group, at most: a warp
_TYPES = (
    *("none", "float16", "bfloat16", "float32", "float64"),
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool"),
)
CODES: Final = {name: code for code, name in enumerate(_TYPES)}
ROWS: Final = 1
SLOPE: Final = 2
BEND: Final = 4

# No -use_fast_math and none of its parts: subnormals stay, division is correctly rounded, nothing is contracted.
OPTIONS: Final = ("-std=c++17", "-fmad=false", "--ftz=false", "--prec-div=true")


def source() -> str:
    """The CUDA C++ source."""
    return Path(__file__).with_name("_cuda.cu").read_text(encoding="utf-8")


# ---------------------------------------------------------------- what is served


def declined(problem: Problem) -> str | None:
    """Why these operands cannot be read, wherever they lie; None where they can."""
    if problem.where is not None:
        return "it does not mask (`where` was given)"
    for argument, own in (("input", problem.input), ("target", problem.target)):
        if own.dtype not in CODES:
            return f"it does not read `{argument}` of dtype {own.dtype}"
    if len(problem.input.shape) > AXES + 1:
        return f"it takes at most {AXES} batch axes; `input` has {len(problem.input.shape) - 1}"
    for argument, meta in (("weight", problem.weight), ("pos_weight", problem.pos_weight)):
        if meta is not None and any(n != 1 for n in meta.shape[:-1]):
            return f"`{argument}` differs between rows; it serves one number, or one a class"
    return None


# ---------------------------------------------------------------- how it is launched


Macros: TypeAlias = tuple[str, ...]  # what is compiled, as "-DNAME=NUMBER"


class View(NamedTuple):
    """Where an array lies."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class Device(Protocol):
    """What carries out a plan: it makes arrays beside the operands, and runs the source."""

    def view(self, array: Any) -> View: ...
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any: ...
    def like(self, array: Any) -> Any:
        """An uninitialised array with the shape, dtype and order of another."""

    def launch(self, name: str, macros: Macros, grid: int, block: int, shared: int, arguments: Any) -> None: ...


def run(o: Operands, g: Any, mode: int, device: Device) -> tuple[Any, Any]:
    """The row losses and a derivative, as `mode` wants them; None for what it does not."""
    batch, classes = tuple(o.x.shape[:-1]), o.x.shape[-1]
    if tuple(o.y.shape) != tuple(o.x.shape):  # what is compiled goes by the lengths of x, and compares none
        raise ValueError(f"`target` must have the shape of `input`, {tuple(o.x.shape)}; got {tuple(o.y.shape)}.")
    for argument, values in (("weight", o.w), ("pos_weight", o.p)):
        if values is not None and math.prod(values.shape) not in (1, classes):
            raise ValueError(
                f"`{argument}` must be one number, or one a class, {classes}; got shape {tuple(values.shape)}."
            )
    if g is not None and g.ndim and tuple(g.shape) != batch:
        raise ValueError(f"`grad_output` must be one number, or one a row, {batch}; got shape {tuple(g.shape)}.")
    rows = device.empty(batch, o.dtype) if mode & ROWS else None
    out = device.like(o.x) if mode & (SLOPE | BEND) else None
    count = math.prod(batch)
    if not count:
        return rows, out
    chunks = -(-classes // CHUNK)
    parts = device.empty((count, chunks), o.xp.float64) if mode & ROWS and chunks > 1 else None
    views = [None if a is None else device.view(a) for a in (o.x, o.y, o.w, o.p, g, rows, parts, out)]
    addresses = [0 if v is None else v.address for v in views]
    x, y, w, p, scale, _, _, result = (None if v is None else v[1:] for v in views)
    double = o.dtype == o.xp.float64
    for name, macros, grid, block, shared, numbers in _launches(x, y, w, p, scale, result, mode, double, o.eps):
        device.launch(name, macros, grid, block, shared, (*addresses, *numbers))
    return rows, out


Launch: TypeAlias = tuple[str, Macros, int, int, int, tuple[float, ...]]


@lru_cache(maxsize=256)
def _launches(
    x: Any, y: Any, w: Any, p: Any, scale: Any, result: Any, mode: int, double: bool, eps: float
) -> tuple[Launch, ...]:
    """What is launched for arrays of these (dtype, shape, strides): all but the addresses. Remembered, since a training
    loop asks for the same again and again."""
    _, (*batch, classes), (*x_strides, x_along) = x
    count, chunks, lanes = math.prod(batch), -(-classes // CHUNK), LANES
    while lanes > 1 and 4 * lanes >= classes:  # a lane takes 8 classes a turn, and the last one has at least one
        lanes //= 2
    strides = (x_strides, *(() if v is None else v[2] for v in (y, result, scale)))
    axes = _merged(tuple(batch), *strides)
    # Where rows and not classes lie side by side; 1 is the stride of a class axis that is read in whole pieces anyway.
    across = axes[0][0] > 1 and classes > 1 and abs(x_along) > max(1, abs(axes[0][1]))
    block = ACROSS if across else THREADS
    macros = (
        *(f"-D{name}_TYPE={CODES[v[0]] if v else 0}" for name, v in zip("XYWPG", (x, y, w, p, scale), strict=True)),
        f"-DDOUBLE={int(double)}",
        f"-DMODE={mode}",
        f"-DSMOOTH={int(eps != 0)}",
        f"-DTHREADS={block}",
        f"-DBLOCKS={1 if across else RESIDENT[double]}",
    )
    along = [v[2][-1] if v and v[1] and v[1][-1] > 1 else 0 for v in (w, p)]
    places = (x_along, y[2][-1], *along, result[2][-1] if result else 0)
    numbers = (*places, *(axis[i] for i in range(5) for axis in axes), 1 / classes, 1 - eps, eps / 2)
    shared = block * (16 if double else 8) if mode & ROWS else 0

    def launch(name: str, tasks: int, lanes: int, rows_first: bool) -> Launch:
        grid = min(-(-tasks * lanes // block), BLOCKS)
        return name, macros, grid, block, shared, (classes, tasks, chunks, lanes, int(rows_first), *numbers)

    passes = (launch("mlsm_pass", count * chunks, lanes, across),)
    return (*passes, launch("mlsm_finish", count, LANES, False)) if mode & ROWS and chunks > 1 else passes


def _merged(batch: tuple[int, ...], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """`AXES` batch axes, the innermost first, as (length, a stride for each array): axes that lie end to end are one.

    An array that was not given, or that is one number for all rows, has strides of 0.
    """
    each = [s if len(s) >= len(batch) else (0,) * len(batch) for s in strides]
    axes: list[tuple[int, ...]] = []
    for i in reversed(range(len(batch))):
        here = (batch[i], *(s[i] for s in each))
        if batch[i] == 1:
            continue
        if axes and all(outer == axes[-1][0] * inner for outer, inner in zip(here[1:], axes[-1][1:], strict=True)):
            axes[-1] = (axes[-1][0] * batch[i], *axes[-1][1:])
        else:
            axes.append(here)
    return axes + [(1,) + (0,) * len(strides)] * (AXES - len(axes))
