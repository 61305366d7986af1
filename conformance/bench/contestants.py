"""The contestants: mlsm through its public functions on NumPy, PyTorch, JAX, Dask and CuPy, and those libraries' own
losses.

Each candidate is made only when it is about to run; a library is imported only here, and only after it was found to be
installed. Measures nothing. Every candidate returns its loss, waits for the device, and drops its gradient before it
returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlsm

from ..backends import find
from .candidate import Candidate, Work, installed, library
from .cases import PLAIN, Case, Data, numpy_dtype
from .heads import numpy_heads, torch_heads


def _kernels(x: Any, y: Any, **options: Any) -> list[tuple[str, str | None]]:
    """(kernel, value of `kernel=`): the kernel that the dispatch chooses, then each other one that can be forced."""
    chosen = mlsm.explain(x, y, **options)
    found: list[tuple[str, str | None]] = [(chosen.chosen, None)]
    for name, _ in chosen.reasons:
        try:
            mlsm.explain(x, y, kernel=name, **options)
        except ValueError:
            continue  # it cannot serve this call; `python -m mlsm` gives the reason
        found.append((name, name))
    return found


def _options(data: Data, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The arguments of a variant, as arrays of one library."""
    given = {"where": data.where, "weight": data.weight}
    return {argument: convert(value) for argument, value in given.items() if value is not None}


def value_of(results: Any) -> Any:
    """The loss among the results of a call: the first of several, or the only one."""
    return results[0] if isinstance(results, tuple) else results


def _ours(
    case: Case, name: str, x: Any, y: Any, finish: Callable[[Any], Any], options: dict[str, Any] | None = None
) -> Iterator[Candidate]:
    """mlsm on arrays of one library: `finish` waits for the results and returns the loss."""
    options = options or {}
    if case.variant == "for weight":

        def for_weight() -> Any:
            # The loss is linear in the weight, whose elements are 1 here.
            return finish(mlsm.grad(x, y, wrt="weight", **options).sum())

        yield Candidate(f"mlsm, {name}", name, "value_and_grad", lambda: for_weight, True)
        return
    function: Any = mlsm.value_and_grad if case.gradient else mlsm.multilabel_soft_margin_loss
    way = "value_and_grad" if case.gradient else "loss"

    def work_of(kernel: str | None) -> Work:
        return lambda: finish(function(x, y, kernel=kernel, **options))

    for kernel, forced in _kernels(x, y, **options):
        make = partial(work_of, forced)
        yield Candidate(f"mlsm, {name}, {kernel}", name, way, make, True, kernel, bool(forced))


def _plain(case: Case, name: str, xp: Any, x: Any, y: Any, finish: Callable[[Any], Any]) -> Candidate:
    """The textbook expression, in the functions of one library."""

    def work() -> Any:
        value = xp.mean(xp.maximum(x, 0) - x * y + xp.log1p(xp.exp(-xp.abs(x))))
        return finish((value, (1 / (1 + xp.exp(-x)) - y) / x.size) if case.gradient else value)

    way = "value_and_grad" if case.gradient else "loss"
    return Candidate(f"plain expression, {name}", name, way, lambda: work)


def differentiated(function: Callable[[Any, Any], Any], leaf: Any, y: Any, wait: Callable[[], None]) -> Work:
    """A loss of tensors, and PyTorch's own backward pass if the logits require a gradient, which is dropped."""

    def loss() -> Any:
        value = function(leaf, y)
        wait()
        return value

    def backward() -> Any:
        value = function(leaf, y)
        value.backward()
        leaf.grad = None
        wait()
        return value.detach()

    return backward if leaf.requires_grad else loss


def numpy_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """mlsm on NumPy arrays, and the textbook expression."""
    if device != "cpu":
        return
    import numpy as np

    if data.W is not None:
        yield from numpy_heads(case, data)
        return
    x, y = data.x, data.y
    ours = y if data.labels is None else mlsm.Labels(data.labels, num_classes=case.shape[1])
    yield from _ours(case, "numpy", x, ours, value_of, _options(data, lambda value: value))
    if data.where is None and data.weight is None:  # there is no usual expression for these
        yield _plain(case, "numpy", np, x, y, value_of)


def cupy_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """The same on CuPy arrays."""
    if device == "cpu":
        return
    cp, backend = library("cupy"), find("cupy")
    x, y = map(backend.of_numpy, (data.x, data.y))

    def finish(results: Any) -> Any:
        cp.cuda.get_current_stream().synchronize()
        return value_of(results)

    yield from _ours(case, "cupy", x, y, finish)
    yield _plain(case, "cupy", cp, x, y, finish)


