"""Losses of libraries that mlsm does not name (TensorFlow, Paddle, MLX), and the list of all contestants.

A library is imported only if it is installed. One that is not installed is listed as absent, so that its missing
line is not mistaken for a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .candidate import Builder, Candidate, Work, installed, library
from .cases import Case, Data
from .contestants import (
    cupy_candidates,
    dask_candidates,
    jax_candidates,
    numpy_candidates,
    torch_candidates,
    value_of,
)


def tensorflow_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """`sigmoid_cross_entropy_with_logits`, eager and as a `tf.function`, with a tape."""
    tf = library("tensorflow")
    with tf.device("CPU:0" if device == "cpu" else "GPU:0"):
        x, y = tf.constant(data.x), tf.constant(data.y)

    def loss() -> Any:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x))

    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss()
        return value, tape.gradient(value, x)

    def wait(function: Callable[[], Any]) -> Work:
        return lambda: value_of(function()).numpy()

    function = both if case.gradient else loss
    way = "backward" if case.gradient else "loss"
    yield Candidate("TensorFlow", "tensorflow", way, lambda: wait(function))
    compiled = partial(tf.function, function, jit_compile=True)
    yield Candidate("TensorFlow compiled", "tensorflow", way, lambda: wait(compiled()), compiled=True)


def paddle_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """Paddle's own multi_label_soft_margin_loss and BCE-with-logits."""
    paddle = library("paddle")
    functional = paddle.nn.functional
    paddle.set_device("cpu" if device == "cpu" else "gpu")
    x, y = paddle.to_tensor(data.x), paddle.to_tensor(data.y)
    x.stop_gradient = not case.gradient

    def work_of(function: Callable[[Any, Any], Any]) -> Work:
        def loss() -> Any:
            return function(x, y).numpy()

        def backward() -> Any:
            value = function(x, y)
            value.backward()
            x.clear_gradient(set_to_zero=False)
            return value.numpy()

        return backward if case.gradient else loss

    way = "backward" if case.gradient else "loss"
    for name, function in {
        "Paddle mlsm": functional.multi_label_soft_margin_loss,
        "Paddle BCE-with-logits": functional.binary_cross_entropy_with_logits,
    }.items():
        yield Candidate(name, "paddle", way, partial(work_of, function))


def mlx_candidates(case: Case, data: Data, device: str) -> Iterator[Candidate]:
    """MLX's binary_cross_entropy on logits, on the CPU or on the GPU of the machine, eager and compiled."""
    mx, losses = library("mlx.core"), library("mlx.nn").losses
    mx.set_default_device(mx.cpu if device == "cpu" else mx.gpu)
    kind = getattr(mx, case.dtype)
    x, y = (mx.array(v.astype("float32")).astype(kind) for v in (data.x, data.y))
    mx.eval(x, y)

    def loss(a: Any, b: Any) -> Any:
        return losses.binary_cross_entropy(a, b, with_logits=True, reduction="mean")

    function = mx.value_and_grad(loss) if case.gradient else loss

    def work_of(call: Callable[[Any, Any], Any]) -> Work:
        def work() -> Any:
            results = call(x, y)
            mx.eval(results)
            return value_of(results).item()

        return work

    way = "backward" if case.gradient else "loss"
    yield Candidate("MLX", "mlx", way, lambda: work_of(function))
    yield Candidate("MLX compiled", "mlx", way, lambda: work_of(mx.compile(function)), compiled=True)


BUILDERS: dict[str, Builder] = {
    "numpy": numpy_candidates,
    "torch": torch_candidates,
    "jax": jax_candidates,
    "dask": dask_candidates,
    "cupy": cupy_candidates,
    "paddle": paddle_candidates,
    "tensorflow": tensorflow_candidates,
    "mlx": mlx_candidates,
}
"""Keyed by the module that must be installed. Paddle comes before TensorFlow: after TensorFlow 2, importing Paddle 3
ends the process (seen on Linux; the order does not matter once that is repaired)."""

LACKING: dict[tuple[str, str], str] = {
    ("paddle", "bfloat16"): "Paddle's CPU losses do not take bfloat16",
    ("mlx", "float64"): "MLX computes float64 in software, on the CPU only",
}
"""Combinations that a library does not offer, with the reason to show."""


def present() -> tuple[list[str], dict[str, str]]:
    """The libraries that can take part here, and why each other one cannot."""
    here = [module for module in BUILDERS if installed(module)]
    absent = {module: "not installed" for module in (*BUILDERS, "optax") if not installed(module)}
    return here, absent
