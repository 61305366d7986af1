"""NumPy: arrays in host memory, whose lengths and layout are always known, and scalars that functions may return."""

from typing import Any

import numpy as np

from .._problem import Layout, State
from .._typing import DType
from . import base


class Library(base.Library):
    lasting = memorable = mutable = True

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> base.Form:
        flags = value.flags
        if not (flags.aligned and value.dtype.isnative):
            layout = Layout.FOREIGN
        else:
            layout = Layout.C if flags.c_contiguous else Layout.STRIDED
        return base.Form(self, value.dtype, value.shape, "cpu", layout, True, True)

    def is_scalar(self, value: Any) -> bool:
        return isinstance(value, np.generic)  # which also has a shape and a dtype

    def zero_d(self, number: float, dtype: DType, device: Any) -> Any:
        return np.asarray(number, dtype)  # an eighth of the time of `full`

    def readable(self, *arrays: Any) -> tuple[Any, ...]:
        return arrays

    def errstate(self, device: Any) -> Any:
        return np.errstate(all="ignore")
