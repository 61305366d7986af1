"""Objects that a user names on the command line: a backend, a kernel, a loss that declines, an elementwise loss."""

from __future__ import annotations

from typing import Any

import numpy as np

import mlsm
from mlsm import _core

from ...backends import Backend
from ...subjects import Declined
from .right import numpy_loss


class Mine(Backend):
    """The twelve lines of the documentation."""

    name = "mine"
    library = "numpy"

    def make(self, tensor: Any, layout: str = "C") -> Any:
        return np.asarray(tensor.values, dtype=tensor.dtype).reshape(tensor.shape)

    def to_list(self, array: Any) -> list[float]:
        values: list[float] = np.asarray(array, dtype=np.float64).ravel().tolist()
        return values


kernel = mlsm.Kernel("seam", ("numpy",), lambda problem: None, _core.rows, _core.rows_vjp)
wrong_kernel = mlsm.Kernel("wrong seam", ("numpy",), lambda problem: None, lambda o: 1.01 * _core.rows(o))


def two_axes_only(input: Any, target: Any, reduction: str = "mean") -> Any:
    if input.ndim != 2:
        raise Declined("(N, C) only")
    return numpy_loss(input, target, reduction=reduction)


def of_elements(input: Any, target: Any) -> Any:
    return numpy_loss(input[..., None], target[..., None], reduction="none")


def mean_only(input: Any, target: Any) -> Any:
    return numpy_loss(input, target)


def a_cth(input: Any, target: Any, reduction: str = "mean") -> Any:
    value = numpy_loss(input, target, reduction=reduction)
    return np.asarray(value / input.shape[-1], value.dtype)[()]
