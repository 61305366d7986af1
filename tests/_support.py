"""What the tests share: arrays of every installed library, closed forms, and the one comparison that raises.

Refuses absolute tolerances: `check` takes what each element may be off by, and special values must be exactly right.
"""

import importlib.util
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from mlsm_conformance import oracle
from mlsm_conformance.formats import FORMATS
from mlsm_conformance.tensors import Case, Tensor

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KERNELS_PRESENT = importlib.util.find_spec("mlsm.kernels") is not None
needs_kernels = pytest.mark.skipif(not KERNELS_PRESENT, reason="mlsm/kernels/ is deleted: there is no kernel to test")

# ---------------------------------------------------------------- libraries


class Library(NamedTuple):
    """Arrays of one library in one configuration: how they are made from NumPy's and read back, and where."""

    name: str
    make: Callable[[Any], Any]
    read: Callable[[Any], Any]  # -> a NumPy array, exactly
    session: Callable[[], AbstractContextManager[Any]]
    dtypes: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name


def _torch_make(a: Any) -> Any:
    import torch

    a = np.array(a)
    if a.dtype == BFLOAT16:  # PyTorch does not know the dtype of ml_dtypes: hand over the bits
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def _torch_read(a: Any) -> Any:
    import torch

    a = a.detach()
    return a.view(torch.int16).numpy().view(BFLOAT16) if a.dtype == torch.bfloat16 else a.numpy()


def _jax_make(a: Any) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(np.asarray(a))


def _x64(on: bool) -> Callable[[], AbstractContextManager[Any]]:
    def session() -> AbstractContextManager[Any]:
        import jax

        state: AbstractContextManager[Any] = jax.enable_x64(on)
        return state

    return session


