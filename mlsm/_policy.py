"""The rules that are data: which dtypes and types are taken, in which dtype one computes, the defaults.

No arrays, no arithmetic, no error messages. Error bounds live in the conformance suite, tuning numbers in the kernels.
"""

import re
from typing import Any, Final

from ._typing import DType, Namespace

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
HALVES: Final = frozenset({"float16", "bfloat16"})
_INTEGER = re.compile(r"u?int(8|16|32|64)|u?longlong|u?intc|u?int")

REDUCTIONS: Final = ("none", "mean", "sum")
WRT: Final = ("input", "target", "weight", "pos_weight")

# Subclasses of ndarray that array_api_compat lets through although arithmetic means something else in them.
REFUSED: Final = {
    ("numpy", "matrix"): "pass `numpy.asarray(...)` of it",
    ("numpy.ma", "MaskedArray"): "pass its `.data`, and `where=~numpy.ma.getmaskarray(...)` for the mask",
    ("cupyx.distributed.array", "DistributedArray"): (
        "its chunks are on several devices; bring it together on one, for example with `cupy.asarray(a.get())`"
    ),
}
# Older NumPy releases name the modules of the same classes differently.
REFUSED_MODULES: Final = {
    "numpy.ma.core": "numpy.ma",
    "numpy.matrixlib.defmatrix": "numpy",
    "cupyx.distributed.array._array": "cupyx.distributed.array",
}
# How a container that is no dense array becomes one: by the first of these methods that its class has.
CONVERSIONS: Final = {
    "toarray": "pass its `.toarray()`",  # the sparse matrices of SciPy and CuPy
    "todense": "pass its `.todense()`",  # those of JAX
    "to_dense": "pass its `.to_dense()`",
    "to_numpy": "pass its `.to_numpy()`",  # data frames
}
# Formats of tensors that have a remedy of their own; that of all others (sparse_coo, mkldnn, …) is `to_dense`.
FORMATS: Final = {
    "jagged": "pass its `.values()`, which has all rows one after the other",
    "masked": "pass its `.get_data()`, and its `.get_mask()` as `where`",
    "nested": "pass `torch.cat(...)` of its `.unbind()`, which has all rows one after the other",
}
# Dtypes that are stored and not computed with: (library, dtype, what makes numbers of it). PyTorch casts none of them.
STORED: Final = (
    ("torch", re.compile(r"q.+"), "pass its `.dequantize()`"),
    ("torch", re.compile(r"int[1-7]"), "pass its `.view(torch.int8)`"),
    ("torch", re.compile(r"uint[1-7]|bits.+"), "pass its `.view(torch.uint8)`"),
)

# Libraries whose arrays always know their lengths, so that nobody need ask.
SIZED: Final = frozenset({"numpy", "torch", "cupy", "jax", "array_api_strict"})
# Libraries whose sums are taken of flat arrays, a view or one copy there: their own depend on how an array lies in
# memory. Elsewhere it would move chunks or shards about, and not every length is known.
FLATTENED: Final = frozenset({"numpy", "cupy", "torch", "array_api_strict"})
# Libraries that are there for good once they have been imported, so that their names may be remembered.
LASTING: Final = SIZED | {"dask"}
# Libraries for which the verdict on a call follows from dtypes, shapes and devices alone, so that it may be kept.
MEMORABLE: Final = frozenset({"numpy", "torch"})
# Libraries whose arrays lie on one device each, which can be compared.
PLACED: Final = frozenset({"torch", "cupy"})
# Libraries that set no NumPy floating-point flag; a context manager would break a compiled region of theirs.
FLAGLESS: Final = frozenset({"torch", "jax", "cupy"})
# Libraries that compute on, and make new arrays on, a current device and not on that of their arrays: it is entered.
CURRENT_DEVICE: Final = frozenset({"cupy"})

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
    loss = getattr(xp, first, dtypes[0])  # native, where the dtype is byte-swapped
    if any(name(d) != first for d in dtypes):  # one dtype needs no question, which some libraries would refuse
        if type(dtypes[0]).__module__ == "torch":
            for dtype in dtypes:  # its `result_type` takes tensors only, which a compiler would have to make first
                loss = xp.promote_types(loss, dtype)
        else:
            loss = xp.result_type(*dtypes)
    return loss, xp.float64 if name(loss) == "float64" else xp.float32


def stored(library: str, dtype_name: str) -> str:
    """What makes numbers of a dtype that its library only stores; "" for every other dtype."""
    for owner, pattern, remedy in STORED:
        if owner == library and pattern.fullmatch(dtype_name):
            return remedy
    return ""


def accumulator(xp: Namespace, device: Any, compute: DType) -> DType:
    """float64 where the device has it, else the compute dtype."""
    if name(compute) == "float64":
        return compute
    has = "float64" in xp.__array_namespace_info__().dtypes(device=device, kind="real floating")
    return xp.float64 if has else compute
