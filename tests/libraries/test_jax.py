"""JAX: every transform, at 0 and ±inf against the closed form, to third order; symbolic batch sizes; no transfer."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check, closed, differentiated

jax = pytest.importorskip("jax", reason="this file tests JAX")
jnp = jax.numpy

loss = mlsm.multilabel_soft_margin_loss
INF = math.inf
POINTS = [(x, y) for x, y in itertools.product([0.0, -0.0, INF, -INF, 40.0, -40.0, 0.7], [0.0, 1.0, 0.25])]
W, P = 3.0, 2.0
NAMES = ("input", "target", "weight", "pos_weight")
U = 2.0**-53


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    """Exactness is judged in float64; the tests of all libraries cover the default configuration."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[Any, Any]:
    x = 2 * rng.standard_normal((3, 4))
    x[0, 0], x[1, 1], x[2, 2] = 0, 0, -0.0
    y = rng.random((3, 4))
    y[0, :2], y[1, 1], y[2, 2:] = (1, 0), 1, (0, 1)
    return jnp.asarray(x), jnp.asarray(y)


def scalar(x: Any, y: Any, w: Any, p: Any) -> Any:
    return loss(jnp.reshape(x, (1,)), jnp.reshape(y, (1,)), w, pos_weight=p)


@pytest.fixture(scope="module")
def derivatives() -> dict[tuple[int, ...], Callable[..., Any]]:
    """The second derivative for each pair of arguments, compiled once for all points.

    One at a time, because at an infinite logit some entries are infinite, and several together would be multiplied by
    zero cotangents.
    """
    first = {(i,): jax.jit(jax.grad(scalar, i)) for i in range(4)}
    second = {(i, j): jax.jit(jax.grad(jax.grad(scalar, i), j)) for i, j in itertools.product(range(4), repeat=2)}
    return first | second


@pytest.mark.parametrize(("x", "y"), POINTS)
def test_first_and_second_order_at_every_point(
    x: float, y: float, derivatives: dict[tuple[int, ...], Callable[..., Any]]
) -> None:
    value, gradient, hessian = differentiated(x, y, W, P)
    point = [jnp.asarray(v) for v in (x, y, W, P)]
    check(scalar(*point), value, 8 * U * abs(value), "value")
    for i in range(4):
        check(derivatives[(i,)](*point), gradient[i], 12 * U * abs(gradient[i]), NAMES[i])
        for j in range(4):
            entry = derivatives[i, j](*point)
            check(entry, hessian[i, j], 16 * U * abs(hessian[i, j]), f"d2/d {NAMES[i]} d {NAMES[j]}")


@pytest.mark.parametrize(("x", "y"), POINTS)
def test_grad_and_hessian_diag_at_every_point(x: float, y: float) -> None:
    point = [jnp.asarray([v]) for v in (x, y, W, P)]
    for wrt, right in zip(NAMES, closed(x, y, W, P).gradient, strict=True):
        result = mlsm.grad(*point[:3], pos_weight=point[3], wrt=wrt)
        check(result, [right], 12 * U * abs(right), wrt)


