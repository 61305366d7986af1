"""PyTorch: let a kernel serve tensors that require a gradient, while the graph keeps only the arguments.

Automatic differentiation of the generic code is right without this file. The file saves memory (the graph holds the
operands instead of ten intermediate results) and time (PyTorch could not differentiate a kernel). It is not used under
compilers, function transforms, forward mode and dispatch modes, which differentiate the generic code, and the backward
pass of its backward pass is that of the generic code.
"""

from collections.abc import Callable
from typing import Any

import array_api_compat.numpy as host_namespace
import numpy as np
import torch

from .. import _blocks, _core
from .._core import Operands
from .._dispatch import Kernel, at_once
from .._problem import Layout, Problem, Repeated
from .._reduce import REDUCE, reduced, row_count
from ..libraries.torch import transformed

_Pullback = Callable[[Operands, Any], Any]


def tracked(kernel: Kernel, problem: Problem, o: Operands) -> Any:
    """The loss by `kernel`, differentiable: one node of the graph connects it to the operands."""
    if type(problem) is not Repeated:  # a recognised tensor is no wrapper of a transform
        o = o.holding(*[None if v is None else _alive(v) for v in o[1:6]])
    return _tied((kernel, problem, o), *o[1:6])


class _Loss(torch.autograd.Function):
    # forward(ctx, …) and not setup_context, which costs 20 µs more per call. There is no `jvp`, because
    # torch.compile(fullgraph=True) fails with one; in forward mode `Library.state` is TRACED: this node is not used.

    @staticmethod
    def forward(ctx: Any, call: tuple[Kernel, Problem, Operands], *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        kernel, problem, o = call
        # The rest holds no tensor: only save_for_backward does, because it checks versions and avoids cycles.
        ctx.call = kernel, problem, o.xp, o[6:]
        ctx.kept = ctx.count = None  # the gradient for g = 1, for the first backward pass; the divisor of the mean
        reduction = problem.reduction
        wanted = ctx.needs_input_grad[1] and reduction != "none" and 0 < o.x.numel() <= KEPT
        found = at_once(kernel, problem, o, 1.0 if wanted else None)
        if found is not None:
            value, ctx.kept = found
            return value
        if not _reads_host(kernel, problem):
            return reduced(reduction, o, kernel.rows(o), problem.loss_dtype)
        with np.errstate(all="ignore"):
            o = _host(o)
            count = ctx.count = row_count(reduction, o, kernel)
            if wanted:
                rows, gradient = kernel.value_and_gradient(o, REDUCE[reduction].adjoint(o, np.float64(1), count))
                ctx.kept = torch.from_numpy(gradient)
            else:
                rows = kernel.rows(o)
            value = reduced(reduction, o, rows, _NUMPY[problem.loss_dtype], count)
        return torch.from_numpy(np.asarray(value))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        kernel, problem, xp, rest = ctx.call
        tensors, g = ctx.saved_tensors, grads[0]
        _, of_x, of_y, of_w, of_p, _ = ctx.needs_input_grad
        # With create_graph this backward pass is itself recorded, and under vmap (or is_grads_batched, another kind of
        # vmap) its g is not a plain tensor: only the generic code can be recorded and vectorised.
        by_reference = torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(g) or transformed()
        for_x = None
        if of_x and not by_reference:
            # Returned once, since the caller may then write to it; a second pass gives any other g the bits of `grad`.
            kept, ctx.kept = ctx.kept, None
            if kept is not None and g.item() == 1:
                for_x = kept
        others = of_y or of_w or of_p
        if not others and (for_x is not None or not of_x):
            return None, for_x, None, None, None, None
        o = Operands(xp, *tensors, *rest)
        adjoint = REDUCE[problem.reduction].adjoint
        if for_x is not None or not of_x:
            pass
        elif not by_reference and _reads_host(kernel, problem):
            with np.errstate(all="ignore"):
                arrays = _host(o)
                pulled = adjoint(arrays, g.detach().numpy().astype(np.float64), ctx.count)
                for_x = torch.from_numpy(kernel.rows_vjp(arrays, pulled))
        else:
            for_x = (_core if by_reference else kernel).rows_vjp(o, adjoint(o, g.to(o.acc)))
        if not others:
            return None, for_x, None, None, None, None
        pullbacks: Any = _core if by_reference else _blocks
        g = adjoint(o, g.to(o.acc))
        return (
            None,
            for_x,
            pullbacks.target_vjp(o, g, o.y.dtype) if of_y else None,
            pullbacks.weight_vjp(o, g, o.w.dtype) if of_w else None,
            pullbacks.pos_weight_vjp(o, g, o.p.dtype) if of_p else None,
            None,
        )


def recomputed(served: _Pullback, reference: _Pullback, o: Operands, g: Any) -> Any:
    """served(o, g), differentiable: the graph holds the operands, and its backward differentiates the reference."""
    rest = o.holding(None, None, None, None, None)
    operands = [None if v is None else _alive(v) for v in (*o[1:6], g)]
    return _recomputed((served, reference, rest), *operands)


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: tuple[_Pullback, _Pullback, Operands], *tensors: Any) -> Any:
        served, _, rest = ctx.call = call
        ctx.save_for_backward(*tensors)
        return served(rest.holding(*tensors[:5]), tensors[5])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        _, reference, rest = ctx.call
        needed = ctx.needs_input_grad[1:]
        again = torch.is_grad_enabled()  # with create_graph: the result needs the graph of the operands
        with torch.enable_grad():
            # One view or copy per operand: a tensor that is passed as two operands has two derivatives here.
            inputs: list[Any] = [
                None if v is None else v.view_as(v) if again else v.detach().requires_grad_(n)
                for v, n in zip(ctx.saved_tensors, needed, strict=True)
            ]
            made = reference(rest.holding(*inputs[:5]), inputs[5])
            pairs = zip(made if isinstance(made, tuple) else (made,), grads, strict=True)
            outputs = [(value, g) for value, g in pairs if value.requires_grad]
            found: Any = iter(())
            if outputs:
                values, pulled = zip(*outputs, strict=True)
                wanted = [v for v, n in zip(inputs, needed, strict=True) if n]
                found = iter(torch.autograd.grad(values, wanted, pulled, create_graph=again, allow_unused=True))
        return None, *(next(found, None) if n else None for n in needed)


