"""Labels as an operand: a dense target that is made a block at a time, or at once if it is small.

Holds no formula. A target that is smaller than one block becomes a dense array, and later code treats it as one.
"""

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any, Final

from .._core import Operands
from ..libraries.base import Library

SMALL: Final = 32768  # elements of a target that is made at once


class Target:
    """The dense target of labels, which is made when it is indexed. A block is valid until the next one is made."""

    __slots__ = ("_added", "_make", "labels", "ndim", "shape", "whole")

    def __init__(self, labels: Any, make: Any, whole: Callable[[], Any], added: bool = False) -> None:
        self.labels, self._make, self._added, self.whole = labels, make, added, whole
        self.shape = (*labels.shape, 1) if added else tuple(labels.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        if index[0] is Ellipsis:  # [..., None], which gives each element its own class axis
            return Target(self.labels, self._make, lambda: self.whole()[..., None], added=True)
        if self._added:
            return self._make(index[:-2], index[-2])[..., None]
        return self._make(index[:-1], index[-1])


def target(library: Library, labels: Any, device: Any, traced: bool, *, always: bool = False) -> Any:
    """The labels as an operand: a dense array, or a `Target` if blocks save memory (or `always`)."""
    if traced or (not always and (not library.mutable or prod(labels.shape) <= SMALL)):
        return library.dense_target(labels, device, traced)
    return Target(labels, library.target_blocks(labels, device), lambda: library.dense_target(labels, device, False))


def dense(o: Operands) -> Operands:
    return o._replace(y=o.y.whole()) if type(o.y) is Target else o


def cells(batch: tuple[int, ...], room: int) -> Iterator[tuple[slice, ...]]:
    """Slices of the batch axes, of `room` rows at most and of one at least."""
    cuts: list[list[slice]] = []
    for n in reversed(batch):
        step = max(1, min(n, room))
        if 8 < step < n:
            step -= step % 8
        cuts.insert(0, [slice(i, min(n, i + step)) for i in range(0, n, step)])
        room //= step
    return product(*cuts)
