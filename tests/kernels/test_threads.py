"""Many threads at once: the same bits as one, and no thread sees a partly changed kernel table.

`make parallel` runs the tests of the public functions in several threads; the tests here are written for threads.
If a race can be forced, the test forces it instead of waiting for it.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _core, _dispatch

from .. import _support

THREADS = 4
SHAPE = 400, 80  # large enough for a library to let another thread run, small enough for one block of a kernel
pytestmark = pytest.mark.thread_unsafe(reason="it starts its own threads")


def together(*works: Callable[[], None]) -> None:
    """Run all of them at once, each in its own thread, and raise the first exception of any of them."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:  # an AssertionError in a thread would be printed and lost
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def never(name: str) -> mlsm.Kernel:
    return mlsm.Kernel(name, ("numpy",), lambda problem: "it never serves", _core.rows)


# ---------------------------------------------------------------- the kernel table


@_support.needs_kernels
@pytest.mark.usefixtures("table")
def test_a_registration_while_the_table_is_built_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first NumPy call takes a while to load kernels. One that is registered meanwhile comes first afterwards."""
    always = mlsm.Kernel("meanwhile", ("numpy",), lambda problem: None, _core.rows)
    x = np.zeros((2, 3))
    load = _dispatch._load
    pending = [always]

    def slow(name: str) -> Any:
        if pending:
            together(lambda: mlsm.register_kernel(pending.pop()))
        return load(name)

    monkeypatch.setattr(_dispatch, "_load", slow)
    mlsm.register_kernel(never("first"))  # drops the table, so that the next call builds it
    mlsm.multilabel_soft_margin_loss(x, x)
    assert not pending
    assert mlsm.explain(x, x).chosen == "meanwhile"


@pytest.mark.usefixtures("table")
def test_registering_from_many_threads_loses_no_kernel() -> None:
    mine = [[f"thread{i}-{k}" for k in range(20)] for i in range(THREADS)]
    x = np.zeros((2, 3))

    def work(names: list[str]) -> None:
        for name in names:
            mlsm.register_kernel(never(name))
            assert dict(mlsm.explain(x, x).reasons)[name] == "it never serves"

    together(*(lambda names=names: work(names) for names in mine))  # type: ignore[misc]  # no type for the default
    assert {name for names in mine for name in names} <= set(_dispatch.names())

    def undo(names: list[str]) -> None:
        for name in names:
            mlsm.unregister_kernel(name)

    together(*(lambda names=names: undo(names) for names in mine))  # type: ignore[misc]  # (the same)
    assert not [name for name in _dispatch.names() if name.startswith("thread")]


# ---------------------------------------------------------------- the same bits


def _results(make: Callable[[Any], Any], x: Any, y: Any, w: Any, kernel: str | None) -> list[Any]:
    a, b, c = make(x), make(y), make(w)
    return [
        mlsm.multilabel_soft_margin_loss(a, b, c, kernel=kernel),
        mlsm.grad(a, b, kernel=kernel),
        mlsm.multilabel_soft_margin_loss(a, b, reduction="none", where=b, kernel=kernel),
        mlsm.grad(a, b, pos_weight=c, reduction="sum", kernel=kernel),
        *mlsm.value_and_grad(a, b, label_smoothing=0.1, kernel=kernel),
        mlsm.hessian_diag(a, b, c, kernel=kernel),
    ]


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Make the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# Every kernel: the dispatch's first choice, the reference, and the second choice.
WAYS = [
    *(pytest.param(*way, id=name) for name, way in _support.ROUTES.items()),
    *(pytest.param(name, "numpy", id=f"{name}-numpy", marks=_support.needs_kernels) for name in ("numpy", "torch")),
]


@pytest.mark.usefixtures("table", "eager_switching")
@pytest.mark.parametrize(("name", "kernel"), WAYS)
def test_the_same_bits_while_kernels_are_registered(name: str, kernel: str | None, rng: np.random.Generator) -> None:
    """Each thread has its own data, so that a buffer shared by two would show; one more thread registers kernels."""
    library = _support.find(name)
    data = [
        (rng.normal(0, 5, SHAPE).astype(np.float32), rng.random(SHAPE) < 0.3, rng.random(SHAPE[1], dtype=np.float32))
        for _ in range(THREADS)
    ]
    with library.session():
        alone = [[library.read(v) for v in _results(library.make, *each, kernel)] for each in data]

    def work(each: tuple[Any, Any, Any], expected: list[Any]) -> None:
        with library.session():  # some libraries have a state for each thread
            for _ in range(5):
                for seen, right in zip(_results(library.make, *each, kernel), expected, strict=True):
                    np.testing.assert_array_equal(library.read(seen), right, strict=True)

    def disturb() -> None:
        for k in range(50):
            mlsm.register_kernel(never(f"passing-{k}"))
            mlsm.unregister_kernel(f"passing-{k}")

    together(disturb, *(lambda i=i: work(data[i], alone[i]) for i in range(THREADS)))  # type: ignore[misc]  # (the same)


def test_an_error_in_a_thread_is_raised() -> None:
    """The helper above must not swallow what a thread raises."""

    def wrong() -> None:
        raise AssertionError("seen")

    with pytest.raises(AssertionError, match="seen"):
        together(wrong, lambda: None)
