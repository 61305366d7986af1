"""Dask: lazy arguments give lazy results; any chunking; unknown lengths; every scheduler.

Building a graph computes nothing: the scheduler of these tests raises while a graph is built.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check, everything, nothing_computed

dask = pytest.importorskip("dask", reason="this file tests Dask")
da = pytest.importorskip("dask.array", reason="this file tests Dask")

loss = mlsm.multilabel_soft_margin_loss
CHUNKS: dict[str, Any] = {
    "one block": (-1, -1),
    "rows": (2, -1),
    "classes": (-1, 2),
    "both": (3, 2),
    "single elements": (1, 1),
    "uneven": ((1, 4, 2), (3, 1, 1)),
}
KERNELS = [None, "generic"]
U = 2.0**-53


def _data() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    x = 3 * rng.standard_normal((7, 5))
    x[0, 0], x[6, 4] = 0, np.inf
    y = rng.random((7, 5))
    y[6, 4] = 1
    where = rng.random((7, 5)) < 0.7
    where[2] = False
    return {"input": x, "target": y, "weight": rng.random((7, 1)), "pos_weight": rng.random(5), "where": where}


def _results(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return dict(everything(**data, reduction="sum", **more))


def _agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, right in expected.items():
        right = np.asarray(right)
        largest = np.abs(right[np.isfinite(right)]).max(initial=0)
        check(found[name], right, 64 * U * largest, name)


@pytest.mark.parametrize("options", [False, True], ids=["plain", "options"])
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_any_chunking(chunks: str, options: bool, kernel: str | None) -> None:
    data = _data()
    if not options:
        data = {"input": data["input"], "target": data["target"]}
    own = CHUNKS[chunks]
    lazy = {
        k: da.from_array(v, chunks=own if v.shape == (7, 5) else tuple(max(1, n // 2) for n in v.shape))
        for k, v in data.items()
    }
    with nothing_computed():
        found = _results(lazy, kernel=kernel)
        assert all(isinstance(v, da.Array) for v in found.values())
    computed = dict(zip(found, dask.compute(*found.values(), scheduler="synchronous"), strict=True))
    _agree(computed, _results(data, kernel="generic"))
    for name, v in found.items():
        assert v.dtype == np.float64, name
        assert v.shape == computed[name].shape, name


@pytest.mark.parametrize("chunks", ["rows", "both"])
def test_target_and_input_with_different_chunks(chunks: str) -> None:
    data = _data()
    x = da.from_array(data["input"], chunks=CHUNKS[chunks])
    y = da.from_array(data["target"], chunks=(4, 3))
    found = loss(x, y, reduction="none").compute(scheduler="synchronous")
    check(found, loss(data["input"], data["target"], reduction="none", kernel="generic"), 8 * U)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_class_axis(axis: int) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((4, 3, 6)), rng.random((4, 3, 6))
    a, b = (da.from_array(v, chunks=(2, 3, 4)) for v in (x, y))
    for function in (loss, mlsm.grad, mlsm.hessian_diag):
        expected = function(x, y, axis=axis, reduction="none")
        check(
            function(a, b, axis=axis, reduction="none").compute(scheduler="synchronous"),
            expected,
            16 * U,
            function.__name__,
        )


# ---------------------------------------------------------------- unknown lengths


def _unknown(a: Any, kept: Any, chunks: int = 2) -> Any:
    """Rows of `a` chosen by a mask, so that their number is unknown until they are computed."""
    lazy = da.from_array(a, chunks=(chunks, *a.shape[1:]))
    return lazy[da.from_array(kept, chunks=chunks)]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_unknown_batch_length(kernel: str | None, masked: bool) -> None:
    data = _data()
    data.pop("pos_weight")
    if not masked:
        data.pop("where")
    kept = np.asarray([1, 0, 1, 1, 0, 1, 1], dtype=bool)
    lazy = {k: _unknown(v, kept) for k, v in data.items()}
    assert np.isnan(lazy["input"].shape[0])
    with nothing_computed():
        found = _results(lazy, kernel=kernel)
    computed = dict(zip(found, dask.compute(*found.values(), scheduler="synchronous"), strict=True))
    _agree(computed, _results({k: v[kept] for k, v in data.items()}, kernel="generic"))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_unknown_batch_length_with_blocks_that_are_empty(kernel: str | None) -> None:
    data = _data()
    kept = np.asarray([0, 0, 1, 1, 0, 0, 1], dtype=bool)
    x, y = (_unknown(data[k], kept) for k in ("input", "target"))
    expected = loss(data["input"][kept], data["target"][kept], kernel="generic")
    check(loss(x, y, kernel=kernel).compute(scheduler="synchronous"), expected, 8 * U * expected, "mean")
    nobody = np.zeros(7, dtype=bool)
    x, y = (_unknown(data[k], nobody) for k in ("input", "target"))
    assert loss(x, y, reduction="sum", kernel=kernel).compute(scheduler="synchronous") == 0
    with np.errstate(all="ignore"):  # the mean over no row is 0/0, with the flags of the thread that computes it
        assert np.isnan(loss(x, y, kernel=kernel).compute(scheduler="synchronous"))


REFUSED_LATER: dict[str, Callable[[Any, Any], Any]] = {
    "loss": lambda x, y: loss(x, y, reduction="none"),
    "gradient": lambda x, y: mlsm.grad(x, y),
    "hessian": lambda x, y: mlsm.hessian_diag(x, y, reduction="none"),
    "where": lambda x, y: loss(x, x, where=y > 0, reduction="none"),
}


@pytest.mark.parametrize("how", REFUSED_LATER)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_lengths_that_disagree_are_refused_inside_the_block(how: str, kernel: str | None) -> None:
    """5 rows against 1 would broadcast silently."""
    a = np.random.default_rng(4).standard_normal((5, 6))
    x = _unknown(a, np.ones(5, dtype=bool), 5)
    y = _unknown(a, np.asarray([1, 0, 0, 0, 0], dtype=bool), 5)
    with nothing_computed():
        lazy = REFUSED_LATER[how](x, y)
    with pytest.raises(ValueError, match=r"`(target|where)`.*\(5, 6\).*\(1, 6\)"):
        lazy.compute(scheduler="synchronous")


def test_a_known_length_against_an_unknown_one_is_refused_at_once() -> None:
    a = np.zeros((5, 6))
    with pytest.raises(ValueError, match=r"`target`.*compute_chunk_sizes\(\)"):
        loss(da.from_array(a, chunks=2), _unknown(a, np.ones(5, dtype=bool)))


def test_grad_output_of_unknown_length() -> None:
    data = _data()
    kept = np.asarray([1, 0, 1, 1, 0, 1, 1], dtype=bool)
    g = np.random.default_rng(1).random(7)
    x, y = (_unknown(data[k], kept) for k in ("input", "target"))
    lazy_g = da.from_array(g, chunks=2)[da.from_array(kept, chunks=2)]
    found = mlsm.grad(x, y, reduction="none", grad_output=lazy_g).compute(scheduler="synchronous")
    expected = mlsm.grad(data["input"][kept], data["target"][kept], reduction="none", grad_output=g[kept])
    check(found, expected, 16 * U, "gradient")


# ---------------------------------------------------------------- schedulers


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler(scheduler: str) -> None:
    data = _data()
    lazy = {k: da.from_array(data[k], chunks=(2, 3)) for k in ("input", "target", "where")}
    found = _results(lazy)
    options = {"num_workers": 2} if scheduler == "processes" else {}
    computed = dict(zip(found, dask.compute(*found.values(), scheduler=scheduler, **options), strict=True))
    _agree(computed, _results({k: data[k] for k in lazy}, kernel="generic"))


def _process(value: Any) -> tuple[Any, int]:
    return value, os.getpid()


def test_a_real_cluster_of_two_processes() -> None:
    """Graphs, kernels and errors are sent to the processes: everything in them must be picklable."""
    distributed = pytest.importorskip("distributed", reason="the distributed scheduler is a separate package")
    data = _data()
    lazy = {k: da.from_array(data[k], chunks=(2, 3)) for k in ("input", "target", "where")}
    criterion = mlsm.MultiLabelSoftMarginLoss([1.0, 2.0, 0.5, 1.0, 3.0], reduction="sum")
    with (
        # No dashboard and no fixed port, which could collide with other programs on this machine.
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        pids = {pid for _, pid in client.gather(client.map(_process, range(32), pure=False))}
        assert os.getpid() not in pids
        found = _results(lazy)
        computed = dict(zip(found, client.gather(client.compute(list(found.values()))), strict=True))
        _agree(computed, _results({k: data[k] for k in lazy}, kernel="generic"))

        own = {k: v for k, v in lazy.items() if k != "where"}
        there = client.compute(criterion(**own)).result()
        expected = criterion(data["input"], data["target"], kernel="generic")
        check(there, expected, 64 * U * expected, "the class")

        a = np.zeros((5, 6))
        y = _unknown(a, np.asarray([1, 0, 0, 0, 0], dtype=bool), 5)
        future = client.compute(loss(_unknown(a, np.ones(5, dtype=bool), 5), y))
        with pytest.raises(ValueError, match="`target`"):
            future.result()


def test_the_result_depends_on_chunking_by_rounding_only() -> None:
    x = np.random.default_rng(9).standard_normal((400, 30)).astype(np.float32)
    y = (x > 0.3).astype(np.float32)
    expected = float(loss(x.astype(np.float64), y.astype(np.float64)))
    for chunks in ((400, 30), (7, 30), (400, 7), (13, 11)):
        lazy = loss(da.from_array(x, chunks=chunks), da.from_array(y, chunks=chunks))
        assert lazy.dtype == np.float32
        # The elementwise bound of 4 ULP, and 8u for all the sums.
        check(lazy.compute(scheduler="synchronous"), expected, 16 * 2.0**-24 * expected, str(chunks))


@pytest.mark.parametrize("wrt", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape", [(2,), (1, 2)], ids=str)
def test_the_gradient_for_a_class_weight_is_summed_by_pairs(shape: tuple[int, ...], wrt: Any) -> None:
    """Over the rows of one block, which NumPy would add one after the other: within the bound of sums in float64."""
    n, rng = 100_000, np.random.default_rng(3)
    x, y = rng.standard_normal((n, 2)), rng.random((n, 2)) < 0.5
    terms = np.log1p(np.exp(-np.abs(x))) + np.where(x >= 0, ~y if wrt == "weight" else 0, y) * np.abs(x)
    if wrt == "pos_weight":
        terms = terms * y
    exact = np.asarray([math.fsum(column) for column in terms.T]).reshape(shape) / 2
    lazy = {name: da.from_array(v, chunks=v.shape) for name, v in (("input", x), ("target", y), (wrt, np.ones(shape)))}
    found = mlsm.grad(**lazy, wrt=wrt, reduction="sum").compute(scheduler="synchronous")
    check(found, exact, (8 + np.log2(n) + 8) * 2.0**-53 * exact, wrt)


# ---------------------------------------------------------------- blocks that differ from their declaration


def _lying(lazy: Any, into: Callable[[Any], Any]) -> Any:
    """The same declaration, other blocks."""
    return lazy.map_blocks(into, dtype=lazy.dtype, chunks=lazy.chunks, meta=lazy._meta)


def _declared() -> dict[str, Any]:
    data = {**_data(), "grad_output": np.random.default_rng(1).random(7)}
    return {k: da.from_array(v, chunks=tuple(min(n, 4) for n in v.shape)) for k, v in data.items()}


def _derivatives(given: dict[str, Any], kernel: str | None) -> list[Any]:
    own = {k: v for k, v in given.items() if k != "grad_output"}
    by = [w for w in ("input", "target", "weight", "pos_weight") if w in given]
    found = [mlsm.grad(**given, wrt=w, reduction="none", kernel=kernel) for w in by]
    if "grad_output" in given:
        return found
    found += [loss(**own, reduction=r, kernel=kernel) for r in ("none", "mean")]
    return [*found, mlsm.hessian_diag(**own, kernel=kernel), *mlsm.value_and_grad(**own, kernel=kernel)]


LIES: dict[str, Callable[[Any], Any]] = {
    "first": lambda v: v[:1],
    "none": lambda v: v[:0],
    "shorter": lambda v: v[:-1],
    "twice": lambda v: np.concatenate([v, v]),
    "fewer classes": lambda v: v[..., :-1],
    "another axis": lambda v: v[None],
    "a number": lambda v: v.ravel()[0],
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "where", "grad_output"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_block_of_another_shape_is_refused(argument: str, lie: str, kernel: str | None) -> None:
    given = {k: v for k, v in _declared().items() if k in ("input", "target", argument)}
    given[argument] = _lying(given[argument], LIES[lie])
    with nothing_computed():
        graphs = _derivatives(given, kernel)
    for graph in graphs:
        with pytest.raises(ValueError, match=f"`{argument}` must have the .*shape.* in every block"):
            graph.compute(scheduler="synchronous")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_blocks_that_share_a_wrong_shape_are_refused(kernel: str | None) -> None:
    """They fit each other, but a mean would be divided by the declared number of rows."""
    given = {k: _lying(v, lambda b: b[:1]) for k, v in _declared().items() if k in ("input", "target")}
    for graph in _derivatives(given, kernel):
        with pytest.raises(ValueError, match="must have the declared shape in every block"):
            graph.compute(scheduler="synchronous")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_blocks_are_checked_before_rechunking(kernel: str | None) -> None:
    """After rechunking to the chunks of the logits, a block that is too long would fit."""
    given = {k: v.rechunk(7) for k, v in _declared().items() if k in ("input", "target")}
    longer = _lying(da.ones(7, chunks=4), lambda v: np.ones(len(v) + 3))
    for g in (longer, _lying(da.ones(7, chunks=7), lambda v: np.ones(9))):
        with pytest.raises(ValueError, match="`grad_output`"):
            mlsm.grad(**given, reduction="none", grad_output=g, kernel=kernel).compute(scheduler="synchronous")


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("wrt", ["input", "target", "weight"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_grad_output_of_an_unknown_length_that_disagrees(kernel: str | None, wrt: str, rows: int) -> None:
    x = _unknown(np.zeros((5, 1), np.float32), np.ones(5, dtype=bool), 5)
    g = _unknown(np.ones(rows), np.ones(rows, dtype=bool), rows)
    given: dict[str, Any] = {"reduction": "none", "grad_output": g, "kernel": kernel}
    graph = mlsm.grad(x, x, da.ones(1), wrt=wrt, **given)
    with pytest.raises(ValueError, match=r"`grad_output`.*\(5,\)"):
        graph.compute(scheduler="synchronous")


@pytest.mark.parametrize("argument", ["weight", "pos_weight", "where"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_declared_length_of_one_is_broadcast(argument: str, kernel: str | None) -> None:
    """Also with two batch axes."""
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((4, 3, 2)), rng.random((4, 3, 1))
    w = w < 0.5 if argument == "where" else w
    kept = np.asarray([1, 1, 0, 1], dtype=bool)
    a = _unknown(x, kept, 4)
    one = da.from_array(w[:1], chunks=-1)
    found = loss(a, a, **{argument: one}, reduction="none", kernel=kernel).compute(scheduler="synchronous")
    right = loss(x[kept], x[kept], **{argument: w[:1]}, reduction="none", kernel="generic")
    check(found, right, 16 * U * np.abs(right), argument)
    graph = loss(a, a, **{argument: _unknown(w, np.arange(4) == 0, 4)}, reduction="none", kernel=kernel)
    with pytest.raises(ValueError, match=f"`{argument}` must have the shape of `input`"):
        graph.compute(scheduler="synchronous")


EMPTY: dict[str, Any] = {
    "first classes": ((4, 3), (0, 5)),
    "last classes": ((4, 3), (5, 0)),
    "middle": ((3, 0, 4), (2, 0, 3)),
    "rows": ((0, 7), (5,)),
}


@pytest.mark.parametrize("options", [(), ("weight",), ("pos_weight", "where"), ("weight", "pos_weight", "where")])
@pytest.mark.parametrize("chunks", EMPTY)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_chunks_of_length_zero(chunks: str, options: tuple[str, ...], kernel: str | None) -> None:
    own = EMPTY[chunks]
    data = {k: v for k, v in _data().items() if k in ("input", "target", *options)}
    lazy = {
        k: da.from_array(v, chunks=tuple((0, 1) if n == 1 else c for n, c in zip(v.shape, own[-v.ndim :], strict=True)))
        for k, v in data.items()
    }
    found = _results(lazy, kernel=kernel)
    computed = dict(zip(found, dask.compute(*found.values(), scheduler="synchronous"), strict=True))
    _agree(computed, _results(data, kernel="generic"))
    g = np.random.default_rng(1).random(7)
    lazy_g = da.from_array(g, chunks=own[:1])
    by = mlsm.grad(**lazy, reduction="none", grad_output=lazy_g, kernel=kernel).compute(scheduler="synchronous")
    check(by, mlsm.grad(**data, reduction="none", grad_output=g, kernel="generic"), 16 * U, "grad_output")


SCALARS = [np.float32(2), np.float64(2), np.int64(2), np.bool_(True), 2, 2.0, np.asarray(2.0)]


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_block_that_is_a_scalar(scalar: Any, kernel: str | None) -> None:
    """The result of a reduction over all axes."""
    lazy = _declared()
    data = _data()
    x, y = (data[k] for k in ("input", "target"))
    zero = _lying(da.ones((), chunks=()), lambda v: scalar)
    for argument in ("weight", "pos_weight", "grad_output"):
        given = {argument: zero}
        right = {argument: float(scalar)}
        found = mlsm.grad(lazy["input"], lazy["target"], **given, kernel=kernel).compute(scheduler="synchronous")
        check(found, mlsm.grad(x, y, **right, kernel="generic"), 16 * U, argument)
    for flag in (True, np.bool_(True), np.bool_(False)):
        where = _lying(da.ones((), chunks=(), dtype=bool), lambda v, flag=flag: flag)
        found = loss(lazy["input"], lazy["target"], where=where, kernel=kernel).compute(scheduler="synchronous")
        right_value = loss(x, y, where=np.asarray(bool(flag)), kernel="generic")
        check(found, right_value, 16 * U * abs(right_value), "where")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_weights_made_by_reductions(kernel: str | None) -> None:
    data = _data()
    x, y = data["input"].astype(np.float32), data["target"] > 0.5
    x[6, 4] = 1
    a, b = (da.from_array(v, chunks=(4, 2)) for v in (x, y))
    found = loss(a, b, weight=b.mean(), pos_weight=(~b).sum() / b.sum(), where=b.any(), kernel=kernel)
    p = np.asarray((~y).sum() / y.sum())
    right = loss(x, y, weight=np.asarray(y.mean()), pos_weight=p, where=np.asarray(y.any()), kernel="generic")
    check(found.compute(scheduler="synchronous"), right, 64 * U * right)


DTYPES: dict[str, Callable[[Any], Any]] = {
    "complex": lambda v: v.astype(complex),
    "object": lambda v: v.astype(object),
    "string": lambda v: v.astype(str),
    "masked": lambda v: np.ma.masked_array(v, v > 0),
    "list": lambda v: v.tolist(),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "where", "grad_output"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_block_of_another_dtype_kind_is_refused(argument: str, dtype: str, kernel: str | None) -> None:
    given = {k: v for k, v in _declared().items() if k in ("input", "target", argument)}
    given[argument] = _lying(given[argument], DTYPES[dtype])
    for graph in _derivatives(given, kernel)[:2]:
        with pytest.raises(TypeError, match=f"`{argument}`"):
            graph.compute(scheduler="synchronous")


@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "grad_output"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_block_of_another_floating_dtype_is_read(argument: str, kernel: str | None) -> None:
    given = {k: v.astype(np.float32) for k, v in _declared().items() if k in ("input", "target", argument)}
    right = _derivatives({k: v.compute() for k, v in given.items()}, "generic")[0]
    given[argument] = _lying(given[argument], lambda v: v.astype(np.float64))
    found = _derivatives(given, kernel)[0].compute(scheduler="synchronous")
    assert found.dtype == np.float32 or kernel == "generic"  # the generic code computes in the dtype of its blocks
    check(found, right, 16 * 2.0**-24, argument)


def test_masked_blocks_are_refused_at_once() -> None:
    x = da.ones((4, 3), chunks=2)
    with nothing_computed(), pytest.raises(TypeError, match=r"`input`.*MaskedArray.*where="):
        loss(da.ma.masked_array(x, x > 0), x)


def test_the_same_call_twice_is_the_same_graph() -> None:
    """So that the common part of two results is computed once."""
    x = da.ones((4, 3), chunks=2)
    assert mlsm.grad(x, x).name == mlsm.grad(x, x).name
