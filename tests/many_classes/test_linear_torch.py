"""Labels and the linear head on PyTorch: a node that keeps its arguments, data loaders, transforms, and the module."""

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _blocks
from mlsm.many_classes import _linear, _row_blocks, _targets

from .._support import check

torch = pytest.importorskip("torch", reason="of PyTorch")

import mlsm.nn.torch as twin  # noqa: E402 - it imports torch, which may be missing

# Said by PyTorch once a process, of a matrix that a test makes.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta:UserWarning")

ROWS, FEATURES, CLASSES = 7, 4, 23


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "ELEMENTS", 5 * ROWS)
    monkeypatch.setattr(twin, "ELEMENTS", 5 * ROWS)
    monkeypatch.setattr(_blocks, "BLOCK", 32)
    monkeypatch.setattr(_targets, "SMALL", 32)
    monkeypatch.setattr(_row_blocks, "ROWS", 2 * CLASSES)
    # A dense target that is large enough for blocks of labels is too large for a stored gradient.
    monkeypatch.setattr("mlsm.autograd.torch.KEPT", 0)


def _data(dtype: Any = torch.float64, rows: int = ROWS, classes: int = CLASSES) -> tuple[Any, Any, Any, mlsm.Labels]:
    torch.manual_seed(0)
    h, W, b = torch.randn(rows, FEATURES), torch.randn(classes, FEATURES), torch.randn(classes)
    indices = torch.randint(0, classes, (rows, 3))
    indices[2], indices[3, 1:] = -1, -1
    leaves = [v.to(dtype).requires_grad_() for v in (h, W, b)]
    return (*leaves, mlsm.Labels(indices, num_classes=classes))


def _dense_loss(h: Any, W: Any, b: Any, y: Any, **options: Any) -> Any:
    """By PyTorch's own arithmetic, differentiable to every order."""
    return mlsm.multilabel_soft_margin_loss(torch.nn.functional.linear(h, W, b), y, kernel="generic", **options)


# ---------------------------------------------------------------- labels as the target of logits


@pytest.mark.parametrize("form", ["padded", "indptr", "csr"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_labels_have_the_dense_calls_bits(dtype: str, form: str) -> None:
    _, _, _, labels = _data()
    y = labels.toarray()
    x = (torch.randn(ROWS, CLASSES) * 5).to(getattr(torch, dtype)).requires_grad_()
    w = torch.rand(CLASSES).to(x.dtype).requires_grad_()
    where = torch.rand(ROWS, CLASSES) < 0.8
    target: Any = labels
    if form != "padded":
        target = y.to_sparse_csr()
    if form == "indptr":
        target = mlsm.Labels(target.col_indices(), indptr=target.crow_indices(), num_classes=CLASSES)
    for given in ({}, {"where": where, "label_smoothing": 0.1}):
        for reduction in ("mean", "none"):
            options: Any = {**given, "reduction": reduction}
            losses = [mlsm.multilabel_soft_margin_loss(x, t, w, pos_weight=w, **options) for t in (y, target)]
            assert torch.equal(*losses)
            gradients = [torch.autograd.grad(v.sum(), (x, w), retain_graph=True) for v in losses]
            for a, b in zip(*gradients, strict=True):
                assert torch.equal(a, b)
            pairs = [mlsm.value_and_grad(x.detach(), t, w.detach(), **options) for t in (y, target)]
            assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
            curved = [mlsm.hessian_diag(x.detach(), t, w.detach(), **options) for t in (y, target)]
            assert torch.equal(*curved)


def test_labels_to_every_order() -> None:
    _, _, _, labels = _data(rows=4, classes=12)
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    w = torch.rand(12, dtype=torch.float64, requires_grad=True)

    def loss(x: Any, w: Any) -> Any:
        return mlsm.multilabel_soft_margin_loss(x, labels, w, reduction="none")

    assert torch.autograd.gradcheck(loss, (x, w))
    assert torch.autograd.gradgradcheck(loss, (x, w))

    def gradient(x: Any) -> Any:
        return mlsm.grad(x, labels)

    assert torch.autograd.gradcheck(gradient, (x,))


# ---------------------------------------------------------------- the node


def test_every_gradient_to_every_order() -> None:
    rows, classes = 4, 8
    h, W, b, labels = _data(rows=rows, classes=classes)
    w = torch.rand(1, classes, dtype=torch.float64, requires_grad=True)
    p = torch.rand(rows, 1, dtype=torch.float64, requires_grad=True)
    y = torch.rand(rows, classes, dtype=torch.float64, requires_grad=True)
    where = torch.rand(rows, classes) < 0.8

    def by_labels(h: Any, W: Any, b: Any, w: Any, p: Any) -> Any:
        return mlsm.linear_multilabel_soft_margin_loss(
            h, W, labels, w, linear_bias=b, pos_weight=p, where=where, reduction="none"
        )

    def dense(h: Any, W: Any, y: Any) -> Any:
        return mlsm.linear_multilabel_soft_margin_loss(h, W, y, label_smoothing=0.1)

    assert torch.autograd.gradcheck(by_labels, (h, W, b, w, p))
    assert torch.autograd.gradgradcheck(by_labels, (h, W, b, w, p))
    assert torch.autograd.gradcheck(dense, (h, W, y))
    assert torch.autograd.gradgradcheck(dense, (h, W, y))

    def both(h: Any, W: Any) -> Any:
        value, (by_h, by_W, _) = mlsm.linear_value_and_grad(h, W, labels)
        return value, by_h, by_W

    assert torch.autograd.gradcheck(both, (h, W))


def test_the_graph_saves_its_arguments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    h, W, b, labels = _data()
    saved: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b)
    own = {v.data_ptr() for v in (h, W, b, labels.indices)}
    assert {v.data_ptr() for v in saved} == own
    monkeypatch.setattr(
        "mlsm.libraries.torch.Library.dense_target", None
    )  # no dense target is made, forwards or backwards
    first = torch.autograd.grad(loss, (h, W, b), retain_graph=True)
    again = torch.autograd.grad(loss, (h, W, b))
    assert all(torch.equal(a, c) for a, c in zip(first, again, strict=True))
    monkeypatch.undo()
    expected = torch.autograd.grad(_dense_loss(h, W, b, labels.toarray()), (h, W, b))
    for a, c in zip(first, expected, strict=True):
        check(a.numpy(), c.numpy(), 1e-15)


def test_an_argument_changed_before_the_backward_pass_raises() -> None:
    h, W, b, labels = _data()
    loss = mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b)
    labels.indices.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_recorded_if_nothing_requires_grad() -> None:
    h, W, b, labels = _data()
    with torch.no_grad():
        assert not mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b).requires_grad
    only = mlsm.linear_multilabel_soft_margin_loss(h.detach(), W, labels)
    only.backward()
    assert W.grad is not None
    assert h.grad is None


