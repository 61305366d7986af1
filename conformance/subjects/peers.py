"""Other libraries' losses with one signature, `(input, target, weight=None, reduction="mean")`, for `--impl` and the
report's plots.

Each calls the other library as its documentation says and changes only what the signature requires: the order of the
arguments and the mean over the classes.  Repairs nothing.  `--impl mlsm_conformance.peers:optax_sigmoid_bce` judges
one of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..backends import missing


def torch_mlsm(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """PyTorch's own multilabel_soft_margin_loss."""
    from torch.nn import functional

    return functional.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)


def torch_bce_with_logits(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """PyTorch's binary_cross_entropy_with_logits, averaged over the classes."""
    from torch.nn import functional

    element = functional.binary_cross_entropy_with_logits(input, target, weight, reduction="none")
    return _reduced(element.mean(-1), reduction)


def optax_sigmoid_bce(input: Any, target: Any, reduction: str = "mean") -> Any:
    """optax.sigmoid_binary_cross_entropy, averaged over the classes."""
    import optax

    return _reduced(optax.sigmoid_binary_cross_entropy(input, target).mean(-1), reduction)


def keras_bce(input: Any, target: Any, reduction: str = "mean") -> Any:
    """keras.losses.binary_crossentropy from logits, on the engine that Keras uses; it averages over the classes
    itself."""
    keras: Any = importlib.import_module("keras")  # typed as Any, so that mypy's result is the same without it

    return _reduced(keras.losses.binary_crossentropy(target, input, from_logits=True), reduction)


def sklearn_half_binomial(input: Any, target: Any, reduction: str = "mean") -> Any:
    """scikit-learn's HalfBinomialLoss, used by its logistic regression and gradient boosting; float64 inside."""
    import numpy as np
    from sklearn._loss.loss import HalfBinomialLoss

    flat = HalfBinomialLoss().loss(
        y_true=np.ascontiguousarray(target, dtype=np.float64).ravel(),
        raw_prediction=np.ascontiguousarray(input, dtype=np.float64).ravel(),
    )
    return _reduced(np.asarray(flat).reshape(input.shape).mean(-1), reduction)


def scipy_log_expit(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The expression with SciPy's functions: target * log_expit(x) + (1 - target) * log_expit(-x)."""
    from scipy.special import log_expit

    element = -(target * log_expit(input) + (1 - target) * log_expit(-input))
    return _reduced(element.mean(-1), reduction)


def timm_bce(input: Any, target: Any, reduction: str = "mean") -> Any:
    """timm's BinaryCrossEntropy without smoothing, averaged over the classes."""
    loss: Any = importlib.import_module("timm.loss")
    return _reduced(loss.BinaryCrossEntropy(smoothing=0.0, reduction="none")(input, target).mean(-1), reduction)


def torchvision_focal(input: Any, target: Any, reduction: str = "mean") -> Any:
    """torchvision's sigmoid_focal_loss at gamma 0 without alpha, averaged over the classes."""
    ops: Any = importlib.import_module("torchvision.ops")
    return _reduced(ops.sigmoid_focal_loss(input, target, alpha=-1, gamma=0, reduction="none").mean(-1), reduction)


def monai_focal(input: Any, target: Any, reduction: str = "mean") -> Any:
    """MONAI's FocalLoss at gamma 0, averaged over the classes."""
    losses: Any = importlib.import_module("monai.losses")
    return _reduced(losses.FocalLoss(gamma=0.0, reduction="none")(input, target).mean(-1), reduction)


def tensorflow_bce(input: Any, target: Any, reduction: str = "mean") -> Any:
    """TensorFlow's sigmoid_cross_entropy_with_logits, averaged over the classes."""
    tf: Any = importlib.import_module("tensorflow")
    return _tensorflow_bce(tf.constant(input), target, reduction).numpy()


def tensorflow_bce_grad(input: Any, target: Any, reduction: str = "mean", grad_output: Any = None) -> Any:
    """Its gradient, by a tape."""
    tf: Any = importlib.import_module("tensorflow")
    x = tf.constant(input)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = _tensorflow_bce(x, target, reduction)
    seed = None if grad_output is None else tf.constant(grad_output, value.dtype)
    return tape.gradient(value, x, output_gradients=seed).numpy()


def _tensorflow_bce(x: Any, target: Any, reduction: str) -> Any:
    tf: Any = importlib.import_module("tensorflow")
    rows = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.constant(target), logits=x), -1)
    return rows if reduction == "none" else getattr(tf, f"reduce_{reduction}")(rows)


def mlx_bce(input: Any, target: Any, reduction: str = "mean") -> Any:
    """MLX's binary_cross_entropy from logits on the CPU, averaged over the classes."""
    return _numpy_of_mlx(_mlx_bce(_mlx(input), target, reduction))


