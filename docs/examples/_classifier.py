"""A classifier of fully connected layers, in the array library of its pixels.

The gradient of the loss comes from `mlsm.value_and_grad`, and the layers are differentiated by hand; no framework's
automatic differentiation is used. This file names no library: the namespace comes from the arrays.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

import mlsm


class Layer(NamedTuple):
    weight: Any  # (inputs, outputs)
    bias: Any  # (outputs,)


class Moments(NamedTuple):
    """Adam's running means of one parameter's gradient and of its square."""

    first: Any
    second: Any


def start(like: Any, widths: tuple[int, ...], rng: np.random.Generator) -> list[Layer]:
    """Layers of the given widths, in the library, on the device and in the dtype of `like`.

    Drawn by NumPy, so that every library starts from the same numbers. The last layer starts at zero: the first
    loss is then exactly ln 2, whatever the data.
    """
    xp = array_namespace(like)
    spreads = [(2 / inputs) ** 0.5 for inputs in widths[:-2]] + [0.0]
    layers = []
    for spread, (inputs, outputs) in zip(spreads, pairwise(widths), strict=True):
        weight = spread * rng.standard_normal((inputs, outputs))
        layers.append(
            Layer(
                xp.asarray(weight.astype(np.float32), dtype=like.dtype, device=device(like)),
                xp.zeros(outputs, dtype=like.dtype, device=device(like)),
            )
        )
    return layers


def forward(layers: list[Layer], pixels: Any) -> tuple[Any, list[Any]]:
    """The logits, and the input of each layer."""
    xp = array_namespace(pixels)
    entered = [pixels]
    for layer in layers[:-1]:
        out = entered[-1] @ layer.weight + layer.bias
        entered.append(xp.maximum(out, xp.zeros_like(out)))
    return entered[-1] @ layers[-1].weight + layers[-1].bias, entered


def backward(layers: list[Layer], entered: list[Any], gradient: Any) -> list[Layer]:
    """The gradient of every parameter, from the gradient of the loss with respect to the logits."""
    xp = array_namespace(gradient)
    grads = []
    for layer, values in zip(reversed(layers), reversed(entered), strict=True):
        grads.append(Layer(values.T @ gradient, xp.sum(gradient, axis=0)))
        if values is not entered[0]:
            gradient = (gradient @ layer.weight.T) * xp.astype(values > 0, gradient.dtype)
    return grads[::-1]


def adam(parameter: Any, grad: Any, moments: Moments, step: int, rate: float) -> tuple[Any, Moments]:
    """One step of Adam (Kingma and Ba 2015, with their constants)."""
    xp = array_namespace(parameter)
    first = 0.9 * moments.first + 0.1 * grad
    second = 0.999 * moments.second + 0.001 * grad * grad
    size = rate * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
    return parameter - size * first / (xp.sqrt(second) + 1e-8), Moments(first, second)


def train(
    layers: list[Layer],
    pixels: Any,
    target: Any,
    *,
    epochs: int,
    rng: np.random.Generator,
    each_epoch: Callable[[int, list[Layer]], None],
    rate: float = 1e-2,
    batch: int = 64,
) -> list[Layer]:
    """Minimise the loss over shuffled batches; call `each_epoch` with the layers after every pass over the data."""
    xp = array_namespace(pixels)
    rows = pixels.shape[0]
    moments = [[Moments(xp.zeros_like(p), xp.zeros_like(p)) for p in layer] for layer in layers]
    step = 0
    for epoch in range(1, epochs + 1):
        order = rng.permutation(rows)
        for begin in range(0, rows, batch):
            step += 1
            chosen = xp.asarray(order[begin : begin + batch], device=device(pixels))
            logits, entered = forward(layers, xp.take(pixels, chosen, axis=0))
            _, gradient = mlsm.value_and_grad(logits, xp.take(target, chosen, axis=0))
            grads = backward(layers, entered, gradient)
            for i, layer in enumerate(layers):
                pairs = [adam(p, g, m, step, rate) for p, g, m in zip(layer, grads[i], moments[i], strict=True)]
                layers[i] = Layer(*(p for p, _ in pairs))
                moments[i] = [m for _, m in pairs]
        each_epoch(epoch, layers)
    return layers
