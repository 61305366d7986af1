"""PyTorch: let a kernel serve tensors that require a gradient, while the graph keeps only the arguments.

Nothing needs this file to be right: plain differentiation of the generic code is. It saves memory (the graph holds
the operands instead of ten intermediate results) and time (a kernel that PyTorch could not look into). It stands
aside under compilers, function transforms, forward mode and dispatch modes, where plain differentiation is right
already, and the backward of its backward is the generic code again.
"""

from typing import Any

import array_api_compat.numpy as host_namespace
import numpy as np
import torch
from torch.autograd import forward_ad

from .. import _core
from .._core import Operands
from .._dispatch import GENERIC, Kernel
from .._problem import Problem
from .._reduce import REDUCE, reduced

_Tensor, _Parameter = torch.Tensor, torch.nn.Parameter


def state_of(*operands: Any) -> str:
    """ "traced" where something looks through the arithmetic, "tracked" where a gradient is wanted, else "plain".

    Whatever is no tensor (None, a number, a list) has no say.
    """
    if torch.compiler.is_compiling() or _transformed():
        return "traced"
    tracked = False
    for value in operands:
        kind = type(value)
        if kind is _Tensor or kind is _Parameter:
            tracked = tracked or value.requires_grad
        elif isinstance(value, _Tensor):
            return "traced"  # a subclass may do anything
    return "tracked" if tracked and torch.is_grad_enabled() else "plain"


def _transformed() -> bool:
    """Under torch.func, forward mode, a dispatch mode (make_fx, fake tensors, export) or the JIT's tracer.

    PyTorch has no public question for these; the private ones have been stable since 2.0.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def bridged(kernel: Kernel, problem: Problem, o: Operands) -> Any:
    """The loss by `kernel`, differentiable: tied to the operands by one node of the graph."""
    # `rest` holds no tensor: save_for_backward alone does, which sees to versions and cycles.
    rest = o.holding(None, None, None, None, None)
    return _Loss.apply(  # type: ignore[no-untyped-call]
        (kernel, problem, rest, _reads_host(kernel, problem)), o.x, o.y, o.w, o.p, o.m
    )


class _Loss(torch.autograd.Function):
    # forward(ctx, …) and not setup_context, which costs 20 µs more a call; no `jvp`, with which
    # torch.compile(fullgraph=True) fails: `state_of` has stood aside for forward mode already.

    @staticmethod
    def forward(ctx: Any, call: tuple[Kernel, Problem, Operands, bool], *tensors: Any) -> Any:
        kernel, problem, rest, host = ctx.call = call
        ctx.save_for_backward(*tensors)
        ctx.slope = None
        if not host:
            o = rest.holding(*tensors)
            return reduced(problem.reduction, o, kernel.rows(o), problem.loss_dtype)
        with np.errstate(all="ignore"):
            o = _host(rest, *tensors)
            if ctx.needs_input_grad[1] and o.x.size <= KEPT and o.m is None and o.x.dtype == o.dtype:
                rows, ctx.slope = kernel.value_and_slope(o, np.float64(o.x.shape[-1]))  # C undoes the class mean
            else:
                rows = kernel.rows(o)
            value = reduced(problem.reduction, o, rows, _NUMPY[problem.loss_dtype])
        return torch.from_numpy(np.asarray(value))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        kernel, problem, rest, host = ctx.call
        tensors = ctx.saved_tensors
        o = rest.holding(*tensors)
        _, of_x, of_y, of_w, of_p, _ = ctx.needs_input_grad
        adjoint, g = REDUCE[problem.reduction].adjoint, grads[0]
        # With create_graph this backward is itself recorded, and under vmap (or is_grads_batched, which is a vmap of
        # its own) its g is no plain tensor: only the generic code can be looked through.
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(g) or _transformed():
            kernel, host = GENERIC, False
        for_x = None
        if of_x and host:
            with np.errstate(all="ignore"):
                pulled = adjoint(o if o.m is None else _host(rest, *tensors), g.detach().numpy().astype(np.float64))
                if ctx.slope is None:
                    slope = kernel.rows_vjp(_host(rest, *tensors), pulled)
                else:
                    slope = ctx.slope * (pulled / o.x.shape[-1]).astype(ctx.slope.dtype)[..., None]
            for_x = torch.from_numpy(slope)
        elif of_x:
            for_x = kernel.rows_vjp(o, adjoint(o, g.to(o.acc)))
        if not (of_y or of_w or of_p):
            return None, for_x, None, None, None, None
        g = adjoint(o, g.to(o.acc))
        return (
            None,
            for_x,
            _core.target_vjp(o, g, o.y.dtype) if of_y else None,
            _core.weight_vjp(o, g, o.w.dtype) if of_w else None,
            _core.pos_weight_vjp(o, g, o.p.dtype) if of_p else None,
            None,
        )


# ---------------------------------------------------------------- host memory

# Logits up to which the forward pass keeps the slope, so that the backward pass is a multiplication: 64 KiB of float32
# beside the arguments. A second pass of the kernel costs more than the slope in the first: 32x20 float32 forward plus
# backward 1.39 of PyTorch's with it, 1.46 without.
KEPT = 16384

_NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}


def _reads_host(kernel: Kernel, problem: Problem) -> bool:
    """Whether the kernel serves NumPy arrays, and NumPy can view these tensors: then the reduction is NumPy's too,
    whose calls cost a third of PyTorch's on the few row losses of a small batch."""
    return "numpy" in kernel.libraries and not any(
        meta is not None and (meta.dtype == "bfloat16" or meta.layout == "foreign")
        for meta in (problem.input, problem.target, problem.weight, problem.pos_weight)
    )


def _host(rest: Operands, x: Any, y: Any, w: Any, p: Any, m: Any) -> Operands:
    """The operands as NumPy arrays of the same memory."""
    return Operands(
        host_namespace,
        x.detach().numpy(),
        y.detach().numpy(),
        None if w is None else w.detach().numpy(),
        None if p is None else p.detach().numpy(),
        None if m is None else m.numpy(),
        rest.eps,
        _NUMPY[rest.dtype],
        np.float64,
    )
