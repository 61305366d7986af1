"""The metadata of a call, known without reading an array: dtypes, shapes, layouts, device, options. Records only.

`libraries` reads the metadata, `_check` refuses arguments by it, and `_dispatch` chooses a kernel by it.
"""

import enum
from typing import Any, NamedTuple

from ._typing import DType

Shape = tuple[int | None, ...]


# Enums of strings, because a kernel may compare with the plain words, and because the hash of a string costs nothing.
class State(enum.StrEnum):
    """Whether the arithmetic of a call is recorded or traced."""

    PLAIN = "plain"
    TRACKED = "tracked"  # a gradient is wanted: a graph is recorded
    TRACED = "traced"  # a compiler or a function transform is at work


class Layout(enum.StrEnum):
    """How an array is laid out in memory, as far as its library tells."""

    C = "C"  # contiguous, aligned, native
    STRIDED = "strided"
    FOREIGN = "foreign"  # not readable without a conversion
    UNKNOWN = "unknown"


class Meta(NamedTuple):
    """The metadata of one array; the class axis is the last of `shape`."""

    dtype: str
    shape: Shape  # None where a length is not known yet
    layout: Layout


class Problem(NamedTuple):
    """The metadata of one call, by which a kernel is selected, and the form of its result."""

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


class Repeated(Problem):
    """The problem of a call that came before with the same metadata, strides included. A kernel may keep in `plan` how
    it reads the operands."""

    plan: Any = None
