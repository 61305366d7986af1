"""NumPy: arrays in host memory, whose lengths and layout are always known. Special in its layouts and its scalars."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from .._problem import Layout, State
from .base import Form, Library


class NumPy(Library):
    lasting = memorable = True

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> Form:
        flags = value.flags
        if not (flags.aligned and value.dtype.isnative):
            layout = Layout.FOREIGN
        else:
            layout = Layout.C if flags.c_contiguous else Layout.STRIDED
        return Form(self, value.dtype, value.shape, "cpu", layout, True, True)

    def is_scalar(self, value: Any) -> bool:
        return isinstance(value, np.generic)  # which has a shape and a dtype, as an array has

    def errstate(self, device: Any) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")


LIBRARY = NumPy
