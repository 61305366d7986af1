"""The floating-point environment of a call: NumPy's flags are silenced around the arithmetic, not inside it.

exp underflows, a cast to half rounds to 0, a mean over no row is 0/0: all of it is meant, and none of it may warn.
It stands here because a context manager inside `_core` would break a compiler's trace.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ._policy import FLAGLESS

_NOTHING: AbstractContextManager[Any] = nullcontext()


def silent(library: str) -> AbstractContextManager[Any]:
    """A context in which arithmetic on the library's arrays raises no NumPy flag."""
    if library in FLAGLESS:
        return _NOTHING
    import numpy  # a dependency of ours; whoever passes such an array has imported it already

    return numpy.errstate(all="ignore")
