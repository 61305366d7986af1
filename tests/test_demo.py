"""The demo: right targets, a right backward step, every library, a picture.

Does not judge the look of the picture, which needs a person.
"""

import math
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mlsm

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
LIBRARIES = ("numpy", "torch", "jax")


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demo as a module; its helpers are found in its folder, as when it is run as a script."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import seven_segments

        yield seven_segments
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def test_targets_are_the_codes_of_a_seven_segment_decoder(demo: ModuleType) -> None:
    """As binary numbers gfedcba they are those of every decoder chip's data sheet (with tails on 6 and 9)."""
    codes = demo.lit(np.arange(10)) @ (1 << np.arange(7))
    assert codes.tolist() == [0x3F, 0x06, 0x5B, 0x4F, 0x66, 0x6D, 0x7D, 0x07, 0x7F, 0x6F]


def test_every_outline_lies_on_its_own_segment(demo: ModuleType) -> None:
    import _display

    for segment, (start, end) in _display.ENDS.items():
        corners = _display.outline(segment)
        middle = (np.asarray(start, dtype=float) + end) / 2
        assert np.abs(corners.mean(axis=0) - middle).max() <= 4 * np.finfo(float).eps
        assert len(np.unique(corners, axis=0)) == 6


def test_the_backward_step_is_the_derivative(demo: ModuleType) -> None:
    """Against PyTorch's automatic differentiation of the same layers, in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    import _classifier

    rng = np.random.default_rng(1)
    pixels = rng.random((12, 5))
    target = rng.integers(0, 2, (12, 7))
    layers = [
        _classifier.Layer(rng.standard_normal((a, b)), rng.standard_normal(b)) for a, b in [(5, 4), (4, 6), (6, 7)]
    ]
    logits, entered = _classifier.forward(layers, pixels)
    ours = _classifier.backward(layers, entered, mlsm.value_and_grad(logits, target)[1])

    tensors = [_classifier.Layer(*(torch.tensor(p, requires_grad=True) for p in layer)) for layer in layers]
    mlsm.multilabel_soft_margin_loss(
        _classifier.forward(tensors, torch.tensor(pixels))[0], torch.tensor(target)
    ).backward()
    for mine, theirs in zip(ours, tensors, strict=True):
        for grad, parameter in zip(mine, theirs, strict=True):
            exact = parameter.grad.numpy()
            # Sums of at most 12 · 7 · 6 products, whose factors differ by a few roundings.
            assert np.abs(grad - exact).max() <= 512 * np.finfo(float).eps * np.abs(exact).max()


def test_training_is_the_same_on_every_library(demo: ModuleType, library: str) -> None:
    """It starts at ln 2 and follows NumPy's curve: the same weights and batches, up to float32 roundings."""
    data = demo.load(seed=0)
    curve, reference = (
        demo.learn("hidden layer", (16,), data, name, "cpu", epochs=2, seed=0).learning for name in (library, "numpy")
    )
    # JAX has no float64 by default, so its mean of 450 · 7 equal terms is a float32 tree sum.
    off = abs(curve[0] - math.log(2)) / np.spacing(np.float32(math.log(2)))
    assert off <= (math.log2(450 * 7) + 8 if library == "jax" else 0.5)
    assert curve[2] < curve[1] < curve[0]
    # The roundings of 44 steps accumulate.
    assert np.abs(curve - reference).max() <= 44 * 64 * np.finfo(np.float32).eps * reference[0]


def test_a_hidden_layer_beats_the_linear_peer(demo: ModuleType) -> None:
    """As the printed table shows: training minimises the loss, and a linear model is not enough for digits."""
    data = demo.load(seed=0)
    hidden = demo.learn("hidden layer", (demo.HIDDEN,), data, "numpy", None, epochs=15, seed=0)
    peer = demo.logistic_regression(data)
    losses = [float(mlsm.multilabel_soft_margin_loss(r.logits, data.held_target)) for r in (hidden, peer)]
    right = [np.mean(np.all((r.logits >= 0) == data.held_target, axis=1)) for r in (hidden, peer)]
    assert losses[0] < losses[1] / 2
    assert right[0] > right[1]


def test_held_out_digits_were_not_trained_on(demo: ModuleType) -> None:
    data = demo.load(seed=3)
    assert len(data.pixels) + len(data.held_pixels) == 1797
    seen = {row.tobytes() for row in data.pixels}
    assert not any(row.tobytes() in seen for row in data.held_pixels)


def test_an_impossible_device_is_refused(demo: ModuleType) -> None:
    with pytest.raises(SystemExit, match="NumPy has one device"):
        demo.placed("numpy", "cuda")


def test_the_comparison_names_every_library_and_why_one_is_missing(demo: ModuleType) -> None:
    import _libraries

    rng = np.random.default_rng(2)
    logits = rng.normal(scale=20, size=(31, 7)).astype(np.float32)
    found = list(_libraries.compare(logits, rng.integers(0, 2, (31, 7), dtype=np.uint8)))
    rows = [row for row in found if isinstance(row, _libraries.Row)]
    missing = {sentence[1:].partition(":")[0] for sentence in found if isinstance(sentence, str)}
    assert {row.label.partition(",")[0].replace("-", "_") for row in rows} | missing == set(_libraries.LIBRARIES)
    theirs = [row for row in rows if not row.by.startswith("mlsm")]
    assert len(theirs) == (4 if find_spec("torch") else 0)
    assert not theirs or max(row.grad_ulp for row in theirs) > 1e6  # BCE's gradient has no tail in float64
    for row in (row for row in rows if row not in theirs):
        # Elementwise bound of the gradient plus one for 1/(N·C); of the loss plus its sums.
        assert row.grad_ulp <= 6, row
        assert row.value_ulp <= 4 + 8, row
    printed = [_libraries.line(row) for row in rows]
    assert len({line.index(" ULP") for line in printed}) == 1
    assert {len(line) for line in printed} == {len(_libraries.head().splitlines()[1])}


def test_a_wrong_gradient_would_show_in_the_comparison(demo: ModuleType) -> None:
    """σ(x) - y, the usual formula, loses every digit in the tail; the table must show that."""
    import _libraries

    logits = np.full((4, 7), 20, dtype=np.float32)
    target = np.ones((4, 7), dtype=np.uint8)

    def naive(x: Any, y: Any) -> Any:
        return mlsm.multilabel_soft_margin_loss(x, y), (1 / (1 + np.exp(-x)) - y).astype(np.float32) / x.size

    contender = _libraries.Contender("naive", "cpu", np.asarray, call=naive)
    assert _libraries.measure(contender, logits, target, "float32", _libraries.exact(logits, target)).grad_ulp > 1e6


def test_it_runs_as_a_script_without_a_warning(tmp_path: Path) -> None:
    """As a user runs it: no terminal, no display, any folder; the picture is a PNG of the stated size."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / "seven_segments.py"), "--epochs", "2"]
    seen = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert seen.returncode == 0, seen.stderr
    assert not seen.stderr
    for word in (
        "numpy",
        "kernel",
        "ULP",
        "own BCE",
        "first batch",
        "linear",
        "hidden layer",
        "scikit-learn",
        "micro-F1",
        "Hamming",
        "Picture",
    ):
        assert word in seen.stdout
    png = (tmp_path / "build" / "seven_segments.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (1768, 1066)
