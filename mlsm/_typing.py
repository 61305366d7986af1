"""Names for the types that the package speaks of. Nothing here runs.

`Array` asks for the little that every array library shares, so that NumPy, PyTorch and unknown arrays type-check
alike; arithmetic inside the package is typed `Any`, since no two libraries agree on the types of their operators.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar


class Array(Protocol):
    """An array of any library that `array_api_compat.array_namespace` accepts."""

    @property
    def dtype(self) -> Any: ...
    @property
    def shape(self) -> Any: ...
    @property
    def ndim(self) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=Array)

# A module. No protocol: array_api_compat fills its modules when they are imported, so that a type checker finds them
# empty and would refuse every one. It can go when they declare what they hold.
Namespace: TypeAlias = Any
DType: TypeAlias = Any
Number: TypeAlias = float | int
Nested: TypeAlias = Sequence["Number | Nested"]
Weight: TypeAlias = Array | Number | Nested
Reduction: TypeAlias = Literal["none", "mean", "sum"]
Wrt: TypeAlias = Literal["input", "target", "weight", "pos_weight"]
