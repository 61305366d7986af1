"""What the package needs to know of a library in addition to its namespace, with answers that hold for every library.

A library with other answers has a file of its own here, named after it, with one subclass of `Library`. No other code
of the package distinguishes libraries. Knows no library, and refuses nothing.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

from .. import _policy
from .._problem import Layout, Shape, State
from .._typing import DType, Namespace
from ..many_classes._scratch import Compared, Parts, Scratch, Written

NOTHING: AbstractContextManager[Any] = nullcontext()


class Form(NamedTuple):
    """The metadata by which an argument is judged. A number and a list have no library, no dtype and no device."""

    library: "Library | None"
    dtype: DType
    shape: Shape
    device: Any
    layout: Layout
    flat: bool = False  # `Operands.flat` and `Operands.host`, where this is the form of the logits
    host: bool = False


class Library:
    """One library: its name, its namespace, and the answers that differ between libraries."""

    # Whether the library stays loaded once it is imported, so that it and its dtypes may be cached.
    lasting: ClassVar[bool] = False
    # Whether the verdict on a call follows from forms alone, so that it may be cached too.
    memorable: ClassVar[bool] = False
    # Whether all its arrays have a memory order, so that sums may be flattened: by a view if rows are contiguous, else
    # by one copy. For other libraries that would move chunks or shards, and not every length is known.
    flat: ClassVar[bool] = False
    # Whether its arrays may be written to, in place and by index, without a copy.
    mutable: ClassVar[bool] = False
    # For a library whose sparse matrices have the class of its arrays: is_sparse(array).
    is_sparse: Any = None
    # For a library that can record or trace arithmetic, whatever the type of its arrays: state(*operands).
    state: Any = None
    # For a library that recognises a call that came before: recalled(arguments, options) gives what remember(arguments,
    # options, problem, operands) kept.
    recalled: Any = None
    remember: Any = None
    # For a library whose own sums are slow for few rows: reduced_rows(kernel, problem, operands, rows, count).
    reduced_rows: Any = None
    # For a library whose arrays are graphs: the module with `verified`, `prepared` and `prepared_cotangent`.
    lazy: ClassVar[Any] = None

    def __init__(self, name: str, xp: Namespace) -> None:
        self.name, self.xp = name, xp  # "numpy", "torch", "dask", …: the root of the namespace's own name

    @property
    def conversion(self) -> str:
        """The function that converts another array to one of this library, as a user calls it."""
        return f"{self.xp.__name__.removeprefix('array_api_compat.')}.asarray"

    # ------------------------------------------------------------ arrays

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> Form:
        """Read an array's metadata, once. Inside a trace its layout is not read, because no kernel needs it."""
        return Form(self, value.dtype, self._shape(value), self._device(value), Layout.UNKNOWN, self.flat)

    def _shape(self, value: Any) -> Shape:
        """The shape, with None for every length that is not known (NaN in Dask)."""
        shape: Shape = value.shape
        return shape if all(n is not None and n == n for n in shape) else tuple(n if n == n else None for n in shape)

    def _device(self, value: Any) -> Any:
        import array_api_compat

        return array_api_compat.device(value)

    def is_scalar(self, value: Any) -> bool:
        """Whether it is a scalar that the library's own functions may return instead of a 0-d array."""
        return False

    # ------------------------------------------------------------ dtypes

    def dtype_name(self, dtype: DType) -> str:
        return _policy.name(dtype) if self.lasting else _policy.spelled(dtype)

    def result_type(self, dtypes: list[DType]) -> DType:
        """The library's promotion of several dtypes; raises the library's error if they do not promote."""
        return self.xp.result_type(*dtypes)

    def stored(self, dtype_name: str) -> str:
        """The remedy for a dtype that the library stores but does not compute with; "" for every other dtype."""
        return ""

    # ------------------------------------------------------------ around the arithmetic

    def errstate(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which arithmetic on its arrays raises no NumPy flag and works on their device.

        exp underflows, a cast to half rounds to 0, a mean over no row is 0/0: all of this is intended, and none of it
        may warn. It is entered outside the formula, inside which a context manager would break a compiler's trace.
        """
        import numpy  # a dependency of ours; a library that computes with it has imported it already

        return numpy.errstate(all="ignore")

    def on(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which it makes its arrays on this device, if it has a current device."""
        return NOTHING

    def zero_d(self, number: float, dtype: DType, device: Any) -> Any:
        """A 0-d array of a number, by `full`, because copying a host value would synchronise a GPU."""
        with self.on(device):
            return self.xp.full((), number, dtype=dtype, device=device)

    def replicated(self, value: Any, like: Any) -> Any:
        """An array that we made as one that can be combined with `like`, which may be distributed over processes."""
        return value

    def alike(self, input: Any, **others: Any) -> None:
        """TypeError for an argument that belongs to the library of the logits but cannot be combined with them."""

    def laid_out(self, value: Any, like: Any) -> Any:
        """A result in the memory order of `like`, if the library's own arithmetic does not keep it."""
        return value

    # ------------------------------------------------------------ labels and the linear head

    def register_labels(self, kind: type) -> None:
        """Called with the class of the labels when labels of this library are made: register it if the library asks."""

    def traced(self, *arrays: Any) -> bool:
        """Whether the arithmetic is traced, so that nothing may be written to and no value read."""
        return False

    def readable(self, *arrays: Any) -> tuple[Any, ...] | None:
        """The arrays as NumPy arrays if that needs no copy and no wait for a device; else None."""
        return None

    def target_blocks(self, labels: Any, device: Any) -> Any:
        """What makes blocks of the dense target: ``blocks(rows, classes)``, by slices of the batch axes and a slice."""
        if self.mutable:
            return Scratch(self.xp, labels, device, host=self.readable(labels.indices) is not None)
        if not hasattr(labels.indices, "__dlpack__"):
            return Compared(self.xp, labels, device)
        import array_api_compat.numpy as np

        host: Any = np  # a type checker finds its modules empty
        try:
            made = Scratch(host, labels.mapped(host.from_dlpack), "cpu")
        except (BufferError, NotImplementedError):  # the library has the method but cannot export its memory
            return Compared(self.xp, labels, device)
        return lambda rows, classes: self.xp.asarray(made(rows, classes), device=device, copy=True)

    def dense_target(self, labels: Any, device: Any, traced: bool) -> Any:
        """The whole dense target, in memory of its own."""
        return self.target_blocks(labels, device)((slice(None),) * (labels.ndim - 1), slice(None))

    def logits(self, input: Any, weight: Any, bias: Any) -> Any:
        """``input @ weight.T + bias`` of arrays of one dtype, as the library multiplies."""
        found = input @ self.xp.matrix_transpose(weight)
        return found if bias is None else found + bias[(*(None,) * (found.ndim - 1), ...)]

    def logits_dtype(self, input: Any, weight: Any, bias: Any) -> DType:
        """The dtype of the logits of these arrays; raises the library's error if it does not multiply them."""
        return _policy.promoted(self, [v.dtype for v in (input, weight, bias) if v is not None])[0]

    def undisturbed(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which products have the dtype of their factors."""
        return NOTHING

    def run_head(self, by_blocks: Any, head: Any, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
        """The results of ``by_blocks(head, scale, wanted)``."""
        found: dict[str, Any] = by_blocks(head, scale, wanted)
        return found

    def parts(self, shape: tuple[int, ...], dtype: DType, device: Any) -> Parts:
        """A collector of the parts of a result, first to last along its first axis."""
        return Written(self.xp.empty(shape, dtype=dtype, device=device)) if self.mutable else Parts(self.xp)

    # ------------------------------------------------------------ automatic differentiation

    @cached_property
    def autograd_of_blocks(self) -> Any:
        """The same as `autograd`, for losses whose target or logits are made by blocks."""
        return import_module(f"mlsm.autograd.{self.name}_linear")

    @cached_property
    def autograd(self) -> Any:
        """The module that makes kernels nodes of the library's graph; imported for a tracked call only."""
        return import_module(f"mlsm.autograd.{self.name}")
