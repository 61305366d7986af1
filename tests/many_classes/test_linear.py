"""The linear head: the dense call's value and gradients by blocks, without the whole logits or targets in memory."""

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import mlsm
from mlsm.libraries import library_of
from mlsm.many_classes import _linear, _targets

from .. import _support
from .._support import check, identical, nothing_computed, padded, python

ROWS, FEATURES, CLASSES = 12, 6, 50


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven classes and five rows per block, so that a head of 50 classes has 24 blocks."""
    monkeypatch.setattr(_linear, "ELEMENTS", 7 * 5)
    monkeypatch.setattr(_linear, "HEIGHT", 5)


class Call:
    """One call of the head in NumPy's float64, and the expected results by the dense call."""

    def __init__(self, rng: np.random.Generator, options: str = "plain", *, soft: bool = False) -> None:
        self.h, self.W = rng.normal(size=(ROWS, FEATURES)), rng.normal(size=(CLASSES, FEATURES))
        self.b = rng.normal(size=CLASSES)
        self.y: Any = rng.uniform(size=(ROWS, CLASSES)) < 0.1
        self.y[2], self.y[ROWS - 1] = False, False
        if soft:
            self.y = np.where(self.y, rng.uniform(0.25, 1, size=self.y.shape), 0.0)
        self.given = OPTIONS[options](rng)

    def labels(self, make: Callable[[Any], Any] = np.asarray, dtype: Any = np.float64) -> mlsm.Labels:
        indices, values = padded(self.y, np.random.default_rng(0))
        soft = None if self.y.dtype == bool else make(values.astype(dtype))
        return mlsm.Labels(make(indices.astype(np.int32)), num_classes=CLASSES, values=soft)

    def options(self, make: Callable[[Any], Any] = np.asarray, dtype: Any = np.float64) -> dict[str, Any]:
        return {
            k: make(v if v.dtype == bool else v.astype(dtype)) if isinstance(v, np.ndarray) else v
            for k, v in self.given.items()
        }

    def expected(self) -> tuple[Any, tuple[Any, Any, Any]]:
        value, gradient = mlsm.value_and_grad(self.h @ self.W.T + self.b, self.y, kernel="generic", **self.given)
        return value, (gradient @ self.W, gradient.T @ self.h, gradient.sum(0))

    def judge(self, found: Any, what: str, dtype: Any = np.float64, read: Callable[[Any], Any] = np.asarray) -> None:
        """3 u per row, and for a gradient 8 u of its largest entry, plus the effect of rounding the logits."""
        u = float(np.finfo(dtype).eps) / 2
        value, gradients = self.expected()
        (a, others) = found
        logits = (FEATURES + 1) * u * 8  # largest error of a logit by a product of these lengths and magnitudes
        check(read(a), value, 3 * u * np.abs(value) + (logits if dtype != np.float64 else 40 * u), f"{what}: value")
        for name, b, exact in zip(("input", "linear_weight", "linear_bias"), others, gradients, strict=True):
            largest = float(np.abs(exact).max())
            check(read(b), exact, (8 * u + (logits if dtype != np.float64 else 40 * u)) * largest, f"{what}: {name}")


def _mask(rng: np.random.Generator) -> Any:
    where = rng.uniform(size=(ROWS, CLASSES)) < 0.7
    where[4] = False  # a masked row
    where[5, :20] = False  # masked in the first blocks only
    return where


