"""Inputs are only read: every memory layout gives the same result, no input changes, and no output aliases one.

Calls have no side effects either: no warning, no floating-point flag, the same bits from many threads at once.
"""

import itertools
import pathlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import mlsm

from ._support import BFLOAT16, Library, Route, check, everything, identical, read_only, unaligned

KERNELS = [None, "generic"]


def _strided(a: Any) -> Any:
    wide = np.full((*a.shape[:-1], 3 * a.shape[-1]), 7, dtype=a.dtype)
    wide[..., ::3] = a
    return wide[..., ::3]


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "read-only": read_only,
    "F-ordered": np.asfortranarray,
    "strided": _strided,
    "reversed classes": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "reversed rows": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "unaligned": unaligned,
    "byte-swapped and unaligned": lambda a: unaligned(a.astype(a.dtype.newbyteorder("S"))),
    "a subclass's view": lambda a: a[None][0],
}


def _data(dtype: Any = np.float32, shape: tuple[int, ...] = (6, 5)) -> list[Any]:
    rng = np.random.default_rng(11)
    x, y, w, p = (rng.random(shape).astype(dtype) for _ in range(4))
    return [8 * x - 4, y, w, p, rng.random(shape) < 0.7]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("options", [False, True], ids=["plain", "options"])
def test_numpy_layout(layout: str, dtype: Any, kernel: str | None, options: bool) -> None:
    data = _data(dtype)
    if not options:
        data[2:] = [None] * 3
    other = [None if v is None else LAYOUTS[layout](v) for v in data]
    for (name, a), (_, b) in zip(everything(*data, kernel=kernel), everything(*other, kernel=kernel), strict=True):
        assert b.dtype.name == a.dtype.name, name
        check(b, a, _slack(a), name)


def _slack(a: Any) -> Any:
    """Up to a few ULP, because a layout may choose another kernel, whose bits may differ within its bound."""
    return 32 * np.spacing(np.abs(np.asarray(a)).max()).astype(np.float64)


@pytest.mark.parametrize("layout", ["read-only", "F-ordered", "reversed classes", "strided"])
def test_the_reference_has_the_same_bits_in_every_layout(layout: str) -> None:
    data = _data(np.float64, (40, 30))
    other = [LAYOUTS[layout](v) for v in data]
    pairs = zip(everything(*data, kernel="generic"), everything(*other, kernel="generic"), strict=True)
    for (name, a), (_, b) in pairs:
        identical(np.ascontiguousarray(a), np.ascontiguousarray(b), name)


@pytest.mark.parametrize("layout", ["F-ordered", "reversed classes", "strided"])
@pytest.mark.parametrize("wrt", ["weight", "pos_weight"])
def test_the_gradient_for_a_number_has_the_same_bits_in_every_layout(layout: str, wrt: Any) -> None:
    """It is one sum over all elements, which NumPy itself would add in the order of the memory."""
    data = _data(np.float64, (400, 30))[:2]
    other = [LAYOUTS[layout](v) for v in data]
    one, two = (mlsm.grad(*v, wrt=wrt, reduction="sum", **{wrt: 1.5}) for v in (data, other))
    identical(one, two, wrt)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_broadcast_input(kernel: str | None) -> None:
    row = np.asarray([[0.5, -1.0, 40.0]])
    x = np.broadcast_to(row, (7, 3))
    y = np.broadcast_to(np.asarray([1, 0, 1]), (7, 3))
    full = [np.ascontiguousarray(v) for v in (x, y)]
    for (name, a), (_, b) in zip(
        everything(*full, kernel=kernel),
        everything(x, y, kernel=kernel),
        strict=True,
    ):
        check(b, a, _slack(a), name)
        assert np.asarray(b).strides != (0, 8), name


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_memory_mapped_input(kernel: str | None, tmp_path: pathlib.Path) -> None:
    data = _data()
    mapped = []
    for i, v in enumerate(data):
        path = tmp_path / f"{i}.npy"
        np.save(path, v)
        mapped.append(np.load(path, mmap_mode="r"))
    for (name, a), (_, b) in zip(everything(*data, kernel=kernel), everything(*mapped, kernel=kernel), strict=True):
        check(b, a, _slack(a), name)
        assert type(b) in (np.ndarray, type(a)), f"{name} is a {type(b)}"


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_class_axis(axis: int, kernel: str | None) -> None:
    x, y, w, p, m = _data(shape=(3, 4, 5))
    moved = [np.moveaxis(v, -1, axis) for v in (x, y, w, p, m)]
    copied = [np.ascontiguousarray(v) for v in moved]
    for operands in (moved, copied):
        for (name, a), (_, b) in zip(
            everything(x, y, w, p, m, kernel=kernel), everything(*operands, kernel=kernel, axis=axis), strict=True
        ):
            check(np.moveaxis(b, axis, -1) if np.ndim(b) == 3 else b, a, _slack(a), name)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "storage offset"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_torch_layout(layout: str, kernel: str | None) -> None:
    torch = pytest.importorskip("torch", reason="it tests strides of tensors")
    x, y = (torch.from_numpy(v) for v in _data()[:2])
    other = {
        "transposed": lambda v: v.t().contiguous().t(),
        "strided": lambda v: torch.stack([v, v], dim=-1)[..., 0],
        "expanded": lambda v: v[:1].expand(6, 5),
        "storage offset": lambda v: torch.cat([v[:1], v])[1:],
    }[layout]
    a, b = other(x), other(y)
    full = everything(a.contiguous(), b.contiguous(), kernel=kernel)
    for (name, one), (_, two) in zip(full, everything(a, b, kernel=kernel), strict=True):
        check(two.numpy(), one.numpy(), _slack(one.numpy()), name)


