"""Other people's losses under one signature, `(input, target, weight=None, reduction="mean")`, for `--impl` and the
report's plots.

Each calls the other library as its documentation says and changes only what the signature forces: the order of the
arguments and the mean over the classes.  Refuses to repair anything.  `--impl
mlsm_conformance.peers:optax_sigmoid_bce` judges one of them.
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
    """keras.losses.binary_crossentropy from logits, by whichever engine Keras runs on; it averages over the classes
    itself."""
    keras: Any = importlib.import_module("keras")  # installed or not: mypy must not care

    return _reduced(keras.losses.binary_crossentropy(target, input, from_logits=True), reduction)


def sklearn_half_binomial(input: Any, target: Any, reduction: str = "mean") -> Any:
    """scikit-learn's HalfBinomialLoss, the one behind its logistic regression and gradient boosting; float64 inside."""
    import numpy as np
    from sklearn._loss.loss import HalfBinomialLoss

    flat = HalfBinomialLoss().loss(
        y_true=np.ascontiguousarray(target, dtype=np.float64).ravel(),
        raw_prediction=np.ascontiguousarray(input, dtype=np.float64).ravel(),
    )
    return _reduced(np.asarray(flat).reshape(input.shape).mean(-1), reduction)


def _reduced(rows: Any, reduction: str) -> Any:
    return rows if reduction == "none" else getattr(rows, reduction)()


class Peer(NamedTuple):
    """A loss to draw beside ours: the backend whose arrays it takes, and how it is called."""

    name: str
    backend: dict[str, str]
    """dtype -> the backend on which that dtype is measured."""
    modules: tuple[str, ...]
    call: Callable[..., Any]

    def absent(self) -> str | None:
        """Why it cannot be called here, or None. Its modules are imported: Keras is installed without the engine that
        it is told to run on as often as with it, and only its import shows that."""
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
PEERS = (
    Peer("torch multilabel_soft_margin_loss", _TORCH, ("torch",), torch_mlsm),
    Peer("torch BCE-with-logits", _TORCH, ("torch",), torch_bce_with_logits),
    Peer("optax sigmoid BCE", _JAX, ("jax", "optax"), optax_sigmoid_bce),
    Peer("Keras BCE", _TORCH, ("keras", "torch"), keras_bce),
    Peer("scikit-learn HalfBinomialLoss", {"float64": "numpy"}, ("sklearn",), sklearn_half_binomial),
)


def installed_peers() -> list[Peer]:
    """The peers that can be called here."""
    return [p for p in PEERS if p.absent() is None]
