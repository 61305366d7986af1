"""The dask kernel by itself: a few tasks per block, the best kernel for the blocks, and more data than memory.

The conformance suite judges its results (`run --kernel dask`).
"""

import pickle
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _dispatch

from .._support import check, identical, nothing_computed

loss = mlsm.multilabel_soft_margin_loss


dask = pytest.importorskip("dask", reason="this file tests Dask")
da = pytest.importorskip("dask.array", reason="this file tests Dask")
pytest.importorskip("mlsm.kernels.dask", reason="mlsm/kernels/dask.py is deleted")

SHAPE = (12, 9)
CHUNKS: dict[str, Any] = {"rows": (5, -1), "classes": (-1, 2), "both": (5, 4), "uneven": ((1, 11), (8, 1))}
U = 2.0**-53


def _lazy(values: Any, chunks: Any) -> Any:
    return da.from_array(values, chunks=chunks)


def _options(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    c, mask = rng.random(SHAPE[1]) + 0.5, rng.random(SHAPE) < 0.6
    mask[3] = False
    return {
        "plain": {},
        "class": {"weight": c, "pos_weight": c[::-1].copy(), "label_smoothing": 0.1},
        "row": {"weight": rng.random((SHAPE[0], 1))},
        "number": {"weight": 3, "pos_weight": [2.0] * SHAPE[1]},
        "where": {"where": mask},
        "where and weights": {"where": mask, "weight": rng.random(SHAPE), "pos_weight": c},
        "where by class": {"where": mask[0]},
    }


def _results(x: Any, y: Any, g: Any, **options: Any) -> dict[str, Any]:
    results = {r: loss(x, y, reduction=r, **options) for r in ("none", "mean", "sum")}
    results["value"], results["of mean"] = mlsm.value_and_grad(x, y, **options)
    results["gradient"] = mlsm.grad(x, y, reduction="none", grad_output=g, **options)
    results["hessian"] = mlsm.hessian_diag(x, y, **options)
    return results


@pytest.mark.parametrize("option", ["plain", "class", "row", "number", "where", "where and weights", "where by class"])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_every_chunking_and_option(chunks: str, option: str, rng: np.random.Generator) -> None:
    x, y, g = 4 * rng.standard_normal(SHAPE), rng.random(SHAPE), rng.random(SHAPE[0])
    options = _options(rng)[option]
    right = _results(x, y, g, kernel="generic", **options)
    lazy = {k: _lazy(v, "auto") if isinstance(v, np.ndarray) else v for k, v in options.items()}
    with nothing_computed():
        graphs = _results(_lazy(x, CHUNKS[chunks]), _lazy(y, 3), _lazy(g, 7), kernel="dask", **lazy)
    for name, found in zip(graphs, dask.compute(*graphs.values(), scheduler="sync"), strict=True):
        size = np.abs(right[name]) + 1 / (SHAPE[0] * SHAPE[1])  # near its root, relative to its terms
        check(found, right[name], 16 * U * size, name)
        assert found.dtype == right[name].dtype
    assert graphs["of mean"].chunks == _lazy(x, CHUNKS[chunks]).chunks


@pytest.mark.parametrize("chunks", CHUNKS)
def test_unknown_lengths(chunks: str, rng: np.random.Generator) -> None:
    x, y, mask = 4 * rng.standard_normal(SHAPE), rng.random(SHAPE), rng.random(SHAPE) < 0.6
    kept = np.arange(SHAPE[0]) % 3 != 1
    right = [*mlsm.value_and_grad(x[kept], y[kept], where=mask[kept], kernel="generic")]
    right.append(mlsm.hessian_diag(x[kept], y[kept], where=mask[kept], kernel="generic"))
    with nothing_computed():
        where = _lazy(kept, (CHUNKS[chunks][0],))
        a, b, m = (_lazy(v, CHUNKS[chunks])[where] for v in (x, y, mask))
        graphs = [*mlsm.value_and_grad(a, b, where=m, kernel="dask"), mlsm.hessian_diag(a, b, where=m, kernel="dask")]
    for found, exact in zip(dask.compute(*graphs, scheduler="sync"), right, strict=True):
        check(found, exact, 16 * U * (np.abs(exact) + 1 / (SHAPE[0] * SHAPE[1])))


def test_the_best_kernel_serves_the_blocks(monkeypatch: pytest.MonkeyPatch, table: None) -> None:
    """A block is a call with NumPy arrays: a kernel that is registered for NumPy serves it."""
    from mlsm import _core

    seen: list[Any] = []

    def rows(o: Any) -> Any:
        seen.append(o.x.shape)
        return _core.rows(o)

    mlsm.register_kernel(mlsm._dispatch.Kernel("spy", ("numpy",), lambda problem: None, rows))
    x = np.ones((6, 4))
    loss(_lazy(x, (2, -1)), _lazy(x, (2, -1)), kernel="dask").compute(scheduler="sync")
    assert seen == [(2, 4)] * 3


def test_a_block_has_the_bits_of_the_same_call(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((20, 70)).astype(np.float32), rng.random((20, 70)) < 0.5
    found = loss(_lazy(x, (7, -1)), _lazy(y, (7, -1)), reduction="none", kernel="dask").compute(scheduler="sync")
    identical(found, loss(x, y, reduction="none"))


@pytest.mark.parametrize("chunks", [(10, -1), (10, 10)])
def test_few_tasks_per_block(chunks: Any) -> None:
    x = da.ones((400, 20), chunks=chunks)
    blocks = x.npartitions
    for graph in (loss(x, x), mlsm.grad(x, x), mlsm.hessian_diag(x, x), mlsm.value_and_grad(x, x)[1]):
        assert len(dict(dask.optimize(graph)[0].__dask_graph__())) <= 5 * blocks


@pytest.mark.parametrize("name", ["rows", "rows_and_vjp"])
def test_graphs_can_be_sent(name: str) -> None:
    """By plain pickle: a graph contains no closure, lock or compiled function."""
    x = _lazy(np.ones((4, 3)), 2)
    graph = loss(x, x) if name == "rows" else mlsm.value_and_grad(x, x)[1]
    sent = pickle.loads(pickle.dumps(graph))
    check(sent.compute(scheduler="sync"), graph.compute(scheduler="sync"), 0)


def test_chosen_for_dask_arrays() -> None:
    x = _lazy(np.ones((4, 3)), 2)
    assert mlsm.explain(x, x).chosen == "dask"
    assert _dispatch.names().index("dask") < _dispatch.names().index("generic")


@pytest.mark.slow
def test_more_data_than_the_workers_have_memory() -> None:
    """2.5 GiB, generated and reduced by two workers of 0.4 GiB each, with the gradient's norm and the loss."""
    distributed = pytest.importorskip("distributed", reason="this test needs dask's distributed scheduler")
    rows, classes, blocks, limit = 4096, 1024, 160, 400 * 2**20
    assert rows * classes * 4 * blocks > 3 * 2 * limit

    def generate() -> Any:  # nested, so that it is pickled by value: the workers cannot import this file
        return np.linspace(-9, 9, rows * classes, dtype=np.float32).reshape(rows, classes)

    part = dask.delayed(generate, pure=False)
    x = da.concatenate([da.from_delayed(part(), (rows, classes), np.float32) for _ in range(blocks)])
    y = x > 0.5
    value, gradient = mlsm.value_and_grad(x, y, kernel="dask")
    norm = (gradient * gradient).sum(dtype=np.float64)

    one = generate()
    right, whole = mlsm.value_and_grad(one, one > 0.5, kernel="generic")
    squares = float((whole.astype(np.float64) ** 2).sum()) / blocks
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, memory_limit=limit, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found, found_norm = client.gather(client.compute([value, norm]))
    assert abs(found - right) <= 8 * 2.0**-24 * right
    assert abs(found_norm - squares) <= 16 * 2.0**-24 * squares
