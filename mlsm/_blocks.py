"""The generic formula a block at a time, so that it needs no temporary arrays of the logits' size.

Serves arrays in host memory (`Operands.host`), in their own library's arithmetic: the pullbacks of all arguments, the
counting of observed classes, and, for tensors that no kernel can read, the row seam. All other arrays, and calls of a
single block, go to `_core` unchanged. Holds no formula.
"""

from collections.abc import Callable, Iterable
from itertools import product
from math import prod
from typing import Any, Final

from . import _check, _core, _dispatch
from ._core import Operands, Parts
from ._typing import DType
from .many_classes._targets import Target

# Elements of a block, and its largest number of classes, so that sums over the rows of many classes need little memory.
BLOCK: Final = 32768
WIDEST: Final = 4096
FIRST: Final = 32  # classes of a row that are searched first for an observed one

NARROW: Final = 3  # halvings of a sum in the compute dtype; the bound of the sum allows eight roundings

Index = tuple[slice, ...]
_ALL: Final = slice(None)


# ---------------------------------------------------------------- what is computed


def observed_classes(o: Operands) -> Any:
    """`_core.observed_classes`, by blocks of `where`."""
    if not _cuttable(o, o.m):
        return _core.observed_classes(o)
    only = o.holding(o.m, None, None, None, None)
    found = _run(only, None, lambda part: o.xp.astype(part.x, o.acc), (*o.m.shape[:-1], 1), o.acc)[..., 0]
    return found if o.m.shape[-1] == o.x.shape[-1] else found * _core.class_count(o)


def observed_rows(o: Operands) -> Any:
    """Whether each row has an observed class, of the batch shape of `where`, which broadcasts."""
    if not o.host:  # by a sum: `any` of a mask that is sharded would be counted once per shard
        return observed_classes(o) > 0
    # The first classes decide for most rows, and reading the whole mask takes half as long as a loss.
    m = o.m if o.m.ndim else o.m[None]
    first, seen = FIRST, o.xp.any(m[..., :FIRST], axis=-1)
    while first < m.shape[-1] and not o.xp.all(seen):
        first, begin = 8 * first, first
        seen = seen | o.xp.any(m[..., begin:first], axis=-1)
    return seen


def rows(o: Operands) -> Any:
    if not _cuttable(o, o.x):
        return _core.rows(o)
    sums = _run(o, None, _of(_core.loss), (*o.x.shape[:-1], 1), o.acc)[..., 0]
    return o.xp.astype(sums / _divisor(o), o.dtype, copy=False)


def rows_vjp(o: Operands, g: Any) -> Any:
    return _vjp_in_blocks(o, g, _core.gradient, o.x.shape, o.x.dtype) if _cuttable(o, o.x) else _core.rows_vjp(o, g)


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return (rows(o), rows_vjp(o, g)) if _cuttable(o, o.x) else _core.rows_and_vjp(o, g)


def curvature(o: Operands, g: Any) -> Any:
    return _vjp_in_blocks(o, g, _core.hessian, o.x.shape, o.x.dtype) if _cuttable(o, o.x) else _core.curvature(o, g)


def target_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    cut = _cuttable(o, o.x)
    return _vjp_in_blocks(o, g, _core.by_target, o.x.shape, dtype) if cut else _core.target_vjp(o, g, dtype)


def weight_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    if not _cuttable(o, o.x):
        return _core.weight_vjp(o, g, dtype)
    return _run(o, g / _divisor(o), _element_losses(o), o.w.shape, dtype, 4 * BLOCK)


def pos_weight_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    cut = _cuttable(o, o.x)
    return _vjp_in_blocks(o, g, _core.by_pos_weight, o.p.shape, dtype) if cut else _core.pos_weight_vjp(o, g, dtype)


# ---------------------------------------------------------------- how it is cut into blocks


def _cuttable(o: Operands, values: Any) -> bool:
    return o.host and prod(values.shape) > BLOCK


def _divisor(o: Operands) -> Any:
    return _core.divisor(o, None if o.m is None else observed_classes(o))


def _of(element: Callable[[Operands, Parts], Any]) -> Callable[[Operands], Any]:
    return lambda part: element(part, _core.parts(part))


