"""The one line for each framework in docs/tutorials/frameworks.md, run in the real framework.

Not part of `make test`: `make test-integrations` installs the frameworks. Each test compares the result of a training
step or a call with mlsm's own.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "frameworks.md"
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks have many warnings of their own

_rng = np.random.default_rng(7)
X = _rng.standard_normal((12, 4)).astype(np.float32)
Y = (_rng.random((12, 3)) < 0.4).astype(np.float32)
W = _rng.standard_normal((4, 3)).astype(np.float32)
RATE = 0.5
EPS = float(np.finfo(np.float32).eps)


def line(words: str) -> str:
    """The page's line that contains these words, so that the test executes the page."""
    (found,) = [code for code in re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")) if words in code]
    return found


def stepped(w: Any, bias: Any = 0.0) -> Any:
    """The weights after one step of gradient descent, in float64."""
    x, y = X.astype(np.float64), Y.astype(np.float64)
    return w - RATE * x.T @ mlsm.grad(x @ w + bias, y)


def near(found: Any, right: Any) -> None:
    """A step in float32: sums of 12 products, and a few more roundings."""
    check(found, right, 64 * EPS, "weights after a step")


def test_flax() -> None:
    flax = pytest.importorskip("flax.linen", reason="it steps a Flax model")
    jax = pytest.importorskip("jax", reason="it steps a Flax model")
    model = flax.Dense(3, use_bias=False)
    parameters = {"params": {"kernel": jax.numpy.asarray(W)}}
    x, y, logits = jax.numpy.asarray(X), jax.numpy.asarray(Y), line("model.apply")

    def loss(parameters: Any) -> Any:
        return mlsm.multilabel_soft_margin_loss(eval(logits, {"model": model, "parameters": parameters, "x": x}), y)

    gradient = jax.grad(loss)(parameters)
    near(W - RATE * np.asarray(gradient["params"]["kernel"]), stepped(W.astype(np.float64)))


def test_skorch() -> None:
    skorch = pytest.importorskip("skorch", reason="it trains a skorch net")
    torch = pytest.importorskip("torch", reason="it trains a skorch net")
    from mlsm.nn.torch import MultiLabelSoftMarginLoss

    module = torch.nn.Linear(4, 3, bias=False)
    module.weight.data = torch.from_numpy(W.T.copy())
    names = {"skorch": skorch, "module": module, "MultiLabelSoftMarginLoss": MultiLabelSoftMarginLoss}
    net = eval(line("skorch.NeuralNet"), names)
    net.set_params(max_epochs=1, lr=RATE, batch_size=12, train_split=None, verbose=0)
    net.fit(X, Y)
    near(net.module_.weight.detach().numpy().T, stepped(W.astype(np.float64)))


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="it trains a LightningModule")
    torch = pytest.importorskip("torch", reason="it trains a LightningModule")
    from mlsm.nn.torch import MultiLabelSoftMarginLoss

    returned = line("self.criterion")
    assert returned.startswith("return ")

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]  # a base without types
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.criterion = torch.nn.Linear(4, 3, bias=False), MultiLabelSoftMarginLoss()
            self.layer.weight.data = torch.from_numpy(W.T.copy())

        def forward(self, x: Any) -> Any:
            return self.layer(x)

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            return eval(returned.removeprefix("return "), {"self": self, "x": x, "y": y})

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), RATE)

    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    model = Model()
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=12))
    near(model.layer.weight.detach().numpy().T, stepped(W.astype(np.float64)))


def test_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="it trains a Keras model")
    if keras.backend.backend() != "torch":
        pytest.skip(f"Keras was started with the backend {keras.backend.backend()}")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
    model.layers[0].set_weights([W])
    compiled = line("model.compile").replace('optimizer="adam"', "optimizer=keras.optimizers.SGD(RATE)")
    eval(compiled, {"model": model, "mlsm": mlsm, "keras": keras, "RATE": RATE})
    history = model.fit(X, Y, batch_size=12, epochs=1, verbose=0)
    near(model.layers[0].get_weights()[0], stepped(W.astype(np.float64)))
    right = float(mlsm.multilabel_soft_margin_loss((X @ W).astype(np.float64), Y.astype(np.float64)))
    check(history.history["loss"][0], right, 16 * EPS, "the loss that Keras shows")


def test_catboost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catboost = pytest.importorskip("catboost", reason="it boosts with CatBoost")
    (code,) = re.findall(r"```python\n(class MissingLabels:.*?)\n\n\ngradient", PAGE.read_text(encoding="utf-8"), re.S)
    # A module, because CatBoost reads the source of an objective.
    source = (
        f"import catboost\nimport mlsm\nimport numpy as np\n\n{code}\n\n{line('MultiTargetCustomObjective')} pass\n"
    )
    (tmp_path / "missing_labels_objective.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"CatBoostRegressor": catboost.CatBoostRegressor}
    names["Objective"] = importlib.import_module("missing_labels_objective").Objective
    hidden = np.where(_rng.random(Y.shape) < 0.3, -1.0, Y)
    booster = eval(line("loss_function=Objective()"), names)
    booster.set_params(iterations=40, depth=2, learning_rate=0.5, verbose=False, allow_writing_files=False)
    booster.fit(X, hidden)
    logits = booster.predict(X)
    seen = hidden >= 0
    start = float(mlsm.multilabel_soft_margin_loss(np.zeros_like(logits), Y, where=seen))
    assert float(mlsm.multilabel_soft_margin_loss(logits, Y, where=seen)) < start / 2


def test_onnx() -> None:
    ndonnx = pytest.importorskip("ndonnx", reason="it exports a graph")
    runtime = pytest.importorskip("onnxruntime", reason="it runs the graph")
    names: dict[str, Any] = {"ndonnx": ndonnx, "mlsm": mlsm}
    exec(line("ndonnx.argument"), names)
    graph = eval(line("ndonnx.build"), names)
    session = runtime.InferenceSession(graph.SerializeToString())
    logits = (X @ W).astype(np.float32)
    (found,) = session.run(["loss"], {"x": logits, "y": Y})
    right = float(mlsm.multilabel_soft_margin_loss(logits.astype(np.float64), Y.astype(np.float64)))
    check(found, right, 16 * EPS * right, "the graph's loss")
