"""Helpers of all tests: arrays of every installed library, closed forms, and the only comparison that raises.

There are no absolute tolerances: `check` takes a bound for each element, and special values must be exactly right.
"""

import contextlib
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import mlsm
from mlsm_conformance import backends, oracle
from mlsm_conformance.backends import Backend
from mlsm_conformance.backends.numpy import laid_out
from mlsm_conformance.formats import FORMATS
from mlsm_conformance.tensors import Case, Tensor

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KERNELS_PRESENT = importlib.util.find_spec("mlsm.kernels") is not None
needs_kernels = pytest.mark.skipif(not KERNELS_PRESENT, reason="mlsm/kernels/ is deleted: there is no kernel to test")

# ---------------------------------------------------------------- libraries


class Library(NamedTuple):
    """One backend of the suite for the tests: converts from NumPy arrays and back; floating-point flags are errors if
    the library has them."""

    name: str
    backend: Backend
    dtypes: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name

    def make(self, a: Any) -> Any:
        """An array of the library with the values of `np.asarray(a)`."""
        return self.backend.of_numpy(np.asarray(a))

    def read(self, a: Any) -> Any:
        """A NumPy array, exactly."""
        return self.backend.to_numpy(a)

    def session(self) -> AbstractContextManager[Any]:
        return self.backend.flags() if self.name == "numpy" else self.backend.session()


_WIDE = ("float32", "float64")
_ALL = ("float16", "bfloat16", *_WIDE)
# The suite's backend, and the dtypes. (The Dask arrays are chunked along every axis.)
_KNOWN = {
    "numpy": ("numpy-bfloat16", _ALL),
    "torch": ("torch", _ALL),
    "jax": ("jax", _ALL[:3]),
    "jax-x64": ("jax-x64", _ALL),
    "dask": ("dask-chunked-class", ("float16", *_WIDE)),
    "array-api-strict": ("array-api-strict", _WIDE),
}
LIBRARIES = tuple(_KNOWN)


# Each library with the default choice of kernel, and with the reference if a kernel would be chosen.
ROUTES = {name: (name, None) for name in LIBRARIES} | {
    f"{name}-generic": (name, "generic") for name in ("numpy", "torch", "dask")
}
Route = tuple[Library, str | None]


def find(name: str) -> Library:
    """The library of this name, or a skip that names what is missing."""
    backend, dtypes = _KNOWN[name]
    try:
        return Library(name, backends.find(backend), dtypes)
    except backends.NotInstalled as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def nothing_computed() -> Iterator[None]:
    """Makes Dask's scheduler raise while graphs are built."""
    import dask

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a graph was computed while another was built")

    with dask.config.set(scheduler=never):
        yield


def python(code: str, *arguments: str, cwd: Path | None = None) -> str:
    """The output of a fresh interpreter in which warnings are errors."""
    # The child writes bytecode even if this process does not: without it every import compiles.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def numpy_dtype(name: str) -> Any:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def unaligned(a: Any) -> Any:
    """The same NumPy array at an odd address."""
    return laid_out(a, "unaligned")


def read_only(a: Any) -> Any:
    """A read-only copy."""
    return laid_out(a, "read_only")


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


# ---------------------------------------------------------------- questions


def everything(
    input: Any,
    target: Any,
    weight: Any = None,
    pos_weight: Any = None,
    where: Any = None,
    *,
    reduction: Any = "mean",
    **options: Any,
) -> Iterator[tuple[str, Any]]:
    """Every public result of these operands, by name; the derivatives by one reduction."""
    options |= {"input": input, "target": target, "weight": weight, "pos_weight": pos_weight, "where": where}
    for r in ("none", "mean", "sum"):
        yield r, mlsm.multilabel_soft_margin_loss(**options, reduction=r)
    value, gradient = mlsm.value_and_grad(**options)
    yield "value_and_grad, value", value
    yield "value_and_grad, gradient", gradient
    yield "hessian_diag", mlsm.hessian_diag(**options)
    for wrt in ("input", "target", "weight", "pos_weight"):
        if options[wrt] is not None:
            yield wrt, mlsm.grad(**options, wrt=wrt, reduction=reduction)


def padded(y: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """The positives of a dense target: indices in any order among -1, and their values (an unrelated number for each
    -1)."""
    width = max(1, int((y != 0).sum(-1).max())) + 2
    indices = np.full((y.shape[0], width), -1, np.int64)
    values = np.full(indices.shape, 7, y.dtype)
    for i, row in enumerate(y):
        (columns,) = np.nonzero(row)
        places = rng.permutation(width)[: columns.size]
        indices[i, places], values[i, places] = columns, row[columns]
    return indices, values


# ---------------------------------------------------------------- right answers


def tensor(a: Any) -> Tensor:
    """A NumPy array as a `Tensor` of the suite."""
    a = np.asarray(a)
    return Tensor(
        a.shape,
        tuple(a.astype(np.float64).ravel().tolist()) if a.dtype.kind in "fV" else tuple(a.ravel().tolist()),
        a.dtype.name,
    )


def case(x: Any, y: Any, w: Any = None, p: Any = None, m: Any = None, eps: float = 0.0, axis: int = -1) -> Case:
    """One call as a `Case` for the suite's oracle; NumPy arrays become tensors, numbers and lists stay."""
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
    """l = w*(p*y*softplus(-x) + (1-y)*softplus(x)), where 0 times an infinite softplus is 0."""

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


def differentiated(x: float, y: float, w: float, p: float) -> tuple[float, Any, Any]:
    """The closed form, and the result of plain differentiation at a matched infinity, (+inf, 1) and (-inf, 0).

    The guard that makes the loss 0 there selects a constant. So differentiation for the target, or for the target and
    another argument, gives 0, while `mlsm.grad` gives the formula's own -(1-eps)*w*x. Both are tested.
    """
    exact = closed(x, y, w, p)
    gradient, hessian = np.asarray(exact.gradient), np.asarray(exact.hessian)
    if (x, y) in ((math.inf, 1.0), (-math.inf, 0.0)):
        gradient[1] = 0
        hessian[1, :] = hessian[:, 1] = 0
    return exact.value, gradient, hessian
