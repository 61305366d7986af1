"""Kernels that are run on blocks of rows, for a target that is made a block at a time.

A block has whole rows, so that its results have the same bits as these rows in the dense call. Holds no formula.
"""

from collections.abc import Callable
from typing import Any, Final

from .._blocks import at
from .._core import Operands
from .._dispatch import GENERIC, Kernel
from ._targets import cells, dense

# Elements of a block of rows: 1 MiB of float32 for its gradient, which is copied to its place while in the cache.
ROWS: Final = 2**18
DEVICE: Final = 2**24  # the same outside host memory, where a launch costs more than the work on a small block

Function = Callable[..., Any]
_ALL: Final = slice(None)


def by_rows(kernel: Kernel, o: Operands) -> Kernel:
    """The kernel, called with one block of rows after the other; the generic code gets the whole dense target."""
    wrapped = _whole if kernel is GENERIC else _by_rows
    return kernel._replace(
        rows=wrapped(kernel.rows),
        rows_vjp=wrapped(kernel.rows_vjp),
        rows_and_vjp=None if kernel.rows_and_vjp is None else wrapped(kernel.rows_and_vjp),
        curvature=wrapped(kernel.curvature),
        reduced=None,
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
            part = o.holding(o.x[index], o.y[index], *(at(v, index) for v in o[3:6]))
            found = function(part, *(at(v, cell) for v in rest))
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


def apart(o: Operands, served: Function, reference: Function) -> tuple[Operands, Function, Function]:
    """The operands without the labels, and functions that put the labels back: a graph holds only tensors."""
    made = o.y
    return (
        o._replace(y=None),
        lambda o, g: served(o._replace(y=made), g),
        lambda o, g: reference(o._replace(y=made.whole()), g),
    )
