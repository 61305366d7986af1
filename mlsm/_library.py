"""Which library an array belongs to: its name and its Array API namespace, found from its type and remembered.

Imports no array library: `array_api_compat` recognises an array by the modules that are loaded already.
"""

from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from ._policy import LASTING, REFUSED, REFUSED_MODULES
from ._typing import Namespace


class Library(NamedTuple):
    name: str  # "numpy", "torch", "dask", …: the root of the namespace's own name
    xp: Namespace


# By weak references to the types, and not as a WeakKeyDictionary, whose `get` takes 0.1 µs more. Of a foreign library
# nothing is kept: its namespace would keep its types.
_known: dict[ReferenceType[type], Library] = {}


def library(value: Any, argument: str) -> Library:
    """The library of `value`; TypeError, saying how to convert, where it is no array of any."""
    kind = type(value)
    if kind.__module__[:5] == "torch":
        return _tensors()
    found = _known.get(ref(kind))
    if found is None:
        found = _recognise(value, argument)
        if found.name in LASTING:
            _known[ref(kind, _forget)] = found
    return found


def _forget(kind: ReferenceType[type]) -> None:
    _known.pop(kind, None)


def _tensors() -> Library:
    """PyTorch, without the memo (read inside a trace it becomes a guard, and each new type a recompilation) and
    without array_namespace (inside torch.compile it warns about its own cache)."""
    import array_api_compat.torch as xp

    return Library("torch", xp)


def _recognise(value: Any, argument: str) -> Library:
    kind = type(value)
    for base in kind.__mro__:
        remedy = REFUSED.get((REFUSED_MODULES.get(base.__module__, base.__module__), base.__name__))
        if remedy:
            raise TypeError(f"`{argument}` must be an array; got {_described(value)}: {remedy}.")
    if any(base.__module__.partition(".")[0] == "torch" for base in kind.__mro__):
        return _tensors()  # a subclass that somebody else wrote
    # The standard library's and NumPy's scalars have no axis; array_namespace would take the latter for arrays.
    if kind.__module__ != "builtins" and not any(base.__name__ == "generic" for base in kind.__mro__):
        import array_api_compat

        try:
            xp = array_api_compat.array_namespace(value)
        except TypeError:
            pass  # not an array: refused below, in our words
        else:
            name = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
            return Library(name, xp)
    raise TypeError(f"`{argument}` must be an array; got {_described(value)}: {_remedy(kind)}.")


def _described(value: Any) -> str:
    kind = type(value)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def _remedy(kind: type) -> str:
    if kind.__module__.partition(".")[0] in ("pandas", "polars", "pyarrow"):
        return "pass its `.to_numpy()`"
    return "convert it first, for example with `numpy.asarray(...)` or `torch.as_tensor(...)`"
