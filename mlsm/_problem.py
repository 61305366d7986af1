"""What is known of a call without looking into an array: dtypes, shapes, layouts, device, options.

Reads metadata and compares nothing: refusing is the business of `_check`, choosing that of `_dispatch`.
"""

import enum
from typing import Any, NamedTuple

from . import _policy
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


def shape_of(value: Any, library: str) -> Shape:
    """The shape, with None for every length that is not known (NaN in Dask)."""
    shape: Shape = value.shape
    if library in _policy.SIZED or all(n is not None and n == n for n in shape):
        return shape
    return tuple(None if n is None or n != n else n for n in shape)


def device_of(value: Any, library: str) -> Any:
    if library == "numpy":
        return "cpu"
    if library == "torch":
        return value.device
    import array_api_compat

    device = array_api_compat.device(value)
    # JAX names its sharding where an array lies on several devices: that is no device for an array of another rank.
    # None lets JAX put a new array where it likes, and move it to those that it meets; a tracer's device is None too.
    return None if "Sharding" in type(device).__name__ else device


def layout_of(value: Any, library: str) -> Layout:
    """How an array lies in memory, as far as its library tells."""
    if library == "numpy":
        flags = value.flags
        if not (flags.aligned and value.dtype.isnative):
            return Layout.FOREIGN
        return Layout.C if flags.c_contiguous else Layout.STRIDED
    if library == "torch":
        if value.is_neg():
            return Layout.FOREIGN  # a view that is negated when it is read: nobody else may read its memory
        return Layout.C if value.is_contiguous() else Layout.STRIDED
    return Layout.UNKNOWN


def state(library: str, *operands: Any) -> State:
    """Whether something looks through the arithmetic; only PyTorch's arrays do not show it by their type."""
    if library != "torch":
        return State.PLAIN
    import mlsm.autograd.torch as bridge  # absolute: a relative import costs a microsecond more a call

    return bridge.state_of(*operands)
