"""Which library an array belongs to: found from its type and remembered.

Also refuses arguments that are not arrays of any library, and arrays whose arithmetic means something else. Imports no
array library: `array_api_compat` recognises an array by the modules that are loaded already, and a file of this folder
is imported when an array of its library is first passed.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from numbers import Real
from typing import Any, Final
from weakref import ReferenceType, ref

from .._typing import Namespace
from .base import Library

# Subclasses of ndarray that array_api_compat accepts although their arithmetic means something else.
_REFUSED: Final = {
    ("numpy", "matrix"): "pass `numpy.asarray(...)` of it",
    ("numpy", "MaskedArray"): "pass its `.data`, and `where=~numpy.ma.getmaskarray(...)` for the mask",
    ("cupyx", "DistributedArray"): (
        "its chunks are on several devices; bring it together on one, for example with `cupy.asarray(a.get())`"
    ),
}
# CSR matrices that are not arrays themselves: (package, class).
_ROWS: Final = {("scipy", "csr_matrix"), ("scipy", "csr_array"), ("cupyx", "csr_matrix"), ("jax", "BCSR")}
# How to convert a container to a dense array: by the first of these methods that its class has.
_CONVERSIONS: Final = {
    "toarray": "pass its `.toarray()`",  # the sparse matrices of SciPy and CuPy
    "todense": "pass its `.todense()`",  # those of JAX
    "to_dense": "pass its `.to_dense()`",
    "to_numpy": "pass its `.to_numpy()`",  # data frames
}

_TENSORS: Final = f"{__package__}.torch"

# By weak references to the types, and not as a WeakKeyDictionary, whose `get` takes 0.1 µs more. A library that is not
# `lasting` is not cached, because its namespace would keep its types alive.
_known: dict[ReferenceType[type], Library] = {}


def library_of(value: Any, argument: str) -> Library:
    """The library of `value`. If it is not an array, raises a TypeError that says how to convert it."""
    kind = type(value)
    if type(kind) is not type and _is_tensor(kind):  # every tensor's class has a metaclass; that of an ndarray has none
        # A compiler would make a guard of `sys.modules.get`, and compile again once the file is imported.
        compiling = sys.modules["torch"].compiler.is_compiling()
        tensors: Any = None if compiling else sys.modules.get(_TENSORS)
        if tensors is None:
            import mlsm.libraries.torch as tensors  # a statement, because compilers follow no other way of importing

        of_tensors: Library = tensors.TORCH
        return of_tensors
    found = _known.get(ref(kind))
    if found is None:
        found = _recognise(value, argument)
        if found.lasting:
            _known[ref(kind, _forget)] = found
    return found


def is_literal(value: Any) -> bool:
    """Whether a weight is a number or a list, of which an array is made. A `torch.Size`, although a tuple, is not."""
    return type(value).__module__ != "torch" and isinstance(value, Real | list | tuple)


def compressed(value: Any) -> tuple[Any, ...] | None:
    """Shape, `indptr`, `indices` and data of a CSR matrix; None for everything else."""
    kind = type(value)
    if type(kind) is not type and _is_tensor(kind):
        import mlsm.libraries.torch as tensors

        return tensors.TORCH.compressed(value)
    if (kind.__module__.partition(".")[0], kind.__name__) not in _ROWS:
        return None
    return value.shape, value.indptr, value.indices, value.data


def _forget(kind: ReferenceType[type]) -> None:
    _known.pop(kind, None)


def _is_tensor(kind: type) -> bool:
    """Whether it is `torch.Tensor` or a subclass, of any package. Does not import PyTorch, and does not read
    `__mro__`, over which compilers cannot iterate."""
    torch = sys.modules.get("torch")
    return torch is not None and (kind is torch.Tensor or issubclass(kind, torch.Tensor))


def _recognise(value: Any, argument: str) -> Library:
    kind = type(value)
    for base in kind.__mro__:
        remedy = _REFUSED.get((base.__module__.partition(".")[0], base.__name__))
        if remedy:
            raise TypeError(f"`{argument}` must be an array; got {_described(kind)}: {remedy}.")
    # The standard library's and NumPy's scalars have no axis; array_namespace would accept the latter as arrays.
    scalar = any(base.__name__ == "generic" and base.__module__ == "numpy" for base in kind.__mro__)
    if kind.__module__ != "builtins" and not scalar:
        import array_api_compat

        try:
            xp = array_api_compat.array_namespace(value)
        except TypeError:
            pass  # not an array: refused below, with a remedy
        else:
            name = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
            found = _class_of(name)
            return _record(name, xp) if found.lasting else found(name, xp)
    raise TypeError(f"`{argument}` must be an array; got {_described(kind)}: {_remedy(value, argument)}.")


@cache
def _class_of(name: str) -> type[Library]:
    """The class `Library` of a library's file, or of `base` if it has no file."""
    file = f"{__package__}.{name}"
    return getattr(import_module(file), "Library", Library) if name.isidentifier() and find_spec(file) else Library


@cache
def _record(name: str, xp: Namespace) -> Library:
    """The one record of a lasting library."""
    return _class_of(name)(name, xp)


def _described(kind: type) -> str:
    if kind is type(None):
        return "None"
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def _remedy(value: Any, argument: str) -> str:
    """How to convert it to an array: by its own method if it has one, or by a function of a library."""
    kind = type(value)
    if argument == "target" and isinstance(value, list | tuple) and _indices(value):
        return (
            "pass lists of class indices as `mlsm.Labels(...)` of an integer array, padded with -1, or as one column "
            "per class, for example with `sklearn.preprocessing.MultiLabelBinarizer`"
        )
    if argument == "target" and hasattr(type(value), "tocsr") and hasattr(type(value), "toarray"):
        return "pass its `.tocsr()`, or `mlsm.Labels(...)` of its indices, or its `.toarray()` if it fits into memory"
    if argument == "target" and kind.__module__.startswith("jax.experimental.sparse"):
        return "pass `jax.experimental.sparse.BCSR.from_bcoo(...)` of it"
    if hasattr(type(value), "to_numpy") and _nullable(value):
        return "pass its `.to_numpy(dtype=float, na_value=float('nan'))`, and `where=` for missing values"
    for method, remedy in _CONVERSIONS.items():
        if hasattr(type(value), method):
            return remedy
    if isinstance(value, tuple) and hasattr(type(value), "values"):  # what torch.max and its like return
        return "pass its `.values`"
    if isinstance(value, Real | Sequence) or any(hasattr(type(value), n) for n in ("__array__", "__dlpack__")):
        return "convert it first, for example with `numpy.asarray(...)` or `torch.as_tensor(...)`"
    return "pass an array instead"


def _indices(rows: Sequence[Any]) -> bool:
    """Whether it is a list of lists of different lengths, as lists of class indices are."""
    lengths = {len(row) if isinstance(row, list | tuple | set) else None for row in rows}
    return len(lengths) > 1 and None not in lengths


def _nullable(frame: Any) -> bool:
    """Whether a column of a data frame has its own marker of missing values, which no array has."""
    dtypes: Any = getattr(frame, "dtypes", None)
    columns = list(dtypes) if hasattr(dtypes, "__iter__") else [dtypes]
    return any(hasattr(dtype, "na_value") for dtype in columns)
