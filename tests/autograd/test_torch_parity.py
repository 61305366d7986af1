"""Parity with PyTorch's own loss in float64: values, and gradients for input, target and weight, over random problems.

Only for arguments for which PyTorch is right: finite logits, floating targets, shapes that it does not misread.
"""

from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check

torch = pytest.importorskip("torch", reason="the reference is PyTorch's own loss")

SHAPES: list[tuple[int, ...]] = [(5,), (1,), (1, 1), (4, 3), (7, 20), (3, 2, 4), (2, 5, 6)]
WEIGHTS = ["none", "number", "()", "(1,)", "(C,)", "(N, 1)", "(N, C)"]
TARGETS = ["hard", "soft", "out of range"]


def _weight(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    own: dict[str, tuple[int, ...]] = {
        "()": (),
        "(1,)": (1,),
        "(C,)": shape[-1:],
        "(N, 1)": (*shape[:-1], 1),
        "(N, C)": shape,
    }
    if kind == "none":
        return None
    if kind == "number":
        return 1.75
    return torch.tensor(0.25 + rng.random(own[kind]), dtype=torch.float64)


def _problem(shape: tuple[int, ...], weight: str, target: str, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    x = 6 * rng.standard_normal(shape)
    x.flat[0] = 0
    y = {
        "hard": rng.integers(0, 2, shape).astype(np.float64),
        "soft": rng.random(shape),
        "out of range": 4 * rng.random(shape) - 1.5,
    }[target]
    return torch.from_numpy(x), torch.from_numpy(y), _weight(weight, shape, rng)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", [None, "generic"], ids=str)
def test_parity(shape: tuple[int, ...], weight: str, target: str, kernel: str | None, rng: np.random.Generator) -> None:
    theirs = torch.nn.functional.multilabel_soft_margin_loss
    x, y, w = _problem(shape, weight, target, rng)
    tensors = {"input": x, "target": y} | ({"weight": w} if isinstance(w, torch.Tensor) else {})
    for v in tensors.values():
        v.requires_grad_()
    for reduction in ("none", "mean", "sum"):
        options: dict[str, Any] = {"reduction": reduction, "kernel": kernel}
        own = mlsm.multilabel_soft_margin_loss(x, y, w, **options)
        other = theirs(x, y, w, reduction=reduction)
        expected = other.detach().numpy()
        relative = 1e-12 if target == "out of range" else 1e-14
        check(own.detach().numpy(), expected, relative * np.abs(expected), reduction)
        plain = mlsm.multilabel_soft_margin_loss(x.detach(), y.detach(), _detached(w), **options)
        check(plain.numpy(), expected, relative * np.abs(expected), f"{reduction}, no graph")

        g = torch.from_numpy(rng.standard_normal(expected.shape))
        right = torch.autograd.grad(other, list(tensors.values()), g)
        by_graph = torch.autograd.grad(own, list(tensors.values()), g)
        for wrt, expected_gradient, gradient in zip(tensors, right, by_graph, strict=True):
            by_hand = mlsm.grad(x.detach(), y.detach(), _detached(w), wrt=wrt, grad_output=g, **options)
            r = expected_gradient.numpy()
            allowed = 1e-12 * np.maximum(np.abs(r), np.abs(r).max() / 100)
            check(gradient.numpy(), r, allowed, f"{reduction}, backward for {wrt}")
            check(by_hand.numpy(), r, allowed, f"{reduction}, mlsm.grad for {wrt}")


def _detached(w: Any) -> Any:
    return w.detach() if isinstance(w, torch.Tensor) else w


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_integer_targets(dtype: str, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((4, 3)))
    y = torch.from_numpy(rng.integers(0, 2, (4, 3)).astype(dtype))
    expected = torch.nn.functional.multilabel_soft_margin_loss(x, y).numpy()
    check(mlsm.multilabel_soft_margin_loss(x, y).numpy(), expected, 1e-14 * expected)


def test_a_call_written_for_pytorch_works_unchanged(rng: np.random.Generator) -> None:
    x, y, w = _problem((4, 3), "(C,)", "hard", rng)
    for arguments, options in (((x, y), {}), ((x, y, w), {"reduction": "sum"}), ((x,), {"target": y, "weight": w})):
        expected = torch.nn.functional.multilabel_soft_margin_loss(*arguments, **options).numpy()
        check(mlsm.multilabel_soft_margin_loss(*arguments, **options).numpy(), expected, 1e-14 * expected)
