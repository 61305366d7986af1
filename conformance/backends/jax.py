"""JAX's arrays, with and without x64 and under jit, and JAX's own transforms.  Makes, reads and differentiates;
judges nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..tensors import Case, Tensor
from .base import Backend, Bulk, NotInstalled, Unsupported, several_host_devices
from .numpy import host

several_host_devices()  # JAX reads it when it makes its first array, not when it is imported


def _by_rows(matrix: Any) -> Any:
    from jax.experimental import sparse as experimental

    sparse: Any = experimental  # as Any: JAX types only some of these
    return sparse.BCSR.from_bcoo(matrix)


class JAX(Backend):
    """JAX by default: a request for float64 gives float32 with a warning."""

    name = "jax"
    library = "jax"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"float16", "bfloat16", "watched", "autograd", "forward", "vmap", "jit", "flushes_subnormals"}
    )
    slow: ClassVar[float] = 64.0  # every operation is compiled once for every shape
    known: ClassVar[Mapping[str, str]] = {
        "transforms.target-at-infinity": "plain differentiation sees 0 * inf, which the guard makes 0; `grad` says it"
    }
    x64: ClassVar[bool] = False

    def __init__(self) -> None:
        self.device = str(jax.devices()[0])

    def session(self) -> contextlib.AbstractContextManager[Any]:
        switch: contextlib.AbstractContextManager[Any] = jax.enable_x64(self.x64)
        return switch

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if layout != "C":
            raise Unsupported("JAX decides its layouts itself")
        if not self.x64 and tensor.dtype in ("float64", "int64", "uint64"):
            raise Unsupported(f"JAX without x64 has no {tensor.dtype}")
        return self.of_numpy(host(tensor.values, tensor.shape, tensor.dtype))

    def of_numpy(self, array: Any) -> Any:
        return jnp.asarray(array)

    def device_of(self, array: Any) -> str:
        return str(array.device)

    def owns(self, array: Any) -> bool:
        return isinstance(array, jax.Array)

    def namespace(self) -> Any:
        return jnp

    def force(self, result: Any) -> Any:
        return jax.block_until_ready(result)  # type: ignore[no-untyped-call]  # JAX leaves it untyped

    def versions(self) -> dict[str, str]:
        from .base import installed_versions

        return installed_versions("jax", "jaxlib")

    target_remedies: ClassVar[Any] = {"BCOO": ("BCSR.from_bcoo", _by_rows)}

    def formats(self, tensor: Tensor) -> dict[str, tuple[Any, str, Callable[[Any], Any]]]:
        from jax.experimental import sparse as experimental

        sparse: Any = experimental  # as Any: JAX types only some of these
        a = self.make(tensor)  # bools become integers in `todense`, which is a sum of entries
        kinds: Any = sparse.BCOO, sparse.BCSR  # as Any: JAX leaves them untyped
        made = {kind.__name__: kind.fromdense(a) for kind in kinds}
        return {name: (value, ".todense()", lambda v: v.todense().astype(a.dtype)) for name, value in made.items()}

    def write(self, array: Any, value: float) -> None:
        try:
            array[...] = value
        except TypeError as error:
            raise Unsupported(str(error)) from error

    def unseen(self, function: Callable[..., Any], *arrays: Any) -> Any:
        # An abstract value has no value: code that looks at one gets an error, on every platform.  (A transfer guard
        # sees nothing on the CPU, where host and device are one memory.)
        return jax.eval_shape(function, *arrays)

    def vjp(self, function: Callable[..., Any], arrays: Sequence[Any], index: int, cotangent: Any = None) -> Any:
        def of_one(a: Any) -> Any:
            return function(*arrays[:index], a, *arrays[index + 1 :])

        value, pullback = jax.vjp(of_one, arrays[index])
        (result,) = pullback(jnp.ones_like(value) if cotangent is None else cotangent)
        return result

    def jvp(self, function: Callable[[Any], Any], at: Any, tangent: Any) -> Any:
        return jax.jvp(function, (at,), (tangent,))[1]

    def vmap(self, function: Callable[..., Any], *arrays: Any) -> Any:
        return jax.vmap(function)(*arrays)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(function)


class JAXX64(JAX):
    """With 64-bit types switched on."""

    name = "jax-x64"
    capabilities: ClassVar[frozenset[str]] = JAX.capabilities | {"float64"}
    x64: ClassVar[bool] = True

    @property
    def dtypes(self) -> tuple[str, ...]:
        # The switch changes the dtype of sums and of float64; the half precisions are judged without it.
        return ("float32", "float64")


class JAXJit(JAX):
    """Every call runs under `jax.jit`: operations fuse, and XLA may contract or reorder them."""

    name = "jax-jit"
    slow: ClassVar[float] = 64.0  # one compilation for every call

    def call(self, function: Any, *arrays: Any) -> Any:
        return self.of_case(function, *arrays) if isinstance(function, Case) else jax.jit(function)(*arrays)


class JAXSharded(JAX):
    """Sharded over four devices of the CPU: the first axis over two, the last over two, if their lengths are even."""

    name = "jax-sharded"
    slow: ClassVar[float] = 192.0  # every operation is also compiled for every sharding
    kind: ClassVar[str] = "Auto"

    def __init__(self) -> None:
        devices = jax.devices("cpu")
        if len(devices) < 4:
            raise NotInstalled(f"{self.name}: JAX was started with {len(devices)} devices of the CPU, not with four")
        types = (getattr(jax.sharding.AxisType, self.kind),) * 2
        self.mesh = jax.make_mesh((2, 2), ("first", "last"), axis_types=types, devices=devices[:4])
        self.device = "four of the CPU"

    def spec(self, shape: tuple[int, ...]) -> tuple[str | None, ...]:
        """The axis of the mesh over which each axis of an array is sharded; a single axis may be rows or classes."""
        wanted = ["first", *[None] * (len(shape) - 2), "last"] if len(shape) > 1 else [None] * len(shape)
        return tuple(None if n % 2 or not n else name for n, name in zip(shape, wanted, strict=True))

    def serves(self, case: Case) -> bool:
        # A case that cannot be sharded is judged by the other variants.
        return super().serves(case) and any(self.spec(case.input.shape))

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        return self.spread(tensor, self.spec(tensor.shape), layout)

    def spread(self, tensor: Tensor | Bulk, spec: Sequence[str | None], layout: str = "C") -> Any:
        """The array sharded over these axes of the mesh."""
        placed = jax.sharding.PartitionSpec(*spec)  # type: ignore[no-untyped-call]
        return jax.device_put(super().make(tensor, layout), jax.sharding.NamedSharding(self.mesh, placed))

    def cotangent(self, tensor: Tensor, case: Case) -> Any:
        # Sharded as the row losses are: an Explicit mesh refuses two factors of a product on different axes.
        spec = list(self.spec(case.input.shape))
        del spec[case.axis]
        return self.spread(tensor, spec)

    def device_of(self, array: Any) -> str:
        return self.device if len(array.sharding.device_set) == 4 else str(array.sharding)


class JAXShardedExplicit(JAXSharded):
    """On an Explicit mesh, where an array's type contains its sharding, and no data are moved implicitly."""

    name = "jax-sharded-explicit"
    kind: ClassVar[str] = "Explicit"
    known: ClassVar[Mapping[str, str]] = {
        **JAX.known,
        **{
            f"labels.{name}": "JAX asks of every scatter and gather on such a mesh how its result is to be spread"
            for name in ("values", "set", "head", "head-blocks")
        },
    }

    def formats(self, tensor: Tensor) -> dict[str, tuple[Any, str, Callable[[Any], Any]]]:
        return {}  # JAX does not make a sparse matrix from an array on such a mesh

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        with super().session(), jax.set_mesh(self.mesh):
            yield
