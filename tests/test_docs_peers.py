"""The tables of docs/coming-from.md: every row is executed if the peer is installed, and both sides must agree.

The sides may differ by the error of the peer's own formula on moderate logits, which is derived below from the machine
epsilon of its result. A row that cannot be read is an error.
"""

import importlib.util
import math
import pkgutil
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import mlsm

from . import _support

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coming-from.md"
LARGEST = 4.0  # of the logits: a formula that subtracts from 1 loses at most exp(4) roundings there


class Peer(NamedTuple):
    needs: tuple[str, ...]
    arrays: str  # the module of the arrays that both sides take
    names: dict[str, str]  # a name in a row -> its full name
    dtype: str = "float64"


PEERS = {
    "PyTorch": Peer(
        ("torch",),
        "torch",
        {
            "F": "torch.nn.functional",
            "bce": "torch.nn.functional.binary_cross_entropy_with_logits",
            "nn": "torch.nn",
            "MultiLabelSoftMarginLoss": "mlsm.MultiLabelSoftMarginLoss",
            "torch": "torch",
            "head": "mlsm.linear_multilabel_soft_margin_loss",
            "Labels": "mlsm.Labels",
        },
    ),
    "optax": Peer(
        ("optax", "jax"),
        "jax.numpy",
        {"optax": "optax", "sbce": "optax.losses.sigmoid_binary_cross_entropy", "jnp": "jax.numpy"},
    ),
    "Keras": Peer(
        ("keras",),
        "numpy",
        {
            "BinaryCrossentropy": "keras.losses.BinaryCrossentropy",
            "binary_crossentropy": "keras.losses.binary_crossentropy",
        },
    ),
    "TensorFlow": Peer(
        ("tensorflow",),
        "numpy",
        {
            "tf": "tensorflow",
            "v1": "tensorflow.compat.v1.losses",
            "sigmoid_cross_entropy_with_logits": "tensorflow.nn.sigmoid_cross_entropy_with_logits",
            "weighted_cross_entropy_with_logits": "tensorflow.nn.weighted_cross_entropy_with_logits",
        },
        "float32",  # the losses of v1 compute in it, whatever the dtypes of arguments and results
    ),
    "scikit-learn": Peer(
        ("sklearn",), "numpy", {"log_loss": "sklearn.metrics.log_loss", "expit": "scipy.special.expit"}
    ),
    "lucid": Peer(("lucid",), "numpy", {"F": "lucid.nn.functional"}),
}
NAMES_ONLY = "other libraries"  # the header of the table of argument names, without calls
ROW = re.compile(r"^\| `(?P<theirs>[^`]+)` \| `(?P<ours>[^`]+)` \|$")


def rows() -> list[tuple[str, str, str]]:
    """(peer, their call, our call) for every row of the page's tables."""
    found, peer = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        header = re.match(rf"^\| (\S+|{NAMES_ONLY}) \| mlsm \|$", line)
        if header:
            peer = header[1]
            assert peer in (*PEERS, NAMES_ONLY), f"no test executes the table of {peer!r}"
        elif line.startswith("| `") and peer != NAMES_ONLY:
            row = ROW.match(line)
            assert row, f"cannot read the row {line!r}"
            found.append((peer, row["theirs"], row["ours"]))
    return found


def _session(arrays: str) -> AbstractContextManager[Any]:
    if arrays == "jax.numpy":
        import jax

        state: AbstractContextManager[Any] = jax.enable_x64(True)
        return state
    return nullcontext()


def _data(rng: np.random.Generator, dtype: str = "float64") -> dict[str, Any]:
    n, c = 7, 5
    data = {
        "x": rng.uniform(-LARGEST, LARGEST, (n, c)),
        "y": (rng.random((n, c)) < 0.4).astype(np.float64),
        "w": rng.uniform(0.5, 2, c),
        "p": rng.uniform(0.5, 3, c),
        "v": rng.uniform(0.5, 2, n),
        "m": rng.random((n, c)) < 0.7,
    }
    return {name: value if name == "m" else value.astype(dtype) for name, value in data.items()}


def disagreement(theirs: Any, ours: Any) -> None:
    """Raise unless both have one shape and agree up to the error of the peer's formula at |x| <= LARGEST."""
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    assert theirs.size == ours.size, f"shapes {theirs.shape} and {ours.shape}"
    theirs = theirs.reshape(ours.shape)
    u = float(np.finfo(theirs.dtype).eps)
    _support.check(theirs, ours, 8 * math.exp(LARGEST) * u * np.abs(np.asarray(ours, np.float64)), "peer")


@pytest.mark.parametrize(("peer", "theirs", "ours"), rows(), ids=lambda v: v if len(v) < 100 else v[:97] + "...")
def test_row(peer: str, theirs: str, ours: str, rng: np.random.Generator) -> None:
    known = PEERS[peer]
    for module in known.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{peer} is not installed: no module named {module!r}")
    with _session(known.arrays):
        make = pkgutil.resolve_name(f"{known.arrays}.asarray")
        names = {name: make(value) for name, value in _data(rng, known.dtype).items()}
        names |= {name: pkgutil.resolve_name(path) for name, path in known.names.items()}
        names |= {"loss": mlsm.multilabel_soft_margin_loss, "element": mlsm.sigmoid_binary_cross_entropy}
        disagreement(eval(theirs, names), eval(ours, names))


def test_every_peer_has_a_table() -> None:
    assert {peer for peer, _, _ in rows()} == set(PEERS)


@pytest.mark.parametrize("factor", [5.0, 1 + 2.0**-30])
def test_a_wrong_row_fails(factor: float, rng: np.random.Generator) -> None:
    data = _data(rng)
    right = mlsm.multilabel_soft_margin_loss(data["x"], data["y"])
    with pytest.raises(AssertionError):
        disagreement(right * factor, right)
