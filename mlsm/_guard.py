"""What stands around the arithmetic of a call and not inside it: NumPy's floating-point flags, and the current device.

exp underflows, a cast to half rounds to 0, a mean over no row is 0/0: all of it is meant, and none of it may warn.
And a library that computes on a current device is told which, or it would reduce arrays of one GPU on another.
It stands here because a context manager inside `_core` would break a compiler's trace.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ._policy import CURRENT_DEVICE, FLAGLESS

_NOTHING: AbstractContextManager[Any] = nullcontext()


def on(library: str, device: Any) -> AbstractContextManager[Any]:
    """A context in which the library makes its arrays on this device, where it has a current one at all."""
    return device if library in CURRENT_DEVICE else _NOTHING


def silent(library: str, device: Any = _NOTHING) -> AbstractContextManager[Any]:
    """A context in which arithmetic on the library's arrays raises no NumPy flag and works on their device."""
    if library in FLAGLESS:
        return on(library, device)
    import numpy  # a dependency of ours; whoever passes such an array has imported it already

    return numpy.errstate(all="ignore")
