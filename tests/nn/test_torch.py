"""The nn.Module twin: buffers, state_dict, devices and dtypes, pickling, and the same numbers as the function."""

import copy
import io
import pickle
from typing import Any

import pytest

import mlsm

from .._support import check

torch = pytest.importorskip("torch", reason="the twin is an nn.Module")

import mlsm.nn.torch as twin  # noqa: E402 - it imports torch, which may be missing


def _data() -> tuple[Any, Any]:
    x = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]], dtype=torch.float64)
    return x, torch.tensor([[1, 0, 1], [0, 1, 1]])


def test_the_module_gives_the_values_of_the_function() -> None:
    x, y = _data()
    w, p = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)
    module = twin.MultiLabelSoftMarginLoss(w, "sum", pos_weight=p, label_smoothing=0.1, axis=-1)
    assert isinstance(module, torch.nn.Module)
    expected = mlsm.multilabel_soft_margin_loss(x, y, w, reduction="sum", pos_weight=p, label_smoothing=0.1)
    check(module(x, y).item(), expected.item(), 0)
    where = torch.tensor([[True, False, True], [True, True, True]])
    masked = mlsm.multilabel_soft_margin_loss(x, y, w, reduction="sum", pos_weight=p, label_smoothing=0.1, where=where)
    check(module(x, y, where=where).item(), masked.item(), 0)


def test_backward_through_the_module() -> None:
    x, y = _data()
    x.requires_grad_()
    twin.MultiLabelSoftMarginLoss()(x, y).backward()
    check(x.grad.numpy(), mlsm.grad(x.detach(), y).numpy(), 1e-16)


def test_buffers_are_in_the_state_dict_only_when_given() -> None:
    w = torch.tensor([1.0, 2.0, 0.5])
    assert list(twin.MultiLabelSoftMarginLoss().state_dict()) == []
    assert list(twin.MultiLabelSoftMarginLoss(w).state_dict()) == ["weight"]
    assert list(twin.MultiLabelSoftMarginLoss(pos_weight=w).state_dict()) == ["pos_weight"]
    assert list(twin.MultiLabelSoftMarginLoss(w, pos_weight=w).state_dict()) == ["weight", "pos_weight"]
    assert list(twin.MultiLabelSoftMarginLoss(w).parameters()) == []
    assert twin.MultiLabelSoftMarginLoss().weight is None


def test_state_dict_round_trip() -> None:
    w = torch.tensor([1.0, 2.0, 0.5])
    module, other = twin.MultiLabelSoftMarginLoss(w), twin.MultiLabelSoftMarginLoss(torch.zeros(3))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.weight, w)
    with pytest.raises(RuntimeError, match="weight"):
        twin.MultiLabelSoftMarginLoss().load_state_dict(module.state_dict())


def test_buffers_move_with_the_module() -> None:
    module = twin.MultiLabelSoftMarginLoss(torch.ones(3), pos_weight=torch.ones(3))
    module.to(torch.float64)
    assert module.weight.dtype == module.pos_weight.dtype == torch.float64
    module.to("meta")
    assert module.weight.device.type == module.pos_weight.device.type == "meta"


def test_buffers_move_inside_a_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    model.criterion = twin.MultiLabelSoftMarginLoss(torch.ones(3))
    model.double()
    assert model.criterion.weight.dtype == torch.float64
    assert "criterion.weight" in model.state_dict()


@pytest.mark.parametrize("weight", [None, 2.0, [1.0, 2.0, 0.5], "tensor"])
def test_pickle_copy_and_save(weight: Any) -> None:
    x, y = _data()
    weight = torch.tensor([1.0, 2.0, 0.5]) if weight == "tensor" else weight
    module = twin.MultiLabelSoftMarginLoss(weight, "sum", label_smoothing=0.25)
    expected = module(x, y).item()
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(module),
        torch.load(buffer, weights_only=False),
    ):
        assert other(x, y).item() == expected
        assert repr(other) == repr(module)


def test_a_pickle_gets_missing_defaults_and_is_checked() -> None:
    x, y = _data()
    right = twin.MultiLabelSoftMarginLoss()(x, y)
    state = twin.MultiLabelSoftMarginLoss().__dict__
    for missing in ("reduction", "label_smoothing", "axis", "_buffers"):
        module = twin.MultiLabelSoftMarginLoss.__new__(twin.MultiLabelSoftMarginLoss)
        module.__setstate__({key: value for key, value in state.items() if key != missing})
        assert torch.equal(module(x, y), right)
    for name, value in (("reduction", "average"), ("label_smoothing", 2), ("axis", 0.5), ("weight", "heavy")):
        broken = {"_buffers": {name: value}} if name == "weight" else {name: value}
        module = twin.MultiLabelSoftMarginLoss.__new__(twin.MultiLabelSoftMarginLoss)
        with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
            module.__setstate__({**state, **broken})


def test_repr_shows_the_configuration() -> None:
    assert repr(twin.MultiLabelSoftMarginLoss()) == "MultiLabelSoftMarginLoss(reduction='mean')"
    shown = repr(twin.MultiLabelSoftMarginLoss(reduction="sum", label_smoothing=0.1, axis=0))
    assert shown == "MultiLabelSoftMarginLoss(reduction='sum', label_smoothing=0.1, axis=0)"
    assert twin.MultiLabelSoftMarginLoss().extra_repr() == "reduction='mean'"


def test_the_constructor_checks_its_options() -> None:
    with pytest.raises(ValueError, match="`reduction`"):
        twin.MultiLabelSoftMarginLoss(reduction="average")
    with pytest.raises(ValueError, match="`label_smoothing`"):
        twin.MultiLabelSoftMarginLoss(label_smoothing=2)
    with pytest.raises(TypeError, match="`weight`"):
        twin.MultiLabelSoftMarginLoss("heavy")
    with pytest.raises(TypeError, match="positional"):
        twin.MultiLabelSoftMarginLoss(None, "mean", None)  # pos_weight is keyword-only


def test_import_mlsm_does_not_import_the_module() -> None:
    assert "nn" not in mlsm.__all__
