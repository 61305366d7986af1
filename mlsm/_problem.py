"""What is known of a call without looking into an array: dtypes, shapes, layouts, device, options. Records only.

`libraries` reads the metadata; refusing is the business of `_check`, choosing that of `_dispatch`.
"""

import enum
from typing import Any, NamedTuple

from ._typing import DType

Shape = tuple[int | None, ...]


# Strings as well, since a kernel may be written against the words, and for their hash, which costs nothing.
class State(enum.StrEnum):
    """Whether something looks through the arithmetic of a call."""

    PLAIN = "plain"
    TRACKED = "tracked"  # a gradient is wanted: a graph is recorded
    TRACED = "traced"  # a compiler or a function transform is at work


class Layout(enum.StrEnum):
    """How an array lies in memory, as far as its library tells."""

    C = "C"  # contiguous, aligned, native
    STRIDED = "strided"
    FOREIGN = "foreign"  # not readable as it lies
    UNKNOWN = "unknown"


class Meta(NamedTuple):
    """What may be known of an array; the class axis is the last of `shape`."""

    dtype: str
    shape: Shape  # None where a length is not known yet
    layout: Layout


class Problem(NamedTuple):
    """The metadata of one call: what kernels are selected by, and how the result has to look."""

    library: str
    device: Any
    input: Meta
    target: Meta
    weight: Meta | None
    pos_weight: Meta | None
    where: Meta | None
    label_smoothing: float
    reduction: str
    axis: int  # of the class axis in the caller's arrays, never negative
    dtype: str  # the compute dtype
    loss_dtype: DType
    state: State
