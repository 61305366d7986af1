"""PyTorch: backward, double backward, forward mode and function transforms, every option, by kernel and reference.

The closed form judges at 0 and at infinite logits, where PyTorch's own loss is NaN; numerical differentiation judges
everywhere else. Compilers have their own file.
"""

import functools
import itertools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check, closed, differentiated

torch = pytest.importorskip("torch", reason="this file tests PyTorch")

# PyTorch's forward mode scripts its decompositions at its first use, and warns about the deprecated scripting.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

KERNELS = [None, "generic"]
loss = mlsm.multilabel_soft_margin_loss


def t(values: Any) -> Any:
    return torch.tensor(values, dtype=torch.float64)


def _operands(rng: np.random.Generator) -> dict[str, Any]:
    x = 2 * rng.standard_normal((3, 4))
    x[0, 0], x[1, 1], x[2, 2] = 0, 0, -0.0
    y = rng.random((3, 4))
    y[0, :2], y[2, 2:] = (1, 0), (0, 1)
    y[1, 1] = 1
    return {"input": torch.from_numpy(x), "target": torch.from_numpy(y)}


# name -> (weight's shape, pos_weight's shape, with where, label_smoothing, axis, reduction)
OPTIONS: dict[str, tuple[Any, Any, bool, float, int, str]] = {
    "plain, none": (None, None, False, 0.0, -1, "none"),
    "plain, mean": (None, None, False, 0.0, -1, "mean"),
    "plain, sum": (None, None, False, 0.0, -1, "sum"),
    "weight": ((4,), None, False, 0.0, -1, "none"),
    "weight of rows": ((3, 1), None, False, 0.0, -1, "mean"),
    "pos_weight": (None, (4,), False, 0.0, -1, "mean"),
    "where": (None, None, True, 0.0, -1, "mean"),
    "label_smoothing": (None, None, False, 0.125, -1, "none"),
    "axis": ((3, 1), None, False, 0.0, 0, "none"),
    "everything": ((3, 1), (1, 4), True, 0.25, 0, "mean"),
}


def _problem(option: str, rng: np.random.Generator, kernel: str | None) -> tuple[Callable[..., Any], list[Any]]:
    """The loss as a function of its floating arguments, and those arguments, which require gradients."""
    weight, pos_weight, masked, eps, axis, reduction = OPTIONS[option]
    operands = _operands(rng)
    for name, shape in (("weight", weight), ("pos_weight", pos_weight)):
        if shape is not None:
            operands[name] = torch.from_numpy(0.5 + rng.random(shape))
    where = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool) if masked else None
    names = list(operands)

    def function(*values: Any) -> Any:
        arguments = dict(zip(names, values, strict=True))
        return loss(**arguments, where=where, label_smoothing=eps, axis=axis, reduction=reduction, kernel=kernel)

    return function, [v.requires_grad_() for v in operands.values()]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradcheck(option: str, kernel: str | None, rng: np.random.Generator) -> None:
    """Backward, forward mode and batched gradients, at points that include 0 and -0.0."""
    function, inputs = _problem(option, rng, kernel)
    assert torch.autograd.gradcheck(
        function, inputs, atol=1e-9, rtol=1e-7, check_forward_ad=True, check_batched_grad=True
    )


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradgradcheck(option: str, kernel: str | None, rng: np.random.Generator) -> None:
    function, inputs = _problem(option, rng, kernel)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("wrt", ["input", "target", "weight", "pos_weight"])
