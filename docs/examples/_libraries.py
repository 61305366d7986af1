"""The same loss and gradient with every array library that is installed, compared with the exact result.

For comparison, PyTorch's own two losses are measured too, with PyTorch's derivatives. A library that is not installed
is reported. To add a library, add a function.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import mlsm
from mlsm_conformance import oracle
from mlsm_conformance.backends import find
from mlsm_conformance.tensors import Case, Tensor


class Contender(NamedTuple):
    """One library on one device."""

    label: str
    device: str
    make: Callable[[np.ndarray], Any]
    settle: Callable[[Any], Any] = lambda results: results  # waits for the results, or computes lazy ones
    read: Callable[[Any], np.ndarray] = np.asarray
    call: Callable[..., Any] = mlsm.value_and_grad
    dtypes: tuple[str, ...] = ("float32", "float64")
    by: str | None = None  # the name of another library's loss; None for mlsm's


class Row(NamedTuple):
    """The measurements of one contender in one dtype."""

    label: str
    device: str
    dtype: str
    by: str
    seconds: float
    value: float
    value_ulp: float
    grad_ulp: float


# ---------------------------------------------------------------- the libraries


def _numpy() -> Iterator[Contender]:
    yield Contender("numpy", "cpu", np.asarray)


def _torch() -> Iterator[Contender]:
    import torch
    from torch.nn import functional

    def differentiated(loss: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, y: Any) -> Any:
            x = x.detach().requires_grad_()
            value = loss(x, y.to(x.dtype))
            value.backward()
            return value.detach(), x.grad

        return call

    tensor = find("torch").of_numpy
    yield Contender("torch", "cpu", tensor)
    for name, theirs in (
        ("torch's own loss", functional.multilabel_soft_margin_loss),
        ("torch's own BCE", functional.binary_cross_entropy_with_logits),
    ):
        yield Contender("torch", "cpu", tensor, call=differentiated(theirs), by=name)
    if torch.cuda.is_available():

        def settle(results: Any) -> Any:
            torch.cuda.synchronize()
            return results

        backend = find("torch-cuda")
        yield Contender("torch", "cuda", backend.of_numpy, settle, backend.to_numpy)


def _jax() -> Iterator[Contender]:
    import jax

    # float32 only: JAX has no float64 unless the application switches it on.
    device = jax.devices()[0].platform
    plain = Contender("jax", device, find("jax").of_numpy, jax.block_until_ready, dtypes=("float32",))
    yield plain
    yield plain._replace(label="jax, jitted", call=jax.jit(mlsm.value_and_grad))


def _dask() -> Iterator[Contender]:
    import dask
    import dask.array

    yield Contender(
        "dask, 4 chunks",
        "cpu",
        lambda a: dask.array.from_array(a, chunks=(-(-a.shape[0] // 4), a.shape[1])),
        lambda results: dask.compute(*results),
    )


def _array_api_strict() -> Iterator[Contender]:
    yield Contender("array-api-strict", "cpu", find("array-api-strict").of_numpy)


def _cupy() -> Iterator[Contender]:
    import cupy

    if cupy.cuda.is_available():

        def settle(results: Any) -> Any:
            cupy.cuda.get_current_stream().synchronize()
            return results

        backend = find("cupy")
        yield Contender("cupy", "cuda", backend.of_numpy, settle, backend.to_numpy)


LIBRARIES = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
    "dask": _dask,
    "array_api_strict": _array_api_strict,
    "cupy": _cupy,
}


# ---------------------------------------------------------------- the exact answer


def exact(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss and its gradient by the oracle of the conformance suite: 42 digits, rounded once to float64."""
    input = Tensor(logits.shape, tuple(logits.ravel().tolist()), "float32")
    case = Case("digits", input, Tensor(target.shape, tuple(target.ravel().tolist()), "uint8"))
    (value,) = oracle.loss(case, "mean").values
    return value, np.asarray(oracle.grad(case, "mean").values).reshape(logits.shape)


def ulps(seen: np.ndarray, answer: np.ndarray | float) -> float:
    """The largest error of `seen`, in units in the last place of the exact answer in the dtype of `seen`."""
    spacing = np.spacing(np.abs(answer).astype(seen.dtype))
    return float(np.max(np.abs(seen.astype(np.float64) - answer) / spacing.astype(np.float64)))


# ---------------------------------------------------------------- the comparison


def seconds(run: Callable[[], Any], budget: float = 0.15) -> float:
    """The median time of a call, after a first call that is not counted (it may compile)."""
    run()
    times: list[float] = []
    while sum(times) < budget or len(times) < 3:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(
    contender: Contender, logits: np.ndarray, target: np.ndarray, dtype: str, answer: tuple[float, np.ndarray]
) -> Row:
    """One row of the table. `logits` are float32 numbers, so every dtype has the same exact answer."""
    x, y = contender.make(logits.astype(dtype)), contender.make(target)
    value, grad = (contender.read(result) for result in contender.settle(contender.call(x, y)))
    return Row(
        contender.label,
        contender.device,
        dtype,
        contender.by or f"mlsm, kernel {mlsm.explain(x, y).chosen}",
        seconds(lambda: contender.settle(contender.call(x, y))),
        float(value),
        ulps(value, answer[0]),
        ulps(grad, answer[1]),
    )


def compare(logits: np.ndarray, target: np.ndarray) -> Iterator[Row | str]:
    """A row for every installed library and dtype, and a sentence for each library that is missing, one at a time."""
    answer = exact(logits, target)
    for package, contenders in LIBRARIES.items():
        if find_spec(package) is None:
            yield f"({package}: not installed)"
            continue
        found = list(contenders())
        if not found:
            yield f"({package}: installed, but there is no CUDA device)"
        for contender in found:
            for dtype in contender.dtypes:
                yield measure(contender, logits, target, dtype, answer)


WIDTHS = (16, 6, 7, 20, 9, 20, 12, 12)
RIGHT = (4, 6, 7)  # columns of numbers
HEAD = ("library", "device", "dtype", "computed by", "time", "loss", "loss off by", "grad off by")


def _aligned(cells: tuple[str, ...]) -> str:
    padded = (c.rjust(w) if i in RIGHT else c.ljust(w) for i, (c, w) in enumerate(zip(cells, WIDTHS, strict=True)))
    return "  ".join(padded).rstrip()


def head() -> str:
    """The first two lines of the table."""
    return "\n".join((_aligned(HEAD), "  ".join("-" * width for width in WIDTHS)))


def line(row: Row) -> str:
    """One row as aligned text."""
    return _aligned(
        (
            row.label,
            row.device,
            row.dtype,
            row.by,
            f"{1e6 * row.seconds:,.0f} µs",
            f"{row.value:.17g}" if row.dtype == "float64" else f"{row.value:.9g}",
            f"{_short(row.value_ulp)} ULP",
            f"{_short(row.grad_ulp)} ULP",
        )
    )


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 1000 else f"{number:.0e}".replace("e+0", "e").replace("e+", "e")
