"""Which segments of a seven-segment display show a handwritten digit? A multi-label problem from start to finish.

    python docs/examples/seven_segments.py [--library numpy|torch|jax|cupy] [--device NAME] [--epochs N] [--seed N]
                                           [--output FILE]

It does three things with the 1797 digits that come with scikit-learn:

1. it computes the same loss and gradient with every installed array library and with PyTorch's own losses, and compares
   each with the exact result;
2. it trains a linear classifier and one with a hidden layer with `mlsm.value_and_grad` and the library of your choice,
   and compares them on held-out digits with scikit-learn's one-vs-rest logistic regression;
3. it draws a picture of the results.

Nothing is downloaded and no data leave your machine.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _classifier import Layer, forward, start, train
from _display import SEGMENTS, lit
from _libraries import Row, compare, head, line
from _picture import Digits, Model, draw
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, hamming_loss
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from tqdm import tqdm

import mlsm

HIDDEN = 64  # units of the hidden layer
SHOWN = 32  # digits in each of the picture's two groups


class Data(NamedTuple):
    """Pixels in [0, 1], (N, 64), and targets of 0 and 1, (N, 7), split once; NumPy, on the host."""

    pixels: np.ndarray
    target: np.ndarray
    held_pixels: np.ndarray
    held_target: np.ndarray


class Result(NamedTuple):
    """The results of one classifier on the held-out digits."""

    name: str
    logits: np.ndarray  # (N, 7)
    seconds: float
    learning: np.ndarray | None = None


def load(seed: int) -> Data:
    """Three quarters of the digits to learn from, one quarter held out, every digit equally often in both."""
    digits = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    parts = train_test_split(pixels, digits.target, test_size=0.25, random_state=seed, stratify=digits.target)
    return Data(parts[0], lit(parts[2]), parts[1], lit(parts[3]))


def placed(library: str, device: str | None) -> tuple[Callable[[np.ndarray], Any], Callable[[Any], np.ndarray]]:
    """Functions from NumPy to the library's arrays on a device, and back. No other code depends on the library."""
    if library == "torch":
        import torch

        return lambda a: torch.asarray(a, device=device), lambda a: a.cpu().numpy()
    if library == "jax":
        import jax

        place = None if device is None else jax.devices(device)[0]
        return lambda a: jax.numpy.asarray(a, device=place), np.asarray
    if library == "cupy":
        import cupy

        place = cupy.cuda.Device(int((device or "0").removeprefix("cuda:")))

        def send(a: np.ndarray) -> Any:
            with place:
                return cupy.asarray(a)

        return send, cupy.asnumpy
    if device not in (None, "cpu"):
        raise SystemExit(f"NumPy has one device, 'cpu', not {device!r}; --library torch, jax and cupy have others")
    return np.asarray, np.asarray


