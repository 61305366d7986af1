"""Labels behind the door: a dense target that is made a block at a time, and kernels that are run on blocks of rows.

A block has whole rows, so that a kernel gives it the bits that it would give these rows of the dense call. Holds no
formula; what is smaller than one block becomes the dense target, and is nothing special from there on.
"""

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any, Final

from . import _blocks
from ._core import Operands
from ._dispatch import GENERIC, Kernel
from ._problem import Problem
from .many import of

# Elements of a block of rows: 1 MiB of float32 for its slope, which is copied to where it belongs while in the cache.
ROWS: Final = 2**18
DEVICE: Final = 2**24  # of memory elsewhere, where a launch costs more than a block

Function = Callable[..., Any]
_ALL: Final = slice(None)


class Target:
    """The dense target of labels, which is made where it is indexed. A block is good until the next one is made."""

    __slots__ = ("_added", "_make", "labels", "ndim", "shape", "whole")

    def __init__(self, labels: Any, make: Any, whole: Callable[[], Any], added: bool = False) -> None:
        self.labels, self._make, self._added, self.whole = labels, make, added, whole
        self.shape = (*labels.shape, 1) if added else tuple(labels.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        if index[0] is Ellipsis:  # [..., None], the class axis of its own that an element is given
            return Target(self.labels, self._make, lambda: self.whole()[..., None], added=True)
        if self._added:
            return self._make(index[:-2], index[-2])[..., None]
        return self._make(index[:-1], index[-1])


def target(xp: Any, labels: Any, name: str, device: Any, traced: bool, *, always: bool = False) -> Any:
    """The labels as an operand: a dense array, or what makes it by blocks where that saves memory (or `always`)."""
    record = of(name)
    if traced or (not always and (not record.mutable or prod(labels.shape) <= _blocks.BLOCK)):
        return record.whole(xp, labels, device, traced)
    return Target(labels, record.blocks(xp, labels, device), lambda: record.whole(xp, labels, device, False))


def dense(o: Operands) -> Operands:
    return o._replace(y=o.y.whole()) if type(o.y) is Target else o


def by_rows(kernel: Kernel, o: Operands) -> Kernel:
    """The kernel, given one block of rows after the other where the target is made by blocks."""
    if type(o.y) is not Target:
        return kernel
    wrapped = _whole if kernel is GENERIC else _by_rows
    return kernel._replace(
        rows=wrapped(kernel.rows),
        rows_vjp=wrapped(kernel.rows_vjp),
        rows_and_vjp=None if kernel.rows_and_vjp is None else wrapped(kernel.rows_and_vjp),
        curvature=wrapped(kernel.curvature),
    )


def _whole(function: Function) -> Function:
    return lambda o, *rest: function(dense(o), *rest)


def _by_rows(function: Function) -> Function:
    def run(o: Operands, *rest: Any) -> Any:
        shape = o.x.shape
        outs: Any = None
        places = list(cells(shape[:-1], (ROWS if o.host else DEVICE) // shape[-1]))
        for cell in places:
            index = (*cell, _ALL)
            part = o.holding(o.x[index], o.y[index], *(_blocks._at(v, index) for v in o[3:6]))
            found = function(part, *(_blocks._at(v, cell) for v in rest))
            if len(places) == 1:
                return found
            several = found if isinstance(found, tuple) else (found,)
            if outs is None:
                outs = [
                    o.xp.empty(
                        (*shape[:-1], *v.shape[len(shape) - 1 :]), dtype=v.dtype, device=getattr(v, "device", None)
                    )
                    for v in several
                ]
            for out, value in zip(outs, several, strict=True):
                out[cell] = value
        return tuple(outs) if isinstance(found, tuple) else outs[0]

    return run


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


def apart(o: Operands, served: Function, reference: Function) -> tuple[Operands, Function, Function]:
    """The operands without the labels, and functions of them that fill them in: for a graph, which holds tensors."""
    if type(o.y) is not Target:
        return o, served, reference
    made = o.y
    return (
        o._replace(y=None),
        lambda o, g: served(o._replace(y=made), g),
        lambda o, g: reference(o._replace(y=made.whole()), g),
    )


def tied(kernel: Kernel, problem: Problem, o: Operands) -> Any:
    """The loss by `kernel`, differentiable: tied to the logits and weights by one node of PyTorch's graph."""
    from .autograd.torch_linear import loss_of_labels

    return loss_of_labels(kernel, problem, o)
