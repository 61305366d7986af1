"""The reductions over the batch: each a linear map of the row losses and its adjoint, and nothing else.

No formula, no gradient code: the gradient of a reduction is its adjoint applied to `grad_output`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ._blocks import observed_rows
from ._core import Operands, counted, known, total
from ._typing import DType


class Reduction(NamedTuple):
    apply: Callable[[Operands, Any], Any]  # row losses -> the loss, both in the compute dtype
    adjoint: Callable[
        [Operands, Any], Any
    ]  # grad_output -> what broadcasts to the row losses, in the accumulation dtype


def _rows(o: Operands) -> Any:
    """How many rows are averaged: those with an observed class, and at least one so that no observation is 0."""
    xp, batch = o.xp, o.x.shape[:-1]
    countable = True
    for n in batch:  # no generator: it costs as much as all else that is done for a small batch here
        countable = countable and known(n)
    if o.m is None:
        return float(math.prod(batch)) if countable else counted(o, o.x[..., 0], axis=None)
    seen = xp.astype(observed_rows(o), o.acc)
    if countable:
        alike, added = 1.0, len(batch) - seen.ndim
        for axis, n in enumerate(batch):
            if axis < added or seen.shape[axis - added] == 1:
                alike = alike * n  # rows that share a row of the mask
        rows = total(o, seen, axis=None) * alike
    else:
        rows = xp.sum(seen + xp.zeros_like(o.x[..., 0], dtype=o.acc))
    return xp.where(rows == 0, xp.ones_like(rows), rows)


def _sum(o: Operands, rows: Any) -> Any:
    return total(o, rows, axis=None)


def _none(o: Operands, rows: Any) -> Any:
    return rows


def _mean(o: Operands, rows: Any) -> Any:
    return _sum(o, rows) / _rows(o)


def _mean_adjoint(o: Operands, g: Any) -> Any:
    return g / _rows(o)


REDUCE: dict[str, Reduction] = {
    "none": Reduction(_none, _none),
    "sum": Reduction(_sum, _none),
    "mean": Reduction(_mean, _mean_adjoint),
}


def reduced(reduction: str, o: Operands, rows: Any, dtype: DType) -> Any:
    """The loss in its own dtype, by way of the compute dtype: half precision is exactly the float32 result rounded."""
    value = o.xp.astype(REDUCE[reduction].apply(o, rows), o.dtype, copy=False)
    return value if dtype == o.dtype else o.xp.astype(value, dtype)
