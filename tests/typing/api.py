"""User code, checked by mypy --strict and never run: the public API as an application would call it, with its types."""

from typing import assert_type

import array_api_compat.numpy
import array_api_compat.torch
import numpy as np
import numpy.typing as npt
import torch

import mlsm
from mlsm._typing import Array, ArrayT, Namespace
from mlsm.nn.torch import MultiLabelSoftMarginLoss as TorchLoss

Floats = npt.NDArray[np.float32]


def with_numpy(x: Floats, y: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]) -> Floats:
    """The result has the array type of the input, whatever the type of the target."""
    assert_type(mlsm.multilabel_soft_margin_loss(x, y), Floats)
    assert_type(mlsm.multilabel_soft_margin_loss(x, y, [1.0, 2.0], reduction="none"), Floats)
    assert_type(mlsm.multilabel_soft_margin_loss(x, y, pos_weight=[[1.0], [2]], where=mask, axis=0), Floats)
    value, gradient = mlsm.value_and_grad(x, y, weight=2.0, label_smoothing=0.1)
    assert_type(value, Floats)
    assert_type(mlsm.hessian_diag(x, y, kernel="generic"), Floats)
    assert_type(mlsm.grad(x, y, wrt="target", grad_output=2), Floats)
    return gradient


def with_torch(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same names on tensors; the class returns the array type of its input."""
    criterion = mlsm.MultiLabelSoftMarginLoss(torch.ones(3), "sum")
    assert_type(criterion(x, y), torch.Tensor)
    assert_type(criterion.backward(x, y, torch.ones(())), torch.Tensor)
    assert_type(criterion.reduction, "mlsm._typing.Reduction")
    module = TorchLoss(pos_weight=torch.ones(3))
    assert_type(mlsm.nn.torch.MultiLabelSoftMarginLoss(), TorchLoss)
    print(mlsm.nn.nonesuch)  # type: ignore[attr-defined]  # a misspelled name is an error
    assert_type(module.forward(x, y), torch.Tensor)
    return criterion.forward(x, y, where=y > 0)


def protocols() -> tuple[Array, ...]:
    """Arrays of NumPy and PyTorch have the attributes that the package needs; each module is a namespace."""
    namespaces: tuple[Namespace, ...] = (np, torch, array_api_compat.numpy, array_api_compat.torch)
    first: Array = np.zeros((2, 3))
    second: Array = torch.zeros(2, 3)
    third: Array = [[0.0]]  # type: ignore[assignment]  # a list has no dtype
    assert_type(either(np.zeros(3, np.int64).astype(np.float32)), np.ndarray[tuple[int], np.dtype[np.float32]])
    assert_type(either(torch.zeros(2, 3)), torch.Tensor)
    return first, second, third, *(xp.ones((2, 3)) for xp in namespaces)


def either(logits: ArrayT) -> ArrayT:
    """A user's function that takes any array and returns one of the same type."""
    value, gradient = mlsm.value_and_grad(logits, logits)
    return gradient if value.ndim == 0 else value


def kernels(x: Floats) -> str:
    """A third party's kernel."""

    def accepts(problem: object) -> str | None:
        return None if problem else "never"

    kernel = mlsm.Kernel("ours", ("numpy",), accepts, lambda o: o.x)
    mlsm.register_kernel(kernel)
    mlsm.unregister_kernel(kernel.name)
    explained = mlsm.explain(x, x)
    assert_type(explained.reasons, tuple[tuple[str, str], ...])
    return explained.chosen


def refused(x: Floats) -> None:
    """Errors that a type checker must report. mypy reports an ignore that is not needed, so each line is a test."""
    mlsm.multilabel_soft_margin_loss(x, x, None, "mean")  # type: ignore[call-arg]  # at most three by position
    mlsm.multilabel_soft_margin_loss(x, x, reduction="average")  # type: ignore[arg-type]  # no such reduction
    mlsm.multilabel_soft_margin_loss([0.0], x)  # type: ignore[type-var]  # a list is not an array
    mlsm.grad(x, x, wrt="logits")  # type: ignore[arg-type]  # no such argument
    mlsm.multilabel_soft_margin_loss(x, x, size_average=True)  # type: ignore[call-arg]  # not an argument
    mlsm.MultiLabelSoftMarginLoss(where=x)  # type: ignore[call-arg]  # belongs to each call
