"""`sigmoid_binary_cross_entropy`: the element, of any shape, in every library; and `grad_output` of every function."""

import math
from typing import Any

import numpy as np
import pytest

import mlsm

from ._support import KERNELS_PRESENT, Library, check, closed, find, identical

element = mlsm.sigmoid_binary_cross_entropy
SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (0, 3), (3, 0), (5, 4), (2, 3, 4)]
U = 2.0**-53


def _data(shape: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    data = {"input": 6 * rng.standard_normal(shape), "target": rng.random(shape)}
    data |= {"weight": rng.random(shape) + 0.5, "pos_weight": rng.random(shape[-1:]) + 0.5}
    return {k: np.asarray(v) for k, v in data.items()} | {"where": np.asarray(rng.random(shape) < 0.7)}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_agrees_with_the_formula(shape: tuple[int, ...], library: Library) -> None:
    data = {k: v if k == "where" else v.astype(np.float32) for k, v in _data(shape).items()}
    found = library.read(element(**{k: library.make(v) for k, v in data.items()}))
    assert found.dtype == np.float32
    full = [np.broadcast_to(data[k], shape).ravel() for k in ("input", "target", "weight", "pos_weight", "where")]
    exact = [
        closed(float(x), float(y), float(w), float(p)).value if m else 0.0 for x, y, w, p, m in zip(*full, strict=True)
    ]
    right = np.asarray(exact).reshape(shape)
    check(found, right, 8 * 2.0**-23 * np.abs(right), "element")


@pytest.mark.parametrize("kernel", ["generic", "numpy", "numba"] if KERNELS_PRESENT else ["generic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kernel_serves_it(shape: tuple[int, ...], kernel: str) -> None:
    x, y = (_data(shape)[k] for k in ("input", "target"))
    found = element(x, y, 2.0, pos_weight=3.0, kernel=kernel)
    expected = element(x, y, 2.0, pos_weight=3.0, kernel="generic")
    assert np.shape(found) == shape
    check(found, expected, 8 * U * np.abs(expected), kernel)


def test_rows_are_means_of_elements() -> None:
    data = _data((6, 5))
    data["where"][2] = False
    found = element(**data)
    count = np.maximum(data["where"].sum(-1), 1)
    rows = mlsm.multilabel_soft_margin_loss(**data, reduction="none")
    check(rows, found.sum(-1) / count, 16 * U * rows, "rows")
    identical(found[~data["where"]], np.zeros((~data["where"]).sum()))


def test_masked_elements_are_exactly_zero(library: Library) -> None:
    x = np.asarray([np.nan, np.inf, -np.inf, 1.0, 2.0], np.float32)
    y = np.asarray([1, 0, 1, np.nan, 1], np.float32)
    where = np.asarray([False, False, False, False, True])
    found = library.read(element(*map(library.make, (x, y)), where=library.make(where)))
    identical(found[:4], np.zeros(4, np.float32))
    assert found[4] > 0


def test_infinities_and_nan_stay_in_their_element(library: Library) -> None:
    x = np.asarray([np.inf, -np.inf, np.inf, -np.inf, np.nan, 0.0, 1.0], np.float32)
    y = np.asarray([1, 0, 0, 1, 1, 1, np.nan], np.float32)
    found = library.read(element(*map(library.make, (x, y))))
    right = [0, 0, math.inf, math.inf, math.nan, math.log(2), math.nan]
    check(found, right, 4 * 2.0**-24 * math.log(2), "special")


@pytest.mark.parametrize(("given", "dtype"), [("float16", "float16"), ("float32", "float32"), ("float64", "float64")])
def test_dtype_is_the_promotion(given: str, dtype: str) -> None:
    x = np.zeros(3, given)
    assert element(x, np.ones(3, np.int8)).dtype == dtype
    assert element(x, np.ones(3, np.float64)).dtype == np.float64
    assert element(x, np.ones(3, bool), 2.0, pos_weight=[1, 2, 3]).dtype == dtype


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"target": np.zeros(4)}, ValueError, r"`target`.*\(3,\).*\(4,\)"),
    ({"target": np.zeros((3, 1))}, ValueError, r"`target`.*\(3,\).*\(3, 1\)"),
    ({"weight": np.zeros((3, 1))}, ValueError, r"`weight`.*\(3,\).*\(3, 1\)"),
    ({"pos_weight": [1.0, 2.0]}, ValueError, r"`pos_weight`.*\(3,\).*\(2,\)"),
    ({"where": np.ones(3)}, TypeError, "`where`.*bool.*float64"),
    ({"where": np.ones((1, 3), bool)}, ValueError, r"`where`.*\(3,\).*\(1, 3\)"),
    ({"label_smoothing": 2}, ValueError, "`label_smoothing`"),
    ({"input": np.zeros(3, int)}, TypeError, "`input`.*int64"),
    ({"kernel": "nobody"}, ValueError, "`kernel`"),
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED, ids=lambda v: None)
def test_refusals_name_the_given_shape(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        element(**{"input": np.zeros(3), "target": np.zeros(3)} | given)


def test_there_is_no_class_axis_and_no_reduction() -> None:
    for option in ("axis", "reduction"):
        with pytest.raises(TypeError, match=option):
            element(np.zeros(3), np.zeros(3), **{option: None})
    with pytest.raises(TypeError, match="`axis`"):  # it is not accepted as an option of the loss either
        mlsm.multilabel_soft_margin_loss(np.zeros(3), np.zeros(3), axis=None)  # type: ignore[arg-type]


# ---------------------------------------------------------------- autograd


def test_torch_differentiates_it_at_zero_and_infinity() -> None:
    find("torch")
    import torch

    inf = math.inf
    x = torch.tensor([0.0, -0.0, inf, -inf, inf, -inf, 17.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 0.25, 1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    w = torch.full((7,), 2.0, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(element(x, y, w).sum(), x, create_graph=True)
    check(g.detach(), [-1, 0.5, 0, 0, 2, -2, -8.2798750947886612018e-8], 8 * U * np.abs(g.detach().numpy()), "gradient")
    (h,) = torch.autograd.grad(g.sum(), x)
    check(h, [0.5, 0.5, 0, 0, 0, 0, 8.2798747520070032754e-8], 16 * U * np.abs(h.numpy()), "curvature")
    finite = x.detach()[[0, 1, 6]]
    assert torch.autograd.gradcheck(
        lambda v, k: element(v, y[[0, 1, 6]], k), (finite.requires_grad_(), w.detach()[:3].requires_grad_())
    )


def test_jax_transforms_it() -> None:
    find("jax")
    import jax
    import jax.numpy as jnp

    x, y = jnp.asarray([0.0, jnp.inf, -jnp.inf, 3.0]), jnp.asarray([1.0, 1.0, 1.0, 0.0])
    gradient = jax.vmap(jax.grad(element))  # of scalars: 0-d is an ordinary shape
    check(gradient(x, y), [-0.5, 0, -1, 1 / (1 + math.exp(-3))], 4 * 2.0**-24, "vmap of grad")
    check(jax.jit(gradient)(x, y), gradient(x, y), 4 * 2.0**-24, "jit")
    check(jax.vmap(jax.grad(jax.grad(element)))(x, y)[:3], [0.25, 0, 0], 4 * 2.0**-24, "second")


# ---------------------------------------------------------------- compared with the peers, where they are right


def _grid() -> tuple[Any, Any]:
    """Points where no formula cancels: |x| <= 4, or a target for which the large term is 0 in both formulas."""
    x = np.linspace(-4, 4, 161)
    return np.tile(x, 3), np.repeat([0.0, 1.0, 0.25], x.size)


def test_optax_agrees() -> None:
    optax = pytest.importorskip("optax", reason="the test compares with it")
    find("jax")
    import jax
    import jax.numpy as jnp

    peer = optax.losses.sigmoid_binary_cross_entropy
    x, y = (jnp.asarray(v, jnp.float32) for v in _grid())
    with np.errstate(all="ignore"):
        ours = np.asarray(element(x, y), np.float64)
        theirs = np.asarray(peer(x, y), np.float64)
        gradients = [np.asarray(jax.grad(lambda v, f=f: f(v, y).sum())(x), np.float64) for f in (element, peer)]
    check(theirs, ours, 2 * 5 * 2.0**-24 * np.abs(ours), "value")
    # A gradient is a difference of two numbers below 1: its error is relative to them.
    check(gradients[1], gradients[0], 2 * 4 * 2.0**-24, "gradient")


def test_torch_bce_agrees() -> None:
    find("torch")
    import torch

    peer = torch.nn.functional.binary_cross_entropy_with_logits
    a, b = _grid()
    y, p = torch.from_numpy(b).float(), torch.full((), 2.5)
    for options in ({}, {"pos_weight": p}):
        found = []
        for f, more in ((element, {}), (peer, {"reduction": "none"})):
            x = torch.from_numpy(a).float().requires_grad_()
            value = f(x, y, **options, **more)  # type: ignore[operator]
            value.sum().backward()
            found.append((value.detach().double().numpy(), x.grad.double().numpy()))
        (ours, gradient), (theirs, gradient_there) = found
        # (1-y)*x + softplus(-x) adds terms of up to |x| = 4 to a result that may be softplus(-4).
        check(theirs, ours, 2 * 5 * 2.0**-24 * (np.abs(ours) + 4 * 2.5), "value")
        check(gradient_there, gradient, 2 * 4 * 2.0**-24 * 2.5, "gradient")


# ---------------------------------------------------------------- grad_output


def test_grad_output_scales_derivatives_and_not_the_value(library: Library) -> None:
    data = _data((4, 3))
    x, y = (library.make(data[k].astype(np.float32)) for k in ("input", "target"))
    g = np.asarray([1, -0.5, 0, 4], np.float32)
    value, gradient = (
        library.read(v) for v in mlsm.value_and_grad(x, y, reduction="none", grad_output=library.make(g))
    )
    identical(value, library.read(mlsm.multilabel_soft_margin_loss(x, y, reduction="none")))
    identical(gradient, library.read(mlsm.grad(x, y, reduction="none", grad_output=library.make(g))))
    hessian = library.read(mlsm.hessian_diag(x, y, reduction="none", grad_output=library.make(g)))
    plain = library.read(mlsm.hessian_diag(x, y, reduction="none"))
    check(hessian, plain * g[:, None], 0, "hessian")
    check(
        library.read(mlsm.hessian_diag(x, y, grad_output=-8)), -8 * library.read(mlsm.hessian_diag(x, y)), 0, "number"
    )


@pytest.mark.parametrize("function", [mlsm.value_and_grad, mlsm.hessian_diag])
def test_grad_output_has_the_shape_of_the_loss(function: Any) -> None:
    x, y = np.zeros((4, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match=r"`grad_output`.*\(\).*\(4,\)"):
        function(x, y, grad_output=np.ones(4))
    with pytest.raises(ValueError, match=r"`grad_output`.*\(4,\).*\(3,\)"):
        function(x, y, reduction="none", grad_output=np.ones(3))
    with pytest.raises(TypeError, match=r"`grad_output`.*complex"):
        function(x, y, reduction="none", grad_output=np.ones(4, complex))
