"""JAX arrays sharded over four devices, by rows, by classes and both, on Auto and Explicit meshes: the same values."""

from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check

jax = pytest.importorskip("jax", reason="this file tests JAX")
jnp = jax.numpy

loss = mlsm.multilabel_soft_margin_loss
U = 2.0**-24
SPECS = {"rows": ("a", None), "classes": (None, "b")}
_rng = np.random.default_rng(0)
X = _rng.standard_normal((8, 4)).astype(np.float32)
Y = (_rng.random((8, 4)) > 0.5).astype(np.float32)
WHERE = _rng.random((8, 4)) > 0.5
WHERE[0] = False
ROWS, CLASSES, COTANGENT = (_rng.random(s).astype(np.float32) + 0.5 for s in ((8, 1), (4,), (8,)))
OPTIONS: dict[str, dict[str, Any]] = {
    "numbers": {"weight": 2.0, "pos_weight": 3.0},
    "lists": {"weight": [1.0, 2.0, 3.0, 4.0], "pos_weight": [[2.0]] * 8, "where": WHERE},
    "arrays": {"weight": CLASSES, "pos_weight": ROWS, "where": WHERE[3], "label_smoothing": 0.1},
}


def mesh_of(kind: str) -> Any:
    assert len(jax.devices("cpu")) >= 4, "JAX was started with one device, but tests/conftest.py requests four"
    types = (getattr(jax.sharding.AxisType, kind),) * 2
    return jax.make_mesh((2, 2), ("a", "b"), axis_types=types, devices=jax.devices("cpu")[:4])


