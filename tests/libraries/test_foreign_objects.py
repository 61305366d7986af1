"""Objects of a library's module that are not arrays, and arrays whose module has another name."""

from typing import Any

import numpy as np
import pytest

import mlsm

torch = pytest.importorskip("torch", reason="its modules have objects that are not tensors")

x, y = torch.zeros(2, 3), torch.ones(2, 3)
WRONG = {
    "what max returns": (torch.ones(2, 3).max(-1), "`.values`"),
    "Size": (torch.Size([2, 3]), "torch.as_tensor"),
    "module": (torch.nn.Linear(3, 3), "pass an array instead"),
    "storage": (torch.ones(6).untyped_storage(), "array"),
    "dtype": (torch.float32, "pass an array instead"),
}


@pytest.mark.parametrize("argument", ["input", "target", "where", "grad_output"])
@pytest.mark.parametrize("name", WRONG)
def test_an_object_of_torch_that_is_not_a_tensor_is_refused(name: str, argument: str) -> None:
    wrong, remedy = WRONG[name]
    options: dict[str, Any] = {"input": x, "target": y, argument: wrong}
    with pytest.raises(TypeError, match=rf"`{argument}` must be an array; got a torch\..*{remedy}"):
        mlsm.grad(**options)


@pytest.mark.parametrize("argument", ["weight", "pos_weight"])
@pytest.mark.parametrize("name", ["what max returns", "module", "storage", "dtype", "Size"])
def test_such_an_object_as_a_weight_is_refused(name: str, argument: str) -> None:
    with pytest.raises(TypeError, match=f"`{argument}` must be an array"):
        mlsm.multilabel_soft_margin_loss(x, y, **{argument: WRONG[name][0]})


class Plain(np.ndarray[Any, Any]):
    """An ndarray of a module whose name begins like PyTorch's."""


Plain.__module__ = "torchtools.arrays"


class Own(torch.Tensor):
    """A tensor class of a module outside PyTorch."""


Own.__module__ = "elsewhere"


def test_arrays_are_recognised_by_their_class() -> None:
    a = np.zeros((2, 3)).view(Plain)
    assert float(mlsm.multilabel_soft_margin_loss(a, a + 1)) == pytest.approx(np.log(2), rel=1e-15)
    assert mlsm.multilabel_soft_margin_loss(x.as_subclass(Own), y.as_subclass(Own)).item() == pytest.approx(np.log(2))
    assert mlsm.multilabel_soft_margin_loss(torch.nn.Parameter(x), y).item() == pytest.approx(np.log(2))


@pytest.mark.parametrize("sign", ["", "u"])
def test_dtypes_of_less_than_a_byte_are_refused(sign: str) -> None:
    """The remedy reads the integers as they are stored, one per byte."""
    for bits in (1, 2, 3, 4, 5, 6, 7):
        odd = torch.zeros(2, 3, dtype=torch.uint8).view(getattr(torch, f"{sign}int{bits}"))
        for argument in ("target", "weight", "pos_weight"):
            options: dict[str, Any] = {"target": y, argument: odd}
            with pytest.raises(TypeError, match=rf"`{argument}` .*; got {sign}int{bits}: .*view\(torch.{sign}int8\)"):
                mlsm.multilabel_soft_margin_loss(x, **options)
            mlsm.multilabel_soft_margin_loss(x, **{**options, argument: odd.view(getattr(torch, f"{sign}int8"))})


def test_tensors_on_the_meta_device() -> None:
    """Plain and tracked: the generic code serves them, and no value is read."""
    a, b = x.to("meta").requires_grad_(), y.to("meta")
    for leaf in (a, a.detach()):
        value = mlsm.multilabel_soft_margin_loss(leaf, b)
        assert (value.device.type, value.shape) == ("meta", ())
    mlsm.multilabel_soft_margin_loss(a, b).backward()
    assert a.grad is not None
    assert a.grad.shape == (2, 3)
