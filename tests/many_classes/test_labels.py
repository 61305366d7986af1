"""Targets as positives only: the bits of the dense call, every form of the same labels, and every refusal."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import mlsm
from mlsm import _blocks
from mlsm.libraries import library_of
from mlsm.many_classes import _row_blocks, _targets

from .. import _support
from .._support import check, identical, padded

CLASSES = 40
FORMS = ("padded", "indptr", "csr_array", "csr_matrix")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of a few hundred entries are computed by blocks of rows, as otherwise those of millions."""
    monkeypatch.setattr(_blocks, "BLOCK", 64)
    monkeypatch.setattr(_targets, "SMALL", 64)
    monkeypatch.setattr(_row_blocks, "ROWS", 3 * CLASSES)


def _dense(rng: np.random.Generator, rows: int = 13, dtype: Any = bool) -> Any:
    y = rng.uniform(size=(rows, CLASSES)) < 0.1
    y[2] = False
    y[rows - 1] = False  # an empty row at the end, and another one before
    return y if dtype is bool else np.where(y, rng.uniform(0.25, 1, size=y.shape), 0).astype(dtype)


def _made(form: str, y: Any, rng: np.random.Generator) -> Any:
    """The labels of a dense target in one of the accepted forms."""
    hard = y.dtype == bool
    if form == "padded":
        indices, values = padded(y, rng)
        return mlsm.Labels(indices, num_classes=y.shape[1], values=None if hard else values)
    if form == "indptr":
        rows, columns = np.nonzero(y)
        return mlsm.Labels(
            columns.astype(np.int16),
            num_classes=y.shape[1],
            indptr=np.searchsorted(rows, np.arange(y.shape[0] + 1)).astype(np.int32),
            values=None if hard else y[rows, columns],
        )
    return getattr(scipy.sparse, form)(y)


# ---------------------------------------------------------------- the bits of the dense call

OPTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], dict[str, Any]]] = {
    "plain": lambda rng, shape: {},
    "smoothed": lambda rng, shape: {"label_smoothing": 0.1, "pos_weight": rng.uniform(0.5, 2, size=shape[1])},
    "masked": lambda rng, shape: {"where": _mask(rng, shape), "weight": rng.uniform(0.5, 2, size=(shape[0], 1))},
}