def test_third_order() -> None:
    """d3l/dx3 = w*q*s(x)*(1-s(x))*(1-2*s(x)), which is 0 at 0 and at every infinity."""
    third = jax.jit(jax.vmap(jax.grad(jax.grad(jax.grad(scalar))), in_axes=(0, 0, None, None)))
    x, y = (np.asarray(v) for v in zip(*POINTS, strict=True))
    e = np.exp(-np.abs(x))
    s = e / (1 + e)
    q = (1 - y) + P * y
    exact = -np.sign(x) * W * q * s * (1 - s) * (1 - 2 * s)
    check(third(jnp.asarray(x), jnp.asarray(y), W, P), exact, 24 * U * np.abs(exact), "third derivative")
    forward = jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(jax.jacfwd(scalar))), in_axes=(0, 0, None, None)))
    check(forward(jnp.asarray(x), jnp.asarray(y), W, P), exact, 24 * U * np.abs(exact), "forward, three times")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "none": {"reduction": "none"},
    "weights": {"weight": np.asarray([0.5, 1.5, 2.0, 1.0]), "pos_weight": np.asarray([[1.0], [2.0], [0.5]])},
    "where": {"where": np.asarray([[1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=bool), "label_smoothing": 0.25},
    "axis": {"axis": 0, "reduction": "sum"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_jit_and_grad_of_every_function(option: str, data: tuple[Any, Any]) -> None:
    x, y = data
    options = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in OPTIONS[option].items()}

    def function(x: Any, y: Any) -> Any:
        return loss(x, y, **options)

    def total(x: Any, y: Any) -> Any:
        return function(x, y).sum()

    eager = function(x, y)
    check(jax.jit(function)(x, y), eager, 8 * U * np.abs(eager), "jit")
    by_hand = mlsm.grad(x, y, **options) if "reduction" not in options else jax.vjp(function, x, y)[1](eager * 0 + 1)[0]
    largest = float(np.abs(by_hand).max())
    value, gradient = jax.jit(jax.value_and_grad(total))(x, y)
    check(value, eager.sum(), 8 * U * float(np.abs(eager).sum()), "value_and_grad")
    check(gradient, by_hand, 8 * U * largest, "gradient")
    check(jax.grad(jax.checkpoint(total))(x, y), by_hand, 8 * U * largest, "checkpoint")
    check(jax.jacfwd(total)(x, y), by_hand, 8 * U * largest, "jacfwd")
    check(jax.jit(lambda a, b: mlsm.hessian_diag(a, b, **options))(x, y).shape, x.shape, 0, "shape")
    hessian = jax.jit(jax.hessian(total))(x, y).reshape(12, 12)
    diagonal = np.asarray(mlsm.hessian_diag(x, y, **options)).ravel()
    check(hessian, np.diag(diagonal), 16 * U * diagonal.max(), "hessian")


def test_vmap(data: tuple[Any, Any]) -> None:
    x, y = data
    rows = loss(x, y, reduction="none")
    check(jax.vmap(loss)(x, y), rows, 4 * U, "vmap")
    check(jax.vmap(jax.grad(loss))(x, y), mlsm.grad(x, y, reduction="none"), 4 * U, "vmap of grad")
    check(jax.vmap(mlsm.grad)(x, y), mlsm.grad(x, y, reduction="none"), 4 * U, "vmap of mlsm.grad")
    weights = jnp.asarray([[1.0, 2.0, 0.5, 1.0], [0.0, 1.0, 1.0, 3.0]])
    both = jax.vmap(loss, in_axes=(None, None, 0))(x, y, weights)
    check(both, [loss(x, y, w) for w in weights], 8 * U, "vmap over the weight")


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "bool"])
def test_integer_targets(dtype: str, data: tuple[Any, Any]) -> None:
    x, y = data[0], (data[1] > 0.5).astype(dtype)
    expected = mlsm.grad(x, y)
    for function in (jax.grad(loss), jax.jit(jax.grad(loss)), jax.jacfwd(loss)):
        check(function(x, y), expected, 4 * U, "gradient")
    value, gradient = jax.value_and_grad(loss)(x, y)
    check(value, loss(x, y.astype(x.dtype)), 0, "value")
    check(gradient, expected, 4 * U, "gradient")


def test_grad_is_differentiable(data: tuple[Any, Any]) -> None:
    x, y = data
    expected = jax.jacfwd(jax.grad(loss))(x, y)
    check(jax.jacrev(mlsm.grad)(x, y), expected, 4 * U, "jacrev of mlsm.grad")
    third = jax.grad(lambda a: jax.grad(lambda b: jax.grad(loss)(b, y).sum())(a).sum())(x)
    check(jax.grad(lambda a: mlsm.hessian_diag(a, y).sum())(x), third, 4 * U, "grad of mlsm.hessian_diag")


