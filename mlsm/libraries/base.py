"""What is asked of a library beside its namespace, answered by the standard, and so right for any library.

A library of which something else is true has a file of its own here, named after it, with the one subclass of `Library`
that answers differently. Nothing else in the package asks which library it is. Knows no library, judges nothing.
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
    """All that is judged of an argument. A number and a list have no library, no dtype and no device."""

    library: "Library | None"
    dtype: DType
    shape: Shape
    device: Any
    layout: Layout
    flat: bool = False  # `Operands.flat` and `Operands.host`, where this is the form of the logits
    host: bool = False


class Library:
    """One library: its name, its namespace, and the answers that differ between libraries."""

    # Whether it is there for good once it has been imported, so that it and its dtypes may be remembered.
    lasting: ClassVar[bool] = False
    # Whether the verdict on a call follows from forms alone, so that it may be remembered too.
    memorable: ClassVar[bool] = False
    # Whether memory has an order in all its arrays, so that sums may be flattened: a view where rows are contiguous, or
    # one copy. Elsewhere that would move chunks or shards about, and not every length is known.
    flat: ClassVar[bool] = False
    # Whether its arrays may be written to, in place and by index, at no cost but the writing.
    mutable: ClassVar[bool] = False
    # Of a library whose sparse matrices have the class of its arrays: is_sparse(array).
    is_sparse: Any = None
    # Of a library whose arrays do not show by their type that something looks through the arithmetic: state(*operands).
    state: Any = None
    # Of a library that reduces few row losses slowly: reduced_rows(kernel, problem, operands, rows, count).
    reduced_rows: Any = None
    # Of a library whose arrays are graphs: the module with `verified`, `prepared` and `prepared_cotangent`.
    lazy: ClassVar[Any] = None

    def __init__(self, name: str, xp: Namespace) -> None:
        self.name, self.xp = name, xp  # "numpy", "torch", "dask", …: the root of the namespace's own name

    @property
    def conversion(self) -> str:
        """The function that makes an array of this library of another array, as a user calls it."""
        return f"{self.xp.__name__.removeprefix('array_api_compat.')}.asarray"

    # ------------------------------------------------------------ arrays

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> Form:
        """The one reading of an array's metadata. Inside a trace its layout is not asked for, which no kernel needs."""
        return Form(self, value.dtype, self._shape(value), self._device(value), Layout.UNKNOWN, self.flat)

    def _shape(self, value: Any) -> Shape:
        """The shape, with None for every length that is not known (NaN in Dask)."""
        shape: Shape = value.shape
        return shape if all(n is not None and n == n for n in shape) else tuple(n if n == n else None for n in shape)

    def _device(self, value: Any) -> Any:
        import array_api_compat

        return array_api_compat.device(value)

    def is_scalar(self, value: Any) -> bool:
        """Whether it is what the library's own functions may return in place of a 0-d array, and no array."""
        return False

    # ------------------------------------------------------------ dtypes

    def dtype_name(self, dtype: DType) -> str:
        return _policy.name(dtype) if self.lasting else _policy.spelled(dtype)

    def result_type(self, dtypes: list[DType]) -> DType:
        """What the library makes of several dtypes; raises what it raises if it has no answer."""
        return self.xp.result_type(*dtypes)

    def stored(self, dtype_name: str) -> str:
        """What makes numbers of a dtype that the library only stores; "" for every other dtype."""
        return ""

    # ------------------------------------------------------------ around the arithmetic

    def errstate(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which arithmetic on its arrays raises no NumPy flag and works on their device.

        exp underflows, a cast to half rounds to 0, a mean over no row is 0/0: all of it is meant, and none of it may
        warn. It stands around the formula, in which a context manager would break a compiler's trace.
        """
        import numpy  # a dependency of ours; an array of a library that computes with it has imported it already

        return numpy.errstate(all="ignore")

    def on(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which it makes its arrays on this device, where it has a current one at all."""
        return NOTHING

    def replicated(self, value: Any, like: Any) -> Any:
        """An array of ours as one that meets `like`, which may be spread over processes."""
        return value

    def alike(self, input: Any, **others: Any) -> None:
        """TypeError for an argument that cannot meet the logits although it belongs to their library."""

    def laid_out(self, value: Any, like: Any) -> Any:
        """A result in the memory order of `like`, where the library's own arithmetic does not keep it."""
        return value

    # ------------------------------------------------------------ labels and the linear head

    def register_labels(self, kind: type) -> None:
        """The first labels of this library are there: make them known to whatever of it asks for that."""

    def traced(self, *arrays: Any) -> bool:
        """Whether something looks through the arithmetic, so that nothing may be written to and no value read."""
        return False

    def readable(self, *arrays: Any) -> tuple[Any, ...] | None:
        """The arrays as NumPy's where that costs nothing and is a wait for nobody; else None."""
        return None

    def target_blocks(self, labels: Any, device: Any) -> Any:
        """What makes blocks of the dense target: ``blocks(rows, classes)``, slices of the batch axes and a slice."""
        if self.mutable:
            return Scratch(self.xp, labels, device, host=self.readable(labels.indices) is not None)
        if not hasattr(labels.indices, "__dlpack__"):
            return Compared(self.xp, labels, device)
        import array_api_compat.numpy as np

        host: Any = np  # a type checker finds its modules empty
        try:
            made = Scratch(host, labels.mapped(host.from_dlpack), "cpu")
        except (BufferError, NotImplementedError):  # a library that has the method, and no memory to show
            return Compared(self.xp, labels, device)
        return lambda rows, classes: self.xp.asarray(made(rows, classes), device=device, copy=True)

    def dense_target(self, labels: Any, device: Any, traced: bool) -> Any:
        """The whole of it, in memory of its own."""
        return self.target_blocks(labels, device)((slice(None),) * (labels.ndim - 1), slice(None))

    def logits(self, input: Any, weight: Any, bias: Any) -> Any:
        """``input @ weight.T + bias`` of arrays of one dtype, as the library multiplies."""
        found = input @ self.xp.matrix_transpose(weight)
        return found if bias is None else found + bias[(*(None,) * (found.ndim - 1), ...)]

    def logits_dtype(self, input: Any, weight: Any, bias: Any) -> DType:
        """The dtype of the logits of these arrays; raises what the library raises if it does not multiply them."""
        return _policy.promoted(self, [v.dtype for v in (input, weight, bias) if v is not None])[0]

    def undisturbed(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which products have the dtype of their factors."""
        return NOTHING

    def run_head(self, by_blocks: Any, head: Any, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
        """What ``by_blocks(head, scale, wanted)`` finds."""
        found: dict[str, Any] = by_blocks(head, scale, wanted)
        return found

    def parts(self, shape: tuple[int, ...], dtype: DType, device: Any) -> Parts:
        """What collects the parts of a result, first to last along its first axis."""
        return Written(self.xp.empty(shape, dtype=dtype, device=device)) if self.mutable else Parts(self.xp)

    # ------------------------------------------------------------ automatic differentiation

    @cached_property
    def autograd_of_blocks(self) -> Any:
        """As `autograd`, for losses whose target or logits are made by blocks."""
        return import_module(f"mlsm.autograd.{self.name}_linear")

    @cached_property
    def autograd(self) -> Any:
        """The file that ties kernels to the graph which the library records; asked for in a tracked call only."""
        return import_module(f"mlsm.autograd.{self.name}")