def spread(mesh: Any, value: Any, spec: tuple[Any, ...]) -> Any:
    """A NumPy array on the mesh, without sharding axes of length 1; anything else unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    own = [None if n == 1 else s for n, s in zip(value.shape, spec[len(spec) - value.ndim :], strict=True)]
    return jax.device_put(value, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*own)))


def everything(x: Any, y: Any, g: Any, options: dict[str, Any]) -> list[Any]:
    """Every function, reduction and derivative."""
    return [
        *(loss(x, y, reduction=r, **options) for r in ("none", "sum", "mean")),
        *eagerly(x, y, g, options),
        mlsm.grad(x, y, reduction="sum", grad_output=3.0, **options),
        *(mlsm.grad(x, y, wrt=wrt, **options) for wrt in ("target", "weight", "pos_weight")),
    ]


def eagerly(x: Any, y: Any, g: Any, options: dict[str, Any]) -> list[Any]:
    """The functions that create arrays; only a few, since JAX compiles each of their operations separately."""
    return [
        *mlsm.value_and_grad(x, y, **options),
        mlsm.grad(x, y, reduction="none", grad_output=g, **options),
        mlsm.hessian_diag(x, y, **options),
    ]


def same(seen: Any, right: Any, what: str) -> None:
    """Within the roundings of one value and of one sum over all elements."""
    right = np.asarray(right)
    assert seen.shape == right.shape
    assert seen.dtype == right.dtype
    check(seen, right, 16 * U * np.maximum(np.abs(right), np.abs(right).mean()), what)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_sharded_arrays_give_the_values_of_unsharded_ones(kind: str, spec: str, option: str) -> None:
    mesh, options, axes = mesh_of(kind), OPTIONS[option], SPECS[spec]
    given = {k: spread(mesh, v, axes) for k, v in options.items()}
    x, y, g = spread(mesh, X, axes), spread(mesh, Y, axes), spread(mesh, COTANGENT, axes[:1])
    arrays = {k: v for k, v in given.items() if isinstance(v, jax.Array)}
    seen = jax.jit(lambda x, y, g, arrays: everything(x, y, g, {**given, **arrays}))(x, y, g, arrays)
    for place, (one, right) in enumerate(zip(seen, everything(X, Y, COTANGENT, options), strict=True)):
        same(one, right, f"{place} under jit")
    if option != "arrays":
        for place, (one, right) in enumerate(
            zip(eagerly(x, y, g, given), eagerly(X, Y, COTANGENT, options), strict=True)
        ):
            same(one, right, f"{place}")


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_inside_a_mesh_context(kind: str) -> None:
    """JAX requires a mesh context to differentiate on an Explicit mesh."""
    mesh, axes = mesh_of(kind), ("a", "b")
    weight = [1.0, 2.0, 3.0, 4.0]
    with jax.set_mesh(mesh):
        x, y, where = (spread(mesh, v, axes) for v in (X, Y, WHERE))
        seen = jax.jit(jax.value_and_grad(lambda x, y, where: loss(x, y, weight, where=where)))(x, y, where)
        for one, right in zip(seen, mlsm.value_and_grad(X, Y, weight, where=WHERE), strict=True):
            same(one, right, "differentiated")
        same(mlsm.grad(x, y, weight, where=where), mlsm.grad(X, Y, weight, where=WHERE), "grad")


@pytest.mark.parametrize("shape", [(8,), (4, 2, 8)])
def test_other_ranks(shape: tuple[int, ...]) -> None:
    """One axis, and two batch axes; sharded along the first or the last, and with the classes first."""
    mesh = mesh_of("Explicit")
    x = np.linspace(-3, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    y = (np.arange(x.size) % 3 == 0).reshape(shape)
    for spec in (("a", *(None,) * (x.ndim - 1)), (*(None,) * (x.ndim - 1), "b")):
        own = spread(mesh, x, spec), spread(mesh, y, spec)
        same(mlsm.grad(*own, axis=0), mlsm.grad(x, y, axis=0), "grad")
        same(loss(*own, pos_weight=2.0), loss(x, y, pos_weight=2.0), "loss")


def test_shard_map() -> None:
    """Each device has its own rows, and the caller averages their means."""
    mesh, rows = mesh_of("Auto"), jax.sharding.PartitionSpec(("a", "b"))

    def step(x: Any, y: Any) -> Any:
        value, gradient = mlsm.value_and_grad(x, y, [1.0, 2.0, 3.0, 4.0])
        return jax.lax.pmean(value, ("a", "b")), gradient / 4

    mapped = jax.shard_map(step, mesh=mesh, in_specs=(rows, rows), out_specs=(jax.sharding.PartitionSpec(), rows))
    right = mlsm.value_and_grad(X, Y, [1.0, 2.0, 3.0, 4.0])
    for seen, expected in zip(mapped(X, Y), right, strict=True):
        same(seen, expected, "shard_map")


def test_a_weight_that_jax_placed_is_moved_to_the_input() -> None:
    mesh = mesh_of("Auto")
    x, y = spread(mesh, X, ("a", None)), spread(mesh, Y, ("a", None))
    same(loss(x, y, jnp.asarray(CLASSES)), loss(X, Y, CLASSES), "weight")
    with pytest.raises(
        ValueError, match="incompatible devices"
    ):  # JAX decides about one that the caller has placed elsewhere
        loss(x, y, jax.device_put(CLASSES, jax.devices("cpu")[1]))


def test_arrays_on_two_devices_are_refused_by_name() -> None:
    one, other = jax.devices("cpu")[:2]
    with pytest.raises(ValueError, match=r"`target` .*device"):
        loss(jax.device_put(X, one), jax.device_put(Y, other))


def test_a_gradient_stays_where_its_logits_are() -> None:
    for kind in ("Auto", "Explicit"):
        mesh = mesh_of(kind)
        x, y = spread(mesh, X, ("a", "b")), spread(mesh, Y, ("a", "b"))
        for result in (mlsm.grad(x, y), mlsm.hessian_diag(x, y), mlsm.value_and_grad(x, y, 2.0)[1]):
            assert result.sharding.is_equivalent_to(x.sharding, 2)