def _dask_make(a: Any) -> Any:
    import dask.array as da

    a = np.asarray(a)
    return da.from_array(a, chunks=tuple(max(1, (n + 1) // 2) for n in a.shape))


def _dask_read(a: Any) -> Any:
    with np.errstate(all="ignore"):  # a lazy graph runs under the state of the thread that computes it
        return np.asarray(a.compute(scheduler="synchronous"))


def _strict_make(a: Any) -> Any:
    import array_api_strict

    return array_api_strict.asarray(np.asarray(a))


_ALL = ("float16", "bfloat16", "float32", "float64")
_WIDE = ("float32", "float64")
_KNOWN = {
    "numpy": Library("numpy", np.asarray, np.asarray, lambda: np.errstate(all="raise"), _ALL),
    "torch": Library("torch", _torch_make, _torch_read, nullcontext, _ALL),
    "jax": Library("jax", _jax_make, np.asarray, _x64(False), _ALL[:3]),
    "jax-x64": Library("jax-x64", _jax_make, np.asarray, _x64(True), _ALL),
    "dask": Library("dask", _dask_make, _dask_read, nullcontext, ("float16", *_WIDE)),
    "array-api-strict": Library("array-api-strict", _strict_make, np.asarray, nullcontext, _WIDE),
}
_MODULES = {"array-api-strict": "array_api_strict", "jax-x64": "jax"}
LIBRARIES = tuple(_KNOWN)


# Each library the way a call reaches it by default, and by the reference where a kernel would come first.
ROUTES = {name: (name, None) for name in LIBRARIES} | {
    f"{name}-generic": (name, "generic") for name in ("numpy", "torch", "dask")
}
Route = tuple[Library, str | None]


def find(name: str) -> Library:
    """The library of this name, or a skip that says what is missing."""
    module = _MODULES.get(name, name)
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    return _KNOWN[name]


def numpy_dtype(name: str) -> Any:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


# ---------------------------------------------------------------- comparison


def spacing(values: Any, dtype: str) -> Any:
    """One ULP of `dtype` at each (float64) value; at zero and below the normal range, the smallest spacing."""
    form = FORMATS[dtype]
    _, exponent = np.frexp(np.abs(np.asarray(values, dtype=np.float64)))
    exponent = np.where(np.asarray(values) == 0, form.emin, np.clip(exponent - 1, form.emin, form.emax))
    return np.ldexp(1.0, exponent - form.precision + 1)


def check(observed: Any, exact: Any, allowed: Any, what: str = "") -> None:
    """Raise unless each observed element is within `allowed` of the exact one; NaN and infinities must be the same."""
    observed, exact = np.asarray(observed, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    assert observed.shape == exact.shape, f"{what}: shape {observed.shape}, expected {exact.shape}"
    with np.errstate(all="ignore"):
        finite = np.isfinite(exact)
        same = (observed == exact) | (np.isnan(observed) & np.isnan(exact))
        off = np.where(same, 0.0, np.where(finite & np.isfinite(observed), np.abs(observed - exact), np.inf))
        bad = ~(off <= allowed)
    if bad.any():
        with np.errstate(all="ignore"):
            ratio = np.where(bad, off / np.maximum(np.broadcast_to(allowed, off.shape), 5e-324), -1)
            ratio = np.where(np.isnan(ratio), np.inf, ratio)
        place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        bound = float(np.broadcast_to(allowed, off.shape)[place])
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.size} are off, worst at {tuple(map(int, place))}: "
            f"{observed[place]!r}, exactly {exact[place]!r}, allowed {bound!r}"
        )


def identical(a: Any, b: Any, what: str = "") -> None:
    """Raise unless two NumPy arrays have the same dtype, shape and bits."""
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{what}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    assert a.tobytes() == b.tobytes(), f"{what}: bits differ: {a!r} and {b!r}"


# ---------------------------------------------------------------- what is right


def tensor(a: Any) -> Tensor:
    """A NumPy array as the suite's data."""
    a = np.asarray(a)
    return Tensor(
        a.shape,
        tuple(a.astype(np.float64).ravel().tolist()) if a.dtype.kind in "fV" else tuple(a.ravel().tolist()),
        a.dtype.name,
    )


def case(x: Any, y: Any, w: Any = None, p: Any = None, m: Any = None, eps: float = 0.0, axis: int = -1) -> Case:
    """One call as the suite's oracle takes it; NumPy arrays become tensors, numbers and lists stay."""
    wrapped = [tensor(v) if isinstance(v, np.ndarray) else v for v in (w, p, m)]
    return Case("test", tensor(x), tensor(y), wrapped[0], wrapped[1], wrapped[2], eps, axis)


def answer(a: oracle.Answer) -> Any:
    return np.asarray(a.values, dtype=np.float64).reshape(a.shape)


class Closed(NamedTuple):
    """One element's value, gradient by (x, y, w, p) and 4x4 Hessian, from the definition with limits taken."""

    value: float
    gradient: tuple[float, float, float, float]
    hessian: tuple[tuple[float, float, float, float], ...]


def closed(x: float, y: float, w: float, p: float) -> Closed:
    """l = w*(p*y*softplus(-x) + (1-y)*softplus(x)); an infinite softplus behind a zero coefficient is absent."""

    def softplus(z: float) -> float:
        return max(z, 0.0) + math.log1p(math.exp(-abs(z)))

    def times(coefficient: float, v: float) -> float:
        return 0.0 if coefficient == 0 and math.isinf(v) else coefficient * v

    up, down = softplus(x), softplus(-x)
    e = math.exp(-abs(x))
    small, large = e / (1 + e), 1 / (1 + e)
    on, off = (large, small) if x >= 0 else (small, large)  # sigma(x), sigma(-x)
    bracket = times(p * y, down) + times(1 - y, up)
    by_y = (p - 1) * math.log1p(e) - (x if x >= 0 else p * x)
    by_x = (1 - y) * on - p * y * off
    h = [[0.0] * 4 for _ in range(4)]
    h[0][0] = w * ((1 - y) + p * y) * on * off
    h[0][1] = w * (-on - p * off)
    h[0][2], h[0][3] = by_x, -w * y * off
    h[1][2], h[1][3] = by_y, w * down
    h[2][3] = times(y, down)
    for i in range(4):
        for j in range(i):
            h[i][j] = h[j][i]
    rows = tuple((r[0], r[1], r[2], r[3]) for r in h)
    return Closed(w * bracket, (w * by_x, w * by_y, bracket, w * times(y, down)), rows)
