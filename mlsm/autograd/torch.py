"""PyTorch: let a kernel serve tensors that require a gradient, while the graph keeps only the arguments.

Nothing needs this file to be right: plain differentiation of the generic code is. It saves memory (the graph holds
the operands instead of ten intermediate results) and time (a kernel that PyTorch could not look into). It stands
aside under compilers, function transforms, forward mode and dispatch modes, where plain differentiation is right
already, and the backward of its backward is the generic code again.
"""

from typing import Any

import torch
from torch.autograd import forward_ad

from .. import _core
from .._core import Operands
from .._dispatch import Kernel
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
    return _Loss.apply(kernel, problem, o.holding(None, None, None, None, None), o.x, o.y, o.w, o.p, o.m)  # type: ignore[no-untyped-call]


class _Loss(torch.autograd.Function):
    # forward(ctx, …) and not setup_context, which costs 20 µs more a call; no `jvp`, with which
    # torch.compile(fullgraph=True) fails: `state_of` has stood aside for forward mode already.

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, problem: Problem, rest: Operands, x: Any, y: Any, w: Any, p: Any, m: Any
    ) -> Any:
        # `rest` holds no tensor: save_for_backward alone does, which sees to versions and cycles.
        ctx.kernel, ctx.reduction, ctx.rest = kernel, problem.reduction, rest
        ctx.save_for_backward(x, y, w, p, m)
        o = rest.holding(x, y, w, p, m)
        return reduced(problem.reduction, o, kernel.rows(o), problem.loss_dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y, w, p, m = ctx.saved_tensors
        o = ctx.rest.holding(x, y, w, p, m)
        _, _, _, of_x, of_y, of_w, of_p, _ = ctx.needs_input_grad
        # With create_graph this backward is itself recorded, and under vmap (or is_grads_batched, which is a vmap of
        # its own) its g is no plain tensor: only the generic code can be looked through.
        batched = torch._C._functorch.is_legacy_batchedtensor(grads[0])
        plain = torch.is_grad_enabled() or batched or _transformed()
        g = REDUCE[ctx.reduction].adjoint(o, grads[0].to(o.acc))
        return (
            None,
            None,
            None,
            (_core.rows_vjp if plain else ctx.kernel.rows_vjp)(o, g) if of_x else None,
            _core.target_vjp(o, g, y.dtype) if of_y else None,
            _core.weight_vjp(o, g, w.dtype) if of_w else None,
            _core.pos_weight_vjp(o, g, p.dtype) if of_p else None,
            None,
        )
