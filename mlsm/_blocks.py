"""How blocks of rows add: what the generic formula would need memory of the logits' size for, a block at a time.

Serves arrays in host memory (`Operands.host`), in their own library's arithmetic: the pullbacks of all arguments, the
counting of observed classes, and, for tensors that no kernel can read, the row seam. Everything else, and whatever is
one block anyway, goes to `_core` as it is. Holds no formula.
"""

from collections.abc import Callable, Iterable
from itertools import product
from math import prod
from typing import Any, Final

from . import _core
from ._core import Operands, Parts
from ._typing import DType

# Elements of a block, and the classes that it has at most, so that sums over the rows of many classes need little.
BLOCK: Final = 32768
WIDEST: Final = 4096
FIRST: Final = 32  # classes of a row that are looked at first for one that is observed

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
    """Whether each row has an observed class, in the batch shape that `where` has itself."""
    m = o.m if o.m.ndim else o.m[None]
    if not _cuttable(o, m):
        return o.xp.any(m, axis=-1)
    # Few rows need a look at more than some classes, and a look at all takes as long as half of a loss.
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
    return _pulled(o, g, _core.slope, o.x.shape, o.x.dtype) if _cuttable(o, o.x) else _core.rows_vjp(o, g)


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    return (rows(o), rows_vjp(o, g)) if _cuttable(o, o.x) else _core.rows_and_vjp(o, g)


def curvature(o: Operands, g: Any) -> Any:
    return _pulled(o, g, _core.bend, o.x.shape, o.x.dtype) if _cuttable(o, o.x) else _core.curvature(o, g)


def target_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    cut = _cuttable(o, o.x)
    return _pulled(o, g, _core.by_target, o.x.shape, dtype) if cut else _core.target_vjp(o, g, dtype)


def weight_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    cut = _cuttable(o, o.x)
    return _pulled(o, g, _core.by_weight, o.w.shape, dtype) if cut else _core.weight_vjp(o, g, dtype)


def pos_weight_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    cut = _cuttable(o, o.x)
    return _pulled(o, g, _core.by_pos_weight, o.p.shape, dtype) if cut else _core.pos_weight_vjp(o, g, dtype)


# ---------------------------------------------------------------- how


def _cuttable(o: Operands, values: Any) -> bool:
    return o.host and prod(values.shape) > BLOCK


def _divisor(o: Operands) -> Any:
    return _core.divisor(o, None if o.m is None else observed_classes(o))


def _of(element: Callable[[Operands, Parts], Any]) -> Callable[[Operands], Any]:
    return lambda part: element(part, _core.parts(part))


def _pulled(
    o: Operands, g: Any, element: Callable[[Operands, Parts], Any], shape: tuple[int, ...], dtype: DType
) -> Any:
    return _run(o, g / _divisor(o), _of(element), shape, dtype)


def _run(o: Operands, scale: Any, values: Callable[[Operands], Any], shape: tuple[int, ...], dtype: DType) -> Any:
    """The values of every block, times the scale of its rows (None: as they are), summed back to `shape`.

    Sums are in the accumulation dtype and pair by pair, so that their rounding errors grow with the logarithm of
    their length, in whatever order memory holds the terms.
    """
    xp, ndim = o.xp, o.x.ndim
    full = (1,) * (ndim - len(shape)) + tuple(shape)
    summed = [n == 1 for n in full] if full != tuple(o.x.shape) else [False] * ndim
    out = xp.empty(full, dtype=dtype, device=getattr(o.x, "device", None))
    cuts = _cuts(o.x.shape)
    scales = None if scale is None else xp.asarray(scale)[..., None]

    def block(index: Index) -> Any:
        part = o.holding(*(_at(v, index) for v in o[1:6]))
        found = values(part)
        if scales is not None:
            found = _core.times_scale(part, _at(scales, index)[..., 0], found)
        return _folded(part, found, summed) if any(summed) else found

    for cell in product(*([_ALL] if s else c for s, c in zip(summed, cuts, strict=True))):
        inner = product(*(c if s else [i] for s, c, i in zip(summed, cuts, cell, strict=True)))
        out[cell] = xp.astype(_added(block(index) for index in inner), dtype, copy=False)
    return out[(0,) * (ndim - len(shape))] if len(shape) < ndim else out


def _cuts(shape: tuple[int, ...]) -> list[list[slice]]:
    """For every axis the slices that it is cut into, so that a block has `BLOCK` elements at most."""
    cuts: list[list[slice]] = []
    room, widest = BLOCK, WIDEST
    for n in reversed(shape):
        step = max(1, min(n, room, widest))
        cuts.insert(0, [slice(i, min(n, i + step)) for i in range(0, n, step)])
        room, widest = room // step, BLOCK
    return cuts


def _at(values: Any, index: Index) -> Any:
    """A block of an operand, which is not cut along an axis where it is broadcast."""
    if values is None or not values.ndim:
        return values
    own = index[len(index) - values.ndim :]
    return values[tuple(_ALL if n == 1 else i for n, i in zip(values.shape, own, strict=True))]


def _folded(o: Operands, values: Any, summed: list[bool]) -> Any:
    """The sums of one block over some axes, which stay with length 1."""
    if summed[-1]:
        values = _core.total(o, values)[..., None]
    else:
        values = o.xp.astype(values, o.acc, copy=False)
    for axis, n in enumerate(values.shape[:-1]):
        before = (_ALL,) * axis
        while summed[axis] and n > 1:  # the second half onto the first
            half = (n + 1) // 2
            rest = values[(*before, slice(half, n))]
            values = values[(*before, slice(half))]
            values[(*before, slice(n - half))] += rest
            n = half
    return values


def _added(parts: Iterable[Any]) -> Any:
    """The sum of arrays by a binary tree, of which no more are held than it has levels."""
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