def torch_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """mlsm on tensors, with its own gradient and through `backward()`; torch's losses, eager and compiled."""
    torch = library("torch")
    functional = torch.nn.functional
    # Code compiled for the shapes of earlier cases counts against dynamo's limit of recompilations.
    torch._dynamo.reset()

    tensor = find("torch" if device == "cpu" else "torch-cuda").of_numpy
    if data.W is not None:
        yield from torch_heads(case, data, tensor, device)
        return
    x, y = map(tensor, (data.x, data.y))
    labels = y if data.labels is None else mlsm.Labels(tensor(data.labels), num_classes=case.shape[1])
    leaf = x.detach().requires_grad_(case.gradient)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def finish(results: Any) -> Any:
        wait()
        return value_of(results)

    def work_of(function: Callable[[Any, Any], Any]) -> Work:
        return differentiated(function, leaf, y, wait)

    options = _options(data, tensor)
    yield from _ours(case, "torch", x, labels, finish, options)
    way = "backward" if case.gradient else "loss"
    if case.variant == "for weight":
        return
    if case.gradient:
        for kernel, forced in _kernels(leaf, labels, **options):

            def ours(a: Any, b: Any, forced: str | None = forced) -> Any:
                return mlsm.multilabel_soft_margin_loss(a, labels, kernel=forced, **options)

            name = f"mlsm, torch, {kernel}, backward"
            yield Candidate(name, "torch", way, partial(work_of, ours), True, kernel, bool(forced))
    theirs: dict[str, Callable[..., Any]] = {
        "torch mlsm": functional.multilabel_soft_margin_loss,
        "torch BCE-with-logits": functional.binary_cross_entropy_with_logits,
    }
    if "weight" in options:
        theirs = {name: partial(function, weight=options["weight"]) for name, function in theirs.items()}
    if "where" in options:
        where = options["where"]
        counts = where.sum(-1).clamp(min=1)

        def by_hand(a: Any, b: Any) -> Any:
            elements = functional.binary_cross_entropy_with_logits(a, b, reduction="none")
            return ((elements * where).sum(-1) / counts).mean()

        theirs = {"torch BCE-with-logits": by_hand}
    for name, function in theirs.items():
        yield Candidate(name, "torch", way, partial(work_of, function))
    if case.variant != PLAIN:
        return

    def make_compiled(function: Callable[..., Any]) -> Work:
        return work_of(torch.compile(function, dynamic=False))

    for name, function in {"mlsm, torch": mlsm.multilabel_soft_margin_loss, **theirs}.items():
        own = name.startswith("mlsm")
        kernel, make = "generic" if own else "", partial(make_compiled, function)
        yield Candidate(f"{name} compiled", "torch", way, make, own, kernel, compiled=True)


def jax_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """mlsm under `jax.jit`, the plain expression and optax; mlsm's own gradient and that of `jax.value_and_grad`."""
    jax, jnp = library("jax"), library("jax.numpy")
    # Only float64 needs x64, which would change the dtype in which float32 code computes its sums.
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    where = jax.devices("cpu")[0] if device == "cpu" else jax.devices()[0]
    x, y = (jax.device_put(jnp.asarray(v, dtype=numpy_dtype(case.dtype)), where) for v in (data.x, data.y))

    def plain(a: Any, b: Any) -> Any:
        return jnp.mean(jnp.maximum(a, 0) - a * b + jnp.log1p(jnp.exp(-jnp.abs(a))))

    def work_of(function: Callable[[Any, Any], Any]) -> Callable[[], Work]:
        def make() -> Work:
            compiled = jax.jit(function)
            return lambda: value_of(jax.block_until_ready(compiled(x, y)))

        return make

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "mlsm, jax jit": mlsm.multilabel_soft_margin_loss,
        "plain expression, jax jit": plain,
    }
    if installed("optax"):
        optax = library("optax")
        losses["optax, jax jit"] = lambda a, b: optax.sigmoid_binary_cross_entropy(a, b).mean()
    if case.gradient:
        hand = work_of(mlsm.value_and_grad)
        yield Candidate("mlsm, jax jit", "jax", "value_and_grad", hand, True, "generic")
    for name, function in losses.items():
        ours = name.startswith("mlsm")
        kernel = "generic" if ours else ""
        if case.gradient:
            made = work_of(jax.value_and_grad(function))
            yield Candidate(f"{name}, backward" if ours else name, "jax", "backward", made, ours, kernel)
        else:
            yield Candidate(name, "jax", "loss", work_of(function), ours, kernel)


def dask_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """mlsm on a Dask array of chunks of 64 MiB at most; the graph is built and computed each time."""
    if device != "cpu":
        return
    dask, da = library("dask"), library("dask.array")
    rows = max(1, min(case.shape[0], 64 * 2**20 // (case.nbytes // case.shape[0])))
    x, y = (da.from_array(v, chunks=(rows, case.shape[1]), name=False) for v in (data.x, data.y))
    scheduler = "synchronous" if case.threads == "1" else "threads"

    def finish(results: Any) -> Any:
        return value_of(dask.compute(results, scheduler=scheduler)[0])

    yield from _ours(case, "dask", x, y, finish)
