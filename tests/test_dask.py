"""Dask: lazy in, lazy out; any chunking; lengths that are not known; every scheduler.

Building a graph computes nothing: the scheduler of these tests raises while a graph is built.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mlsm

from ._support import check

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


@contextlib.contextmanager
def nothing_computed() -> Iterator[None]:
    """A scheduler that raises, for as long as graphs are built."""

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a graph was computed while another was built")

    with dask.config.set(scheduler=never):
        yield


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
    """Every public result of these operands, by name."""
    results = {r: loss(**data, reduction=r, **more) for r in ("none", "mean", "sum")}
    results["value"], results["gradient"] = mlsm.value_and_grad(**data, **more)
    results["hessian"] = mlsm.hessian_diag(**data, **more)
    for wrt in ("input", "target", "weight", "pos_weight"):
        if data.get(wrt) is not None:
            results[f"by {wrt}"] = mlsm.grad(**data, wrt=wrt, reduction="sum", **more)
    return results


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
def test_target_chunked_otherwise_than_input(chunks: str) -> None:
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
    """Rows of `a` chosen by a mask, so that nobody knows how many there are until it is computed."""
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
    with np.errstate(all="ignore"):  # the mean over no row is 0/0, under the state of whoever computes it
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
    """5 rows against 1 would broadcast without a word."""
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
def test_schedulers(scheduler: str) -> None:
    data = _data()
    lazy = {k: da.from_array(data[k], chunks=(2, 3)) for k in ("input", "target", "where")}
    found = _results(lazy)
    options = {"num_workers": 2} if scheduler == "processes" else {}
    computed = dict(zip(found, dask.compute(*found.values(), scheduler=scheduler, **options), strict=True))
    _agree(computed, _results({k: data[k] for k in lazy}, kernel="generic"))


def _process(value: Any) -> tuple[Any, int]:
    return value, os.getpid()


def test_a_real_cluster_of_two_processes() -> None:
    """Graphs, kernels and refusals have to travel: everything in them is pickled."""
    distributed = pytest.importorskip("distributed", reason="the distributed scheduler is a package of its own")
    data = _data()
    lazy = {k: da.from_array(data[k], chunks=(2, 3)) for k in ("input", "target", "where")}
    criterion = mlsm.MultiLabelSoftMarginLoss([1.0, 2.0, 0.5, 1.0, 3.0], reduction="sum")
    with (
        # No dashboard and no fixed port: nothing here may collide with what else runs on this machine.
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


def test_the_answer_does_not_depend_on_chunking_beyond_its_rounding() -> None:
    x = np.random.default_rng(9).standard_normal((400, 30)).astype(np.float32)
    y = (x > 0.3).astype(np.float32)
    expected = float(loss(x.astype(np.float64), y.astype(np.float64)))
    for chunks in ((400, 30), (7, 30), (400, 7), (13, 11)):
        lazy = loss(da.from_array(x, chunks=chunks), da.from_array(y, chunks=chunks))
        assert lazy.dtype == np.float32
        # The elementwise bound of 4 ULP, and 8u for all the sums.
        check(lazy.compute(scheduler="synchronous"), expected, 16 * 2.0**-24 * expected, str(chunks))
