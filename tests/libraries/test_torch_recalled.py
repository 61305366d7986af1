"""A call of PyTorch that came before is recognised, and nothing else is taken for it: neither an argument that differs
in any metadata, nor an option that is only equal, nor a call inside a transform or a trace."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _check
from mlsm._problem import Repeated

from .._support import check

torch = pytest.importorskip("torch", reason="this file tests what is kept of calls of PyTorch")

from mlsm.libraries import torch as library  # noqa: E402  # only if PyTorch is installed

NAMES = ("input", "target", "weight", "pos_weight", "where")
U = 2.0**-24
OPTIONS: dict[str, Any] = {"reduction": "mean", "label_smoothing": 0.0, "axis": 1}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library._comparable.cache_clear()
    monkeypatch.setattr(library.TORCH, "_checked", (), raising=False)
    monkeypatch.setattr(library.TORCH, "_repeated", (), raising=False)
    yield
    library._comparable.cache_clear()


def _arguments() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x, y, w, m = (torch.rand((4, 4), generator=generator) for _ in range(4))
    return {
        "input": (8 * x - 4).requires_grad_(),
        "target": (y < 0.5).float(),
        "weight": w,
        "pos_weight": None,
        "where": m < 0.5,
    }


def _judged(**given: Any) -> Any:
    """The problem of a call; what is not given is made, unless all is given: a transform refuses to make it."""
    given = {**({} if set(NAMES) <= set(given) else _arguments()), **OPTIONS, **given}
    return _check.problem(*(given[name] for name in (*NAMES, *OPTIONS)))[0]


def _prime(**changes: Any) -> None:
    """Repeat a call until it is recognised."""
    for _ in range(3):
        last = _judged(**changes)
    assert type(last) is Repeated


def test_the_third_of_equal_calls_is_recognised() -> None:
    kinds = [type(_judged()) is Repeated for _ in range(4)]
    assert kinds == [False, False, True, True]
    assert _judged() == _check._verdict.__wrapped__(*_forms(), "mean", 0.0, 1, _judged().state).problem


def _forms() -> tuple[Any, ...]:
    return tuple(
        None if v is None else library.TORCH.form(v, name, _judged().state) for name, v in _arguments().items()
    )


class _Own(torch.Tensor):
    pass


def _columns(value: Any) -> Any:
    """The values in the other memory order."""
    return value.detach().T.contiguous().T


CHANGED: dict[str, Callable[[], dict[str, Any]]] = {
    "dtype of the logits": lambda: {"input": _arguments()["input"].detach().double().requires_grad_()},
    "dtype of the target": lambda: {"target": _arguments()["target"].bool()},
    "dtype of the weight": lambda: {"weight": _arguments()["weight"].double()},
    "sizes": lambda: {n: None if v is None else v[:3] for n, v in _arguments().items()},
    "sizes of the weight": lambda: {"weight": _arguments()["weight"][:1]},
    "rank of the mask": lambda: {"where": _arguments()["where"][0]},
    "strides of the logits": lambda: {"input": _columns(_arguments()["input"]).requires_grad_()},
    "strides of the target": lambda: {"target": _columns(_arguments()["target"])},
    "strides of the mask": lambda: {"where": _columns(_arguments()["where"])},
    "steps": lambda: {"target": torch.zeros((4, 8))[:, ::2]},
    "a view that is negated": lambda: {"weight": torch._neg_view(-_arguments()["weight"])},
    "no gradient": lambda: {"input": _arguments()["input"].detach()},
    "a gradient for the weight": lambda: {"weight": _arguments()["weight"].requires_grad_()},
    "a parameter": lambda: {"weight": torch.nn.Parameter(_arguments()["weight"], requires_grad=False)},
    "a subclass": lambda: {"weight": _arguments()["weight"].as_subclass(_Own)},
    "the other weight": lambda: {"weight": None, "pos_weight": _arguments()["weight"]},
    "no weight": lambda: {"weight": None},
    "no mask": lambda: {"where": None},
    "a second weight": lambda: {"pos_weight": _arguments()["weight"]},
    "a number": lambda: {"weight": 2.0},
    "a list": lambda: {"weight": [1.0, 2.0, 3.0, 4.0]},
    "reduction": lambda: {"reduction": "sum"},
    "label_smoothing": lambda: {"label_smoothing": 0.1},
    "axis": lambda: {"axis": 0},
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_call_that_differs_is_judged_anew(change: str) -> None:
    _prime()
    changes = CHANGED[change]()
    found = _judged(**changes)
    assert type(found) is not Repeated
    equal = ("steps", "a parameter", "a gradient for the weight")  # to be kept apart nevertheless
    assert found != _judged() or "strides" in change or change in equal
    given = {**_arguments(), **OPTIONS, **changes}
    value, gradient = mlsm.value_and_grad(**given)
    wanted = mlsm.value_and_grad(**given, kernel="generic")
    for a, b in zip((value, gradient), wanted, strict=True):
        check(a.detach(), b.detach().numpy(), 8 * U * np.abs(b.detach().numpy()), change)


@pytest.mark.parametrize("change", ["strides of the logits", "strides of the target", "strides of the mask", "steps"])
def test_a_plan_is_not_used_for_other_strides(change: str) -> None:
    """The plan of the remembered call would read other elements, perhaps outside the memory."""
    changes = CHANGED[change]()
    for first, then in ((_arguments(), {**_arguments(), **changes}), ({**_arguments(), **changes}, _arguments())):
        for _ in range(4):
            mlsm.multilabel_soft_margin_loss(**first)
        values = [mlsm.multilabel_soft_margin_loss(**then, kernel=k).item() for k in (None, "generic", None, None)]
        check(values, [values[1]] * 4, 8 * U * values[1], change)


def test_a_tensor_that_is_not_dense_is_refused_as_before() -> None:
    """In a process of its own, because PyTorch's comparison ends the process if a nested tensor comes."""
    program = """
import warnings
warnings.simplefilter("ignore")
import torch, mlsm
x, y = torch.zeros(4, 4), torch.ones(4, 4)
for _ in range(4):
    mlsm.multilabel_soft_margin_loss(x, y, y, where=y > 0)
others = (
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    x.to_sparse(),
    x.to_sparse_csc(),
    x.to_mkldnn(),
    torch.nn.Parameter(x.to_sparse()),
    torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    torch.masked.masked_tensor(x, x == 0),
)
leaked = []
batch = torch.nested.nested_tensor([torch.zeros(4, 4), torch.ones(4, 4)])
torch.func.vmap(lambda t: (leaked.append(t), t * 1)[1])(batch)
try:
    mlsm.multilabel_soft_margin_loss(leaked[0], y, y, where=y > 0)
except RuntimeError:
    print("refused")
for other in others:
    for given in ((other, y, y, y > 0), (x, other, y, y > 0), (x, y, other, y > 0), (x, y, y, other)):
        try:
            mlsm.multilabel_soft_margin_loss(*given[:3], where=given[3])
        except TypeError:
            print("refused")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr[-300:]) == (0, "")
    assert found.stdout.split() == ["refused"] * 33


def test_options_of_another_type_are_refused_as_before() -> None:
    _prime()
    for option, value, error in (
        ("label_smoothing", False, ValueError),
        ("axis", True, TypeError),
        ("axis", 1.0, TypeError),
        ("reduction", b"mean", TypeError),
        ("reduction", ["mean"], TypeError),
    ):
        with pytest.raises(error, match=option):
            _judged(**{option: value})
    with pytest.raises(TypeError, match="`target` must be an array"):
        _judged(target=[[1.0] * 4] * 4)


def test_an_option_whose_value_may_change_is_not_remembered() -> None:
    class Axis:
        value = 1

        def __index__(self) -> int:
            return self.value

    axis = Axis()
    for _ in range(4):
        assert _judged(axis=axis).axis == 1
    axis.value = 0
    assert _judged(axis=axis).axis == 0


def _dual_level() -> AbstractContextManager[Any]:
    return torch.autograd.forward_ad.dual_level()


def _fake() -> AbstractContextManager[Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, _dual_level, _fake, lambda: torch.autocast("cpu")],
    ids=["no_grad", "inference_mode", "forward mode", "fake tensors", "autocast"],
)
def test_a_call_in_another_mode_is_judged_anew(context: Callable[[], AbstractContextManager[Any]]) -> None:
    given = {**_arguments(), **OPTIONS}  # made outside: a mode would make other tensors
    _prime(**given)
    with context():
        assert type(_judged(**given)) is not Repeated
    _prime(**given)


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "jit.trace"])
@pytest.mark.filterwarnings("default::DeprecationWarning:torch.*")
@pytest.mark.filterwarnings("default::torch.jit.TracerWarning")
def test_a_call_in_a_transform_is_judged_anew(transform: str) -> None:
    """Of the arguments of the transform, and of tensors that the function has from outside."""
    outside = {**_arguments(), **OPTIONS}
    outside["input"] = outside["input"].detach()  # the tracer refuses tensors that require a gradient
    _prime(**outside)
    kinds = []

    def function(x: Any) -> Any:
        kinds.extend([type(_judged(**outside)), type(_judged(**{**outside, "weight": x}))])
        return x.sum()

    x = _arguments()["weight"]
    if transform == "vmap":
        torch.func.vmap(function)(x[None])
    elif transform == "grad":
        torch.func.grad(function)(x)
    elif transform == "jvp":
        torch.func.jvp(function, (x,), (x,))
    else:
        torch.jit.trace(function, (x,), check_trace=False)
    assert Repeated not in kinds
    assert len(kinds) == 2
    assert type(_judged(**outside)) is Repeated


def test_no_tensor_is_kept() -> None:
    given = {**_arguments(), **OPTIONS}
    _prime(**given)
    mlsm.multilabel_soft_margin_loss(**given)
    references = [weakref.ref(v) for v in given.values() if isinstance(v, torch.Tensor)]
    del given
    gc.collect()
    assert len(references) == 4
    assert all(reference() is None for reference in references)


def _lying(tensors: Any) -> Any:
    return lambda *others: True


def _failing(tensors: Any) -> Any:
    raise TypeError("another signature")


@pytest.mark.parametrize("comparison", [_lying, _failing])
def test_nothing_is_remembered_where_pytorch_compares_otherwise(
    comparison: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is private: another version of PyTorch may lack it or compare less."""
    monkeypatch.setattr(library, "_comparison", comparison)
    assert not any(type(_judged()) is Repeated for _ in range(4))


