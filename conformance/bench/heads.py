"""Contestants of the linear head: the layer before the loss, the loss, and the gradients of features and layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlsm

from .candidate import Candidate, Work, library
from .cases import Case, Data


def numpy_heads(case: Case, data: Data) -> Iterator[Candidate]:
    """mlsm by blocks of classes, and its two products and its loss one after the other."""
    h, W, y = data.h, data.W, data.y
    labels = mlsm.Labels(data.labels, num_classes=case.shape[1])

    def fused() -> Any:
        if case.gradient:
            return mlsm.linear_value_and_grad(h, W, labels)[0]
        return mlsm.linear_multilabel_soft_margin_loss(h, W, labels)

    def unfused() -> Any:
        logits = h @ W.T
        if not case.gradient:
            return mlsm.multilabel_soft_margin_loss(logits, y)
        value, gradient = mlsm.value_and_grad(logits, y)
        gradients = gradient @ W, gradient.T @ h
        del gradients
        return value

    way = "value_and_grad" if case.gradient else "loss"
    yield Candidate("mlsm, numpy, head", "numpy", way, lambda: fused, True)
    yield Candidate("h @ W.T + mlsm, numpy", "numpy", way, lambda: unfused)


def torch_heads(case: Case, data: Data, tensor: Callable[[Any], Any], device: str) -> Iterator[Candidate]:
    """The same on tensors with `backward()`, and `F.linear` before PyTorch's own losses and before mlsm's."""
    torch = library("torch")
    functional = torch.nn.functional
    h, W = (tensor(array).requires_grad_(case.gradient) for array in (data.h, data.W))
    y = tensor(data.y)
    labels = mlsm.Labels(tensor(data.labels), num_classes=case.shape[1])

    def work_of(function: Callable[[], Any]) -> Work:
        def work() -> Any:
            value = function()
            if case.gradient:
                value.backward()
                h.grad = W.grad = None
            if device != "cpu":
                torch.cuda.synchronize()
            return value.detach()

        return work

    def after(loss: Callable[[Any, Any], Any]) -> Any:
        return loss(functional.linear(h, W), y)

    way = "backward" if case.gradient else "loss"
    fused = partial(mlsm.linear_multilabel_soft_margin_loss, h, W, labels)
    yield Candidate("mlsm, torch, head", "torch", way, partial(work_of, fused), True)
    for name, loss in (
        ("torch mlsm", functional.multilabel_soft_margin_loss),
        ("torch BCE-with-logits", functional.binary_cross_entropy_with_logits),
        ("F.linear + mlsm, torch", mlsm.multilabel_soft_margin_loss),
    ):
        yield Candidate(name, "torch", way, partial(work_of, partial(after, loss)))