# ---------------------------------------------------------------- nothing is written to, nothing is aliased


def test_inputs_are_bit_identical_after_every_call(route: Route) -> None:
    library, kernel = route
    raw = _data()
    raw[0][0, 0], raw[1][0, 0], raw[4][1, 1], raw[0][1, 1] = np.inf, 1, False, np.nan
    for options in (raw, [*raw[:2], None, None, None]):
        arrays = [None if v is None else library.make(v) for v in options]
        before = [None if v is None else library.read(v).copy() for v in arrays]
        for name, result in everything(*arrays, kernel=kernel):
            library.read(result)
            for a, b in zip(arrays, before, strict=True):
                if a is not None:
                    identical(library.read(a), b, f"an input after {name}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (1, 1), (1,), (3,)])
def test_outputs_never_alias_inputs(route: Route, dtype: Any, shape: tuple[int, ...]) -> None:
    """With C = 1 or weights of the whole shape, a sum or a cast could return an input."""
    library, kernel = route
    if library.name in ("jax", "jax-x64", "dask"):
        pytest.skip(f"an array of {library.name} cannot be written to, so an alias cannot show")
    data = _data(dtype, shape)
    data[4][...] = True
    for given in (data, [*data[:2], None, None, None], [data[0], data[1], data[2] * 0 + 1, None, None]):
        arrays = [None if v is None else library.make(np.array(v)) for v in given]
        for name, result in everything(*arrays, kernel=kernel):
            kept = [None if v is None else library.read(v).copy() for v in arrays]
            if np.ndim(library.read(result)) and not isinstance(result, np.generic):
                result[...] = 99
            for a, b in zip(arrays, kept, strict=True):
                if a is not None:
                    identical(library.read(a), b, f"an input after {name} was written to")


def test_outputs_are_writable_and_own_their_memory() -> None:
    x, y = _data()[:2]
    for result in (mlsm.grad(x, y), mlsm.hessian_diag(x, y), mlsm.multilabel_soft_margin_loss(x, y, reduction="none")):
        assert result.flags.writeable
        assert not np.shares_memory(result, x)


def test_results_of_two_calls_do_not_share_memory(route: Route) -> None:
    """A kernel that keeps a scratch buffer must not return it."""
    library, kernel = route
    x, y = (library.make(v) for v in _data()[:2])
    first = dict(everything(x, y, kernel=kernel))
    kept = {name: library.read(v).copy() for name, v in first.items()}
    other = library.make(_data()[0] * 2)
    for _, result in everything(other, y, kernel=kernel):
        library.read(result)
    for name, v in first.items():
        identical(library.read(v), kept[name], name)


def test_the_result_is_not_a_buffer_of_the_caller() -> None:
    x = np.zeros((2, 3))
    gradient = mlsm.grad(x, x)
    gradient[...] = 5
    assert (mlsm.grad(x, x) != 5).all()


# ---------------------------------------------------------------- no warnings


EXTREME = [0.0, -0.0, 1.0, 1e-40, -1e-40, 88.0, -104.0, 1e30, -1e30, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_no_floating_point_flag_and_no_warning(dtype: Any, kernel: str | None) -> None:
    with np.errstate(all="ignore"):
        x = np.asarray([v for v, _ in itertools.product(EXTREME, (0.0, 0.5, 1.0))])[:, None].astype(dtype)
        y = np.asarray([v for _, v in itertools.product(EXTREME, (0.0, 0.5, 1.0))])[:, None].astype(dtype)
    w, p, m = np.asarray([0.0]).astype(dtype), np.asarray([2.0]).astype(dtype), np.ones(1, dtype=bool)
    for operands in ((x, y), (x, y, w, p, m), (x[:0], y[:0], None, None, None)):
        with np.errstate(all="raise"), warnings.catch_warnings():
            warnings.simplefilter("error")
            for label_smoothing in (0.0, 1e-7):
                list(everything(*operands, kernel=kernel, label_smoothing=label_smoothing))


def test_the_callers_flags_are_restored() -> None:
    x = np.asarray([[np.inf]])
    with np.errstate(all="raise"):
        before = np.geterr()
        mlsm.multilabel_soft_margin_loss(x, np.ones((1, 1)))
        with pytest.raises(ValueError, match="`target`"):
            mlsm.grad(x, np.ones((2, 2)))
        assert np.geterr() == before


def test_no_warning_on_any_library(library: Library) -> None:
    """Warnings are errors in all tests; this test also covers code that changes the filters."""
    x, y = (library.make(v) for v in _data()[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, result in everything(x, y):
            library.read(result)
        library.read(mlsm.multilabel_soft_margin_loss(x[:0, ...], y[:0, ...]))


# ---------------------------------------------------------------- the same bits


def test_the_same_call_gives_the_same_bits(route: Route) -> None:
    library, kernel = route
    arrays = [library.make(v) for v in _data()]
    first = [library.read(v) for _, v in everything(*arrays, kernel=kernel)]
    for _ in range(2):
        for a, (name, b) in zip(first, everything(*arrays, kernel=kernel), strict=True):
            identical(a, library.read(b), name)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_eight_threads_give_the_same_bits(name: str, kernel: str | None) -> None:
    from ._support import find

    library = find(name)
    data = [[library.make(v) for v in _data(shape=(n, 300))] for n in (50, 70, 90, 110)]
    serial = [[library.read(r).tobytes() for _, r in everything(*d, kernel=kernel)] for d in data]

    def work(i: int) -> list[bytes]:
        return [library.read(r).tobytes() for _, r in everything(*data[i % 4], kernel=kernel)]

    with ThreadPoolExecutor(8) as pool:
        for i, result in enumerate(pool.map(work, range(32))):
            assert result == serial[i % 4]
