"""Batches larger than a block, a grid or the integers of float32, judged by the answers of a few rows.

The oracle works in Python, element by element, so these repeat a few rows, whose exact answers repeat likewise.
"""

from __future__ import annotations

import math
from typing import Any

from ..backends import Bulk
from ..cases import dense_cases
from ..check import Ask, Context, check, exact
from ..formats import ulp
from ..reference.bounds import bound_sum
from ..run.tally import Tally
from ..tensors import Case, Tensor

DTYPE = "float32"


def _repeated(context: Context, tally: Tally, case: Case, rows: int, asks: list[Ask]) -> None:
    """Judge `rows` rows that repeat those of `case`: each row by itself, and their mean."""
    import numpy as np

    if DTYPE not in context.dtypes or not context.backend.serves(case):
        tally.passed_by(f"this check uses {DTYPE}, which this backend does not serve")
        return
    few, classes = case.input.shape
    times = -(-rows // few)

    def bulk(tensor: Tensor) -> Bulk:
        values = np.asarray(tensor.values, np.float64).reshape(few, classes)
        return Bulk((rows, classes), np.tile(values, (times, 1))[:rows], DTYPE)

    def tiled(values: tuple[float, ...]) -> list[float]:
        each = len(values) // few
        return (list(values) * times)[: rows * each]

    arrays: dict[str, Any] = {name: context.backend.make(bulk(getattr(case, name))) for name in ("input", "target")}
    limits = context.limits(case)
    row = Ask("loss", "none")
    shares = [len(range(i, rows, few)) / rows for i in range(few)]

    def averaged(values: tuple[float, ...]) -> float:
        return math.fsum(v * share for v, share in zip(values, shares, strict=True))

    mean = averaged(exact(case, row).values)
    room = (
        averaged(context.allowed(case, row, limits))
        + bound_sum(mean, rows * classes, DTYPE, context.accumulator)
        + ulp(mean, DTYPE)
    )
    for ask, seen in zip(asks, context.tried(tally, case, asks, arrays), strict=True):
        what = f"{rows} rows of {case.name}: {ask}"
        if seen is None:
            continue
        if ask.reduction == "mean":
            tally.values(seen, [mean], [room], what, DTYPE)
        else:
            tally.values(seen, tiled(exact(case, ask).values), tiled(context.allowed(case, ask, limits)), what, DTYPE)


@check(
    "values.many-rows",
    "In a batch of 70,001 rows, each row has its own loss and gradient, and the mean is theirs.",
    "the elementwise budget of each row, and the sum's roundings",
)
def many_rows(context: Context, tally: Tally) -> None:
    asks = context.offered([Ask("loss", "none"), Ask("loss", "mean"), Ask("gradient", "none")], tally)
    _repeated(context, tally, dense_cases.plain(DTYPE, (7, 2), "period"), 70_001, asks)


@check(
    "derivatives.many-rows",
    "The gradient for a class weight is the sum over 70,001 rows, whose entries of a class are not adjacent.",
    "the elementwise budget and the roundings of that sum",
    offers=("arguments",),
)
def many_rows_of_a_weight(context: Context, tally: Tally) -> None:
    import numpy as np

    dtype, rows = context.dtypes[-1], 70_001
    few = dense_cases.plain(dtype, (7, 2), "period")
    case = Case(f"{few.name}-weight", few.input, few.target, weight=Tensor((2,), (1.0, 2.0), dtype))
    if not context.backend.serves(case):
        tally.passed_by("this backend does not serve the case of this check")
        return

    def bulk(tensor: Tensor) -> Bulk:
        return Bulk((rows, 2), np.tile(np.asarray(tensor.values).reshape(7, 2), (rows // 7 + 1, 1))[:rows], dtype)

    arrays = {name: context.backend.make(bulk(getattr(case, name))) for name in ("input", "target")}
    arrays["weight"] = context.array((1.0, 2.0), (2,), dtype)
    (found,) = context.answers(case, [Ask("gradient", "sum", "weight")], arrays)
    # The same for seven rows, each counted as often as it occurs.
    often = Ask("gradient", "none", "weight", tuple(float(len(range(i, rows, 7))) for i in range(7)))
    right = exact(case, often).values
    room = context.allowed(case, often, context.limits(case))
    room = tuple(
        r + bound_sum(v, rows, case.compute_dtype, context.accumulator) for r, v in zip(room, right, strict=True)
    )
    tally.values(context.backend.to_list(found), right, room, f"{rows} rows of {case.name}", dtype)


@check(
    "values.many-elements",
    "A mean of 2^24 + 1 elements, one more than float32 can count.",
    "elementwise + 8u, or the bound of a tree of float32 sums if the device has no float64",
)
def many_elements(context: Context, tally: Tally) -> None:
    if context.backend.slow >= 2:
        tally.passed_by(f"{context.backend.name} would take seconds for this check")
        return
    _repeated(context, tally, dense_cases.plain(DTYPE, (1, 1), "counted"), 2**24 + 1, [Ask("loss", "mean")])
