"""JAX's strict modes, which refuse to broadcast by rank and to promote dtypes: calls in one dtype work."""

from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check

jax = pytest.importorskip("jax", reason="this file tests JAX")
jnp = jax.numpy

X = np.asarray([[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]])
Y = np.asarray([[1, 0, 1], [0, 1, 1]])
W, ROWS = np.asarray([0.5, 1.5, 2.0]), np.asarray([[2.0], [0.25]])
WHERE = np.asarray([True, False, True])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "arrays": {"weight": W, "pos_weight": ROWS, "where": WHERE},
    "0-d": {"weight": W[0], "pos_weight": np.asarray(2.0), "label_smoothing": 0.25},
    "lists": {"weight": [0.5, 1.5, 2.0], "pos_weight": [[2.0], [0.25]], "where": WHERE[None]},
    "rows": {"weight": ROWS, "pos_weight": 2.0, "reduction": "none", "grad_output": np.asarray([1.0, 2.0])},
    "sum": {"weight": 2.0, "reduction": "sum", "grad_output": 3.0, "where": WHERE, "axis": -1},
    "axis": {"axis": 0, "weight": np.asarray([[1.0], [2.0]]), "pos_weight": W, "grad_output": np.asarray(2.0)},
}


def everything(x: Any, y: Any, options: dict[str, Any]) -> list[Any]:
    """Every function of these arguments, and JAX's own derivative of the loss."""
    plain = {k: v for k, v in options.items() if k != "grad_output"}
    found = [mlsm.multilabel_soft_margin_loss(x, y, **plain), *mlsm.value_and_grad(x, y, **plain)]
    found.append(mlsm.hessian_diag(x, y, **plain))
    wanted = [wrt for wrt in ("input", "target", "weight", "pos_weight") if options.get(wrt, wrt) is not None]
    found += [mlsm.grad(x, y, wrt=wrt, **options) for wrt in wanted if wrt in ("input", "target") or wrt in options]
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option: str, dtype: str) -> None:
    """The same bits as without the strict modes."""

    def given(value: Any) -> Any:
        if not isinstance(value, np.ndarray | np.floating):
            return value
        return jnp.asarray(value, dtype=bool if np.asarray(value).dtype == bool else dtype)

    x, y = jnp.asarray(X, dtype=dtype), jnp.asarray(Y, dtype=jnp.int32)
    options = {k: given(v) for k, v in OPTIONS[option].items()}
    right = everything(x, y, options)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for a, b in zip(everything(x, y, options), right, strict=True):
            assert a.dtype == b.dtype
            check(a, b, 0, option)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("option", ["arrays", "rows"])
def test_every_option_with_x64(option: str, dtype: str) -> None:
    """Sums are in float64, and a cast converts each one before it is combined with float32."""
    with jax.enable_x64(True):
        test_every_option(option, dtype)


def test_one_axis_and_three() -> None:
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for x in (jnp.zeros(3), jnp.zeros((2, 2, 3))):
            y, where = jnp.ones_like(x, dtype=bool), jnp.asarray(WHERE)
            value, gradient = mlsm.value_and_grad(x, y, [1.0, 1.0, 1.0], where=where)
            check(value, np.log(2), 4 * 2.0**-24, "value")
            rows = x.size // 3
            check(gradient, np.where(WHERE, -0.25 / rows, 0) + np.zeros(x.shape), 2.0**-24, "gradient")


def test_differentiated_by_jax() -> None:
    x, y, w = jnp.asarray(X, dtype=jnp.float16), jnp.asarray(Y, dtype=bool), jnp.asarray(W, dtype=jnp.float16)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for argument in (0, 2):
            result = jax.grad(mlsm.multilabel_soft_margin_loss, argument)(x, y, w)
            right = mlsm.grad(x, y, w, wrt=("input", "", "weight")[argument])
            check(result, right, 2.0**-10 * np.abs(np.asarray(right, dtype=np.float64)), "gradient")


def test_a_mix_of_dtypes_that_the_mode_forbids_is_refused_by_name() -> None:
    x, y = jnp.asarray(X, dtype=jnp.float16), jnp.asarray(Y, dtype=jnp.float32)
    with jax.numpy_dtype_promotion("strict"), pytest.raises(TypeError, match="got float16, float32"):
        mlsm.multilabel_soft_margin_loss(x, y)
    assert mlsm.multilabel_soft_margin_loss(x, y).dtype == jnp.float32
