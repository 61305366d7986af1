"""Which library an array belongs to: its name and its Array API namespace, found from its type and remembered.

Also what is refused because it is no dense array of any library, since that has to be known first: a container of
another format has no shape, or another arithmetic. Imports no array library: `array_api_compat` recognises an array by
the modules that are loaded already.
"""

import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from ._policy import CONVERSIONS, FORMATS, LASTING, REFUSED, REFUSED_MODULES
from ._typing import Namespace


class Library(NamedTuple):
    name: str  # "numpy", "torch", "dask", …: the root of the namespace's own name
    xp: Namespace


# By weak references to the types, and not as a WeakKeyDictionary, whose `get` takes 0.1 µs more. Of a foreign library
# nothing is kept: its namespace would keep its types.
_known: dict[ReferenceType[type], Library] = {}


def library(value: Any, argument: str) -> Library:
    """The library of `value`; TypeError, saying how to convert, where it is no dense array of any."""
    kind = type(value)
    if type(kind) is not type and _tensor(kind):  # every tensor's class has a metaclass; that of an ndarray has none
        return _tensors(value, argument)
    found = _known.get(ref(kind))
    if found is None:
        found = _recognise(value, argument)
        if found.name in LASTING:
            _known[ref(kind, _forget)] = found
    return found


def _forget(kind: ReferenceType[type]) -> None:
    _known.pop(kind, None)


def _tensor(kind: type) -> bool:
    """Whether it is `torch.Tensor` or a subclass, whoever wrote that. Without importing PyTorch, and without a look
    at `__mro__`, over which no compiler iterates."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.Tensor)


def _tensors(value: Any, argument: str) -> Library:
    """PyTorch, without the memo (read inside a trace it becomes a guard, and each new type a recompilation) and
    without array_namespace (inside torch.compile it warns about its own cache)."""
    import array_api_compat.torch as xp

    torch: Any = sys.modules["torch"]
    if value.layout is not torch.strided or value.is_nested:
        form = "nested" if value.layout is torch.strided else str(value.layout).removeprefix("torch.").lstrip("_")
    elif type(value) is torch.Tensor or not issubclass(type(value), torch.masked.MaskedTensor):
        return Library("torch", xp)
    else:
        form = "masked"
    remedy = FORMATS.get(form, CONVERSIONS["to_dense"])
    raise TypeError(f"`{argument}` must be a dense tensor; got a {form} one: {remedy}.")


def _recognise(value: Any, argument: str) -> Library:
    kind = type(value)
    for base in kind.__mro__:
        remedy = REFUSED.get((REFUSED_MODULES.get(base.__module__, base.__module__), base.__name__))
        if remedy:
            raise TypeError(f"`{argument}` must be an array; got {_described(kind)}: {remedy}.")
    # The standard library's and NumPy's scalars have no axis; array_namespace would take the latter for arrays.
    scalar = any(base.__name__ == "generic" and base.__module__ == "numpy" for base in kind.__mro__)
    if kind.__module__ != "builtins" and not scalar:
        import array_api_compat

        try:
            xp = array_api_compat.array_namespace(value)
        except TypeError:
            pass  # not an array: refused below, in our words
        else:
            name = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
            return Library(name, xp)
    raise TypeError(f"`{argument}` must be an array; got {_described(kind)}: {_remedy(value)}.")


def _described(kind: type) -> str:
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def _remedy(value: Any) -> str:
    """How to make an array of it: by its own conversion, where it has one, or by that of a library."""
    for method, remedy in CONVERSIONS.items():
        if hasattr(type(value), method):
            return remedy
    if isinstance(value, tuple) and hasattr(type(value), "values"):  # what torch.max and its like return
        return "pass its `.values`"
    if isinstance(value, Real | Sequence) or any(hasattr(type(value), n) for n in ("__array__", "__dlpack__")):
        return "convert it first, for example with `numpy.asarray(...)` or `torch.as_tensor(...)`"
    return "pass an array instead"
