"""Right losses that share no line with mlsm: each must conform without a false alarm.

On NumPy with its own gradient function, on PyTorch and JAX with the libraries' own differentiation.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _compute(*arrays: Any) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtype of the result, and the one to compute in."""
    floats = [a.dtype for a in arrays if a is not None and a.dtype.kind == "f"]
    stored = np.result_type(*floats)
    return stored, np.result_type(stored, np.float32)


def _softplus(z: Any) -> Any:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _times(coefficient: Any, value: Any) -> Any:
    return np.where(coefficient == 0, 0, coefficient * value)


def numpy_loss(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """Two softplus terms, sums in float64."""
    stored, wide = _compute(input, target, weight)
    with np.errstate(all="ignore"):
        x, y = input.astype(wide), target.astype(wide)
        nan = np.where(np.isnan(x) | np.isnan(y), np.nan, 0)
        element = _times(y, _softplus(-x)) + _times(1 - y, _softplus(x)) + nan
        if weight is not None:
            element = element * weight.astype(wide)
        rows = element.mean(-1, dtype=np.float64)
        if reduction == "none":
            return rows.astype(stored)
        if reduction == "mean" and not rows.size:
            return stored.type(np.nan)
        return getattr(rows, reduction)(dtype=np.float64).astype(stored)


def numpy_loss_grad(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", grad_output: Any = None
) -> Any:
    """Its gradient, the pullback of `grad_output`."""
    _, wide = _compute(input, target, weight)
    with np.errstate(all="ignore"):
        x, y = input.astype(wide), target.astype(wide)
        far = np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
        gradient = np.where(x >= 0, (1 - y) - far, far - y)
        gradient = np.where(np.isnan(x), np.nan, gradient)
        if weight is not None:
            gradient = gradient * weight.astype(wide)
        rows = max(1, x.size // x.shape[-1]) if reduction == "mean" else 1
        given = 1.0 if grad_output is None else np.asarray(grad_output, np.float64)[..., None]
        return (gradient * (given / (x.shape[-1] * rows))).astype(input.dtype)


def torch_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """PyTorch's own differentiation of a careful formula."""
    import torch

    stored = torch.result_type(input, target) if target.is_floating_point() else input.dtype
    wide = torch.promote_types(stored, torch.float32)
    x, y = input.to(wide), target.to(wide)
    sign = torch.where(x >= 0, 1.0, -1.0).to(wide)
    size = x * sign
    linear = torch.where(x >= 0, 1 - y, y)
    matched = torch.where((linear == 0) & torch.isinf(x), 0.0, size)
    rows = (linear * matched + torch.log1p(torch.exp(-size))).mean(-1, dtype=torch.float64)
    return (rows if reduction == "none" else getattr(rows, reduction)()).to(stored)


def jax_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """JAX's own differentiation of a careful formula."""
    import jax.numpy as jnp

    floats = [a.dtype for a in (input, target) if jnp.issubdtype(a.dtype, jnp.floating)]
    stored = jnp.result_type(*floats)
    wide = jnp.promote_types(stored, jnp.float32)
    x, y = input.astype(wide), target.astype(wide)
    size = x * jnp.where(x >= 0, 1, -1).astype(wide)
    linear = jnp.where(x >= 0, 1 - y, y)
    matched = jnp.where((linear == 0) & jnp.isinf(x), 0, size)
    rows = (linear * matched + jnp.log1p(jnp.exp(-size))).mean(-1)
    return (rows if reduction == "none" else getattr(rows, reduction)()).astype(stored)
