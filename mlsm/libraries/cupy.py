"""CuPy: computes on a current device, which is entered, and not on that of its arrays. Its memory has an order."""

from contextlib import AbstractContextManager
from typing import Any

from .._problem import State
from .base import Form, Library


class CuPy(Library):
    lasting = True

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> Form:
        return super().form(value, argument, state)._replace(flat=True)

    def errstate(self, device: Any) -> AbstractContextManager[Any]:
        return self.on(device)  # it sets no flag of NumPy's

    def on(self, device: Any) -> AbstractContextManager[Any]:
        entered: AbstractContextManager[Any] = device
        return entered


LIBRARY = CuPy
