"""PyTorch: tensors may be tracked or traced, may be on other devices and in other processes, and need not be dense.

Imported when a tensor is first passed. A compiler may trace this file, and would turn a cache that the file reads into
a guard, so that each new type caused a recompilation: only `recalled` and `remember` read a cache, outside a compiler.
"""

import re
from functools import cache
from operator import is_
from typing import Any, Final

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad
from torch.utils.data._utils.collate import default_collate_fn_map

from .._core import Operands
from .._problem import Layout, Problem, Repeated, State
from .._typing import DType
from . import base

_REMEMBERED: Final = 4  # calls: a training step may have several losses
_Tensor, _Parameter, _STRIDED = torch.Tensor, torch.nn.Parameter, torch.strided

# How to convert a container to a dense tensor; for all other formats (sparse_coo, mkldnn, …) it is `to_dense`.
_FORMATS: Final = {
    "jagged": "pass its `.values()`, which has all rows one after the other",
    "masked": "pass its `.get_data()`, and its `.get_mask()` as `where`",
    "nested": "pass `torch.cat(...)` of its `.unbind()`, which has all rows one after the other",
}
# Dtypes that PyTorch stores but does not compute with or cast, and how to convert them to numbers.
_STORED: Final = (
    (re.compile(r"q.+"), "pass its `.dequantize()`"),
    (re.compile(r"int[1-7]"), "pass its `.view(torch.int8)`"),
    (re.compile(r"uint[1-7]|bits.+"), "pass its `.view(torch.uint8)`"),
)


