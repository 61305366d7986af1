"""array-api-strict: NumPy's memory behind the standard and nothing else, so that sums are flattened as NumPy's are."""

from typing import Any

from .._problem import State
from .base import Form, Library


class Strict(Library):
    lasting = True

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> Form:
        return super().form(value, argument, state)._replace(flat=True)


LIBRARY = Strict