OPTIONS: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "plain": lambda rng: {},
    "sum": lambda rng: {"reduction": "sum", "grad_output": 2.5, "label_smoothing": 0.1},
    "rows": lambda rng: {"reduction": "none", "grad_output": rng.normal(size=ROWS)},
    "weights": lambda rng: {"weight": rng.uniform(size=(1, CLASSES)), "pos_weight": rng.uniform(1, 9, size=CLASSES)},
    "elements": lambda rng: {"weight": rng.uniform(size=(ROWS, CLASSES)), "pos_weight": 3},
    "masked": lambda rng: {"where": _mask(rng), "label_smoothing": 0.2},
    "masked rows": lambda rng: {"where": np.arange(ROWS)[:, None] % 3 > 0, "weight": rng.uniform(size=(ROWS, 1))},
    "masked classes": lambda rng: {"where": np.arange(CLASSES) > 8, "reduction": "sum"},
    "nothing": lambda rng: {"where": np.zeros((1, 1), bool)},
    "all": lambda rng: {"where": np.asarray(True), "reduction": "none", "grad_output": rng.normal(size=ROWS)},
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_dense_calls_value_and_gradients(soft: bool, options: str, rng: np.random.Generator) -> None:
    call = Call(rng, options, soft=soft)
    with np.errstate(all="raise"):
        for target in (call.labels(), scipy.sparse.csr_array(call.y), call.y):
            kind = type(target).__name__
            given = {**call.given, "kernel": "numpy" if _support.KERNELS_PRESENT else None}  # without compilation
            found = mlsm.linear_value_and_grad(call.h, call.W, target, linear_bias=call.b, **given)
            call.judge(found, kind)
            own = {k: v for k, v in given.items() if k != "grad_output"}
            loss = mlsm.linear_multilabel_soft_margin_loss(call.h, call.W, target, linear_bias=call.b, **own)
            check(loss, found[0], 2e-16 * np.abs(found[0]), kind)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kernel", [None, "numpy", "generic"])
def test_without_a_bias_and_by_a_named_kernel(kernel: str | None, rng: np.random.Generator) -> None:
    if kernel == "numpy" and not _support.KERNELS_PRESENT:
        return
    call = Call(rng)
    call.b = np.zeros(CLASSES)
    value, (by_h, by_W, by_b) = mlsm.linear_value_and_grad(call.h, call.W, call.labels(), kernel=kernel)
    assert by_b is None
    call.judge((value, (by_h, by_W, call.expected()[1][2])), str(kernel))


@pytest.mark.usefixtures("small_blocks")
def test_several_batch_axes_and_no_batch_axis(rng: np.random.Generator) -> None:
    call = Call(rng, "masked")
    labels, where = call.labels(), call.given["where"]
    shaped = mlsm.Labels(labels.indices.reshape(3, 4, -1), num_classes=CLASSES)
    found = mlsm.linear_value_and_grad(
        call.h.reshape(3, 4, -1), call.W, shaped, linear_bias=call.b, where=where.reshape(3, 4, -1), label_smoothing=0.2
    )
    assert found[1][0].shape == (3, 4, FEATURES)
    call.judge((found[0], (found[1][0].reshape(ROWS, -1), *found[1][1:])), "three axes")
    one = mlsm.linear_value_and_grad(call.h[0], call.W, labels[0], linear_bias=call.b)
    assert one[1][0].shape == (FEATURES,)
    x = call.h[:1] @ call.W.T + call.b
    check(one[0], mlsm.multilabel_soft_margin_loss(x, call.y[:1]), 1e-15)
    check(one[1][1], mlsm.grad(x, call.y[:1]).T @ call.h[:1], 1e-16)
    empty = mlsm.Labels(np.zeros((0, 2), np.int64), num_classes=CLASSES)
    value, (by_h, by_W, _) = mlsm.linear_value_and_grad(call.h[:0], call.W, empty, reduction="sum")
    assert (value, by_h.shape) == (0, (0, FEATURES))
    assert not by_W.any()
    flat = mlsm.linear_value_and_grad(call.h[:, :0], call.W[:, :0], labels, linear_bias=call.b)
    assert (flat[1][0].shape, flat[1][1].shape) == ((ROWS, 0), (CLASSES, 0))
    check(flat[0], mlsm.multilabel_soft_margin_loss(np.zeros((ROWS, 1)) + call.b, call.y), 1e-15)