# `Function.apply` without its part in Python, which handles function transforms, under which this node is not used:
# 3.4 µs instead of 5.0. One step of that part is needed: to unwrap tensors of a transform that has ended.
_tied: Any = super(torch.autograd.Function, _Loss).apply
_recomputed: Any = super(torch.autograd.Function, _Derivative).apply
_alive: Any = torch._C._functorch.unwrap_if_dead

# ---------------------------------------------------------------- host memory

# Number of logits up to which the forward pass keeps the gradient: 64 KiB of float32 in addition to the arguments. A
# second pass of the kernel costs more than the gradient in the first; the larger a batch, the less this saves, and a
# graph should keep little more than its arguments.
KEPT = 16384

_NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}


def _reads_host(kernel: Kernel, problem: Problem) -> bool:
    """Whether the kernel serves NumPy arrays, and NumPy can view these tensors: then NumPy also reduces, because its
    calls cost a third of PyTorch's on the few row losses of a small batch. On another device, which such a kernel may
    also serve, it gets the tensors themselves."""
    if "numpy" not in kernel.libraries or problem.device.type != "cpu":
        return False
    for meta in (problem.input, problem.target, problem.weight, problem.pos_weight):
        if meta is not None and (meta.dtype == "bfloat16" or meta.layout is Layout.FOREIGN):
            return False
    return True


def reduced_rows(kernel: Kernel, problem: Problem, o: Operands, rows: Any, count: Any = None) -> Any:
    """The loss of row losses, by the same sums as in `tracked`, because NumPy and PyTorch add in different orders."""
    if not _reads_host(kernel, problem):
        return reduced(problem.reduction, o, rows, problem.loss_dtype, count)
    host = _host(o.holding(o.x, None, None, None, o.m))
    with np.errstate(all="ignore"):
        count = row_count(problem.reduction, host, kernel) if count is None else count
        value = reduced(problem.reduction, host, rows.numpy(), _NUMPY[problem.loss_dtype], count)
    return torch.from_numpy(np.asarray(value))


class _Host:
    """NumPy's namespace, with direct calls for two functions of every loss whose wrappers take longer than the loss."""

    def __getattr__(self, name: str) -> Any:
        return getattr(host_namespace, name)

    @staticmethod
    def sum(values: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
        return _add_up(values, axis=axis, dtype=dtype, keepdims=keepdims)

    @staticmethod
    def astype(values: Any, dtype: Any, /, *, copy: bool = True) -> Any:
        return values.astype(dtype, copy=copy)


_HOST = _Host()
_add_up: Any = np.add.reduce


def _host(o: Operands) -> Operands:
    """The operands as NumPy arrays of the same memory."""
    x, y, w, p, m = (None if v is None else v.numpy(force=True) for v in o[1:6])  # despite requires_grad; no copy
    return Operands(_HOST, x, y, w, p, m, o.eps, _NUMPY[o.dtype], np.float64, host=True)