def test_grad_is_differentiable(wrt: Any, rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    operands = [x, y, t([0.5, 1.5, 1.0, 2.0]), t([[1.0], [2.0], [0.5]]), torch.tensor(1.5, dtype=torch.float64)]

    def function(x: Any, y: Any, w: Any, p: Any, g: Any) -> Any:
        return mlsm.grad(x, y, w, pos_weight=p, wrt=wrt, grad_output=g, label_smoothing=0.125)

    assert torch.autograd.gradcheck(
        function, [v.requires_grad_() for v in operands], atol=1e-9, rtol=1e-7, check_forward_ad=True
    )


def test_hessian_diag_is_differentiable(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    p = t([1.0, 2.0, 0.5, 3.0])

    def function(x: Any, y: Any, p: Any) -> Any:
        return mlsm.hessian_diag(x, y, pos_weight=p)

    assert torch.autograd.gradcheck(function, [v.requires_grad_() for v in (x, y, p)], atol=1e-9, rtol=1e-7)


def test_value_and_grad_is_differentiable(rng: np.random.Generator) -> None:
    x, y = (v.requires_grad_() for v in _operands(rng).values())
    assert torch.autograd.gradcheck(lambda a, b: mlsm.value_and_grad(a, b), (x, y), atol=1e-9, rtol=1e-7)


# ---------------------------------------------------------------- 0 and ±inf, against the closed form

INF = float("inf")
POINTS = [(x, y) for x, y in itertools.product([0.0, -0.0, INF, -INF, 40.0, -40.0, 0.7], [0.0, 1.0, 0.25])]
W, P = 3.0, 2.0
NAMES = ("input", "target", "weight", "pos_weight")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize(("x", "y"), POINTS)
def test_first_order_at_every_point(x: float, y: float, kernel: str | None) -> None:
    values = [t([[v]]).requires_grad_() for v in (x, y, W, P)]
    value = loss(*values[:3], pos_weight=values[3], kernel=kernel)
    value.backward()
    by_hand = closed(x, y, W, P)
    exact = np.asarray(by_hand.gradient)
    if kernel == "generic":
        exact = differentiated(x, y, W, P)[1]
    check(value.item(), by_hand.value, 8 * 2.0**-53 * abs(by_hand.value), "value")
    for name, v, right in zip(NAMES, values, exact, strict=True):
        check(v.grad.item(), right, 12 * 2.0**-53 * abs(right), name)


@pytest.mark.parametrize(("x", "y"), POINTS)
def test_grad_and_hessian_diag_at_every_point(x: float, y: float) -> None:
    values = [t([[v]]) for v in (x, y, W, P)]
    for wrt, right in zip(NAMES, closed(x, y, W, P).gradient, strict=True):
        result = mlsm.grad(*values[:3], pos_weight=values[3], wrt=wrt)
        check(result.item(), right, 12 * 2.0**-53 * abs(right), wrt)


HOW: dict[str, Callable[..., Any]] = {
    "reverse over reverse": lambda f, i, j: torch.func.grad(torch.func.grad(f, i), j),
    "forward over reverse": lambda f, i, j: torch.func.jacfwd(torch.func.grad(f, i), j),
    "reverse over forward": lambda f, i, j: torch.func.grad(torch.func.jacfwd(f, i), j),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("x", "y"), POINTS)
def test_second_order_at_every_point(x: float, y: float, how: str) -> None:
    """The second derivative for each pair of arguments.

    One at a time, because at an infinite logit some entries are infinite, and a framework that computes several
    together multiplies those by the zero cotangents of the others.
    """
    exact = differentiated(x, y, W, P)[2]

    def function(a: Any, b: Any, w: Any, p: Any) -> Any:
        return loss(a.reshape(1), b.reshape(1), w, pos_weight=p)

    point = [t(v) for v in (x, y, W, P)]
    for i, j in itertools.product(range(4), repeat=2):
        pair = sorted({i, j})

        def narrow(*two: Any, pair: list[int] = pair) -> Any:
            values = list(point)
            for k, v in zip(pair, two, strict=True):
                values[k] = v
            return function(*values)

        entry = HOW[how](narrow, pair.index(i), pair.index(j))(*(point[k] for k in pair)).item()
        check(entry, exact[i, j], 16 * 2.0**-53 * abs(exact[i, j]), f"d2/d {NAMES[i]} d {NAMES[j]}")


@pytest.mark.parametrize(("x", "y"), [(x, y) for x, y in POINTS if np.isfinite(x)])
def test_whole_hessian_at_every_finite_point(x: float, y: float) -> None:
    def function(v: Any) -> Any:
        a, b, w, p = (v[i].reshape(1, 1) for i in range(4))
        return loss(a, b, w, pos_weight=p)

    exact = np.asarray(closed(x, y, W, P).hessian)
    hessian = torch.func.hessian(function)(t([x, y, W, P])).numpy()
    check(hessian, exact, 16 * 2.0**-53 * np.abs(exact), "hessian")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize(("x", "y"), POINTS)
def test_double_backward_for_the_logits(x: float, y: float, kernel: str | None) -> None:
    """Autograd without torch.func uses the node's backward, where a kernel served the loss."""
    a, b = t([[x]]).requires_grad_(), t([[y]])
    (g,) = torch.autograd.grad(loss(a, b, W, pos_weight=P, kernel=kernel), a, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), a)
    exact = closed(x, y, W, P)
    check(g.item(), exact.gradient[0], 12 * 2.0**-53 * abs(exact.gradient[0]), "gradient")
    check(h.item(), exact.hessian[0][0], 16 * 2.0**-53 * abs(exact.hessian[0][0]), "second derivative")


# ---------------------------------------------------------------- function transforms


@pytest.mark.parametrize("made", ["grad", "value_and_grad", "hessian_diag"])
def test_third_order_of_every_result(made: str) -> None:
    """d3l/dx3 = w*q*s(x)*(1-s(x))*(1-2*s(x)): each result is differentiated until it is the third derivative."""
    x, y, w, p = t([-3.0, -0.5, 0.0, 0.25, 2.0, 40.0]), t([0.0, 1.0, 1.0, 0.5, 0.0, 1.0]), 1.5, 3.0
    s = torch.exp(-x.abs()) / (1 + torch.exp(-x.abs()))
    exact = -torch.sign(x) * w * ((1 - y) + p * y) * s * (1 - s) * (1 - 2 * s)
    x.requires_grad_()
    options: dict[str, Any] = {"weight": w, "pos_weight": p, "reduction": "sum"}
    found = getattr(mlsm, made)(x[:, None], y[:, None], **options)
    found = found[1] if made == "value_and_grad" else found
    for more in (True, False) if made != "hessian_diag" else (False,):
        (found,) = torch.autograd.grad(found.sum(), x, create_graph=more)
    check(found.numpy(), exact.numpy(), 24 * 2.0**-53 * exact.abs().numpy(), made)


def test_func_grad_and_vmap(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    gradient = torch.func.grad(loss)(x, y)
    check(gradient.numpy(), mlsm.grad(x, y).numpy(), 1e-15, "func.grad")
    rows = torch.func.vmap(loss)(x, y)
    check(rows.numpy(), loss(x, y, reduction="none").numpy(), 1e-15, "vmap")
    per_row = torch.func.vmap(torch.func.grad(loss))(x, y)
    check(per_row.numpy(), mlsm.grad(x, y, reduction="none").numpy(), 1e-15, "vmap of grad")
    hand = torch.func.vmap(mlsm.grad)(x, y)
    check(hand.numpy(), mlsm.grad(x, y, reduction="none").numpy(), 1e-15, "vmap of mlsm.grad")


def test_vmap_over_the_weight_alone(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    weights = torch.from_numpy(rng.random((5, 4)))
    rows = torch.func.vmap(loss, in_dims=(None, None, 0))(x, y, weights)
    expected = torch.stack([loss(x, y, w) for w in weights])
    check(rows.numpy(), expected.numpy(), 1e-15 * expected.numpy(), "vmap over the weight")


def test_jacobians(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()

    def rows(x: Any) -> Any:
        return loss(x, y, reduction="none")

    forward, backward = torch.func.jacfwd(rows)(x), torch.func.jacrev(rows)(x)
    expected = torch.zeros(3, 3, 4, dtype=torch.float64)
    for i in range(3):
        expected[i, i] = mlsm.grad(x, y, reduction="none")[i]
    check(forward.numpy(), expected.numpy(), 1e-15, "jacfwd")
    check(backward.numpy(), expected.numpy(), 1e-15, "jacrev")


def test_hessian_is_diagonal(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    hessian = torch.func.hessian(loss)(x, y).reshape(12, 12)
    expected = torch.diag(mlsm.hessian_diag(x, y).ravel())
    check(hessian.numpy(), expected.numpy(), 1e-16, "hessian")


def test_forward_mode(rng: np.random.Generator) -> None:
    from torch.autograd import forward_ad

    x, y = _operands(rng).values()
    direction = torch.from_numpy(rng.standard_normal((3, 4)))
    with forward_ad.dual_level():
        gradient = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, direction), y)).tangent
    expected = (mlsm.grad(x, y) * direction).sum()
    check(gradient.item(), expected.item(), 1e-15, "jvp")


def test_batched_backward(rng: np.random.Generator) -> None:
    """`is_grads_batched` runs the node's backward under vmap."""
    x, y = _operands(rng).values()
    x.requires_grad_()
    rows = loss(x, y, reduction="none")
    (many,) = torch.autograd.grad(rows, x, torch.eye(3, dtype=torch.float64), is_grads_batched=True)
    expected = torch.func.jacrev(lambda v: loss(v, y, reduction="none"))(x.detach())
    check(many.numpy(), expected.numpy(), 1e-15, "is_grads_batched")


# ---------------------------------------------------------------- graphs


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_no_graph_when_nothing_requires_a_gradient(kernel: str | None, rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    assert loss(x, y, kernel=kernel).grad_fn is None
    x.requires_grad_()
    with torch.no_grad():
        assert not loss(x, y, kernel=kernel).requires_grad
    with torch.inference_mode():
        assert not loss(x, y, kernel=kernel).requires_grad
    assert loss(x, y, kernel=kernel).requires_grad
    assert mlsm.grad(x, y, kernel=kernel).requires_grad  # it is itself differentiable
    with torch.no_grad():
        assert not mlsm.grad(x, y, kernel=kernel).requires_grad


def _saved_bytes(call: Callable[[], Any], *own: Any) -> int:
    """The bytes that the graph of this call keeps alive in addition to its arguments."""
    known = {v.untyped_storage().data_ptr() for v in own}
    kept: dict[int, int] = {}

    def pack(v: Any) -> Any:
        if v.untyped_storage().data_ptr() not in known:
            kept[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        value = call()  # kept alive while counting, because two tensors at one freed address would be counted once
    assert value.requires_grad
    return sum(kept.values())


def test_the_graph_saves_little_more_than_its_arguments() -> None:
    x = torch.randn(256, 1000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = (x.detach() > 0).float()
    w = torch.rand(1000)
    for options in ({}, {"weight": w}, {"pos_weight": w}, {"where": y > 0}, {"label_smoothing": 0.1}):
        own = [v for v in options.values() if isinstance(v, torch.Tensor)]
        extra = _saved_bytes(functools.partial(loss, x, y, **options), x, y, *own)
        assert extra <= 16 * x.shape[0], f"{options.keys()}: {extra} bytes"  # a few numbers per row, much less than x


def test_backward_twice_needs_retain_graph(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    value = loss(x.requires_grad_(), y)
    value.backward(retain_graph=True)
    first = x.grad.clone()
    value.backward()
    check(x.grad.numpy(), 2 * first.numpy(), 0, "accumulated")


def test_an_argument_changed_in_place_before_backward_raises(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    value = loss(x.requires_grad_(), y)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        value.backward()


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradients_have_their_arguments_dtype(kernel: str | None, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((3, 4))).half().requires_grad_()
    y = torch.from_numpy(rng.random((3, 4))).bfloat16().requires_grad_()
    w = torch.from_numpy(rng.random(4)).requires_grad_()
    value = loss(x, y, w, kernel=kernel)
    assert value.dtype == torch.float64
    value.backward()
    assert [v.grad.dtype for v in (x, y, w)] == [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_tensor_of_a_finished_transform_is_an_ordinary_one(kernel: str | None, rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    escaped: list[Any] = []
    torch.func.grad(lambda v: (escaped.append(v * 1), v.sum())[1])(x)
    x.requires_grad_()
    value = loss(x, escaped[0], kernel=kernel)
    assert value.item() == loss(x, x, kernel=kernel).item()
    value.backward()
    check(x.grad.numpy(), mlsm.grad(x.detach(), x.detach()).numpy(), 1e-15, "gradient")
    assert not loss(escaped[0], y, kernel=kernel).requires_grad  # like x * 1 of such a tensor


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_nn_parameter_and_tensor_subclass(kernel: str | None, rng: np.random.Generator) -> None:
    class Own(torch.Tensor):
        pass

    x, y = _operands(rng).values()
    expected = loss(x, y)
    parameter = torch.nn.Parameter(x.clone())
    loss(parameter, y, kernel=kernel).backward()
    check(parameter.grad.numpy(), mlsm.grad(x, y).numpy(), 1e-15, "Parameter")
    subclass = loss(x.as_subclass(Own), y, kernel=kernel)
    check(subclass.detach().numpy(), expected.numpy(), 1e-15, "subclass")


def test_autocast(rng: np.random.Generator) -> None:
    """Under autocast the loss and its backward compute in float32, whatever the dtype of the logits."""
    layer = torch.nn.Linear(8, 4)
    data, y = torch.from_numpy(rng.standard_normal((16, 8))).float(), torch.from_numpy(rng.integers(0, 2, (16, 4)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(data)
        assert logits.dtype == torch.bfloat16
        value = loss(logits, y)
        again = loss(logits, y, kernel="generic")
    assert value.dtype == torch.bfloat16
    outside = loss(logits.detach(), y)
    assert value.item() == outside.item() == again.item()
    value.backward()
    assert torch.isfinite(layer.weight.grad).all()
    assert layer.weight.grad.abs().max() > 0


def test_masked_poison_reaches_no_gradient(rng: np.random.Generator) -> None:
    """NaN and infinities at masked entries change no gradient of first or second order."""
    x, y = _operands(rng).values()
    where = torch.rand((3, 4), generator=torch.Generator().manual_seed(1)) < 0.5
    x = torch.where(where, x, torch.nan)
    w = torch.where(where, 1.5, torch.inf).double().requires_grad_()
    x.requires_grad_()
    (gx, gw) = torch.autograd.grad(loss(x, y, w, where=where), (x, w), create_graph=True)
    assert (gx[~where] == 0).all()
    assert (gw[~where] == 0).all()
    (h,) = torch.autograd.grad(gx.sum(), x)
    assert (h[~where] == 0).all()
    assert torch.isfinite(h).all()


@pytest.mark.parametrize("value", [1e41, -1e300, 3.4028235e38, 1e-50, 5e-324], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_no_flag_of_numpy_is_raised_for_tensors(dtype: Any, value: float) -> None:
    """No guard is around a call with tensors, so code that uses NumPy on their memory has its own guard."""
    x = torch.tensor([[0.5, -1.0, 2.0], [88.0, -100.0, 1.0]]).to(dtype)
    y, wide = (x > 0).to(dtype), torch.full((2,), value, dtype=torch.float64)
    for kernel in (None, *_serving(x, y)):
        with np.errstate(all="raise"):
            for g in (value, wide[0]):
                mlsm.grad(x, y, grad_output=g, kernel=kernel)
            mlsm.grad(x, y, reduction="none", grad_output=wide, kernel=kernel)
            for weight in (value, [value, 1.0, 2.0], wide.new_full((3,), value)):
                for call in (mlsm.multilabel_soft_margin_loss, mlsm.value_and_grad, mlsm.hessian_diag):
                    call(x, y, weight, pos_weight=weight, kernel=kernel)
            for where in (None, y > 0):
                leaf = x.clone().requires_grad_()
                rows = mlsm.multilabel_soft_margin_loss(leaf, y, reduction="none", where=where)
                rows.backward(wide.to(rows.dtype))
                assert leaf.grad is not None
                assert leaf.grad.dtype == dtype


def _serving(x: Any, y: Any) -> list[str]:
    reasons = dict(mlsm.explain(x, y, kernel="generic").reasons)
    return ["generic", *(name for name, reason in reasons.items() if "could serve" in reason)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("factor", [1.0, 0.25, 65536.0])
def test_the_stored_gradient_has_the_bits_of_a_second_pass(
    factor: float, masked: bool, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    x, y = (v.float() for v in _operands(rng).values())
    where = x > 0 if masked else None
    found = []
    for kept in (0, 100):
        monkeypatch.setattr("mlsm.autograd.torch.KEPT", kept)
        leaf = x.clone().requires_grad_()
        (factor * loss(leaf, y, where=where)).backward()
        found.append(leaf.grad)
    assert torch.equal(*found)


def test_the_stored_gradient_is_returned_once(rng: np.random.Generator) -> None:
    x, y = _operands(rng).values()
    value = loss(x.requires_grad_(), y)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    right = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(value, x)
    assert torch.equal(second, right)


def test_a_stored_masked_gradient_stays_in_range() -> None:
    """Three of four classes are masked: unscaled, the stored gradient would be four times as large."""
    x = torch.zeros((2, 4), requires_grad=True)
    where = torch.tensor([True, False, False, False])
    mlsm.multilabel_soft_margin_loss(x, torch.zeros(2, 4), 3e38, where=where).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 0], torch.full((2,), 3e38 / 4), rtol=2**-23, atol=0)
    assert not x.grad[:, 1:].any()


@pytest.mark.parametrize("kernel", [*KERNELS, *(("numba", "numpy") if find_spec("mlsm.kernels") else ())])
@pytest.mark.parametrize("rows", [40, 9000])
@pytest.mark.parametrize("labels", [False, True], ids=["dense", "labels"])
def test_a_graph_does_not_change_a_bit_of_the_loss(rows: int, kernel: str | None, labels: bool) -> None:
    x = 3 * torch.randn((rows, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    indices = torch.arange(rows)[:, None] % 7
    y = mlsm.Labels(indices, num_classes=7) if labels else mlsm.Labels(indices, num_classes=7).toarray()
    for reduction in ("mean", "sum"):
        options: Any = {"where": x < 4, "reduction": reduction, "kernel": kernel}
        with_graph = loss(x.clone().requires_grad_(), y, **options).detach()
        assert torch.equal(loss(x, y, **options), with_graph)
        assert torch.equal(mlsm.value_and_grad(x, y, **options)[0], with_graph)
