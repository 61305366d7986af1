"""A kernel's time compared with the reference's, so that its author sees whether it is faster. Judges nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..backends import Backend
from ..cases import dense_cases
from ..subjects import load_kernel

SHAPES = ((32, 20), (512, 80), (4096, 256))
ROUNDS = 21


def beside_reference(path: str, backend: Backend) -> Iterator[str]:
    """A line for each shape: the reference's time as a multiple of the kernel's, for the loss and with the gradient."""
    import mlsm

    name = load_kernel(path)
    yield f"{name} compared with the reference on {backend.name}, float32, medians of {ROUNDS} interleaved rounds:"
    with backend.session():
        for shape in SHAPES:
            case = dense_cases.plain("float32", shape, "timed", soft=False)
            x, y = backend.make(case.input), backend.make(case.target)
            parts = []
            for word, function in (
                ("loss", mlsm.multilabel_soft_margin_loss),
                ("loss and gradient", mlsm.value_and_grad),
            ):
                try:
                    ratio = _ratio(backend, function, x, y, name)
                except ValueError as reason:  # it declines: the message has the reason
                    parts.append(f"{word}: {reason}")
                else:
                    parts.append(f"{word} {ratio:.2f} times as fast")
            yield f"  {shape[0]}x{shape[1]}: {', '.join(parts)}"


def _ratio(backend: Backend, function: Callable[..., Any], x: Any, y: Any, name: str) -> float:
    def once(kernel: str) -> float:
        start = time.perf_counter()
        backend.force(function(x, y, kernel=kernel))
        return time.perf_counter() - start

    for kernel in ("generic", name):  # compilation happens before the clock starts
        once(kernel)
    rounds = [(once("generic"), once(name)) for _ in range(ROUNDS)]
    return statistics.median(reference / own for reference, own in rounds)