def mlx_bce_grad(input: Any, target: Any, reduction: str = "mean", grad_output: Any = None) -> Any:
    """Its gradient, by `mlx.core.vjp`."""
    mx: Any = importlib.import_module("mlx.core")
    x = _mlx(input)
    value = _mlx_bce(x, target, reduction)
    seed = mx.ones_like(value) if grad_output is None else _mlx(grad_output).astype(value.dtype) + mx.zeros_like(value)
    return _numpy_of_mlx(mx.vjp(lambda v: _mlx_bce(v, target, reduction), [x], [seed])[1][0])


def _mlx_bce(x: Any, target: Any, reduction: str) -> Any:
    losses: Any = importlib.import_module("mlx.nn.losses")
    return _reduced(losses.binary_cross_entropy(x, _mlx(target), reduction="none").mean(-1), reduction)


def _mlx(array: Any) -> Any:
    """An array of MLX with the dtype of NumPy's: MLX itself makes float32 of float64, which only its CPU has."""
    import numpy as np

    mx: Any = importlib.import_module("mlx.core")
    mx.set_default_device(mx.cpu)
    array = np.asarray(array)
    return mx.array(array, dtype=getattr(mx, "bool_" if array.dtype == bool else array.dtype.name))


def _numpy_of_mlx(array: Any) -> Any:
    import numpy as np

    return np.array(array)


def paddle_mlsm(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """Paddle's own multi_label_soft_margin_loss."""
    paddle: Any = importlib.import_module("paddle")
    return _paddle_mlsm(paddle.to_tensor(input), target, weight, reduction).numpy()


def paddle_mlsm_grad(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", grad_output: Any = None
) -> Any:
    """Its gradient, by `paddle.grad`; it has no second derivative."""
    paddle: Any = importlib.import_module("paddle")
    x = paddle.to_tensor(input, stop_gradient=False)
    value = _paddle_mlsm(x, target, weight, reduction)
    seed = None if grad_output is None else paddle.broadcast_to(paddle.to_tensor(grad_output, value.dtype), value.shape)
    return paddle.grad(value, x, seed)[0].numpy()


def _paddle_mlsm(x: Any, target: Any, weight: Any, reduction: str) -> Any:
    paddle: Any = importlib.import_module("paddle")
    w = None if weight is None else paddle.to_tensor(weight)
    return paddle.nn.functional.multi_label_soft_margin_loss(x, paddle.to_tensor(target), w, reduction)


def _reduced(rows: Any, reduction: str) -> Any:
    return rows if reduction == "none" else getattr(rows, reduction)()


class Peer(NamedTuple):
    """A loss to draw next to mlsm's: the backend whose arrays it takes, and the function."""

    name: str
    backend: dict[str, str]
    """dtype -> the backend on which that dtype is measured."""
    modules: tuple[str, ...]
    call: Callable[..., Any]

    def absent(self) -> str | None:
        """Why it cannot be called here, or None. Its modules are imported, because only the import of Keras shows
        whether its engine is installed."""
        for module in self.modules:
            if missing(module):
                return f"the module `{module}` is not installed"
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"the module `{module}` cannot be imported: {error}"
        return None


_TORCH = {"float32": "torch", "float64": "torch"}
_JAX = {"float32": "jax-x64", "float64": "jax-x64"}
_NUMPY = {"float32": "numpy", "float64": "numpy"}
PEERS = (
    Peer("torch multilabel_soft_margin_loss", _TORCH, ("torch",), torch_mlsm),
    Peer("torch BCE-with-logits", _TORCH, ("torch",), torch_bce_with_logits),
    Peer("optax sigmoid BCE", _JAX, ("jax", "optax"), optax_sigmoid_bce),
    Peer("Keras BCE", _TORCH, ("keras", "torch"), keras_bce),
    Peer("scikit-learn HalfBinomialLoss", {"float64": "numpy"}, ("sklearn",), sklearn_half_binomial),
)
"""The peers that every report draws if they are installed."""
OTHERS = (
    Peer("SciPy log_expit", _NUMPY, ("scipy",), scipy_log_expit),
    Peer("timm BinaryCrossEntropy", _TORCH, ("torch", "timm"), timm_bce),
    Peer("torchvision sigmoid_focal_loss, gamma 0", _TORCH, ("torch", "torchvision"), torchvision_focal),
    Peer("MONAI FocalLoss, gamma 0", _TORCH, ("torch", "monai"), monai_focal),
    Peer("TensorFlow sigmoid_cross_entropy_with_logits", _NUMPY, ("tensorflow",), tensorflow_bce),
    Peer("MLX binary_cross_entropy", _NUMPY, ("mlx.core",), mlx_bce),
    Peer("Paddle multi_label_soft_margin_loss", _NUMPY, ("paddle",), paddle_mlsm),
)
"""Further peers that can be judged; `make gallery` judges all."""


def installed_peers() -> list[Peer]:
    """The peers of `PEERS` that can be called here."""
    return [p for p in PEERS if p.absent() is None]