def _mask(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    where = rng.uniform(size=shape) < 0.7
    where[1] = False  # a whole row
    return where


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bits_of_the_dense_call(dtype: str, soft: bool, options: str, rng: np.random.Generator) -> None:
    y = _dense(rng, dtype=dtype if soft else bool)
    x = (rng.normal(size=y.shape) * 8).astype(dtype)
    x[0, :4] = math.inf, -math.inf, -0.0, 0.0
    given = OPTIONS[options](rng, y.shape)
    given = {k: v.astype(dtype) if getattr(v, "dtype", bool) == np.float64 else v for k, v in given.items()}
    g = rng.normal(size=y.shape[0])
    for kernel in ("numpy", "generic") if _support.KERNELS_PRESENT else ("generic",):
        with np.errstate(all="raise"):
            expected = _all_of(x, y, g, kernel, given)
            for form in FORMS[: 2 if soft and dtype == "float16" else 4]:  # SciPy has no matrices of float16
                labels = _made(form, y, rng)
                for what, (a, b) in {
                    k: (v, expected[k]) for k, v in _all_of(x, labels, g, kernel, given).items()
                }.items():
                    identical(a, b, f"{form} {kernel} {what}")


def _all_of(x: Any, y: Any, g: Any, kernel: str | None, given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for reduction in ("none", "mean"):
        options = {**given, "reduction": reduction, "kernel": kernel}
        own = {**options, "grad_output": g if reduction == "none" else 1.5}
        found[f"loss {reduction}"] = mlsm.multilabel_soft_margin_loss(x, y, **options)
        found[f"value {reduction}"], found[f"gradient {reduction}"] = mlsm.value_and_grad(x, y, **own)
        found[f"grad {reduction}"] = mlsm.grad(x, y, **own)
        found[f"hessian {reduction}"] = mlsm.hessian_diag(x, y, **own)
        for wrt in ("weight", "pos_weight"):
            if wrt in given:
                found[f"{wrt} {reduction}"] = mlsm.grad(x, y, wrt=wrt, **own)
    found["element"] = mlsm.sigmoid_binary_cross_entropy(x, y, kernel=kernel, **given)
    found["chosen"] = np.asarray(mlsm.explain(x, y, kernel=kernel, **given).chosen)
    loss = mlsm.MultiLabelSoftMarginLoss(**{k: v for k, v in given.items() if k != "where"})
    found["class"] = loss(x, y, where=given.get("where"), kernel=kernel)
    if kernel != "generic":
        found["first"], found["second"] = mlsm.objectives.derivatives(x, y, kernel=kernel, **given)
    return found


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@_support.needs_kernels
def test_bits_by_name_and_in_any_layout(kernel: str, rng: np.random.Generator) -> None:
    y = _dense(rng)
    base = (rng.normal(size=y.shape) * 8).astype(np.float32)
    for x in (base, np.asfortranarray(base), base[::-1], base.astype(">f4")):
        expected = mlsm.value_and_grad(x, y, kernel=kernel)
        for form in FORMS:
            for a, b in zip(mlsm.value_and_grad(x, _made(form, y, rng), kernel=kernel), expected, strict=True):
                identical(a, b, f"{form} {x.strides}")


@pytest.mark.usefixtures("small_blocks")
def test_several_batch_axes(rng: np.random.Generator) -> None:
    y = _dense(rng, rows=12)
    indices, _ = padded(y, rng)
    x = rng.normal(size=(3, 4, CLASSES)).astype(np.float32)
    labels = mlsm.Labels(indices.reshape(3, 4, -1), num_classes=CLASSES)
    g, w = rng.normal(size=(3, 4)), rng.uniform(size=(1, 4, 1)).astype(np.float32)
    dense = y.reshape(3, 4, -1)
    for target in (dense, labels):
        found = mlsm.value_and_grad(x, target, w, reduction="none", grad_output=g)
        if target is dense:
            expected = found
    for a, b in zip(found, expected, strict=True):
        identical(a, b)
    one = mlsm.Labels(indices[0], num_classes=CLASSES)
    identical(mlsm.grad(x[0, 0], one), mlsm.grad(x[0, 0], y[0]))


@pytest.mark.usefixtures("small_blocks")
def test_labels_are_computed_by_blocks(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Only the blocks are made dense: otherwise the tests above would compare the dense call with itself."""
    y = _dense(rng)
    labels, x = _made("padded", y, rng), rng.normal(size=y.shape)
    monkeypatch.setattr(mlsm.Labels, "toarray", None)
    monkeypatch.setattr("mlsm.libraries.base.Library.dense_target", None)
    mlsm.value_and_grad(x, labels)
    mlsm.grad(x, labels, rng.uniform(size=CLASSES), wrt="weight")
    with pytest.raises(TypeError, match="NoneType"):
        mlsm.value_and_grad(x, labels, kernel="generic")


def test_extra_memory_is_that_of_a_block(rng: np.random.Generator) -> None:
    import tracemalloc

    x = rng.normal(size=(64, 2**16)).astype(np.float32)
    labels = mlsm.Labels(rng.integers(0, 2**16, (64, 5)), num_classes=2**16)
    mlsm.value_and_grad(x, labels)  # compiles before the measurement
    tracemalloc.start()
    value, gradient = mlsm.value_and_grad(x, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - gradient.nbytes <= 8 << 20, f"{(peak - gradient.nbytes) / 2**20:.1f} MiB in addition to the gradient"
    assert np.isfinite(value)


# ---------------------------------------------------------------- hazards


def test_a_repeated_index_counts_once() -> None:
    x = np.asarray([[0.5, -1.0, 2.0]])
    twice = mlsm.Labels(np.asarray([[1, 1, -1, 1]]), num_classes=3)
    once = mlsm.multilabel_soft_margin_loss(x, np.asarray([[0, 1, 0]]))
    identical(mlsm.multilabel_soft_margin_loss(x, twice), once)
    identical(
        mlsm.multilabel_soft_margin_loss(x, mlsm.Labels(np.asarray([1, 1]), indptr=np.asarray([0, 2]), num_classes=3)),
        once,
    )


def test_a_stored_zero_is_a_negative() -> None:
    x = np.asarray([[0.5, -1.0, 2.0]])
    zero = mlsm.Labels(np.asarray([[1, 2]]), values=np.asarray([[0.0, 1.0]]), num_classes=3)
    matrix = scipy.sparse.csr_array((np.asarray([0.0, 1.0]), np.asarray([1, 2]), np.asarray([0, 2])), shape=(1, 3))
    for labels in (zero, matrix):
        identical(mlsm.grad(x, labels), mlsm.grad(x, np.asarray([[0.0, 0.0, 1.0]])))


@pytest.mark.parametrize("labels", [
    mlsm.Labels(np.zeros((2, 0), np.int64), num_classes=3),
    mlsm.Labels(np.full((2, 2), -1), num_classes=3),
    mlsm.Labels(np.zeros(0, np.int32), indptr=np.zeros(3, np.int64), num_classes=3),
    scipy.sparse.csr_array((2, 3), dtype=np.int8),
])  # fmt: skip
def test_labels_without_any_label(labels: Any) -> None:
    x = np.asarray([[0.5, -1.0, 2.0], [0.0, 1.0, -3.0]])
    identical(mlsm.grad(x, labels), mlsm.grad(x, np.zeros((2, 3), bool)))


def test_labels_without_any_row() -> None:
    empty = mlsm.Labels(np.zeros((0, 2), np.int64), num_classes=3)
    assert mlsm.multilabel_soft_margin_loss(np.zeros((0, 3)), empty, reduction="none").shape == (0,)
    assert np.isnan(mlsm.multilabel_soft_margin_loss(np.zeros((0, 3)), empty))
    assert len(empty) == 0


def test_unsorted_rows_are_the_same_labels(rng: np.random.Generator) -> None:
    y = _dense(rng, dtype=np.float64)
    matrix = scipy.sparse.csr_array(y)
    turned = scipy.sparse.csr_array(
        (matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape
    )
    for i, j in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        turned.indices[i:j], turned.data[i:j] = matrix.indices[i:j][::-1], matrix.data[i:j][::-1]
    x = rng.normal(size=y.shape)
    identical(mlsm.grad(x, turned), mlsm.grad(x, y))


def test_positives_are_computed_and_not_corrected_afterwards() -> None:
    """softplus of all minus x of the positives would be 1.2e-2 off here, and NaN at an infinite logit."""
    x = np.full((1, 1000), -20.0, np.float32)
    x[0, :5] = 20.0
    labels = mlsm.Labels(np.arange(5)[None], num_classes=1000)
    check(mlsm.multilabel_soft_margin_loss(x, labels), np.log1p(np.exp(-20.0)), 2e-16)
    x[0, :5], x[0, 5:] = np.inf, -np.inf
    assert mlsm.multilabel_soft_margin_loss(x, labels) == 0
    assert not mlsm.grad(x, labels).any()


def test_more_entries_than_32_bits_can_count() -> None:
    """Rows and classes for which row*C + column is beyond 2^31 and beyond 2^32."""
    classes = 2**16 + 3
    indices = np.full((2**16, 1), -1, np.int32)
    indices[-1, 0] = classes - 1
    x = np.broadcast_to(np.float32(0), (2**16, classes))
    labels = mlsm.Labels(indices, num_classes=classes)
    made = _targets.target(library_of(indices, "indices"), labels, "cpu", False)
    block = made[slice(2**16 - 2, 2**16), slice(None)]
    assert x.shape == made.shape
    assert block.sum() == 1
    assert block[1, classes - 1]
    assert not made[slice(0, 2), slice(None)].any()


# ---------------------------------------------------------------- the class itself


def test_repr_and_immutability(rng: np.random.Generator) -> None:
    y = _dense(rng, dtype=np.float32)
    for form in ("padded", "indptr"):
        labels = _made(form, y, rng)
        assert (labels.shape, labels.ndim, len(labels), labels.nnz) == (y.shape, 2, 13, (y != 0).sum())
        identical(labels.toarray(), y)
        again = pickle.loads(pickle.dumps(labels))
        identical(again.toarray(), y)
        with pytest.raises(AttributeError, match="`num_classes` cannot be set: Labels are immutable"):
            labels.num_classes = 3
        with pytest.raises(AttributeError, match="`values` cannot be deleted"):
            del labels.values
    assert repr(labels) == (
        f"Labels(indices=<numpy array of shape ({labels.nnz},), int16>, num_classes=40, indptr=<numpy array of shape "
        f"(14,), int32>, values=<numpy array of shape ({labels.nnz},), float32>)"
    )
    with pytest.raises(TypeError, match="Labels is final"):
        type("Mine", (mlsm.Labels,), {})


ROWS: dict[str, Any] = {
    "slice": slice(3, 11),
    "step": slice(1, None, 3),
    "reversed": slice(None, None, -2),
    "array": np.asarray([5, -1, 5, 0]),
    "bool": np.arange(13) % 3 == 0,
    "none": np.zeros(13, bool),
    "integer": 4,
    "last": -1,
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("form", ["padded", "indptr"])
def test_indexing_rows(form: str, soft: bool, rows: Any, rng: np.random.Generator) -> None:
    y = _dense(rng, dtype=np.float32 if soft else bool)
    identical(_made(form, y, rng)[rows].toarray(), y[rows])


def test_invalid_row_indices_are_refused() -> None:
    labels = mlsm.Labels(np.asarray([[0], [1]]), num_classes=2)
    for rows in (None, ..., (0, 1), [0]):
        with pytest.raises(TypeError, match="takes a slice, an integer, or an integer or bool array"):
            labels[rows]
    with pytest.raises(IndexError):
        labels[2]
    with pytest.raises(IndexError, match="of one row"):
        labels[0][0]
    with pytest.raises(TypeError, match="of one row have no length"):
        len(labels[0])
    with pytest.raises(TypeError, match=r"`Labels.to` moves tensors; these labels are arrays of numpy"):
        labels.to("cpu")


# ---------------------------------------------------------------- refusals

INDICES = np.asarray([[0, 2], [1, -1]])
FLAT, INDPTR = np.asarray([0, 1]), np.asarray([0, 1, 2])
# In addition to, or in place of, right indices of three classes.
CONSTRUCTED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "list": ({"indices": [[0, 1]]}, TypeError, "`indices` must be an array; got a list: convert"),
    "unsigned": (
        {"indices": INDICES.astype("u1")},
        TypeError,
        "`indices` must have a signed integer dtype .* got uint8",
    ),
    "floating": ({"indices": INDICES * 1.0}, TypeError, "signed integer dtype .* got float64"),
    "bool": ({"indices": INDICES > 0}, TypeError, "signed integer dtype .* got bool"),
    "0-d": ({"indices": np.asarray(1)}, ValueError, "at least one dimension"),
    "classes bool": ({"num_classes": True}, TypeError, "`num_classes` must be an integer"),
    "classes float": ({"num_classes": 3.0}, TypeError, "`num_classes` must be an integer"),
    "no class": ({"num_classes": 0}, ValueError, "`num_classes` must be at least 1"),
    "outside": ({"num_classes": 2}, IndexError, r"`indices` must be in \[0, 1\], or -1 for none; got 2 in row 0"),
    "below": ({"indices": INDICES - 1}, IndexError, "got -2 in row 1"),
    "outside, deep": ({"indices": np.asarray([[[0], [1]], [[0], [9]]])}, IndexError, r"got 9 in row \(1, 1\)"),
    "-1 with indptr": (
        {"indices": np.asarray([0, -1]), "indptr": INDPTR},
        IndexError,
        r"`indices` must be in \[0, 2\]; got -1 in row 1",
    ),
    "indptr decreases": (
        {"indices": FLAT, "indptr": np.asarray([0, 2, 1, 2])},
        ValueError,
        "`indptr` must not decrease; it does at 2, from 2 to 1",
    ),
    "indptr ends early": (
        {"indices": FLAT, "indptr": INDPTR[:2]},
        ValueError,
        "`indptr` must start at 0 and end at the number of `indices`, 2; got 0 and 1",
    ),
    "indptr shape": (
        {"indices": FLAT, "indptr": INDPTR[None]},
        ValueError,
        r"`indptr` must have shape \(N \+ 1,\), for N rows; got \(1, 3\)",
    ),
    "indptr dtype": (
        {"indices": FLAT, "indptr": INDPTR * 1.0},
        TypeError,
        "`indptr` must have a signed integer dtype; got float64",
    ),
    "indptr and padded": (
        {"indptr": INDPTR},
        ValueError,
        r"`indices` must have shape \(nnz,\) where there is an `indptr`, here of shape \(3,\); got \(2, 2\)",
    ),
    "values shape": (
        {"values": np.ones((2, 3))},
        ValueError,
        r"`values` must have the shape of `indices`, \(2, 2\); got \(2, 3\)",
    ),
    "values dtype": (
        {"values": INDICES * 1j},
        TypeError,
        "`values` must have a bool, integer or real floating dtype; got complex128",
    ),
    "values list": ({"values": [[1, 1]]}, TypeError, "`values` must be an array"),
    "repeated": (
        {"indices": np.asarray([[0, 1], [2, 2]]), "values": np.ones((2, 2))},
        ValueError,
        "an index must not repeat in its row where there are `values`; got 2 more than once in row 1: give each once",
    ),
    "repeated, apart": (
        {"indices": np.asarray([2, 0, 2, 1]), "indptr": np.asarray([0, 0, 3, 4]), "values": np.ones(4)},
        ValueError,
        "got 2 more than once in row 1",
    ),
}


@pytest.mark.parametrize(("given", "kind", "message"), CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_refused_on_construction(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mlsm.Labels(**{"indices": INDICES, "num_classes": 3, **given})


def _csr(data: Any, indices: Any, indptr: Any) -> Any:
    """A matrix that SciPy itself would not make."""
    matrix = scipy.sparse.csr_array((2, 3))
    matrix.data, matrix.indices, matrix.indptr = (np.asarray(v) for v in (data, indices, indptr))
    return matrix


X = np.zeros((2, 3))
LABELS = mlsm.Labels(INDICES, num_classes=3)
# In addition to, or in place of, right logits and labels.
CALLED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "bare indices": (
        {"target": INDICES},
        ValueError,
        r"got \(2, 2\). If it holds indices of classes, pass `mlsm.Labels\(target, num_classes=3\)`",
    ),
    "shape": (
        {"target": mlsm.Labels(INDICES, num_classes=4)},
        ValueError,
        r"`target` must have exactly the shape of `input`, \(2, 3\); got \(2, 4\)",
    ),
    "axis": ({"axis": 0}, ValueError, "`axis` must be the last"),
    "wrt": ({"wrt": "target"}, ValueError, '`wrt` can be "target" only for a dense `target`'),
    "wrt csr": (
        {"target": scipy.sparse.csr_array(X), "wrt": "target"},
        ValueError,
        '`wrt` can be "target" only for a dense `target`',
    ),
    "coo": (
        {"target": scipy.sparse.coo_array(X)},
        TypeError,
        r"`target` must be an array; got a scipy.sparse.*coo_array: pass its `.tocsr\(\)`, or `mlsm.Labels",
    ),
    "csc": ({"target": scipy.sparse.csc_matrix(X)}, TypeError, r"csc_matrix: pass its `.tocsr\(\)`"),
    "complex": ({"target": scipy.sparse.csr_array(X * 1j)}, TypeError, "got complex128"),
    "csr outside": (
        {"target": _csr([1.0, 1.0], [0, 3], [0, 1, 2])},
        IndexError,
        r"`target`: `indices` must be in \[0, 2\]; got 3 in row 1",
    ),
    "csr repeated": (
        {"target": _csr([1.0, 1.0], [1, 1], [0, 0, 2])},
        ValueError,
        r"`target`: an index must not repeat .* got 1 more than once in row 1: call `.sum_duplicates\(\)`",
    ),
    "csr decreases": (
        {"target": _csr([1.0, 1.0], [1, 1], [0, 3, 2])},
        ValueError,
        "`target`: `indptr` must not decrease",
    ),
    "csr rows": ({"target": _csr([1.0], [1], [0, 1])}, ValueError, "`indptr` of one more than its rows, 3"),
    "csr weight": (
        {"weight": scipy.sparse.csr_array(X)},
        TypeError,
        r"`weight` must be an array; .* pass its `.toarray\(\)`",
    ),
    "labels as input": (
        {"input": LABELS, "target": X},
        TypeError,
        "`input` must be an array; got a mlsm.many_classes._labels.Labels",
    ),
}


@pytest.mark.parametrize(("given", "kind", "message"), CALLED.values(), ids=CALLED)
def test_refused_at_the_call(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mlsm.grad(**{"input": X, "target": LABELS, **given})


# ---------------------------------------------------------------- every library


def test_every_library(library: _support.Library, rng: np.random.Generator) -> None:
    """Padded labels, hard ones and soft ones in a narrow dtype give the results of the dense target."""
    for dtype, soft in (("float32", False), (library.dtypes[1 if library.name == "torch" else 0], True)):
        kind = _support.numpy_dtype(dtype)
        y = _dense(rng, dtype=np.float32 if soft else bool)
        y = y.astype(kind) if soft else y
        indices, values = padded(y, rng)
        x = library.make(rng.normal(size=y.shape).astype(kind))
        labels = mlsm.Labels(
            library.make(indices.astype(np.int32)),
            num_classes=CLASSES,
            values=library.make(values) if soft else None,
        )
        identical(library.read(labels.toarray()), y)
        identical(library.read(mlsm.grad(x, labels)), library.read(mlsm.grad(x, library.make(y))), f"{dtype} {soft}")


def test_rows_by_indptr_in_every_library_but_dask(library: _support.Library, rng: np.random.Generator) -> None:
    y = _dense(rng)
    matrix = scipy.sparse.csr_array(y)
    make = library.make

    def made() -> Any:
        return mlsm.Labels(
            make(matrix.indices.astype(np.int32)), indptr=make(matrix.indptr.astype(np.int32)), num_classes=CLASSES
        )

    if library.name == "jax-x64":
        return  # as without `indptr`, of int64
    if library.name == "dask":
        with pytest.raises(ValueError, match="`indptr` cannot be cut into blocks of rows"):
            made()
        return
    x = make(rng.normal(size=y.shape).astype(np.float32))
    identical(library.read(mlsm.grad(x, made())), library.read(mlsm.grad(x, make(y))))
    identical(library.read(made()[3:7].toarray()), y[3:7])


def test_libraries_are_not_mixed(library: _support.Library) -> None:
    if library.name == "numpy":
        return
    with pytest.raises(TypeError, match="`target` must belong to the library of `input`"):
        mlsm.grad(library.make(X.astype(np.float32)), LABELS)
    with pytest.raises(TypeError, match="`values` must belong to the library of `indices`, numpy"):
        mlsm.Labels(INDICES, values=library.make(INDICES), num_classes=3)
    with pytest.raises(TypeError, match="`indptr` must belong to the library of `indices`, numpy"):
        mlsm.Labels(INDICES[0], indptr=library.make(INDPTR), num_classes=3)


@pytest.mark.parametrize("shown", ["no method", "no memory"])
@pytest.mark.parametrize("form", ["padded", "soft", "rows", "none"])
def test_a_library_without_access_to_its_memory(monkeypatch: pytest.MonkeyPatch, shown: str, form: str) -> None:
    """If arrays can neither be written to nor read by NumPy, every label is compared with every class."""
    xp = pytest.importorskip("array_api_strict", reason="it is a library of the standard only")
    x = xp.asarray(np.linspace(-3, 3, 12).reshape(3, 4))
    indices, dense = np.asarray([[3, -1], [-1, -1], [0, 2]], np.int8), np.zeros((3, 4))
    if form == "rows":
        labels = mlsm.Labels(xp.asarray([3, 0, 2]), indptr=xp.asarray([0, 1, 1, 3]), num_classes=4)
    elif form == "none":
        labels, indices = mlsm.Labels(xp.asarray(np.zeros((3, 0), np.int64)), num_classes=4), np.zeros((3, 0), np.int8)
    else:
        values = xp.asarray([[0.25, 9.0], [9.0, 9.0], [0.5, 1.0]]) if form == "soft" else None
        labels = mlsm.Labels(xp.asarray(indices), num_classes=4, values=values)
    for row, classes in enumerate(indices):
        dense[row, classes[classes >= 0]] = 1
    if form == "soft":
        dense[0, 3], dense[2, 0] = 0.25, 0.5
    right = [np.asarray(v) for v in mlsm.value_and_grad(x, xp.asarray(dense))]
    head = mlsm.linear_multilabel_soft_margin_loss(x, xp.eye(4), xp.asarray(dense))

    def refuse(self: Any, **options: Any) -> Any:
        raise BufferError("no export")

    if shown == "no method":
        monkeypatch.delattr(type(x), "__dlpack__")
    else:
        monkeypatch.setattr(type(x), "__dlpack__", refuse)
    for seen, wanted in zip(mlsm.value_and_grad(x, labels), right, strict=True):
        identical(np.asarray(seen), wanted)
    check(
        np.asarray(mlsm.linear_multilabel_soft_margin_loss(x, xp.eye(4), labels)),
        np.asarray(head),
        4 * np.finfo(np.float64).eps,
    )
