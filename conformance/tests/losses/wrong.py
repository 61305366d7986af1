"""Twelve losses with a mistake of one line that is not in the list of planted ones; for NumPy or PyTorch arrays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .right import numpy_loss, numpy_loss_grad, torch_loss


def returns_float64(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The right numbers, in another dtype."""
    return np.asarray(numpy_loss(input, target, reduction=reduction)).astype(np.float64)[()]


def returns_a_list(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The right numbers, but not in an array."""
    return np.asarray(numpy_loss(input, target, reduction=reduction)).tolist()


def writes_into_its_target(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Right, but the target is clipped in place."""
    value = numpy_loss(input, target, reduction=reduction)
    if target.flags.writeable:
        target[...] = np.clip(target, 0.125, 0.875)
    return value


_scratch: dict[Any, Any] = {}


def shares_a_buffer(input: Any, target: Any, reduction: str = "mean") -> Any:
    """One buffer for all threads."""
    buffer = _scratch.setdefault((input.shape, input.dtype), np.empty_like(input))
    np.copyto(buffer, input)
    time.sleep(0)
    return numpy_loss(buffer, target, reduction=reduction)


_kept: dict[Any, Any] = {}


def returns_its_buffer(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Each result is in the memory of the one before (each thread has its own)."""
    value = np.asarray(numpy_loss(input, target, reduction=reduction))
    out = _kept.setdefault((threading.get_ident(), value.shape, value.dtype), np.empty_like(value))
    np.copyto(out, value)
    return out


def remembers_by_the_first_logit(input: Any, target: Any, reduction: str = "mean") -> Any:
    """A cache whose key does not contain all logits."""
    key = (input.shape, input.dtype, reduction, repr(input.ravel()[:1]), target.dtype)
    if key not in _kept:
        _kept[key] = numpy_loss(input, target, reduction=reduction)
    return _kept[key]


def log_of_one_plus(input: Any, target: Any, reduction: str = "mean") -> Any:
    """log(1 + e) for log1p(e): every digit below the machine epsilon is lost."""
    stored = np.result_type(input, *([target] if target.dtype.kind == "f" else []))
    wide = np.result_type(stored, np.float32)
    with np.errstate(all="ignore"):
        x, y = input.astype(wide), target.astype(wide)
        size = np.abs(x)
        linear = np.where(x >= 0, 1 - y, y)
        rest = np.log(1 + np.exp(-size))
        rows = (np.where(linear == 0, 0, linear * size) + rest).mean(-1, dtype=np.float64)
    return rows.astype(stored) if reduction == "none" else getattr(rows, reduction)().astype(stored)


def clips_its_logits(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Clipped where they are "large enough"."""
    return numpy_loss(np.clip(input, -30, 30), target, reduction=reduction)


def spreads_weights_over_rows(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """A weight with as many entries as there are rows is applied to the rows."""
    if weight is not None and weight.ndim == 1 and weight.shape[0] == input.shape[0]:
        weight = weight[:, None]
    return numpy_loss(input, target, weight, reduction)


def divides_by_one_less(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The mean over the batch, divided by N - 1 like an unbiased variance."""
    if reduction != "mean":
        return numpy_loss(input, target, reduction=reduction)
    rows = numpy_loss(input, target, reduction="none")
    return (rows.sum(dtype=np.float64) / max(1, rows.size - 1)).astype(rows.dtype)


def _with_backward(pull: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """PyTorch's right loss with another backward: `pull(x, y, g)` for the logits, row by row."""

    def loss(input: Any, target: Any, reduction: str = "mean") -> Any:
        import torch

        class Rows(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any, y: Any) -> Any:
                ctx.save_for_backward(x, y)
                return torch_loss(x.detach(), y, "none")

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                x, y = ctx.saved_tensors
                return pull(x.detach(), y, g.detach()).to(x.dtype), None

        rows = Rows.apply(input, target)  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        return rows if reduction == "none" else getattr(rows, reduction)()

    return loss


def _gradient(x: Any, y: Any) -> Any:
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    far = torch.sigmoid(-x.abs())
    return torch.where(x >= 0, (1 - y) - far, far - y) / x.shape[-1]


has_no_gradient = _with_backward(lambda x, y, g: 0 * x)
forgets_an_axis_of_grad_output = _with_backward(
    lambda x, y, g: _gradient(x, y) * (g if g.ndim < 2 else g[:1].expand(g.shape))[..., None]
)
right_once = _with_backward(lambda x, y, g: _gradient(x, y) * g[..., None])
"""No mistake: it is differentiable once, and raises for a second derivative."""

for _loss in (spreads_weights_over_rows,):
    _loss.grad = numpy_loss_grad  # type: ignore[attr-defined]  # its own gradient function
del _loss
