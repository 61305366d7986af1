"""The rules that are data: the accepted dtypes, the dtype of the arithmetic, the values of string options.

No arrays, no arithmetic, no error messages, no library. Error bounds are in the conformance suite, tuning numbers in
the kernels.
"""

import re
from typing import Any, Final

from ._typing import DType

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
HALVES: Final = frozenset({"float16", "bfloat16"})
_INTEGER = re.compile(r"u?int(8|16|32|64)|u?longlong|u?intc|u?int")

REDUCTIONS: Final = ("none", "mean", "sum")
WRT: Final = ("input", "target", "weight", "pos_weight")

_names: dict[Any, str] = {}


def name(dtype: DType) -> str:
    """The dtype's plain name ("float32" for NumPy's ">f4" too), cached: only for dtypes that outlive the call."""
    key = (type(dtype), dtype)  # the type first: dtypes of two libraries are not always comparable
    known = _names.get(key)
    if known is None:
        known = spelled(dtype)
        if is_real(known):
            _names[key] = known
    return known


def spelled(dtype: DType) -> str:
    """The same for any dtype, not cached. By its name, because `isdtype` raises TypeError for dtypes that a library
    does not know itself, such as the bfloat16 that ml_dtypes adds to NumPy."""
    # A dtype has a name; NumPy and JAX also accept scalar types as dtypes, which have a __name__.
    found = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(found).rpartition(".")[2]


def is_real(dtype_name: str) -> bool:
    """Bool, integer or one of the floating dtypes that are accepted."""
    return dtype_name in FLOATS or dtype_name == "bool" or _INTEGER.fullmatch(dtype_name) is not None


def promoted(library: Any, dtypes: list[DType]) -> tuple[DType, DType]:
    """The loss dtype (these floating dtypes promoted by the library) and the compute dtype (never narrower than
    float32). Raises the library's error if they do not promote."""
    xp, names = library.xp, [library.dtype_name(d) for d in dtypes]
    loss = getattr(xp, names[0], dtypes[0])  # native, where the dtype is byte-swapped
    if any(n != names[0] for n in names):  # one dtype needs no promotion, which some libraries would refuse
        loss = library.result_type(dtypes)
    return loss, xp.float64 if library.dtype_name(loss) == "float64" else xp.float32


def accumulator(library: Any, device: Any, compute: DType) -> DType:
    """float64 if the device has it, else the compute dtype."""
    if library.dtype_name(compute) == "float64":
        return compute
    has = "float64" in library.xp.__array_namespace_info__().dtypes(device=device, kind="real floating")
    return library.xp.float64 if has else compute