def test_create_graph_vmap_over_backward_and_one_tensor_twice() -> None:
    h, W, b, labels = _data()
    y = labels.toarray()
    loss = mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b, reduction="none")
    dense = _dense_loss(h, W, b, y, reduction="none")
    batch = torch.eye(ROWS, dtype=torch.float64)
    for a, c in zip(
        torch.autograd.grad(loss, (h, W), batch, is_grads_batched=True, retain_graph=True),
        torch.autograd.grad(dense, (h, W), batch, is_grads_batched=True),
        strict=True,
    ):
        check(a.numpy(), c.numpy(), 1e-14)
    square = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    own = mlsm.Labels(torch.arange(5)[:, None], num_classes=5)
    twice = mlsm.linear_multilabel_soft_margin_loss(square, square, own)
    (a,) = torch.autograd.grad(twice, square, create_graph=True)
    (c,) = torch.autograd.grad(_dense_loss(square, square, None, own.toarray()), square, create_graph=True)
    check(a.detach().numpy(), c.detach().numpy(), 1e-15)
    (a,), (c,) = (torch.autograd.grad(v.pow(2).sum(), square) for v in (a, c))
    check(a.numpy(), c.numpy(), 1e-15)


def test_under_function_transforms() -> None:
    h, W, b, labels = _data()
    y = labels.toarray()
    h, W, b = (v.detach() for v in (h, W, b))
    found = torch.func.grad(lambda W: mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b))(W)
    expected = torch.func.grad(lambda W: _dense_loss(h, W, b, y))(W)
    check(found.numpy(), expected.numpy(), 1e-15)

    def row(h: Any, indices: Any) -> Any:
        return mlsm.linear_multilabel_soft_margin_loss(h, W, mlsm.Labels(indices, num_classes=CLASSES), linear_bias=b)

    check(torch.vmap(row)(h, labels.indices).numpy(), _dense_loss(h, W, b, y, reduction="none").numpy(), 1e-14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["padded", "indptr"])
