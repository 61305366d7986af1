"""The Trainer's loss, in the real Trainer: right under gradient accumulation, where the model's own loss is not.

A tiny classifier with random weights, made offline. Not part of `make test`: `make test-integrations` installs
Transformers.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="this file tests the loss inside PyTorch")
pytest.importorskip("transformers", reason="this file tests the loss inside Transformers")
pytest.importorskip("accelerate", reason="the Trainer needs it")

import torch
import transformers

import mlsm
from mlsm.integrations.transformers import ComputeLoss

pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers has many warnings of its own

ROWS, LENGTH, C, BATCH, RATE = 32, 6, 5, 8, 0.5
_rng = np.random.default_rng(4)
TOKENS = _rng.integers(0, 30, (ROWS, LENGTH))
LABELS = (_rng.random((ROWS, C)) < 0.4).astype(np.float32)
MISSING = np.where(_rng.random((ROWS, C)) < 0.4, np.float32(-100), LABELS)


class Classifier(torch.nn.Module):
    """A classifier of Transformers, which computes its own loss if it gets labels, and takes no count of items."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=C,
            problem_type="multi_label_classification",
        )
        self.inner = transformers.BertForSequenceClassification(config).double()

    def forward(self, input_ids: Any, labels: Any = None, **more: Any) -> Any:
        return self.inner(input_ids=input_ids, labels=labels, **more)


def trained(labels: Any, accumulation: int, folder: Path, compute_loss: Any, steps: int = 2) -> dict[str, Any]:
    """The parameters after a few steps of plain gradient descent on the same rows in the same order."""
    rows = [{"input_ids": torch.tensor(t), "labels": torch.tensor(y, dtype=torch.float64)}
            for t, y in zip(TOKENS, labels, strict=True)]  # fmt: skip
    model = Classifier()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    transformers.Trainer(model, arguments, train_dataset=rows, compute_loss_func=compute_loss).train()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def worst(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("labels", [LABELS, MISSING], ids=["plain", "missing"])
def test_accumulation_gives_the_step_of_the_full_batch(labels: Any, tmp_path: Path) -> None:
    whole = trained(labels, 1, tmp_path, ComputeLoss())
    parts = trained(labels, 4, tmp_path, ComputeLoss())
    start = {name: value.detach() for name, value in Classifier().named_parameters()}
    assert worst(whole, start) > 1e-3  # something was learned
    assert worst(whole, parts) <= 1e-7


def test_the_step_is_that_of_the_mean_over_observed_labels(tmp_path: Path) -> None:
    model = Classifier()
    tokens, labels = torch.tensor(TOKENS[:BATCH]), torch.tensor(MISSING[:BATCH], dtype=torch.float64)
    logits = model(tokens).logits
    flat = (v.reshape(-1) for v in (logits, labels))
    mlsm.multilabel_soft_margin_loss(*flat, where=labels.reshape(-1) != -100).backward()
    expected = {name: (v - RATE * v.grad).detach() for name, v in model.named_parameters() if v.grad is not None}
    found = trained(MISSING, 4, tmp_path, ComputeLoss(), steps=1)
    assert worst(expected, found) <= 1e-7


@pytest.mark.xfail(strict=True, reason="the means of the passes are added, not averaged: 4 times the step for 4 passes")
def test_the_models_own_loss_under_accumulation(tmp_path: Path) -> None:
    assert worst(trained(LABELS, 1, tmp_path, None, 1), trained(LABELS, 4, tmp_path, None, 1)) <= 1e-7


def test_the_models_own_step_is_four_times_too_large(tmp_path: Path) -> None:
    """The measured factor of the expected failure."""
    start = dict(Classifier().named_parameters())
    name = "inner.classifier.bias"
    one, four = (trained(LABELS, n, tmp_path, None, 1)[name] - start[name].detach() for n in (1, 4))
    ratio = float((four / one).mean())
    assert abs(ratio - 4) < 1e-9, ratio


def test_values_of_the_adapter() -> None:
    logits, labels = torch.randn(3, C, dtype=torch.float64), torch.tensor(MISSING[:3], dtype=torch.float64)
    where = labels != -100
    terms = mlsm.sigmoid_binary_cross_entropy(logits, labels, 2.0, pos_weight=3.0, where=where, label_smoothing=0.1)
    compute_loss = ComputeLoss(2.0, pos_weight=3.0, label_smoothing=0.1)
    for outputs in ({"logits": logits}, (logits,)):
        torch.testing.assert_close(compute_loss(outputs, labels), terms.sum() / where.sum())
        torch.testing.assert_close(compute_loss(outputs, labels, num_items_in_batch=7), terms.sum() / 7)
        torch.testing.assert_close(compute_loss(outputs, labels, torch.tensor(7)), terms.sum() / 7)
    assert float(compute_loss((logits,), torch.full_like(labels, -100))) == 0
    half = compute_loss((logits.bfloat16(),), labels.float(), 7)
    assert half.dtype == torch.float32


def test_weights_for_classes() -> None:
    logits, labels = torch.zeros(2, C), torch.zeros(2, C)
    weight = [1.0, 2.0, 3.0, 4.0, 0.0]
    for given in (weight, torch.tensor(weight), np.asarray(weight)):
        assert abs(float(ComputeLoss(given)((logits,), labels)) - 2 * np.log(2)) < 1e-6


def test_equality_and_pickle_are_by_configuration() -> None:
    one = ComputeLoss([1.0, 2.0], pos_weight=3.0, missing=-1)
    assert pickle.loads(pickle.dumps(one)) == one != ComputeLoss()
    assert repr(ComputeLoss()) == "ComputeLoss(missing=-100)"
