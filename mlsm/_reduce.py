"""The reductions over the batch: each a linear map of the row losses and its adjoint, and nothing else.

No formula, no gradient code: the gradient of a reduction is its adjoint applied to `grad_output`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ._blocks import observed_rows
from ._core import Operands, counted, known, sum_stored, total
from ._typing import DType


class LinearMap(NamedTuple):
    apply: Callable[..., Any]  # row losses -> the loss, both in the compute dtype
    adjoint: Callable[..., Any]  # grad_output -> a scale that broadcasts to the row losses, in the accumulation dtype
    # Both take the result of `row_count` if it is known already.


def _rows(o: Operands) -> Any:
    """How many rows are averaged: those with an observed class, but at least 1, so that a loss without any is 0."""
    xp, batch = o.xp, o.x.shape[:-1]
    countable = True
    for n in batch:  # not `all`: its generator costs as much as the rest of this function for a small batch
        countable = countable and known(n)
    if o.m is None:
        return float(math.prod(batch)) if countable else counted(o, o.x[..., 0], axis=None)
    seen = observed_rows(o)
    if countable:
        alike, added = 1.0, len(batch) - seen.ndim
        for axis, n in enumerate(batch):
            if axis < added or seen.shape[axis - added] == 1:
                alike = alike * n  # rows that share a row of the mask
        if o.host:  # takes a third of the time, which matters for a small batch
            return float(xp.count_nonzero(seen)) * alike or 1.0
        rows = total(o, xp.astype(seen, o.acc), axis=None) * alike
    else:
        rows = xp.sum(xp.astype(seen, o.acc) + xp.zeros_like(o.x[..., 0], dtype=o.acc))
    return xp.where(rows == 0, xp.ones_like(rows), rows)


def _sum(o: Operands, rows: Any, count: Any = None) -> Any:
    return total(o, rows, axis=None)


def _none(o: Operands, rows: Any, count: Any = None) -> Any:
    return rows


def _mean(o: Operands, rows: Any, count: Any = None) -> Any:
    count = _rows(o) if count is None else count
    return total(o, rows, axis=None) / count


def _mean_adjoint(o: Operands, g: Any, count: Any = None) -> Any:
    return g / (_rows(o) if count is None else count)


REDUCE: dict[str, LinearMap] = {
    "none": LinearMap(_none, _none),
    "sum": LinearMap(_sum, _none),
    "mean": LinearMap(_mean, _mean_adjoint),
}


def row_count(reduction: str, o: Operands, kernel: Any) -> Any:
    """The divisor of the mean, counted by the kernel if it can. Counted once for a value and its adjoint, because
    reading a whole mask takes a third of the time of a loss.

    None for the other reductions.
    """
    if reduction != "mean":
        return None
    count = None if o.m is None or kernel.observed_rows is None else kernel.observed_rows(o)
    return _rows(o) if count is None else count


def reduced(reduction: str, o: Operands, rows: Any, dtype: DType, count: Any = None) -> Any:
    """The loss in its own dtype, from the compute dtype: half precision is exactly the float32 result, rounded."""
    value = o.xp.astype(REDUCE[reduction].apply(o, rows, count), o.dtype, copy=False)
    return value if dtype == o.dtype else sum_stored(o, value, dtype)