def test_gradients_of_masked_poison(data: tuple[Any, Any]) -> None:
    x, y = data
    where = jnp.asarray([[1, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    for poison in (jnp.nan, jnp.inf, -jnp.inf):
        bad = jnp.where(where, x, poison)
        gradient = jax.jit(jax.grad(lambda v: loss(v, y, where=where)))(bad)
        check(gradient, jnp.where(where, gradient, 0), 0, "behind the mask")
        check(jax.hessian(lambda v: loss(v, y, where=where))(bad).reshape(12, 12), np.diag(np.asarray(mlsm.hessian_diag(
            x, y, where=where)).ravel()), 8 * U, "hessian")  # fmt: skip


def test_symbolic_batch_sizes() -> None:
    from jax import export

    def step(x: Any, y: Any, where: Any) -> Any:
        value, gradient = mlsm.value_and_grad(x, y, where=where)
        return value, gradient, loss(x, y, reduction="none"), jax.grad(loss)(x, y), mlsm.hessian_diag(x, y)

    (n,) = export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 3), jnp.float32)
    exported = export.export(jax.jit(step))(shape, shape, jax.ShapeDtypeStruct((n, 3), jnp.bool_))
    for rows in (1, 2, 7):
        x = jnp.asarray(np.random.default_rng(rows).standard_normal((rows, 3)), dtype=jnp.float32)
        y, where = (x > 0).astype(jnp.float32), x < 2
        for a, b in zip(exported.call(x, y, where), step(x, y, where), strict=True):
            check(a, b, 8 * 2.0**-24 * np.maximum(np.abs(b), np.abs(b).max(initial=0)), f"{rows} rows")


def test_two_symbolic_batch_sizes_are_refused() -> None:
    from jax import export

    n, k = export.symbolic_shape("n, k")
    with pytest.raises(ValueError, match="`target`"):
        export.export(jax.jit(loss))(
            jax.ShapeDtypeStruct((n, 3), jnp.float32), jax.ShapeDtypeStruct((k, 3), jnp.float32)
        )


def test_no_transfer_between_host_and_device() -> None:
    """Under jit nothing may be copied to or from the host, whatever options are given as Python numbers or lists."""
    x = jax.device_put(np.zeros((3, 4), dtype=np.float32))
    y = jax.device_put(np.ones((3, 4), dtype=np.float32))
    w = jax.device_put(np.ones(4, dtype=np.float32))

    def step(x: Any, y: Any, w: Any) -> Any:
        return mlsm.value_and_grad(x, y, w, label_smoothing=0.1, pos_weight=2.0, where=y > 0)

    compiled = jax.jit(step)
    with jax.transfer_guard("disallow"):
        value, gradient = compiled(x, y, w)
        jax.block_until_ready((value, gradient))


def test_one_trace_for_one_shape() -> None:
    traces = []

    def function(x: Any, y: Any) -> Any:
        traces.append(x.shape)
        return loss(x, y)

    compiled = jax.jit(function)
    for _ in range(3):
        compiled(jnp.zeros((2, 3)), jnp.ones((2, 3)))
    assert len(traces) == 1


def test_refusals_while_tracing_name_the_argument() -> None:
    with pytest.raises(ValueError, match="`target`"):
        jax.jit(loss)(jnp.zeros((2, 3)), jnp.zeros((2, 2)))
    with pytest.raises(TypeError, match="`input`"):
        jax.jit(loss)(jnp.zeros((2, 3), dtype=int), jnp.zeros((2, 3)))


def test_scan_and_while(data: tuple[Any, Any]) -> None:
    """Gradient descent inside a scan gives logits of the right sign."""
    x, y = data[0], (data[1] > 0.5).astype(jnp.float64)

    def step(x: Any, _: Any) -> tuple[Any, Any]:
        value, gradient = mlsm.value_and_grad(x, y)
        return x - 12 * gradient, value

    final, values = jax.lax.scan(step, x, None, length=50)
    assert (np.diff(values) < 0).all()
    assert ((np.asarray(final) > 0) == (np.asarray(y) == 1)).all()


def test_without_x64_nothing_warns(data: tuple[Any, Any]) -> None:
    """Without float64, sums run in float32, and no dtype is requested that JAX would truncate."""
    with jax.enable_x64(False):
        x, y = (jnp.asarray(np.asarray(v)) for v in data)
        assert x.dtype == jnp.float32
        for value in (
            loss(x, y),
            jax.jit(loss)(x, y),
            *mlsm.value_and_grad(x, y, [1.0, 2.0, 3.0, 4.0], pos_weight=2.0),
        ):
            assert value.dtype == jnp.float32
