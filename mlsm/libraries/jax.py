"""JAX: sets no NumPy flag, and an array may lie on several devices at once."""

from typing import Any

from . import base


class Library(base.Library):
    # Its verdicts are not kept: float64 is a switch that may be thrown between two calls, and lengths may be symbols.
    lasting = True

    def _device(self, value: Any) -> Any:
        """None where an array lies on several devices, for which array_api_compat names their sharding: that is no
        device for an array of another rank. None lets JAX put a new array where it likes, and move it to those that it
        meets; a tracer's device is None too."""
        device = super()._device(value)
        return None if "Sharding" in type(device).__name__ else device

    def errstate(self, device: Any) -> Any:
        return base.NOTHING
