"""PyTorch: tensors may be tracked or traced, lie on other devices and in other processes, or be no dense arrays.

Imported when a tensor has arrived. A compiler may look through all of it: no memo is read here, which would become a
guard, and each new type a recompilation.
"""

import re
from typing import Any, Final

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad

from .._problem import Layout, State
from .._typing import DType
from . import base

_Tensor, _Parameter = torch.Tensor, torch.nn.Parameter

# How a container that is no dense tensor becomes one; that of all other formats (sparse_coo, mkldnn, …) is `to_dense`.
_FORMATS: Final = {
    "jagged": "pass its `.values()`, which has all rows one after the other",
    "masked": "pass its `.get_data()`, and its `.get_mask()` as `where`",
    "nested": "pass `torch.cat(...)` of its `.unbind()`, which has all rows one after the other",
}
# Dtypes that are stored and not computed with, and what makes numbers of them: PyTorch casts none.
_STORED: Final = (
    (re.compile(r"q.+"), "pass its `.dequantize()`"),
    (re.compile(r"int[1-7]"), "pass its `.view(torch.int8)`"),
    (re.compile(r"uint[1-7]|bits.+"), "pass its `.view(torch.uint8)`"),
)


class Library(base.Library):
    lasting = memorable = True
    conversion = "torch.as_tensor"

    def form(self, value: Any, argument: str, state: State = State.TRACED) -> base.Form:
        kind = type(value)
        plain = kind is _Tensor or kind is _Parameter
        _dense(value, argument, plain)
        device = value.device
        if state is State.TRACED:
            # A subclass of a tensor may lie anywhere, as DTensor does, and is always called traced.
            return base.Form(self, value.dtype, value.shape, device, Layout.UNKNOWN, plain, False)
        if value.is_neg():
            layout = Layout.FOREIGN  # a view that is negated when it is read: nobody else may read its memory
        else:
            layout = Layout.C if value.is_contiguous() else Layout.STRIDED
        return base.Form(self, value.dtype, value.shape, device, layout, True, device.type == "cpu")

    def state(self, *operands: Any) -> State:
        """Whatever is no tensor (None, a number, a list) has no say."""
        if torch.compiler.is_compiling() or transformed():
            return State.TRACED
        tracked = False
        for value in operands:
            kind = type(value)
            if kind is _Tensor or kind is _Parameter:
                tracked = tracked or value.requires_grad
            elif value is not None and isinstance(value, _Tensor):  # None first: PyTorch's isinstance is slow
                return State.TRACED  # a subclass may do anything
        return State.TRACKED if tracked and torch.is_grad_enabled() else State.PLAIN

    def dtype_name(self, dtype: DType) -> str:
        return str(dtype).removeprefix("torch.")

    def result_type(self, dtypes: list[DType]) -> DType:
        """By pairs: its `result_type` takes tensors only, which a compiler would have to make first."""
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
        return base.NOTHING  # it sets no flag of NumPy's; a context manager would break a compiled region

    def replicated(self, value: Any, like: Any) -> Any:
        """A DTensor meets no plain tensor but a 0-d one: the same in every process, on the mesh of `like`."""
        if type(like).__name__ != "DTensor":
            return value
        from torch.distributed.tensor import DTensor, Replicate

        mesh = like.device_mesh
        return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)

    def alike(self, input: Any, **others: Any) -> None:
        """PyTorch mixes a DTensor with no plain tensor but a 0-d one."""
        spread = type(input).__name__ == "DTensor"
        for argument, value in others.items():
            if not isinstance(value, _Tensor) or (type(value).__name__ == "DTensor") is spread:
                continue
            if not spread:
                raise TypeError(
                    f"`{argument}` must be a plain tensor, as `input` is; got a DTensor. Pass its `.full_tensor()`, or "
                    "spread `input` as well."
                )
            if value.ndim:
                raise TypeError(
                    f"`{argument}` must be a DTensor on the mesh of `input`, or a number or a list; got a plain "
                    "tensor. Spread it first: "
                    f"`torch.distributed.tensor.distribute_tensor({argument}, input.device_mesh)`."
                )

    def laid_out(self, value: Any, like: Any) -> Any:
        """PyTorch's arithmetic keeps the order for most arguments, not for all."""
        result = torch.empty_like(like, requires_grad=False)
        return value if value.stride() == result.stride() else result.copy_(value)


def _dense(value: Any, argument: str, plain: bool) -> None:
    if value.layout is not torch.strided or value.is_nested:
        found = "nested" if value.layout is torch.strided else str(value.layout).removeprefix("torch.").lstrip("_")
    elif plain or not issubclass(type(value), torch.masked.MaskedTensor):
        return
    else:
        found = "masked"
    remedy = _FORMATS.get(found, "pass its `.to_dense()`")
    raise TypeError(f"`{argument}` must be a dense tensor; got a {found} one: {remedy}.")


def transformed() -> bool:
    """Under torch.func, forward mode, a dispatch mode (make_fx, fake tensors, export) or the JIT's tracer.

    PyTorch has no public question for these; the private ones have been stable since 2.0.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


TORCH: Final = Library("torch", xp)
