"""PyTorch: the loss of `Labels` and the linear head, each as one node of the graph that keeps only its arguments.

A node is three functions of its tensors: the value, the explicit pullback for the first backward pass, and the plain
differentiable expression for all other cases (create_graph, vmap over a backward pass).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import _blocks, _core
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Problem
from .._reduce import REDUCE, reduced
from ..libraries.torch import transformed
from ..many_classes._linear import Head, both, reference, run, value
from ..many_classes._targets import Target
from .torch import _alive, reduced_rows


class Node(NamedTuple):
    """The functions of a node; any of its tensors may be None."""

    value: Callable[..., Any]  # value(*tensors) -> the loss, or several results
    pullback: Callable[..., Sequence[Any]] | None  # pullback(needed, g, *tensors) -> a gradient for each, or None
    reference: Callable[..., Any]  # reference(*tensors) -> the same, by arithmetic that PyTorch differentiates


def tied(node: Node, kept: tuple[Any, ...], *tensors: Any) -> Any:
    """The value, connected to these tensors. `kept` are others that must not change until the backward pass."""
    return _tied(node, kept, *(None if v is None else _alive(v) for v in tensors))


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, node: Node, kept: tuple[Any, ...], *tensors: Any) -> Any:
        ctx.node, ctx.count = node, len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        return node.value(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        tensors, needed, g = ctx.saved_tensors[: ctx.count], ctx.needs_input_grad[2:], grads[0]
        again = torch.is_grad_enabled()  # with create_graph: the result needs the graph of the tensors
        by_reference = again or torch._C._functorch.is_legacy_batchedtensor(g) or transformed()
        if ctx.node.pullback is not None and not by_reference:
            return None, None, *ctx.node.pullback(needed, g, *tensors)
        with torch.enable_grad():
            # One view or copy per argument: a tensor that is passed as two arguments has two derivatives here.
            inputs: list[Any] = [
                None if v is None else v.view_as(v) if again else v.detach().requires_grad_(n)
                for v, n in zip(tensors, needed, strict=True)
            ]
            made = ctx.node.reference(*inputs)
            pairs = zip(made if isinstance(made, tuple) else (made,), grads, strict=True)
            outputs, pulled = zip(*((v, g) for v, g in pairs if v.requires_grad), strict=True)
            wanted = [v for v, n in zip(inputs, needed, strict=True) if n]
            found = iter(torch.autograd.grad(outputs, wanted, pulled, create_graph=again, allow_unused=True))
        return None, None, *(next(found) if n else None for n in needed)


_tied: Any = super(torch.autograd.Function, _Node).apply  # as in `autograd.torch`: no transform is at work here


def loss_of_labels(kernel: Kernel, problem: Problem, o: Operands) -> Any:
    """The loss of logits, by a kernel that makes the dense target from the labels in `o` itself."""
    rest, labels = o.holding(None, None, None, None, None), o.y

    def filled(x: Any, w: Any, p: Any, m: Any) -> Operands:
        return rest.holding(x, labels, w, p, m)

    def value_of(*tensors: Any) -> Any:
        o = filled(*tensors)
        return reduced_rows(kernel, problem, o, kernel.rows(o))

    def pullback(needed: Any, g: Any, *tensors: Any) -> Sequence[Any]:
        o = filled(*tensors)
        of_x, of_w, of_p, _ = needed
        g = REDUCE[problem.reduction].adjoint(o, g.to(o.acc))
        return (
            kernel.rows_vjp(o, g) if of_x else None,
            _blocks.weight_vjp(o, g, o.w.dtype) if of_w else None,
            _blocks.pos_weight_vjp(o, g, o.p.dtype) if of_p else None,
            None,
        )

    def reference_of(*tensors: Any) -> Any:
        o = filled(*tensors)._replace(y=labels.whole())
        return reduced(problem.reduction, o, _core.rows(o), problem.loss_dtype)

    return tied(Node(value_of, pullback, reference_of), labels.labels.arrays(), o.x, o.w, o.p, o.m)


def loss_of_head(head: Head) -> Any:
    """The loss of a linear head, which computes its logits again for the backward pass."""
    made = type(head.rest.y) is Target

    def again(tensors: Any) -> Head:
        return head.holding(*tensors)

    def pullback(needed: Any, g: Any, *tensors: Any) -> Sequence[Any]:
        own = again(tensors)
        wanted = frozenset(name for name, n in zip("hWbywp", needed[:6], strict=True) if n)
        with _quiet(own):
            found = run(own, own.adjoint(g.to(own.rest.acc)), wanted)
        return [found.get(name) for name in "hWbywp"] + [None]

    def value_of(*tensors: Any) -> Any:
        return value(again(tensors))

    def reference_of(*tensors: Any) -> Any:
        with _quiet(head):
            return reference(again(tensors))

    kept = head.rest.y.labels.arrays() if made else ()
    return tied(Node(value_of, pullback, reference_of), kept, *head.tensors())


def value_and_grad_of_head(head: Head, cotangent: Any) -> Any:
    """The loss and its gradients, differentiable by the dense expression; the graph keeps only their arguments."""

    def both_of(*tensors: Any) -> Any:
        *own, g = tensors
        return both(head.holding(*own), g)

    def reference_of(*tensors: Any) -> Any:
        *own, g = tensors
        with _quiet(head):
            return both(head.holding(*own)._replace(kernel="generic"), g)

    return tied(Node(both_of, None, reference_of), (), *head.tensors(), cotangent)


def _quiet(head: Head) -> Any:
    return torch.autocast(head.problem.device.type, enabled=False)
