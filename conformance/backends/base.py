"""What a backend is: how arrays of one library (in one configuration) are made, read, watched and transformed.

Does not judge a loss: it only converts numbers to arrays and back, and declares capabilities, whose meanings are
below.  Every capability is tested in both directions (`namespace.capability.*`): a declared one must work, an
undeclared one must be refused cleanly, so that an outdated declaration fails.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..tensors import Case, Tensor

CAPABILITIES: dict[str, str] = {
    "float16": "arrays of float16 can be made, computed with and read",
    "bfloat16": "arrays of bfloat16 can be made, computed with and read",
    "float64": "arrays of float64 can be made, and sums run in it",
    "writable": "an array can be written to, so that an alias would show",
    "layouts": "arrays can be strided, reversed or broadcast in memory",
    "foreign_layouts": "arrays can be byte-swapped or unaligned in memory",
    "readonly": "arrays that refuse to be written to can be made",
    "any_byte": "a bool array can be made of bytes, of which any but 0 is true",
    "lazy": "nothing is computed until a result is read",
    "unknown_sizes": "a batch length may be unknown while the graph is built",
    "watched": "a hidden compute, or a hidden look at a value, can be made to raise",
    "autograd": "the library differentiates a function of its arrays backwards",
    "forward": "the library differentiates a function of its arrays forwards",
    "vmap": "the library maps a function over a new leading axis",
    "jit": "the library traces a function and runs the trace",
    "compile": "the library compiles a function as a whole, without a break",
    "flushes_subnormals": "the library's own exp gives 0 where the result is subnormal",
    "float_flags": "arithmetic raises floating-point flags that a caller may turn into errors",
}


class Unsupported(Exception):
    """This backend cannot do what was asked, for the reason given: the clean refusal of an undeclared capability."""


class NotInstalled(Exception):
    """The library of this backend, or the device it names, is not available."""


class UnknownBackend(Exception):
    """No backend has this name and no module of this name can be imported."""


class Bulk(NamedTuple):
    """A tensor too large to be examined value by value: the same fields, its values as a float64 array of NumPy."""

    shape: tuple[int, ...]
    values: Any
    dtype: str


class Backend:
    """Arrays of one library in one configuration.

    A third party subclasses it with `name`, `library`, `make` and `to_list`; everything else has a default that is
    right for an eager library without special abilities. The suite's own backends define `of_numpy` and `to_numpy`,
    which the tests, the bench and the demo use too.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    """The root module of the arrays' namespace, as `mlsm.explain` names it."""
    capabilities: ClassVar[frozenset[str]] = frozenset({"float64"})
    layouts: ClassVar[frozenset[str]] = frozenset({"C"})
    device: str = "cpu"
    known: ClassVar[Mapping[str, str]] = {}
    """Check id -> reason, for failures of the library itself that this package cannot repair."""
    known_generic: ClassVar[Mapping[str, str]] = {}
    """Likewise with `kernel="generic"` only: results that a hand-derived pullback gives and the library's own
    differentiation does not."""
    silent: ClassVar[bool] = True
    """Whether the library itself never warns in the calls that the package makes. If it may warn, one check reports
    the warnings, and the numbers are still judged."""
    concurrent: ClassVar[bool] = True
    """Whether several threads may call at once."""
    slow: ClassVar[float] = 1.0
    """What one call costs relative to NumPy's: checks of many small calls select fewer cases by it."""
    found_as: str = ""
    """The argument of `find` if it is not the name: `pkg.module:Class`."""

    # -------------------------------------------------------- arrays in, numbers out

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        """An array of exactly these values on `self.device`, laid out in memory as one of `layouts`."""
        raise NotImplementedError

    def of_numpy(self, array: Any) -> Any:
        """An array of this library with the dtype and the values of a NumPy array."""
        return self.make(Bulk(array.shape, array.astype(np.float64).ravel(), array.dtype.name))

    def to_numpy(self, array: Any) -> Any:
        """The array as NumPy's, of the same dtype and the same bits."""
        return np.asarray(array)

    def serves(self, case: Case) -> bool:
        """Whether this case can be built here: its layout exists, and the case concerns this variant."""
        return case.layout in self.layouts

    def arguments(self, case: Case) -> dict[str, Any]:
        """The array arguments of a case by name, in the order of the signature."""
        out = {"input": self.make(case.input, case.layout), "target": self.make(case.target, case.layout)}
        for name, value in (("weight", case.weight), ("pos_weight", case.pos_weight), ("where", case.where)):
            if isinstance(value, Tensor):
                out[name] = self.make(value)
        return out

    def cotangent(self, tensor: Tensor, case: Case) -> Any:
        """An array whose first axes are the rows of `case`: for example the `grad_output` of the row losses."""
        return self.make(tensor)

    def to_list(self, array: Any) -> list[float]:
        """All elements, row-major, as Python floats (exact for every dtype the suite uses)."""
        with np.errstate(all="ignore"):
            values: list[float] = self.to_numpy(array).astype(np.float64).ravel().tolist()
        return values

    def dtype_of(self, array: Any) -> str:
        """The dtype's plain name ("float32")."""
        return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]

    def shape_of(self, array: Any) -> tuple[int, ...]:
        """The shape once it is known."""
        return tuple(array.shape)

    def device_of(self, array: Any) -> str:
        """The device, as text; only compared with another of the same backend."""
        import array_api_compat

        return str(array_api_compat.device(array))

    def owns(self, array: Any) -> bool:
        """Whether this is an array of the backend's library (and not a copy in another one)."""
        import array_api_compat

        name = array_api_compat.array_namespace(array).__name__
        return name.removeprefix("array_api_compat.").partition(".")[0] == self.library

    def namespace(self) -> Any:
        """The Array API namespace of this backend's arrays."""
        import array_api_compat

        return array_api_compat.array_namespace(self.make(Tensor((1,), (0.0,), "float32")))

    def module(self) -> Any:
        """The namespace as a sabotage or a foreign formula needs it (the same if the library has only one)."""
        return self.namespace()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The floating dtypes of this backend, narrowest first."""
        return tuple(
            d for d in ("float16", "bfloat16", "float32", "float64") if d == "float32" or d in self.capabilities
        )

    def versions(self) -> dict[str, str]:
        """Distribution name -> version, for each package that affects the numbers."""
        return installed_versions(self.library)

    # -------------------------------------------------------- configuration and watching

    def session(self) -> contextlib.AbstractContextManager[Any]:
        """A context with the configuration of this backend; all its calls are made inside it."""
        return contextlib.nullcontext()

    def together(self, task: str, **given: Any) -> contextlib.AbstractContextManager[list[str]]:
        """A context for a task, such as a check, that every process with a part of the arrays has to run. The other
        processes are told the task; their failures are in the list when the context ends."""
        return contextlib.nullcontext([])

    def flags(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which every floating-point flag is an error."""
        raise Unsupported(f"{self.name} has no floating-point flags to watch")

    def call(self, function: Any, *arrays: Any) -> Any:
        """Call `function(*arrays)` the way this backend calls (under jit, for one that stands for jit).

        `call(case, function)` makes the arrays of a `Case` and calls the function with its arguments by name.
        """
        return self.of_case(function, *arrays) if isinstance(function, Case) else function(*arrays)

    def of_case(self, case: Case, function: Callable[..., Any]) -> Any:
        """`function` called with the arguments of a case by name: arrays of this backend, and its options."""
        arrays = self.arguments(case)
        given: dict[str, Any] = {"weight": case.weight, "pos_weight": case.pos_weight}
        given = {name: value for name, value in given.items() if value is not None}
        given |= {"label_smoothing": case.label_smoothing} if case.label_smoothing else {}
        given |= {"axis": case.axis} if case.axis != -1 else {}
        names = list(arrays)

        def run(*values: Any) -> Any:
            return function(**{**given, **dict(zip(names, values, strict=True))})

        with self.session():
            return self.call(run, *arrays.values())

    def force(self, result: Any) -> Any:
        """Finish whatever is still running or lazy, and return the result."""
        return result

    def unseen(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """`function(*arrays)` where a hidden compute, or a hidden look at a value, raises."""
        raise Unsupported(f"{self.name} has no way to watch for hidden computes or looks at values")

    def unknown(self, tensor: Tensor) -> Any:
        """The array with a batch length that is not known yet."""
        raise Unsupported(f"{self.name} always knows its shapes")

    def lying(self, tensor: Tensor, actual: Tensor) -> Any:
        """A lazy array that declares the shape of `tensor` and turns out to hold `actual`."""
        raise Unsupported(f"{self.name} knows what its arrays hold")

    def pieces(self, tensor: Tensor, chunks: Sequence[Sequence[int]]) -> Any:
        """The array in pieces of these lengths along each axis, lengths of 0 included."""
        raise Unsupported(f"arrays of {self.name} are in one piece")

    def summed(self, tensor: Tensor) -> Any:
        """The sum of all elements as a 0-d lazy array, which may turn out to be a scalar."""
        raise Unsupported(f"{self.name} has no lazy sums")

    def elsewhere(self, tensor: Tensor) -> Any:
        """The array on another device than `self.device`."""
        raise Unsupported(f"{self.name} has one device only")

    def as_bool(self, array: Any) -> Any:
        """A uint8 array's bytes as a bool array, not converted: the byte of a true element may differ from 1."""
        raise Unsupported(f"{self.name} makes its bool arrays itself, of 0 and 1")

    target_remedies: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {}
    """Format name of `formats` ("" for all others) -> the remedy that applies to a target, where it differs."""

    def is_compressed(self, value: Any) -> bool:
        """Whether it is a matrix of compressed rows (CSR), which is accepted as a target."""
        return "csr" in type(value).__name__.lower()

    def formats(self, tensor: Tensor) -> dict[str, tuple[Any, str, Callable[[Any], Any]]]:
        """Name -> the same values in a format that is not a dense array: the container, the remedy that the error
        must name, and that remedy as a function to a dense array of the same values (in any shape)."""
        return {}

    def write(self, array: Any, value: float) -> None:
        """Write `value` into every element, in place; raises where arrays cannot be written to."""
        raise Unsupported(f"arrays of {self.name} cannot be written to")

    # -------------------------------------------------------- transforms

    def vjp(self, function: Callable[..., Any], arrays: Sequence[Any], index: int, cotangent: Any = None) -> Any:
        """The library's own reverse-mode derivative of `function(*arrays)` for argument `index`."""
        raise Unsupported(f"{self.name} does not differentiate")

    def jvp(self, function: Callable[[Any], Any], at: Any, tangent: Any) -> Any:
        """The library's own forward-mode derivative along `tangent`."""
        raise Unsupported(f"{self.name} does not differentiate forwards")

    def vmap(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """`function` mapped over the leading axis of every array."""
        raise Unsupported(f"{self.name} has no vmap")

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, traced."""
        raise Unsupported(f"{self.name} has no jit")

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled as a whole."""
        raise Unsupported(f"{self.name} has no compiler")

    def __repr__(self) -> str:
        return f"<backend {self.name}>"


# ------------------------------------------------------------ the variants, by name

_VARIANTS: dict[str, tuple[str, str]] = {
    "numpy": ("numpy", "NumPy"),
    "numpy-readonly": ("numpy", "ReadOnlyNumPy"),
    "numpy-bfloat16": ("numpy", "BFloat16NumPy"),
    "array-api-strict": ("strict", "Strict"),
    "array-api-strict-nodata": ("strict", "StrictNoData"),
    "array-api-strict-nofloat64": ("strict", "StrictNoFloat64"),
    "torch": ("torch", "Torch"),
    "torch-cuda": ("torch", "TorchCUDA"),
    "torch-dtensor": ("dtensor", "TorchDTensor"),
    "torch-dtensor-class": ("dtensor", "TorchDTensorClass"),
    "jax": ("jax", "JAX"),
    "jax-x64": ("jax", "JAXX64"),
    "jax-jit": ("jax", "JAXJit"),
    "jax-sharded": ("jax", "JAXSharded"),
    "jax-sharded-explicit": ("jax", "JAXShardedExplicit"),
    "dask": ("dask", "Dask"),
    "dask-chunked-class": ("dask", "DaskChunkedClass"),
    "dask-unknown": ("dask", "DaskUnknown"),
    "cupy": ("cupy", "CuPy"),
}
_NEEDS = {
    "numpy": ("numpy",),
    "strict": ("array_api_strict",),
    "torch": ("torch",),
    "dtensor": ("torch",),
    "jax": ("jax",),
    "dask": ("dask.array",),
    "cupy": ("cupy",),
}
_ALSO_NEEDS = {"numpy-bfloat16": ("ml_dtypes",)}

NAMES: tuple[str, ...] = tuple(_VARIANTS)
ALIASES = {
    "dask.array": "dask",
    "jax.numpy": "jax",
    "array_api_strict": "array-api-strict",
    **{f"array_api_compat.{name}": name.partition(".")[0] for name in ("numpy", "torch", "cupy", "dask.array")},
}
"""Namespaces that are names of the suite's own backends."""
_extra: dict[str, Callable[[], Backend]] = {}


def several_host_devices() -> None:
    """Have JAX split the CPU into four devices, over which an array can be sharded; JAX reads this when it starts."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4".strip()


def register_backend(name: str, factory: Callable[[], Backend]) -> None:
    """Register a third party's backend by name, in addition to the suite's own."""
    if name in _VARIANTS or name in _extra:
        raise ValueError(f"a backend called {name!r} exists already")
    _extra[name] = factory


def unregister_backend(name: str) -> None:
    """Forget a backend that `register_backend` added."""
    del _extra[name]


def names() -> tuple[str, ...]:
    """Every backend name, installed or not."""
    return (*NAMES, *_extra)


def missing(module: str) -> bool:
    """Whether `module` is not installed. A module that is installed and broken raises when it is imported, as it
    should."""
    root = module.partition(".")[0]
    if importlib.util.find_spec(root) is None:
        return True
    return "." in module and importlib.util.find_spec(module) is None


def find(name: str) -> Backend:
    """The backend called `name`: one of the suite's, a registered one, or a module of this name as the namespace.

    Raises NotInstalled if its library (or device) is absent, and UnknownBackend if nothing has that name.
    """
    if name in _extra:
        return _extra[name]()
    if ":" in name:
        return _class(name)
    name = ALIASES.get(name, name)
    if name not in _VARIANTS:
        return _other(name)
    file, cls = _VARIANTS[name]
    for module in (*_NEEDS[file], *_ALSO_NEEDS.get(name, ())):
        if missing(module):
            raise NotInstalled(f"{name}: the module `{module}` is not installed")
    try:
        made = getattr(importlib.import_module(f".{file}", __package__), cls)()
    except NotInstalled:
        raise
    except (Exception, SystemExit) as error:  # whatever a broken installation raises
        raise NotInstalled(f"{name}: importing it raised {_said(error)}") from error
    assert isinstance(made, Backend)
    return made


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _class(path: str) -> Backend:
    """A user's backend, `pkg.module:Class` (or a function that returns one)."""
    module, _, attribute = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except NotInstalled:
        raise
    except (Exception, SystemExit) as error:
        raise UnknownBackend(f"backend {path!r}: {_said(error)}") from error
    if not isinstance(made, Backend):
        raise UnknownBackend(f"backend {path!r} is a {type(made).__name__}, not a mlsm_conformance.backends.Backend")
    made.found_as = path
    return made


def _other(name: str) -> Backend:
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        why = error if isinstance(error, ImportError) else _said(error)
        raise UnknownBackend(
            f"{name!r} is neither a backend ({', '.join(names())}) nor an importable module: {why}"
        ) from error
    from .other import Other

    return Other(module)


def installed(level: str = "quick") -> tuple[list[Backend], dict[str, str]]:
    """Every backend that can run here, and for each other name the reason why it cannot.

    Level smoke asks for the first variant of each library only.
    """
    found: list[Backend] = []
    absent: dict[str, str] = {}
    first = {_NEEDS[file]: name for name, (file, _) in reversed(_VARIANTS.items())}
    for name in names():
        if level == "smoke" and name in _VARIANTS and name not in first.values():
            continue
        try:
            found.append(find(name))
        except NotInstalled as reason:
            absent[name] = str(reason)
    return found, absent


def installed_versions(*modules: str) -> dict[str, str]:
    """Distribution versions of these import names (a module without a distribution is reported as "unknown")."""
    from importlib import metadata

    by_module = metadata.packages_distributions()
    out = {}
    for module in modules:
        root = module.partition(".")[0]
        distributions = by_module.get(root, [])
        out[distributions[0] if distributions else root] = (
            metadata.version(distributions[0]) if distributions else "unknown"
        )
    return out
