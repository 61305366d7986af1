"""Names for the types in the package's signatures. Nothing here runs.

`Array` requires only what every array library has, so that NumPy, PyTorch and unknown arrays type-check alike.
Arithmetic inside the package is typed `Any`, because no two libraries agree on the types of their operators.
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

# A module. Not a protocol: array_api_compat fills its modules when they are imported, so a type checker finds them
# empty and would refuse each of them. A protocol can replace this when the modules declare their names.
Namespace: TypeAlias = Any
DType: TypeAlias = Any
Number: TypeAlias = float | int
Nested: TypeAlias = Sequence["Number | Nested"]
Weight: TypeAlias = Array | Number | Nested
Reduction: TypeAlias = Literal["none", "mean", "sum"]
Wrt: TypeAlias = Literal["input", "target", "weight", "pos_weight"]
