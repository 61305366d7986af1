"""The rules that are data: which dtypes and types are taken, in which dtype one computes, the defaults.

No arrays, no arithmetic, no error messages. Error bounds live in the conformance suite, tuning numbers in the kernels.
"""

import re
from typing import Any, Final

from ._typing import DType, Namespace

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
HALVES: Final = frozenset({"float16", "bfloat16"})
_INTEGER = re.compile(r"u?int\d+|u?longlong|u?intc|u?int")

REDUCTIONS: Final = ("none", "mean", "sum")
WRT: Final = ("input", "target", "weight", "pos_weight")

# Subclasses of ndarray that array_api_compat lets through although arithmetic means something else in them.
REFUSED: Final = {
    ("numpy", "matrix"): "pass `numpy.asarray(...)` of it",
    ("numpy.ma", "MaskedArray"): "pass its `.data`, and `where=~numpy.ma.getmaskarray(...)` for the mask",
}
# Older NumPy releases name the modules of the same classes differently.
REFUSED_MODULES: Final = {"numpy.ma.core": "numpy.ma", "numpy.matrixlib.defmatrix": "numpy"}

# Libraries whose arrays always know their lengths, so that nobody need ask.
SIZED: Final = frozenset({"numpy", "torch", "cupy", "jax", "array_api_strict"})
# Libraries whose own sums depend on how an array lies in memory: they are taken of flat arrays.
FLATTENED: Final = frozenset({"numpy", "cupy", "torch", "array_api_strict"})
# Libraries that are there for good once they have been imported, so that their names may be remembered.
LASTING: Final = SIZED | {"dask"}
# Libraries for which the verdict on a call follows from dtypes, shapes and devices alone, so that it may be kept.
MEMORABLE: Final = frozenset({"numpy", "torch"})
# Libraries that set no NumPy floating-point flag; a context manager would break a compiled region of theirs.
FLAGLESS: Final = frozenset({"torch", "jax", "cupy"})

# Whose dtypes are remembered: their number is limited, and nobody wants to be rid of them.
_LASTING: Final = frozenset({"numpy", "ml_dtypes", "array_api_strict"})
_names: dict[Any, str] = {}


def name(dtype: DType) -> str:
    """The dtype's plain name, "float32" for `torch.float32` and for NumPy's ">f4" alike.

    By name, because `isdtype` raises TypeError for dtypes that a library does not know itself, such as the bfloat16
    that ml_dtypes adds to NumPy.
    """
    if type(dtype).__module__ == "torch":
        return str(dtype)[6:]  # "torch.float32"; a memo that is read inside a trace becomes a guard of it
    key = (type(dtype), dtype)  # the type first: dtypes of two libraries are not always comparable
    known = _names.get(key)
    if known is None:
        # A dtype has a name; NumPy and JAX also take their scalar types for dtypes, which have a __name__.
        spelled = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
        known = str(spelled).rpartition(".")[2]
        if is_real(known) and type(dtype).__module__.partition(".")[0] in _LASTING:
            _names[key] = known
    return known


def is_real(dtype_name: str) -> bool:
    """Bool, integer or one of the floating dtypes that are accepted."""
    return dtype_name in FLOATS or dtype_name == "bool" or _INTEGER.fullmatch(dtype_name) is not None


def promoted(xp: Namespace, dtypes: list[DType]) -> tuple[DType, DType]:
    """The loss dtype (what the library makes of these floating dtypes together) and the compute dtype (never
    narrower than float32). Raises what the library raises if it has no answer."""
    first = name(dtypes[0])
    if first in ("float32", "float64") and all(name(d) == first for d in dtypes):
        native = getattr(xp, first)  # result_type would say the same, some microseconds later
        return native, native
    # Alike, they need no question, which JAX's strict mode and PyTorch's compiler do not answer for a half and float32.
    alike = all(name(d) == first for d in dtypes)
    loss = getattr(xp, first, dtypes[0]) if alike else xp.result_type(*dtypes)
    return loss, xp.float64 if name(loss) == "float64" else xp.float32


def accumulator(xp: Namespace, device: Any, compute: DType) -> DType:
    """float64 where the device has it, else the compute dtype."""
    if name(compute) == "float64":
        return compute
    has = "float64" in xp.__array_namespace_info__().dtypes(device=device, kind="real floating")
    return xp.float64 if has else compute