def test_no_dense_target_and_no_logits_are_made(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Otherwise the tests of values would compare the dense call with itself."""
    call = Call(rng)
    widest: list[int] = []
    monkeypatch.setattr(_linear, "ELEMENTS", 7 * ROWS)
    monkeypatch.setattr("mlsm.libraries.base.Library.dense_target", None)
    logits = _linear.Head.logits
    monkeypatch.setattr(_linear.Head, "logits", lambda *a: widest.append(logits(*a).shape[-1]) or logits(*a))
    mlsm.linear_value_and_grad(call.h, call.W, call.labels())
    assert max(widest) == 7
    assert len(widest) == math.ceil(CLASSES / 7)


@pytest.mark.usefixtures("small_blocks")
def test_infinities_and_nan_give_the_products_of_the_library(rng: np.random.Generator) -> None:
    call = Call(rng, "rows")
    with np.errstate(invalid="ignore"):  # raised by NumPy's own product
        for place, value in (((3, 1), math.inf), ((4, 2), math.nan)):
            call.h[place] = value
        found = mlsm.linear_value_and_grad(call.h, call.W, call.y, linear_bias=call.b, **call.given)
        value, (by_h, by_W, by_b) = call.expected()
    finite = np.isfinite(value)
    assert not finite[3]
    assert np.isnan(found[0][4])
    check(found[0][finite], value[finite], 1e-13)
    assert np.isnan(found[1][1]).all() == np.isnan(by_W).all()
    check(found[1][0][finite], by_h[finite], 1e-13)
    assert (np.isnan(found[1][2]) == np.isnan(by_b)).all()


def test_half_precision_keeps_its_gradients() -> None:
    """1/(N*C) is below the smallest float16: the dense call's gradients are all 0, those of the head are right."""
    rng = np.random.default_rng(0)
    n, d, c = 64, 64, 20000
    h, W = rng.normal(size=(n, d)).astype(np.float16), (rng.normal(size=(c, d)) / 8).astype(np.float16)
    labels = mlsm.Labels(rng.integers(0, c, (n, 3)), num_classes=c)
    x = (h.astype(np.float32) @ W.astype(np.float32).T).astype(np.float16)
    exact = mlsm.grad(x.astype(np.float64), labels).T @ h.astype(np.float64)
    for target in (labels, labels.toarray()):
        _, (_, by_W, _) = mlsm.linear_value_and_grad(h, W, target)
        assert by_W.dtype == np.float16
        off = float(np.abs(by_W.astype(np.float64) - exact).max() / np.abs(exact).max())
        assert off <= 2e-2, off


# ---------------------------------------------------------------- every library


@pytest.mark.usefixtures("small_blocks")
def test_every_library(library: _support.Library, rng: np.random.Generator) -> None:
    for options in ("masked",) if "jax" in library.name else ("rows", "masked"):
        call = Call(rng, options)
        make, read = library.make, library.read
        h, W, b = (make(v.astype(np.float32)) for v in (call.h, call.W, call.b))
        for target in (call.labels(make), make(call.y))[: 1 if "jax" in library.name else 2]:
            found = mlsm.linear_value_and_grad(h, W, target, linear_bias=b, **call.options(make, np.float32))
            call.judge(found, f"{library.name} {options}", np.float32, read)
            own = {k: v for k, v in call.options(make, np.float32).items() if k != "grad_output"}
            loss = mlsm.linear_multilabel_soft_margin_loss(h, W, target, linear_bias=b, **own)
            check(read(loss), read(found[0]), 4 * 2.0**-24 * np.abs(read(found[0])))


def test_jax_under_jit_and_grad(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax", reason="of JAX")
    call = Call(rng, "masked")
    h, W, b = (jax.numpy.asarray(v, np.float32) for v in (call.h, call.W, call.b))
    labels, options = call.labels(jax.numpy.asarray), call.options(jax.numpy.asarray, np.float32)

    def loss(h: Any, W: Any, b: Any, labels: Any) -> Any:
        return mlsm.linear_multilabel_soft_margin_loss(h, W, labels, linear_bias=b, **options)

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(h, W, b, labels)
    call.judge((value, gradients), "jit of grad", np.float32)
    both = jax.jit(lambda h, W, b, y: mlsm.linear_value_and_grad(h, W, y, linear_bias=b, **options))
    call.judge(both(h, W, b, labels), "jit", np.float32)
    gradient = jax.grad(lambda W: mlsm.linear_value_and_grad(h, W, labels, linear_bias=b, **options)[0])(W)
    check(gradient, gradients[1], 1e-6)
    leaves, tree = jax.tree_util.tree_flatten(labels)
    assert len(leaves) == 1
    assert jax.tree_util.tree_unflatten(tree, leaves).num_classes == CLASSES


def test_jax_ignores_indices_out_of_range() -> None:
    """JAX's BCSR pads with the number of columns, and no value is read."""
    jnp = pytest.importorskip("jax.numpy", reason="of JAX")
    from jax.experimental import sparse

    dense = np.asarray([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    x = jnp.asarray([[0.5, -1.0, 2.0], [0.0, 1.0, -3.0], [2.0, 2.0, 2.0]])
    matrix = sparse.BCSR.from_bcoo(sparse.BCOO.fromdense(jnp.asarray(dense), nse=6))
    assert int(matrix.indices.max()) == 3
    padded = mlsm.Labels(jnp.asarray([[1, 2, 7], [-1, 3, -5], [0, -1, 3]]), num_classes=3, values=jnp.asarray(
        [[1.0, 0.5, 9.0], [9.0, 9.0, 9.0], [1.0, 9.0, 9.0]], jnp.float32
    ))  # fmt: skip
    for target in (matrix, padded):
        identical(mlsm.grad(x, target), mlsm.grad(x, jnp.asarray(dense)))
    with pytest.raises(TypeError, match=r"BCOO: pass `jax.experimental.sparse.BCSR.from_bcoo"):
        mlsm.grad(x, sparse.BCOO.fromdense(jnp.asarray(dense)))


# ---------------------------------------------------------------- Dask


def test_dask_computes_nothing_while_the_graph_is_built(rng: np.random.Generator) -> None:
    da = pytest.importorskip("dask.array", reason="of Dask")
    import dask

    call = Call(rng, "masked")
    h, W, b = (da.from_array(v, chunks=c) for v, c in ((call.h, (5, 3)), (call.W, (9, 4)), (call.b, 20)))
    options = call.options(lambda a: da.from_array(a, chunks=(7, 13)))
    for target in (call.labels(lambda a: da.from_array(a, chunks=(4, 2))), da.from_array(call.y, chunks=(3, 30))):
        with nothing_computed():
            found = mlsm.linear_value_and_grad(h, W, target, linear_bias=b, **options)
        call.judge(dask.compute(found, scheduler="synchronous")[0], "chunks")
    unknown = h[h[:, 0] > -math.inf]
    labels = call.labels(lambda a: da.from_array(a, chunks=(5, 9)))
    some = mlsm.Labels(labels.indices[h[:, 0] > -math.inf], num_classes=CLASSES)
    loss = mlsm.linear_multilabel_soft_margin_loss(unknown, W, some, linear_bias=b)
    check(
        loss.compute(scheduler="synchronous"),
        mlsm.linear_multilabel_soft_margin_loss(call.h, call.W, call.y, linear_bias=call.b),
        1e-15,
    )
    outside = mlsm.Labels(da.from_array(np.full((ROWS, 1), CLASSES), chunks=4), num_classes=CLASSES)
    with pytest.raises(IndexError, match="got 50 in row 0"):
        mlsm.linear_multilabel_soft_margin_loss(h, W, outside).compute(scheduler="synchronous")


# ---------------------------------------------------------------- refusals

H, W = np.zeros((2, 4)), np.zeros((3, 4))
LABELS = mlsm.Labels(np.asarray([[0], [2]]), num_classes=3)
loss = mlsm.linear_multilabel_soft_margin_loss
# In addition to, or in place of, right logits, weights and labels.
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "input": ({"input": [[0.0]]}, TypeError, "`input` must be an array; got a list"),
    "input dtype": ({"input": H > 0}, TypeError, "`input` must have a real floating dtype .* got bool"),
    "input 0-d": ({"input": np.asarray(1.0)}, ValueError, "`input` must have at least one dimension"),
    "weight": ({"linear_weight": W.tolist()}, TypeError, "`linear_weight` must be an array; got a list"),
    "weight dtype": ({"linear_weight": W > 0}, TypeError, "`linear_weight` must have a real floating dtype"),
    "features": (
        {"linear_weight": W[:, :3]},
        ValueError,
        r"`linear_weight` must have shape \(num_classes, 4\), with the features of `input`, \(2, 4\); got \(3, 3\)",
    ),
    "weight ndim": ({"linear_weight": W[0]}, ValueError, r"`linear_weight` must have shape .* got \(4,\)"),
    "no class": ({"linear_weight": W[:0]}, ValueError, "`linear_weight` must have at least one class"),
    "bias": (
        {"linear_bias": np.zeros(4)},
        ValueError,
        r"`linear_bias` must have one number per class, \(3,\), for a `linear_weight` of shape \(3, 4\); got \(4,\)",
    ),
    "bias dtype": ({"linear_bias": np.zeros(3, int)}, TypeError, "`linear_bias` must have a real"),
    "target": (
        {"target": np.zeros((2, 4))},
        ValueError,
        r"`target` must have exactly the shape of the logits, \(2, 3\); got \(2, 4\)",
    ),
    "labels": (
        {"target": mlsm.Labels(np.asarray([[0], [2]]), num_classes=4)},
        ValueError,
        r"`target` must have exactly the shape of the logits, \(2, 3\); got \(2, 4\)",
    ),
    "indices": ({"target": LABELS.indices}, ValueError, "pass `mlsm.Labels.target, num_classes=3.`"),
    "class weight": (
        {"weight": np.zeros(4)},
        ValueError,
        r"`weight` must broadcast to the shape of the logits, \(2, 3\)",
    ),
    "where": ({"where": np.ones((2, 3))}, TypeError, "`where` must be a bool array"),
    "reduction": ({"reduction": "avg"}, ValueError, "`reduction` must be one of"),
    "smoothing": ({"label_smoothing": 2}, ValueError, "`label_smoothing` must be a"),
    "grad_output": ({"grad_output": np.ones(2)}, ValueError, "`grad_output` must have the shape of the loss"),
    "kernel": ({"kernel": "nobody"}, ValueError, "`kernel` must be one of .* got 'nobody'"),
    "axis": ({"axis": 0}, TypeError, "axis"),
}


@pytest.mark.parametrize(("given", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    function: Any = mlsm.linear_value_and_grad if "grad_output" in given else loss
    with pytest.raises(kind, match=message):
        function(**{"input": H, "linear_weight": W, "target": LABELS, **given})


@_support.needs_kernels
def test_a_kernel_that_cannot_serve_the_blocks_raises_and_names_the_one_that_can() -> None:
    with pytest.raises(ValueError, match=r"'dask' cannot serve this call: .*served by 'num.*cupy: it serves cupy"):
        loss(H, W, LABELS, kernel="dask")


def test_arguments_of_two_libraries_are_refused(library: _support.Library) -> None:
    if library.name == "numpy":
        return
    h, w = library.make(H.astype(np.float32)), library.make(W.astype(np.float32))
    with pytest.raises(TypeError, match="`linear_weight` must belong to the library of `input`"):
        loss(h, W, LABELS)
    with pytest.raises(TypeError, match="`target` must belong to the library of `input`"):
        loss(h, w, LABELS)


# ---------------------------------------------------------------- memory

PEAK = """
import resource, sys
import numpy as np, mlsm
n, d, c = 64, 32, int(sys.argv[1])
rng = np.random.default_rng(0)
h, W = rng.normal(size=(n, d)).astype(np.float32), np.ones((c, d), np.float32)
labels = mlsm.Labels(rng.integers(0, c, (n, 5)), num_classes=c)
few = mlsm.Labels(rng.integers(0, 99, (n, 5)), num_classes=99)
mlsm.linear_value_and_grad(h, W[:99], few, kernel="numpy")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
value, gradients = mlsm.linear_value_and_grad(h, W, labels, kernel="numpy")
assert np.isfinite(value)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 - gradients[1].nbytes / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@_support.needs_kernels
def test_memory_does_not_grow_with_the_classes() -> None:
    used = [float(python(PEAK, str(c))) for c in (200_000, 400_000)]
    logits = 64 * 400_000 * 4 / 2**20
    assert used[1] < 64 < logits, f"{used} MiB in addition to the gradients"
    assert used[1] - used[0] <= 8, f"{used} MiB: it grows with the classes"


def test_dense_targets_are_made_for_one_block_at_a_time(rng: np.random.Generator) -> None:
    labels = Call(rng).labels()
    made = _targets.target(library_of(labels.indices, "indices"), labels, "cpu", False, always=True)
    assert isinstance(made, _targets.Target)