class Library(base.Library):
    lasting = memorable = mutable = True
    conversion = "torch.as_tensor"
    # `_checked` has the problems of the last calls that were checked. `_repeated` has, for the last of these that came
    # again, the options, the comparison with other tensors, and the problem. Tuples, which another thread sees whole.
    _checked: tuple[Problem, ...] = ()
    _repeated: tuple[Any, ...] = ()

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> base.Form:
        kind = type(value)
        plain = kind is _Tensor or kind is _Parameter
        if not plain or value.layout is not _STRIDED or value.is_nested:  # tested here: a call would cost as much
            _dense(value, argument, plain)
        device = value.device
        if state is State.TRACED:
            # The memory of a subclass may be anywhere, as that of a DTensor is; a subclass is always treated as traced.
            return base.Form(self, value.dtype, value.shape, device, Layout.UNKNOWN, plain, False)
        if value.is_neg():
            layout = Layout.FOREIGN  # a view that PyTorch negates on reading: no other code may read its memory
        else:
            layout = Layout.C if value.is_contiguous() else Layout.STRIDED
        return base.Form(self, value.dtype, value.shape, device, layout, True, value.is_cpu)

    def state(self, *operands: Any) -> State:
        """Operands that are not tensors (None, a number, a list) do not count."""
        if _compiling() or transformed():
            return State.TRACED
        tracked = False
        for value in operands:
            kind = type(value)
            if kind is _Tensor or kind is _Parameter:
                tracked = tracked or value.requires_grad
            elif value is not None and isinstance(value, _Tensor):  # None first: PyTorch's isinstance is slow
                return State.TRACED  # a subclass may do anything
        return State.TRACKED if tracked and torch.is_grad_enabled() else State.PLAIN

    def recalled(self, arguments: tuple[Any, ...], options: tuple[Any, ...]) -> tuple[Problem, Operands] | None:
        """The problem and the operands of a call whose options are the same objects, and whose tensors have the same
        metadata, as those of a remembered call, so that a check would give the same; else None."""
        if _compiling() or not self._repeated or transformed():
            return None
        tensors = []
        for value in arguments:
            if value is not None:
                kind = type(value)
                plain = kind is _Tensor or kind is _Parameter
                if not plain or value.layout is not _STRIDED:
                    return None
                try:
                    # The comparison reads both too, but there an error ends the process: a nested tensor has neither.
                    value.stride(), value.shape
                except RuntimeError:
                    return None
                tensors.append(value)
        for given, graph, alike, problem, o in self._repeated:
            # Identical and not equal options: 0.0 equals False, which is refused.
            if all(map(is_, options, given)) and torch.is_grad_enabled() is graph and alike(*tensors):
                return problem, o.holding(*arguments)
        return None

    def remember(self, arguments: tuple[Any, ...], options: tuple[Any, ...], problem: Problem, o: Operands) -> None:
        """Called for each call that was checked outside a trace. Remembers the call if one of the last was equal and if
        the arguments needed no conversion; keeps none of the tensors."""
        again = problem in self._checked
        self._checked = problem, *self._checked[: _REMEMBERED - 1]
        constant = all(type(v) in (str, float, int, bool) for v in options)  # no object whose value may change
        if not (again and constant and all(map(is_, arguments, o[1:6])) and _comparable()):
            return
        tensors, graph = [v for v in arguments if v is not None], torch.is_grad_enabled()
        if len(set(map(id, tensors))) < len(tensors):  # the comparison is never true of a tensor that is passed twice
            return
        for given, recorded, alike, *_ in self._repeated:
            if options == given and recorded is graph and alike(*tensors):
                return  # it is remembered, but an option is an equal object, made anew for each call
        kept = Repeated(*problem), o.holding(None, None, None, None, None)
        call = options, graph, _comparison(tensors), *kept
        self._repeated = call, *self._repeated[: _REMEMBERED - 1]

    def is_sparse(self, value: Any) -> bool:
        return value.layout is not torch.strided

    def dtype_name(self, dtype: DType) -> str:
        return str(dtype).removeprefix("torch.")

    def result_type(self, dtypes: list[DType]) -> DType:
        """By pairs: PyTorch's `result_type` accepts only tensors, which a compiler would have to make first."""
        found, *others = dtypes
        for dtype in others:
            found = torch.promote_types(found, dtype)
        return found

    def stored(self, dtype_name: str) -> str:
        for pattern, remedy in _STORED:
            if pattern.fullmatch(dtype_name):
                return remedy
        return ""

    def errstate(self, device: Any) -> Any:
        return base.NOTHING  # PyTorch sets no flag of NumPy's; a context manager would break a compiled region

    def replicated(self, value: Any, like: Any) -> Any:
        """The value as a DTensor, the same in every process, if `like` is one: they combine with no plain tensor
        except a 0-d one."""
        if type(like).__name__ != "DTensor":
            return value
        from torch.distributed.tensor import DTensor, Replicate

        mesh = like.device_mesh
        return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)

    def alike(self, input: Any, **others: Any) -> None:
        """PyTorch combines a DTensor with no plain tensor except a 0-d one."""
        spread = type(input).__name__ == "DTensor"
        for argument, value in others.items():
            if not isinstance(value, _Tensor) or (type(value).__name__ == "DTensor") is spread:
                continue
            if not spread:
                raise TypeError(
                    f"`{argument}` must be a plain tensor, as `input` is; got a DTensor. Pass its `.full_tensor()`, or "
                    "distribute `input` as well."
                )
            if value.ndim:
                raise TypeError(
                    f"`{argument}` must be a DTensor on the mesh of `input`, or a number or a list; got a plain "
                    "tensor. Distribute it first: "
                    f"`torch.distributed.tensor.distribute_tensor({argument}, input.device_mesh)`."
                )

    def reduced_rows(self, *arguments: Any) -> Any:
        """The same as in a tracked call, so that a loss has the same bits with a graph and without."""
        return self.autograd.reduced_rows(*arguments)

    def laid_out(self, value: Any, like: Any) -> Any:
        """PyTorch's arithmetic keeps the memory order for most arguments, but not for all."""
        result = torch.empty_like(like, requires_grad=False)
        return value if value.stride() == result.stride() else result.copy_(value)

    # ------------------------------------------------------------ labels and the linear head

    def register_labels(self, kind: type) -> None:
        default_collate_fn_map.setdefault(kind, _collated)

    def compressed(self, target: Any) -> tuple[Any, ...] | None:
        """The shape and the parts of a CSR matrix; None for a dense tensor, TypeError for other formats."""
        if target.layout is torch.sparse_csr:
            if target.requires_grad:
                raise ValueError(
                    "`target` is a CSR matrix that requires a gradient, which needs a dense target: pass its "
                    "`.to_dense()`."
                )
            return target.shape, target.crow_indices(), target.col_indices(), target.values()
        layout = str(target.layout).removeprefix("torch.")
        if layout.startswith("sparse"):
            raise TypeError(
                f"`target` must be a dense tensor, a CSR one or `mlsm.Labels`; got a {layout} one: pass its "
                f"`{'.to_sparse_csr()' if layout in ('sparse_coo', 'sparse_csc') else '.to_dense()'}`."
            )
        return None

    def traced(self, *arrays: Any) -> bool:
        return self.state(*arrays) is State.TRACED

    def readable(self, *arrays: Any) -> tuple[Any, ...] | None:
        if self.traced(*arrays) or any(v.device.type != "cpu" for v in arrays):
            return None
        return tuple(v.numpy(force=True) for v in arrays)

    def dense_target(self, labels: Any, device: Any, traced: bool) -> Any:
        if type(labels.indices).__name__ == "DTensor":
            raise TypeError(
                "`target` must be a dense DTensor; got labels of DTensors, which PyTorch cannot scatter over "
                "processes. Pass `distribute_tensor(...)` of the labels' `.toarray()`."
            )
        if not traced:
            return super().dense_target(labels, device, traced)
        # Nothing is written in place, because `vmap` would refuse it, and every shape follows from the arguments'.
        classes, columns = labels.num_classes, labels.indices.long()
        place = torch.where((columns >= 0) & (columns < classes), columns, classes)
        values = torch.ones_like(columns, dtype=torch.bool) if labels.values is None else labels.values
        if labels.indptr is None:
            empty = torch.zeros((*columns.shape[:-1], classes + 1), dtype=values.dtype, device=device)
            return torch.scatter(empty, -1, place, values)[..., :classes]
        rows = labels.indptr.shape[0] - 1
        ends = labels.indptr[1:].long()
        row = torch.searchsorted(ends, torch.arange(columns.shape[0], device=device), right=True)
        empty = torch.zeros((rows + 1, classes + 1), dtype=values.dtype, device=device)
        return torch.index_put(empty, (row, place), values)[:rows, :classes]

    def logits(self, input: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.linear(input, weight, bias)

    def logits_dtype(self, input: Any, weight: Any, bias: Any) -> DType:
        with torch.no_grad():  # zero classes: autocast and promotion still determine the dtype
            return self.logits(input, weight[:0], None if bias is None else bias[:0]).dtype

    def undisturbed(self, device: Any) -> Any:
        return torch.autocast(device.type, enabled=False)


def _dense(value: Any, argument: str, plain: bool) -> None:
    if value.layout is not torch.strided or value.is_nested:
        found = "nested" if value.layout is torch.strided else str(value.layout).removeprefix("torch.").lstrip("_")
    elif plain or not issubclass(type(value), torch.masked.MaskedTensor):
        return
    else:
        found = "masked"
    remedy = _FORMATS.get(found, "pass its `.to_dense()`")
    raise TypeError(f"`{argument}` must be a dense tensor; got a {found} one: {remedy}.")


def _collated(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """The labels of a batch, which `default_collate` makes of a list: padded with -1 to the longest row."""
    first = batch[0]
    if any(one.num_classes != first.num_classes or one.shape[:-1] != first.shape[:-1] for one in batch):
        shapes = ", ".join(map(str, dict.fromkeys(tuple(one.shape) for one in batch)))
        raise ValueError(f"`Labels` of one batch must have one shape; got {shapes}.")
    if first.indptr is not None:
        raise TypeError(
            "`Labels` with an `indptr` are a batch already and cannot be stacked: let the dataset return `labels[i]` "
            "for an integer i."
        )
    longest = max(one.indices.shape[-1] for one in batch)

    def stacked(parts: list[Any], fill: int) -> Any:
        out = parts[0].new_full((len(parts), *parts[0].shape[:-1], longest), fill)
        if torch.utils.data.get_worker_info() is not None:  # a worker, whose results the main process reads
            out.share_memory_()
        for i, part in enumerate(parts):
            out[i, ..., : part.shape[-1]] = part
        return out

    return type(first)(
        stacked([one.indices for one in batch], -1),
        num_classes=first.num_classes,
        values=None if first.values is None else stacked([one.values for one in batch], 0),
    )


def _comparison(tensors: list[Any]) -> Any:
    """A function that tells whether other tensors have the metadata of these: class, dtype, device, sizes, strides,
    `requires_grad` and the keys by which PyTorch dispatches (of views that it negates, transforms, modes, …).

    PyTorch's compiler compares so before it runs its code again. It is one call of compiled code: 0.3 µs, where reading
    and judging the metadata of three tensors takes 8 µs, and 20 µs in a training loop, which empties the processor's
    caches.
    """
    from torch._C._dynamo.guards import TensorGuards

    sizes: Any = [list(v.shape) for v in tensors]  # Any: a type checker expects lists without the None of any length
    strides: Any = [list(v.stride()) for v in tensors]
    return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check


@cache
def _comparable() -> bool:
    """Whether `_comparison` is right here: PyTorch does not promise that it exists, nor what it compares."""
    try:
        with torch.inference_mode(False):
            tensor = torch.zeros((2, 3), dtype=torch.float32, device="cpu")
            alike = _comparison([tensor])
            others: tuple[Any, ...] = (
                [],
                tensor.double(),
                tensor[:1],
                torch.zeros((3, 2), dtype=torch.float32, device="cpu").T,
                torch._neg_view(tensor),
                tensor.clone().requires_grad_(),
                _Parameter(tensor, requires_grad=False),
                tensor.to("meta"),
            )
            return alike(torch.ones_like(tensor)) and not any(map(alike, others))
    except Exception:  # whatever a private function does
        return False


def transformed() -> bool:
    """Whether torch.func, forward mode, a dispatch mode (make_fx, fake tensors, export) or the JIT's tracer is active.

    PyTorch has no public functions that tell; the private ones have been stable since 2.0.
    """
    return (
        forward_ad._current_level >= 0 or _interpreter() is not None or _dispatch_modes() > 0 or _tracing() is not None
    )


_compiling = torch.compiler.is_compiling
_interpreter = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state


TORCH: Final = Library("torch", xp)