WEIGHTS = ((1,), (4,), (1, 4), (4, 1), (4, 4), ())


def test_a_call_that_cannot_be_recognised_is_not_remembered_again() -> None:
    """An equal option that is another object each time, and a tensor that is passed twice."""
    for _ in range(5):
        _judged(label_smoothing=float("0.25"))
    assert len(library.TORCH._repeated) == 1
    w = _arguments()["weight"]
    for _ in range(4):
        _judged(weight=w, pos_weight=w)
    assert len(library.TORCH._repeated) == 1


def test_the_default_dtype_does_not_matter() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert library._comparable()
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_few_losses_in_turn_are_recognised() -> None:
    kinds = [[type(_judged(weight=torch.ones(shape))) is Repeated for shape in WEIGHTS[:4]] for _ in range(4)]
    assert kinds == [[False] * 4, [False] * 4, [True] * 4, [True] * 4]


def test_many_losses_in_turn_are_not_remembered() -> None:
    """Making a comparison takes as long as it saves, so it is made only for a call that comes again soon."""
    assert not any(type(_judged(weight=torch.ones(shape))) is Repeated for shape in WEIGHTS * 4)
    assert library.TORCH._repeated == ()


def test_a_first_call_under_the_compiler_does_not_recompile() -> None:
    """In a process of its own: here the file of PyTorch's tensors is imported already."""
    program = """
import sys, warnings
warnings.simplefilter("ignore")
import torch, mlsm
from torch._dynamo.testing import CompileCounter
assert "mlsm.libraries.torch" not in sys.modules
counter = CompileCounter()
x, y = torch.randn(4, 3, requires_grad=True), torch.ones(4, 3)
compiled = torch.compile(mlsm.multilabel_soft_margin_loss, backend=counter, fullgraph=True)
for _ in range(3):
    compiled(x, y)
    mlsm.multilabel_soft_margin_loss(x, y)
print(counter.frame_count)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1"]


def test_the_mode_is_left_as_it_was() -> None:
    """The comparison is probed outside inference mode, whatever the mode of the call."""
    with torch.inference_mode():
        assert library._comparable()
        assert torch.is_inference_mode_enabled()
