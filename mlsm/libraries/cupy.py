"""CuPy: it computes on the current device, so that of the arrays is made current. Its arrays have a memory order."""

from typing import Any

from . import base


class Library(base.Library):
    lasting = flat = mutable = True  # no value of labels is read, because that would wait for a device

    def on(self, device: Any) -> Any:
        return device

    def errstate(self, device: Any) -> Any:
        return device  # it sets no flag of NumPy's