def test_compiled_whole(form: str) -> None:
    h, W, b, labels = _data(torch.float32)
    matrix = labels.toarray().to_sparse_csr()
    if form == "indptr":
        labels = mlsm.Labels(matrix.col_indices(), indptr=matrix.crow_indices(), num_classes=CLASSES)

    def loss(h: Any, W: Any, b: Any, labels: Any) -> Any:
        x = torch.nn.functional.linear(h, W, b)
        return mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b) + mlsm.multilabel_soft_margin_loss(
            x, labels
        )

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, expected = compiled(h, W, b, labels), loss(h, W, b, labels)
    check(found.item(), expected.item(), 4 * 2.0**-24 * expected.item())
    for a, c in zip(torch.autograd.grad(found, (h, W, b)), torch.autograd.grad(expected, (h, W, b)), strict=True):
        check(a.numpy(), c.numpy(), 8 * 2.0**-23 * float(c.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: Any) -> None:
    h, W, b, labels = _data(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        x = torch.nn.functional.linear(h, W, b)
        loss = mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b)
        value, gradients = mlsm.linear_value_and_grad(h.detach(), W.detach(), labels, linear_bias=b.detach())
    assert (x.dtype, loss.dtype, value.dtype) == (dtype, dtype, dtype)
    expected, gradient = mlsm.value_and_grad(x.detach().float(), labels)
    check(loss.item(), expected.item(), float(torch.finfo(dtype).eps) * expected.item())
    exact = gradient.T @ h.detach()
    loss.backward()
    for found in (W.grad, gradients[1]):
        assert found.dtype == torch.float32
        check(found.numpy(), exact.numpy(), 8 * 2.0**-23 * float(exact.abs().max()))
    with pytest.raises(TypeError, match="dtypes that their library multiplies together; got float32, bfloat16"):
        mlsm.linear_multilabel_soft_margin_loss(h, W.bfloat16(), labels)


# ---------------------------------------------------------------- refusals


def test_refused() -> None:
    h, W, _, labels = _data()
    x = torch.zeros(ROWS, CLASSES, dtype=torch.float64)
    y = labels.toarray().double()
    with pytest.raises(ValueError, match="CSR matrix that requires a gradient"):
        mlsm.grad(x, y.to_sparse_csr().requires_grad_())
    values = torch.ones(ROWS, 3).requires_grad_()
    with pytest.raises(ValueError, match="`values` that require a gradient"):
        mlsm.grad(x, mlsm.Labels(torch.arange(3).repeat(ROWS, 1), values=values, num_classes=CLASSES))
    for make, form in ((y.to_sparse_coo, "sparse_coo"), (y.to_sparse_csc, "sparse_csc")):
        with pytest.raises(TypeError, match=rf"got a {form} one: pass its `.to_sparse_csr\(\)`"):
            mlsm.grad(x, make())
    with pytest.raises(TypeError, match=r"`linear_weight` must be a dense tensor; got a sparse_csr one"):
        mlsm.linear_multilabel_soft_margin_loss(h, W.detach().to_sparse_csr(), labels)
    with pytest.raises(IndexError, match="got 23 in row 0"):
        mlsm.Labels(torch.full((2, 1), CLASSES), num_classes=CLASSES)
    with pytest.raises(ValueError, match="`target` must be on the device of `input`, meta; got cpu"):
        mlsm.grad(torch.zeros(ROWS, CLASSES, device="meta"), labels)


# ---------------------------------------------------------------- data loaders


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]  # PyTorch's is generic by annotation only
    def __init__(self, x: Any, labels: mlsm.Labels) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, mlsm.Labels]:
        return self.x[i], self.labels[i]


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX warns if another test has imported it
@pytest.mark.parametrize("form", ["padded", "indptr", "soft"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_collates_labels(form: str, workers: int) -> None:
    _, _, _, labels = _data()
    y = labels.toarray().float() * 0.75 if form == "soft" else labels.toarray()
    if form != "padded":
        matrix = y.to_sparse_csr()
        labels = mlsm.Labels(
            matrix.col_indices(),
            indptr=matrix.crow_indices(),
            num_classes=CLASSES,
            values=matrix.values() if form == "soft" else None,
        )
    loader = torch.utils.data.DataLoader(
        Rows(torch.arange(ROWS), labels),
        batch_size=3,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    first = 0
    for x, batch in loader:
        assert isinstance(batch, mlsm.Labels)
        assert torch.equal(batch.toarray(), y[first : first + len(x)])
        first += len(x)
    assert first == ROWS


def test_moved_pinned_pickled_and_refused_batches() -> None:
    _, _, _, labels = _data()
    moved = labels.to("meta")
    assert moved.indices.device.type == "meta"
    assert moved.shape == labels.shape
    assert torch.equal(labels.to("cpu", non_blocking=True).toarray(), labels.toarray())
    assert torch.equal(pickle.loads(pickle.dumps(labels)).toarray(), labels.toarray())
    pinned: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:  # without a device there is no page-locked memory
        patch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
        assert torch.utils.data._utils.pin_memory.pin_memory((labels,))[0].indices is pinned[0]
    collate = torch.utils.data.default_collate
    with pytest.raises(ValueError, match=r"`Labels` of one batch must have one shape; got \(23,\), \(5,\)"):
        collate([labels[0], mlsm.Labels(torch.tensor([1]), num_classes=5)])
    matrix = labels.toarray().to_sparse_csr()
    whole = mlsm.Labels(matrix.col_indices(), indptr=matrix.crow_indices(), num_classes=CLASSES)
    with pytest.raises(TypeError, match="are a batch already and cannot be stacked"):
        collate([whole, whole])


# ---------------------------------------------------------------- the module


def test_the_module_trains_and_predicts_without_its_logits() -> None:
    h, _, _, labels = _data(torch.float32)
    torch.manual_seed(1)
    linear = torch.nn.Linear(FEATURES, CLASSES)
    torch.manual_seed(1)
    head = twin.LinearMultiLabelSoftMarginLoss(FEATURES, CLASSES, pos_weight=2.0, reduction="sum", label_smoothing=0.1)
    assert torch.equal(head.linear_weight, linear.weight)
    assert torch.equal(head.linear_bias, linear.bias)
    assert repr(head) == (
        "LinearMultiLabelSoftMarginLoss(in_features=4, num_classes=23, reduction='sum', "
        "pos_weight=<torch array of shape (), float32>, label_smoothing=0.1)"
    )
    where = torch.rand(ROWS, CLASSES) < 0.5
    loss = head(h, labels, where=where)
    expected = mlsm.multilabel_soft_margin_loss(
        linear(h), labels, reduction="sum", pos_weight=2.0, label_smoothing=0.1, where=where
    )
    check(loss.item(), expected.item(), 4 * 2.0**-24 * expected.item())
    loss.backward()
    (exact,) = torch.autograd.grad(expected, linear.weight)
    check(head.linear_weight.grad.numpy(), exact.numpy(), 8 * 2.0**-23 * float(exact.abs().max()))
    assert torch.equal(head.logits(h), linear(h))
    for k in (1, 4, CLASSES):
        best = head.topk(h, k)
        check(best.values.detach().numpy(), torch.topk(linear(h), k).values.detach().numpy(), 1e-6)
        assert torch.equal(
            head.logits(h).gather(-1, best.indices).argsort(-1, descending=True), torch.arange(k).expand(ROWS, k)
        )
    assert head.topk(h[0], 3).indices.shape == (3,)
    for again in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(again(h, labels, where=where), loss)
    assert set(head.state_dict()) == {"linear_weight", "linear_bias", "pos_weight"}
    assert set(twin.LinearMultiLabelSoftMarginLoss(2, 3, bias=False).state_dict()) == {"linear_weight"}
    assert twin.LinearMultiLabelSoftMarginLoss(2, 3, dtype=torch.bfloat16, device="meta").linear_weight.is_meta


def test_the_module_refuses() -> None:
    for arguments, kind, message in (
        ((0, 3), ValueError, "`in_features` must be an integer of at least 1; got 0"),
        ((2, 3.0), TypeError, "`num_classes` must be an integer; got 3.0"),
        ((2, True), ValueError, "`num_classes` must be an integer of at least 1; got True"),
    ):
        with pytest.raises(kind, match=message):
            twin.LinearMultiLabelSoftMarginLoss(*arguments)
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        twin.LinearMultiLabelSoftMarginLoss(2, 3, reduction="avg")  # type: ignore[arg-type]
    head = twin.LinearMultiLabelSoftMarginLoss(2, 3)
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 3\], the number of classes; got 4"):
        head.topk(torch.zeros(1, 2), 4)


def test_a_head_needs_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """With kernels/ deleted, the generic code computes the blocks, with the same memory."""
    from mlsm import _dispatch

    h, W, b, labels = _data()
    expected = mlsm.linear_value_and_grad(h.detach(), W.detach(), labels, linear_bias=b.detach())
    monkeypatch.setattr(_dispatch, "_table", lambda library: ())
    found = mlsm.linear_value_and_grad(h.detach(), W.detach(), labels, linear_bias=b.detach())
    check(found[0].item(), expected[0].item(), 1e-15)
    for a, c in zip(found[1], expected[1], strict=True):
        check(a.numpy(), c.numpy(), 1e-16)


def test_numpy_of_the_same_call_agrees() -> None:
    h, W, b, labels = _data()
    own = mlsm.Labels(labels.indices.numpy(), num_classes=CLASSES)
    found = mlsm.linear_value_and_grad(h.detach().numpy(), W.detach().numpy(), own, linear_bias=b.detach().numpy())
    expected = mlsm.linear_value_and_grad(h.detach(), W.detach(), labels, linear_bias=b.detach())
    check(found[0], expected[0].item(), 1e-15)
    assert sys.getsizeof(own) < 200
    assert np.isfinite(found[1][1]).all()