def learn(
    name: str, hidden: tuple[int, ...], data: Data, library: str, device: str | None, epochs: int, seed: int
) -> Result:
    """Train one classifier and return its logits for the held-out digits."""
    send, fetch = placed(library, device)
    pixels, target, held_pixels, held_target = (send(part) for part in data)
    rng = np.random.default_rng(seed)
    layers = start(pixels, (pixels.shape[1], *hidden, len(SEGMENTS)), rng)
    learning: list[float] = []
    print(f"  {name}: the first batch, with compilation,", end="", flush=True)
    begin = time.perf_counter()
    for few in (64, pixels.shape[0] % 64):  # the two sizes of a batch; the held-out digits follow
        mlsm.value_and_grad(forward(layers, pixels[:few])[0], target[:few])
    float(mlsm.multilabel_soft_margin_loss(forward(layers, held_pixels)[0], held_target))
    print(f" took {time.perf_counter() - begin:.1f} s", flush=True)
    begin = time.perf_counter()
    shown = max(1, epochs // 5)
    with tqdm(total=epochs, desc=name, unit="epoch", disable=not sys.stderr.isatty()) as bar:

        def judge(epoch: int, layers: list[Layer]) -> None:
            loss = mlsm.multilabel_soft_margin_loss(forward(layers, held_pixels)[0], held_target)
            learning.append(float(loss))
            if epoch:
                bar.update()
            bar.set_postfix_str(f"held-out loss {learning[-1]:.4f}")
            if bar.disable and (epoch % shown == 0 or epoch == 1):
                print(f"  {name}: epoch {epoch} of {epochs}, held-out loss {learning[-1]:.4f}", flush=True)

        judge(0, layers)
        layers = train(layers, pixels, target, epochs=epochs, rng=rng, each_epoch=judge)
    logits = fetch(forward(layers, held_pixels)[0])
    return Result(name, logits, time.perf_counter() - begin, np.asarray(learning))


def logistic_regression(data: Data) -> Result:
    """scikit-learn's classifier for the same task: one logistic regression for every segment."""
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # comparing with a model before convergence would be unfair
        peer = OneVsRestClassifier(LogisticRegression(max_iter=2000)).fit(data.pixels, data.target)
    logits = peer.decision_function(data.held_pixels).astype(np.float32)
    return Result("scikit-learn, one-vs-rest", logits, time.perf_counter() - begin)


def scores(results: list[Result], target: np.ndarray) -> str:
    """A table of the classifiers' scores on the held-out digits."""
    head = f"{'':26}{'loss':>8}{'all 7 right':>14}{'Hamming loss':>15}{'micro-F1':>11}{'time':>9}"
    lines = [head]
    for result in results:
        predicted = (result.logits >= 0).astype(np.uint8)
        loss = mlsm.multilabel_soft_margin_loss(result.logits, target)
        exact = np.mean(np.all(predicted == target, axis=1))
        hamming, f1 = hamming_loss(target, predicted), f1_score(target, predicted, average="micro")
        lines.append(f"{result.name:26}{loss:>8.4f}{exact:>14.1%}{hamming:>15.2%}{f1:>11.4f}{result.seconds:>7.1f} s")
    return "\n".join(lines)


def picture(results: list[Result], data: Data, seed: int, caption: str, output: Path) -> None:
    """Choose what to show: digits drawn at random, and those with the largest loss."""
    target, best = data.held_target, next(r for r in results if r.name == "hidden layer")
    colours = {"linear": "#56b4e9", "hidden layer": "#222226", "scikit-learn, one-vs-rest": "#cc79a7"}
    markers = {"linear": "o", "hidden layer": "D", "scikit-learn, one-vs-rest": "s"}
    models = [
        Model(
            result.name,
            colours[result.name],
            markers[result.name],
            result.learning,
            float(mlsm.multilabel_soft_margin_loss(result.logits, target)),
            np.mean((result.logits >= 0) == target, axis=0),
        )
        for result in results
    ]
    row_loss = mlsm.multilabel_soft_margin_loss(best.logits, target, reduction="none")

    def group(title: str, chosen: np.ndarray) -> Digits:
        pixels = data.held_pixels[chosen].reshape(-1, 8, 8)
        return Digits(title, pixels, target[chosen], best.logits[chosen] >= 0, row_loss[chosen])

    drawn = np.random.default_rng(seed).choice(len(target), SHOWN, replace=False)
    hardest = np.argsort(-row_loss)[:SHOWN]
    groups = [
        group("Held-out digits drawn at random: predicted display and loss (hidden layer)", drawn),
        group(f"The {SHOWN} held-out digits with the largest loss (reduction='none')", hardest),
    ]
    draw(models, groups, caption, output)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--library", choices=["numpy", "torch", "jax", "cupy"], default="numpy", help="to train with")
    parser.add_argument("--device", help="of that library: cpu, cuda, cuda:1, gpu ... (default: the library's own)")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training digits (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the first weights (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build", "seven_segments.png"),
        help="where the picture goes (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    data = load(options.seed)

    pixels = np.concatenate([data.pixels, data.held_pixels])
    target = np.concatenate([data.target, data.held_target])
    weights = np.random.default_rng(options.seed).normal(scale=2, size=(pixels.shape[1], len(SEGMENTS)))
    logits = (pixels @ weights).astype(np.float32)  # large logits, many of them with the wrong sign
    print(f"1. The loss and its gradient of {logits.shape[0]} digits × {logits.shape[1]} segments with every library\n")
    print(head(), flush=True)
    for found in compare(logits, target):
        print(line(found) if isinstance(found, Row) else found, flush=True)
    print(
        "\nULP, unit in the last place: the distance from a floating-point number to the next one. A correctly rounded"
        "\nresult is at most 0.5 ULP off; at 1e7 ULP in float32, or 5e15 in float64, no digit is right.\n"
    )

    where = options.library if options.device is None else f"{options.library} on {options.device}"
    print(f"2. Training on {len(data.pixels)} digits with {where}, {len(data.held_pixels)} held out\n")
    common = (data, options.library, options.device, options.epochs, options.seed)
    results = [learn("linear", (), *common), learn("hidden layer", (HIDDEN,), *common), logistic_regression(data)]
    print(f"\n{scores(results, data.held_target)}\n")

    caption = (
        f"{len(data.pixels)} digits to learn from, {len(data.held_pixels)} held out; trained with {where}, "
        f"gradients by mlsm.value_and_grad"
    )
    picture(results, data, options.seed, caption, options.output)
    print(f"3. Picture: {options.output}")


if __name__ == "__main__":
    main()