def _element_losses(o: Operands) -> Callable[[Operands], Any]:
    """`_core.by_weight` by a kernel: it is the loss without a weight, with each element as a row of one class."""
    y = o.y.labels if type(o.y) is Target else o.y
    record, _, _ = _check.problem(o.x, y, None, o.p, o.m, "none", o.eps, -1, elementwise=True)
    kernel = _dispatch.select(record)
    return lambda part: kernel.rows(part.holding(*_as_rows(part)))


def _as_rows(o: Operands) -> tuple[Any, ...]:
    x, y, p, m = (v if v is None or not v.ndim else v[..., None] for v in (o.x, o.y, o.p, o.m))
    return x, y, None, p, m


def _vjp_in_blocks(
    o: Operands, g: Any, element: Callable[[Operands, Parts], Any], shape: tuple[int, ...], dtype: DType
) -> Any:
    return _run(o, g / _divisor(o), _of(element), shape, dtype)


def _run(
    o: Operands,
    scale: Any,
    values: Callable[[Operands], Any],
    shape: tuple[int, ...],
    dtype: DType,
    size: int = BLOCK,
) -> Any:
    """The values of every block, times the scale of its rows (None stands for 1), summed to `shape`.

    Sums are pairwise and in the accumulation dtype, so that their rounding errors grow with the logarithm of their
    length, whatever the memory order of the terms.
    """
    xp, ndim = o.xp, o.x.ndim
    full = (1,) * (ndim - len(shape)) + tuple(shape)
    summed = [n == 1 for n in full] if full != tuple(o.x.shape) else [False] * ndim
    out = xp.empty(full, dtype=dtype, device=getattr(o.x, "device", None))
    cuts = _cuts(o.x.shape, size)
    scales = None if scale is None else xp.asarray(scale)[..., None]

    def block(index: Index) -> Any:
        part = o.holding(*(at(v, index) for v in o[1:6]))
        found = values(part)
        if scales is not None:
            found = _core.times_scale(part, at(scales, index)[..., 0], found)
        return _folded(part, found, summed) if any(summed) else found

    for cell in product(*([_ALL] if s else c for s, c in zip(summed, cuts, strict=True))):
        inner = product(*(c if s else [i] for s, c, i in zip(summed, cuts, cell, strict=True)))
        out[cell] = xp.astype(_added(block(index) for index in inner), dtype, copy=False)
    return out[(0,) * (ndim - len(shape))] if len(shape) < ndim else out


def _cuts(shape: tuple[int, ...], size: int) -> list[list[slice]]:
    """The slices of each axis, which make blocks of at most `size` elements."""
    cuts: list[list[slice]] = []
    room, widest = size, WIDEST
    for n in reversed(shape):
        step = max(1, min(n, room, widest))
        cuts.insert(0, [slice(i, min(n, i + step)) for i in range(0, n, step)])
        room, widest = room // step, size
    return cuts


def at(values: Any, index: Index) -> Any:
    """A block of an operand; an axis of length 1, which broadcasts, is not cut."""
    if values is None or not values.ndim:
        return values
    shape = values.shape
    own = index[len(index) - len(shape) :]
    if 1 in shape:
        own = tuple([_ALL if n == 1 else i for n, i in zip(shape, own, strict=True)])
    return values[own]


def _folded(o: Operands, values: Any, summed: list[bool]) -> Any:
    """The sums of one block over the axes that `summed` marks, which keep length 1."""
    if summed[-1]:
        values = _core.total(o, values)[..., None]
    narrow = 0 if summed[-1] else NARROW
    for axis, n in enumerate(values.shape[:-1]):
        before = (_ALL,) * axis
        while summed[axis] and n > 1:  # add the second half to the first
            if narrow <= 0:
                values = o.xp.astype(values, o.acc, copy=False)
            narrow -= 1
            half = (n + 1) // 2
            rest = values[(*before, slice(half, n))]
            values = values[(*before, slice(half))]
            values[(*before, slice(n - half))] += rest
            n = half
    return o.xp.astype(values, o.acc, copy=False)


def _added(parts: Iterable[Any]) -> Any:
    """The sum of arrays by a binary tree; it holds at most one partial sum per level."""
    held: list[Any] = []
    for count, part in enumerate(parts, 1):
        held.append(part)
        while not count & 1:
            last = held.pop()
            held[-1] = held[-1] + last
            count >>= 1
    while len(held) > 1:
        last = held.pop()
        held[-1] = held[-1] + last
    return held[0]
