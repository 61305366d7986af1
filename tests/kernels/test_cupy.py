"""The CUDA kernel, as far as it can be tested without a GPU, and the other tests on a GPU.

NVRTC compiles its source for four architectures. Built for the host, it runs thread by thread in the conformance
suite, on every shape at which an index could be wrong, and on the functions of float32. A stub replaces CuPy, so that
the arguments of its calls are tested too. Tests that need a device are skipped with the reason.
"""

import ctypes
import importlib.machinery
import importlib.util
import itertools
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

import mlsm
from mlsm_conformance.suite import KernelSuite

from .._support import BFLOAT16, KERNELS_PRESENT, check, identical, numpy_dtype, spacing

if not KERNELS_PRESENT:
    pytest.skip("mlsm/kernels/ is deleted: there is no kernel to test", allow_module_level=True)

from mlsm.kernels import _cuda

from .._cuda import HostDevice, compile_for, host, launch, on_host

NAME = "cuda-on-host"
DEVICE = HostDevice()
BACKWARDS = HostDevice(backwards=True)
CLASSES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 129, 255, 257, 1000, 2047, 2048, 2049, 4097, 33_333)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Register the host build of the kernel by name while the tests of this file run."""
    host(False)
    mlsm.register_kernel(on_host(NAME, DEVICE))
    mlsm.register_kernel(on_host(f"{NAME}-backwards", BACKWARDS))
    yield
    mlsm.unregister_kernel(NAME)
    mlsm.unregister_kernel(f"{NAME}-backwards")


# ---------------------------------------------------------------- the catalogue


class TestOnHost(KernelSuite):
    """The conformance suite on the device's computation. (Without "memory", which measures host memory.)"""

    backend = "numpy"
    kernel = NAME
    checks = tuple(c for c in KernelSuite.checks if c != "memory")


class TestBfloat16OnHost(TestOnHost):
    backend = "numpy-bfloat16"


# ---------------------------------------------------------------- every element counts once, in its place


def _distinct(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any, Any, Any]:
    """Logits whose losses (L is below half an ulp of them) and sums are exact, a target, a different weight for each
    class, and the row losses: a term that is missed or counted twice shows."""
    x = rng.integers(64, 96, shape).astype(dtype)
    y = rng.integers(0, 2, shape).astype(np.uint8)
    w = rng.integers(1, 9, shape[-1]).astype(dtype)
    total = (x * (1 - y) * w).sum(-1, dtype=np.float64)
    return x, y, w, (total / shape[-1]).astype(np.float32 if dtype != np.float64 else np.float64)


def _all(x: Any, y: Any, kernel: str = NAME, **options: Any) -> tuple[Any, Any, Any, Any]:
    """Row losses alone, row losses and gradient in one pass, and the Hessian."""
    given = {"reduction": "none", "kernel": kernel, **options}
    value, gradient = mlsm.value_and_grad(x, y, **given)
    return mlsm.multilabel_soft_margin_loss(x, y, **given), value, gradient, mlsm.hessian_diag(x, y, **given)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("classes", CLASSES)
def test_each_term_counts_once(classes: int, dtype: Any, rng: np.random.Generator) -> None:
    for rows in (1, 2, 3, 33, 300) if classes < 5000 else (1, 3):
        x, y, w, expected = _distinct(rng, (rows, classes), dtype)
        alone, beside, gradient, _ = _all(x, y, weight=w)
        for found in (alone, beside):
            # if C is not a power of two, a mean may round twice; and a row of positives is not exactly 0
            twice = np.spacing(expected) if classes & (classes - 1) else 0
            check(found, expected, np.where(expected == 0, 1e-26, twice), f"{rows}x{classes}")
        right = (1.0 - y) * w / classes  # s is below half an ulp of t; where t is 0 it is s, and tiny
        check(
            gradient,
            right,
            np.where(right, 2 * spacing(right, np.dtype(dtype).name), 1e-24),
            f"gradient {rows}x{classes}",
        )


@pytest.mark.parametrize("batch", [(0,), (0, 3), (2, 0), (), (1,), (2, 3), (2, 3, 2), (2, 1, 3, 2)], ids=str)
def test_batches(batch: tuple[int, ...], rng: np.random.Generator) -> None:
    x, y, w, expected = _distinct(rng, (*batch, 37), np.float32)
    alone, beside, gradient, hessian = _all(x, y, weight=w)
    for found in (alone, beside):
        check(found, expected, np.spacing(expected))
    assert gradient.shape == hessian.shape == x.shape


def _layouts(a: Any) -> dict[str, Any]:
    """The same values in other memory layouts."""
    turned = tuple(reversed(range(a.ndim)))
    wide = np.repeat(a, 2, axis=-1)
    shifted = np.empty(a.size + 1, a.dtype)[1:].reshape(a.shape)
    shifted[...] = a
    return {
        "F": np.ascontiguousarray(a.transpose(turned)).transpose(turned),
        "reversed": np.ascontiguousarray(a[..., ::-1])[..., ::-1],
        "rows reversed": np.ascontiguousarray(a[::-1])[::-1],
        "every second": wide[..., ::2],
        "moved on": shifted,
        "axes swapped": np.ascontiguousarray(a.swapaxes(0, -2)).swapaxes(0, -2),
    }


@pytest.mark.parametrize("shape", [(5, 7), (40, 8), (3, 33), (64, 300), (3, 4, 9), (2, 3, 2, 17), (3, 2049)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_no_bit_depends_on_the_layout(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    x, y = (rng.normal(0, 4, shape)).astype(numpy_dtype(dtype)), rng.random(shape).astype(np.float32)
    weight, pos_weight = rng.random(shape[-1], np.float32), rng.random((1, 2 * shape[-1]), np.float32)[:, ::2]
    options = {"weight": weight, "pos_weight": pos_weight}
    expected = _all(x, y, **options)
    for (name, other_x), (_, other_y) in zip(_layouts(x).items(), _layouts(y).items(), strict=True):
        for a, b in ((other_x, other_y), (other_x, y), (x, other_y)):
            for found, right in zip(_all(a, b, **options), expected, strict=True):
                identical(found, right, name)


def test_a_broadcast_row(rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 4, (1, 33)).astype(np.float32), rng.random((7, 33))
    spread = np.broadcast_to(x, (7, 33))
    for found, right in zip(_all(spread, y), _all(spread.copy(), y), strict=True):
        identical(found, right)


@pytest.mark.parametrize("shape", [(300, 3), (33, 65), (7, 2050), (2, 9000)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_no_bit_depends_on_threads_and_blocks(
    shape: tuple[int, ...], dtype: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows alone or with the gradient, threads forwards or backwards, many blocks or one, each row by itself."""
    x, y = rng.normal(0, 4, shape).astype(dtype), rng.random(shape).astype(dtype)
    expected = _all(x, y)
    identical(expected[0], expected[1], "rows alone, and with the gradient")
    for found, right in zip(_all(x, y, f"{NAME}-backwards"), expected, strict=True):
        identical(found, right, "backwards")
    single = [_all(x[i : i + 1], y[i : i + 1]) for i in range(min(len(x), 5))]
    for i, parts in enumerate(single):
        for found, right in zip(parts, expected, strict=True):
            identical(found, right[i : i + 1], f"row {i} by itself")
    for processors, threads in ((1, 32), (3, 64), (2**20, 1024)):
        monkeypatch.setattr(DEVICE, "processors", lambda n=processors: n)
        monkeypatch.setattr(_cuda, "THREADS", threads)
        _cuda._launches.cache_clear()
        for found, right in zip(_all(x, y), expected, strict=True):
            identical(found, right, f"{processors} processors, blocks of {threads}")
    _cuda._launches.cache_clear()


# ---------------------------------------------------------------- masks and weights


MASKS = {"(N,C)": (9, None), "(C,)": (None,), "(N,1)": (9, 1), "(1,1)": (1, 1)}


@pytest.mark.parametrize("classes", [1, 20, 33, 300, 2049, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", MASKS)
def test_masks(shape: str, dtype: str, classes: int, rng: np.random.Generator) -> None:
    """The divisor is the number of observed classes, and masked entries are exactly 0, whatever their values are."""
    x, y = rng.normal(0, 4, (9, classes)).astype(dtype), (rng.random((9, classes)) < 0.5).astype(dtype)
    where = rng.random(tuple(n or classes for n in MASKS[shape])) < 0.5
    if len(where) == 9:
        where[3], where[4] = False, True
    seen = np.broadcast_to(where, x.shape)
    w, p = rng.random((9, 1)).astype(dtype), rng.random((9, classes)).astype(dtype)
    hidden_x, hidden_y, hidden_w, hidden_p = (np.where(seen, a, np.nan).astype(dtype) for a in (x, y, w, p))
    row_w = np.where(seen.any(-1, keepdims=True), w, np.nan).astype(dtype)
    for options, hidden in (
        ({}, {}),
        ({"weight": w}, {"weight": row_w}),
        ({"weight": p, "pos_weight": w}, {"weight": hidden_p, "pos_weight": row_w}),
        ({"weight": w[0], "pos_weight": p}, {"weight": w[0], "pos_weight": hidden_p}),
    ):
        found = _all(hidden_x, hidden_y, where=where, **hidden)
        expected = _all(x, y, "generic", where=where, **options)
        for a, b in zip(found, _all(x, y, where=where, **options), strict=True):
            identical(a, b, f"masked entries, {list(options)}")
        for a, b in zip(found, expected, strict=True):
            check(a, b, 16 * np.where(b == 0, 0, spacing(b, dtype)), f"{list(options)}")
        assert not any(a[~seen].any() for a in found[2:])
    assert hidden_w.shape == x.shape


@pytest.mark.parametrize("classes", [5, 33, 300, 2049])
def test_a_mask_of_all_true_changes_nothing(classes: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 4, (7, classes)).astype(np.float32), rng.random((7, classes)) < 0.5
    for found, right in zip(_all(x, y, where=np.ones(classes, bool))[:2], _all(x, y)[:2], strict=True):
        check(found, right, np.spacing(right))  # divided by the count, not multiplied by 1/C


WEIGHTS = [(), (1,), (5,), (4, 1, 1), (3, 1), (4, 1, 5), (1, 3, 5), (4, 3, 5), (1, 1, 5)]


@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
def test_weights_of_every_shape(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 4, (4, 3, 5)).astype(np.float32), rng.random((4, 3, 5)) < 0.5
    given, where = np.asarray(rng.random(shape), np.float32), np.asarray(rng.random(shape) < 0.7)
    spread = np.broadcast_to(given, x.shape).copy()
    for name in ("weight", "pos_weight"):
        expected = _all(x, y, "generic", **{name: given})
        for found, whole, right in zip(
            _all(x, y, **{name: given}), _all(x, y, **{name: spread}), expected, strict=True
        ):
            check(found, right, 8 * spacing(right, "float32"), name)
            check(whole, right, 8 * spacing(right, "float32"), f"{name}, spread")
    for found, right in zip(_all(x, y, where=where), _all(x, y, where=np.broadcast_to(where, x.shape)), strict=True):
        identical(found, right, "where")


@pytest.mark.parametrize("shape", [(40, 8), (33, 21), (3, 300), (3, 2049)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_options_have_the_same_bits_in_every_layout(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    x, y, w, p = (rng.random(shape).astype(dtype) for _ in range(4))
    m = rng.random(shape) < 0.5
    expected = _all(x, y, weight=w, pos_weight=p, where=m)
    for kernel in (NAME, f"{NAME}-backwards"):
        for places in zip(*(_layouts(a).items() for a in (w, p, m)), strict=True):
            (name, w2), (_, p2), (_, m2) = places
            for found, right in zip(_all(x, y, kernel, weight=w2, pos_weight=p2, where=m2), expected, strict=True):
                identical(found, right, name)
    turned = _layouts(x)["F"]
    for found, right in zip(_all(turned, y, weight=w, pos_weight=p, where=m), expected, strict=True):
        identical(found, right, "F")


def test_bool_bytes_are_true_or_false(rng: np.random.Generator) -> None:
    """A byte other than 0 is true, in a target, a mask and a weight, read one by one and in fours."""
    for classes in (8, 33, 300):
        bytes_ = rng.choice(np.array([0, 1, 2, 128, 255], np.uint8), (9, classes))
        x, odd, even = rng.normal(0, 4, bytes_.shape).astype(np.float32), bytes_.view(bool), bytes_ != 0
        for a, b in (
            (_all(x, odd), _all(x, even)),
            (_all(x, even, where=odd), _all(x, even, where=even)),
            (_all(x, even, weight=odd), _all(x, even, weight=even)),
        ):
            for found, right in zip(a, b, strict=True):
                identical(found, right)


def test_the_kernel_checks_lengths_again() -> None:
    """A caller without the public checks gets an error, and nothing outside an array is read."""
    from mlsm._core import Operands

    def run(y: Any = (4, 5), w: Any = (), p: Any = (), m: Any = (), g: Any = ()) -> None:
        arrays = (np.zeros(shape, np.float32) for shape in ((4, 5), y, w, p))
        o = Operands(np, *arrays, np.ones(m, bool), 0.0, np.float32, np.float64)
        _cuda.run(o, np.zeros(g), _cuda.ROWS | _cuda.GRADIENT, DEVICE)

    run(w=(5,), p=(4, 1), m=(4, 5), g=(4,))
    for argument, wrong in (
        ("target", {"y": (4, 4)}),
        ("weight", {"w": (4,)}),
        ("pos_weight", {"p": (3, 1)}),
        ("where", {"m": (1, 4, 5)}),
        ("grad_output", {"g": (5,)}),
    ):
        with pytest.raises(ValueError, match=rf"`{argument}` must"):
            run(**wrong)


# ---------------------------------------------------------------- reads of lanes and sectors


class _Counting(HostDevice):
    """The host as a device that counts what warps do."""

    def launch(self, name: str, macros: Any, grid: int, block: int, shared: int, arguments: Any) -> None:
        launch(name, macros, grid, block, shared, arguments, counting=True)


def _work(classes: int, rows: int, dtype: Any = np.float32) -> tuple[float, float]:
    """The used share of the sectors that a warp reads, and of the steps of its lanes."""
    from mlsm._core import Operands

    def aligned() -> Any:  # like the beginning of device memory
        memory = np.zeros(rows * classes * np.dtype(dtype).itemsize + 512, np.uint8)
        begin = -memory.ctypes.data % 512
        return memory[begin : begin + memory.size - 512].view(dtype).reshape(rows, classes)

    o = Operands(np, aligned(), aligned(), None, None, None, 0.0, np.float32, np.float64)
    _cuda.run(o, None, _cuda.ROWS, _Counting())
    found = (ctypes.c_longlong * 4)()
    host(False, True).counted(found)
    asked, touched, useful, taken = found
    assert useful == rows * classes
    return asked / touched, useful / taken


@pytest.mark.parametrize("first", range(1, 513, 64))
def test_lanes_and_sectors_are_not_wasted(first: int) -> None:
    """Counted in the source's own accesses: no number of classes leaves a fifth of a warp idle, or a fifth of its
    sectors unused."""
    for classes in range(first, first + 64):
        sectors, steps = _work(classes, 512 if classes < _cuda.STAGED else 8)
        assert min(sectors, steps) >= (0.8 if classes >= 26 else 0.6), (classes, sectors, steps)


@pytest.mark.parametrize("classes", [513, 600, 777, 1000, 1001, 1023, 1025, 1027, 2047, 2049, 2052, 2100, 4097, 33_333])
def test_lanes_and_sectors_of_long_rows(classes: int) -> None:
    sectors, steps = _work(classes, 8)
    assert min(sectors, steps) >= 0.8, (sectors, steps)


@pytest.mark.parametrize("classes", [20, 50, 80, 91, 100, 157, 200, 260, 1000])
def test_lanes_and_sectors_of_halves(classes: int) -> None:
    sectors, steps = _work(classes, 512 if classes < _cuda.STAGED else 8, np.float16)
    assert min(sectors, steps) >= 0.8, (sectors, steps)


def test_lanes() -> None:
    for classes in (*range(1, 5000), 10**6, 2**40):
        lanes, wide = _cuda.lanes_of(classes)
        assert lanes in (1, 2, 4, 8, 16, 32)
        assert lanes >= 16 or classes < 256
        assert not wide or classes % 4 == 0
    assert _cuda.lanes_of(1000) == (32, True), "of equals, more lanes"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("classes", [8, 33])
def test_targets_are_read_in_their_own_dtype(dtype: str, classes: int, rng: np.random.Generator) -> None:
    x = rng.normal(0, 4, (9, classes)).astype(np.float32)
    y = rng.integers(0, 2, x.shape)
    for found, right in zip(_all(x, y.astype(dtype)), _all(x, y.astype(np.float32)), strict=True):
        identical(found, right, dtype)
    wide = np.full(x.shape, np.iinfo(dtype).min if dtype.startswith("i") else 3, dtype) if dtype != "bool" else y == 0
    for found, right in zip(_all(x, wide), _all(x, wide.astype(np.float32)), strict=True):
        identical(found, right, f"{dtype}, far outside of [0, 1]")


@pytest.mark.parametrize("classes", [8, 33])  # four elements at a time, and one by one
def test_every_byte_but_0_is_true(classes: int, rng: np.random.Generator) -> None:
    x = rng.normal(0, 4, (9, classes)).astype(np.float32)
    bytes_ = rng.choice(np.array([0, 0, 1, 2, 128, 255], np.uint8), x.shape)
    weight = np.array([0, 2, 255, 1, *[1] * (classes - 4)], np.uint8)
    for option, other in (({}, {}), ({"pos_weight": weight.view(np.bool_)}, {"pos_weight": weight != 0})):
        found, right = _all(x, bytes_.view(np.bool_), **option), _all(x, bytes_ != 0, **other)
        for a, b in zip(found, right, strict=True):
            identical(a, b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_float32_rounded(dtype: str, rng: np.random.Generator) -> None:
    half = numpy_dtype(dtype)
    x, y = rng.normal(0, 4, (9, 100)).astype(half), rng.random((9, 100)).astype(half)
    wide = _all(x.astype(np.float32), y.astype(np.float32))
    for found, right in zip(_all(x, y), wide, strict=True):
        identical(found, right.astype(half))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_infinite_logits(dtype: str) -> None:
    """Exactly 0 and not a subnormal; exactly the gradient of the linear part; NaN in its row only."""
    x = np.array([[np.inf], [-np.inf], [np.inf], [-np.inf], [np.nan]]).astype(numpy_dtype(dtype))
    loss, _, gradient, hessian = _all(x, np.array([[1], [0], [0], [1], [0]], np.uint8))
    for found, right in ((loss, [0, 0, np.inf, np.inf]), (gradient, [0, 0, 1, -1]), (hessian, [0, 0, 0, 0])):
        check(found.ravel().astype(np.float64), [*right, np.nan], 0)


def test_a_mean_of_float32_losses_whose_sum_overflows() -> None:
    x = np.full((2, 9), 3e38, np.float32)
    loss = mlsm.multilabel_soft_margin_loss(x, np.zeros_like(x), kernel=NAME)
    check(loss, np.float32(3e38), 0)
    x[0, 3] = np.inf
    rows = mlsm.multilabel_soft_margin_loss(x, np.zeros_like(x), reduction="none", kernel=NAME)
    check(rows, np.float32([np.inf, 3e38]), 0)


def test_float64_sums_do_not_drift() -> None:
    """One repeated term: the errors of a plain sum have the same sign, a hundred times per lane."""
    x = np.broadcast_to(np.float64(0.3), (1, 8_400_001))
    once = mlsm.multilabel_soft_margin_loss(x[:, :1], x[:, :1] * 0, kernel=NAME)
    y = np.broadcast_to(np.uint8(0), x.shape)
    check(mlsm.multilabel_soft_margin_loss(x, y, kernel=NAME), once, 2 * np.spacing(once))


# ---------------------------------------------------------------- functions of one number


def _pointer(a: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)


def test_float32_functions() -> None:
    """exp and log1p, and for hard targets loss, gradient and Hessian, over every 8191st float32 until exp is 0."""
    library = host(False)
    a = np.arange(0, int(np.float32(104.5).view(np.uint32)), 8191, dtype=np.uint32).view(np.float32)
    e, small = np.empty_like(a), np.empty_like(a)
    count = ctypes.c_longlong(a.size)
    library.functions(count, _pointer(a), _pointer(e), _pointer(small))
    exact = a.astype(np.float64)
    decay = np.exp(-exact)
    check(e, decay, 1.0 * spacing(decay, "float32"), "exp(-a)")
    right = np.log1p(e.astype(np.float64))
    check(small, right, 1.3 * spacing(right, "float32"), "log1p(e)")
    s = decay / (1 + decay)
    for sign, y in itertools.product((1, -1), (0.0, 1.0)):
        x = np.float32(sign) * a
        loss, gradient, hessian = np.empty_like(a), np.empty_like(a), np.empty_like(a)
        library.elements(count, _pointer(x), ctypes.c_float(y), _pointer(loss), _pointer(gradient), _pointer(hessian))
        with_line = (sign > 0) == (y == 0)
        for name, found, right, ulps in (
            ("loss", loss, exact * with_line + np.log1p(decay), 1.8),
            ("gradient", gradient, (1 if y == 0 else -1) * (1 / (1 + decay) if with_line else s), 2.5),
            ("hessian", hessian, s / (1 + decay), 3.5),
        ):
            check(found, right, ulps * spacing(right, "float32"), f"{name}, y = {y}, x of sign {sign}")


def test_one_logarithm_of_several(rng: np.random.Generator) -> None:
    """Eight e in one logarithm: tails keep every digit, whatever the other terms are, and a 0 changes nothing."""
    for double, dtype in ((False, np.float32), (True, np.float64)):
        library = host(double)
        a = np.concatenate([rng.uniform(0, 3, (400, 8)), rng.uniform(0, 60, (400, 8)), np.zeros((1, 8))])
        a = np.concatenate([a, a + rng.uniform(0, 80, (len(a), 1))])
        e = np.exp(-a).astype(dtype)
        e[rng.random(e.shape) < 0.1] = 0
        found = np.empty(len(e), dtype)
        library.together(ctypes.c_longlong(len(e)), _pointer(e), _pointer(found))
        with mpmath.workprec(200):
            right = [mpmath.fsum(mpmath.log1p(mpmath.mpf(v)) for v in row) for row in e.tolist()]
            for seen, exact in zip(found.tolist(), right, strict=True):
                unit = float(spacing(float(exact), dtype.__name__))
                assert abs(mpmath.mpf(seen) - exact) <= 4 * unit, (seen, exact)  # three products and a logarithm
        e[:, 1:] = 0
        alone, nothing = np.empty_like(found), np.empty_like(found)
        library.together(ctypes.c_longlong(len(e)), _pointer(e), _pointer(alone))
        check(alone, np.log1p(e[:, 0].astype(np.longdouble)).astype(dtype), 2 * spacing(alone, dtype.__name__))
        e[:] = np.nan
        library.together(ctypes.c_longlong(len(e)), _pointer(e), _pointer(nothing))
        assert np.isnan(nothing).all()


def test_division_by_a_reciprocal_has_the_bits_of_division() -> None:
    """Every value d of 1 + e, with the e at both ends and in the middle of the interval that rounds to d, and every
    4099th e, with reciprocals up to two ulp off (a device's is off by at most one)."""
    library = host(False)
    d = np.arange(0x3F800000, 0x40000001, dtype=np.uint32).view(np.float32)
    most = (d.astype(np.float64) - 1 + 2.0**-24).astype(np.float32).clip(0, 1)
    least = (d.astype(np.float64) - 1 - 2.0**-24).clip(0, 1).astype(np.float32)
    every = np.arange(0, 0x3F800001, 4099, dtype=np.uint32).view(np.float32)
    last = np.arange(0x3F800000 - 64, 0x3F800001, dtype=np.uint32).view(np.float32)  # 2 - 2^-23 is an exception
    for e in (most, least, d - 1, every, last):
        divisor = (e + np.float32(1)).astype(np.float32)
        wrong = library.wrong_quotients(ctypes.c_longlong(e.size), _pointer(e), _pointer(divisor), 2)
        assert wrong == 0


def test_float64_functions(rng: np.random.Generator) -> None:
    library = host(True)
    a = np.concatenate([rng.uniform(0, 2, 300), rng.uniform(0, 750, 300), 2.0 ** rng.uniform(-60, 3, 300)])
    e, small = np.empty_like(a), np.empty_like(a)
    library.functions(ctypes.c_longlong(a.size), _pointer(a), _pointer(e), _pointer(small))
    with mpmath.workprec(200):
        for found, function, of in ((e, lambda v: mpmath.exp(-v), a), (small, mpmath.log1p, e)):
            for seen, v in zip(found.tolist(), of.tolist(), strict=True):
                right = function(mpmath.mpf(v))
                error = abs(mpmath.mpf(seen) - right) / float(spacing(float(right), "float64"))
                assert error <= 1.3, (seen, v, error)


def test_half_conversions() -> None:
    """All halves, and every float32 next to a boundary of rounding. On a device, two instructions do the same."""
    library = host(False)
    bits = np.arange(65536, dtype=np.uint16)
    middles = (np.arange(2**16, dtype=np.uint32) << 16)[:, None] + np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    sharp = (np.arange(2**19, dtype=np.uint32) << 13)[:, None] + np.uint32([0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF])
    for halves, spread, function in (("float16", sharp, library.halves), ("bfloat16", middles, library.bfloats)):
        half = np.dtype(np.float16) if halves == "float16" else BFLOAT16
        values = spread.ravel().view(np.float32)
        to, back = np.empty(values.size, np.uint16), np.empty(65536, np.float32)
        count = ctypes.c_longlong(values.size)
        with np.errstate(all="ignore"):  # NaN and overflow are intended
            if halves == "float16":
                function(_pointer(back), _pointer(to), _pointer(values), count)
                check(back, bits.view(half).astype(np.float32), 0, "float16 to float32")
            else:
                function(_pointer(to), _pointer(values), count)
            check(to.view(half).astype(np.float32), values.astype(half).astype(np.float32), 0, f"float32 to {halves}")
    assert ml_dtypes.bfloat16 is BFLOAT16.type


# ---------------------------------------------------------------- compiled, without a GPU

VARIANTS = {
    "plain": ("float32", "float32", "none", "none", 0, 0, 0, 0),
    "short rows": ("float32", "float32", "none", "none", 0, 0, 0, 1),
    "float16, bool targets, weighted, smoothed": ("float16", "bool", "float16", "float32", 1, 0, 0, 0),
    "bfloat16, int64 targets, short masked rows": ("bfloat16", "int64", "none", "bfloat16", 0, 1, 0, 1),
    "masked, a weight a row": ("float32", "bool", "float32", "none", 0, 1, 1, 0),
    "float64": ("float64", "float64", "float64", "float64", 1, 1, 0, 0),
}


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles(variant: str, architecture: str) -> None:
    x, y, w, p, smooth, masked, by_row, staged = VARIANTS[variant]
    double = x == "float64"
    types_of = zip("XYWPG", (x, y, w, p, "float64"), strict=True)
    macros = [f"-D{name}_TYPE={_cuda.CODES[dtype]}" for name, dtype in types_of]
    alone = (_cuda.ROWS, _cuda.GRADIENT) if variant == "plain" else ()
    for mode in (*alone, _cuda.ROWS | _cuda.GRADIENT, _cuda.HESSIAN):
        block = (f"-DTHREADS={_cuda.THREADS}", f"-DBLOCKS={_cuda.RESIDENT[double]}")
        form = (f"-DMASKED={masked}", f"-DW_ROW={by_row}", f"-DSTAGED={staged}")
        said = (f"-DDOUBLE={int(double)}", f"-DMODE={mode}", f"-DSMOOTH={smooth}")
        code = compile_for(architecture, _cuda.source(), (*_cuda.OPTIONS, *macros, *said, *form, *block))
        assert code[:4] == b"\x7fELF"
        for name in (b"mlsm_pass", b"mlsm_finish", b"mlsm_count"):
            assert name in code


def test_a_wrong_source_does_not_compile() -> None:
    with pytest.raises(AssertionError, match="undefined"):
        compile_for("sm_80", _cuda.source(), ("-DDOUBLE=0",))


def test_both_sides_agree_on_numbers() -> None:
    text = _cuda.source()
    names = re.search(r"enum Type \{(.*?)\}", text)
    assert names is not None
    short = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
    ours = [short.get(n, n.replace("uint", "u").replace("int", "i")).upper() for n in _cuda._TYPES]
    assert [n.strip() for n in names[1].split(",")] == ours
    for name in ("CHUNK", "AXES"):
        assert f"{name} = {getattr(_cuda, name)}" in text
    for name in ("ROWS", "GRADIENT", "HESSIAN"):
        assert re.search(rf"\b{name} = {getattr(_cuda, name)}\b", text)


# ---------------------------------------------------------------- the plan


def _arguments(
    x: Any, y: Any, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[tuple[str, tuple[str, ...], int, int, Any]]:
    seen: list[Any] = []

    def note(name: str, macros: tuple[str, ...], grid: int, block: int, shared: int, arguments: Any) -> None:
        seen.append((name, macros, grid, block, shared))
        launch(name, macros, grid, block, shared, arguments)

    monkeypatch.setattr(DEVICE, "launch", note)
    monkeypatch.setattr(DEVICE, "processors", lambda: 1000)
    mlsm.value_and_grad(x, y, kernel=NAME, **options)
    return seen


def test_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(shape: tuple[int, ...], dtype: Any = np.float32, order: str = "C", **options: Any) -> Any:
        x = np.zeros(shape, dtype, order=order)  # type: ignore[call-overload]  # NumPy's stubs want a literal
        return _arguments(x, x, monkeypatch, **options)

    ((name, macros, grid, block, shared),) = plan((1000, 3))
    assert (name, grid, block) == ("mlsm_pass", 4, 256), "short rows: a thread each"
    assert shared == 2048 + 2 * (256 * 3 * 4 + 16), "sums, and both operands as they lie"
    assert {"-DMODE=3", "-DSTAGED=1", "-DMASKED=0", "-DBLOCKS=3"} < set(macros)
    ((_, macros, grid, _, shared),) = plan((100, 1000))
    assert (grid, shared) == (13, 2048), "a warp per row, read directly"
    assert "-DSTAGED=0" in macros
    (pass_, finish) = plan((2, 100_000))
    assert pass_[2] == 13, "long rows: 49 chunks each"
    assert (finish[0], finish[2]) == ("mlsm_finish", 1)
    masked = plan((2, 100_000), where=np.ones((2, 100_000), bool))
    assert [name for name, *_ in masked] == ["mlsm_count", "mlsm_finish", "mlsm_pass", "mlsm_finish"]
    assert [name for name, *_ in plan((2, 1000), where=np.ones(1000, bool))] == ["mlsm_pass"], (
        "counted in the same pass"
    )
    ((_, macros, _, block, _),) = plan((1000, 300), order="F")
    assert block == _cuda.ACROSS, "rows side by side"
    ((_, macros, _, _, _),) = plan((1000, 30), order="F")
    assert "-DSTAGED=0" in macros
    ((_, _, _, _, shared),) = plan((10, 300), np.float64)
    assert shared == 16 * 256, "a float64 sum keeps its rounding error"
    ones = np.ones((1000, 248))
    ((_, _, _, block, shared),) = plan((1000, 248), np.float64, weight=ones, pos_weight=ones, where=ones > 0)
    assert block < 256, "a smaller block where its copies would not fit"
    assert shared <= _cuda.SHARED
    monkeypatch.setattr(DEVICE, "processors", lambda: 2)
    _, _, _, *rest = _cuda._launches(*[("float32", (10**6, 64), (64, 1))] * 2, *[None] * 5, 1, False, 0.0, 2)[0]
    assert _cuda._launches(*[("float32", (10**6, 64), (64, 1))] * 2, *[None] * 5, 1, False, 0.0, 2)[0][2] == 6, rest


def test_axes_are_merged() -> None:
    one = (1, 0)
    assert _cuda._merged((3, 4), (40, 10), (0, 0)) == [(12, 10, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0)]
    assert _cuda._merged((3, 4), (40, 10), (1, 0)) == [(4, 10, 0), (3, 40, 1), (1, 0, 0), (1, 0, 0)]
    assert _cuda._merged((3, 4), (10, 30)) == [(4, 30), (3, 10), one, one]
    assert _cuda._merged((3, 1, 4), (40, 7, 10)) == [(12, 10), one, one, one]
    assert _cuda._merged((2, 3, 4), (60, 20, 5)) == [(24, 5) if 60 == 3 * 20 and 20 == 4 * 5 else one, one, one, one]
    assert _cuda._merged((), ()) == [one] * 4
    assert _cuda._merged((1, 1), (5, 5)) == [one] * 4
    assert _cuda._merged((3, 4), (0, 10)) == [(4, 10), (3, 0), one, one]


def test_what_is_declined() -> None:
    def served(*shape: int, **options: Any) -> None:
        x = np.zeros(shape, np.float32)
        assert mlsm.explain(x, x, kernel=NAME, **options).chosen == NAME

    def declined(why: str, *shape: int, **options: Any) -> None:
        with pytest.raises(ValueError, match=f"cannot serve this call: .*{why}"):
            served(*shape, **options)

    for weight in (2.0, [1.0, 2.0, 3.0], np.ones((2, 1), np.float16), np.ones((2, 3), bool), np.ones((), np.int32)):
        served(2, 3, weight=weight)
        served(2, 3, pos_weight=weight)
    served(1, 1, 1, 1, 3, label_smoothing=0.1, where=np.ones(3, bool))
    declined("at most 4 batch axes", 1, 1, 1, 1, 1, 3)


# ---------------------------------------------------------------- the arguments of CuPy's calls


class _Log(list[Any]):
    """The log of calls of the stub, and its one device."""

    def __init__(self) -> None:
        super().__init__()
        self.device = _Entered(self, "device")
        self.capturing = False


class _Stub:
    """An array with only those attributes of a CuPy array that the kernel uses."""

    def __init__(self, array: Any, log: list[Any]) -> None:
        self.array, self.device = np.asarray(array), log.device  # type: ignore[attr-defined]
        self.dtype, self.shape, self.strides = self.array.dtype, self.array.shape, self.array.strides
        self.itemsize, self.data = self.array.itemsize, types.SimpleNamespace(ptr=self.array.ctypes.data)


class _Entered:
    def __init__(self, log: list[Any], what: str) -> None:
        self._log, self._what = log, what

    def __enter__(self) -> None:
        self._log.append(self._what)

    def __exit__(self, *_: object) -> None:
        self._log.append(f"left {self._what}")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[types.ModuleType, list[Any]]]:
    """A `cupy` whose RawModule is the host library, and the log of its calls."""
    log = _Log()
    cupy = types.ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)

    class RawModule:
        def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
            assert code == _cuda.source()
            assert backend == "nvrtc"
            assert set(_cuda.OPTIONS) < set(options)
            self.macros = tuple(o for o in options if o.startswith("-D"))
            log.append("compiled")

        def get_function(self, name: str) -> Any:
            def call(grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
                assert all(type(v) in (int, float) for v in arguments)
                log.append((name, shared_mem))
                launch(name, self.macros, grid[0], block[0], shared_mem, arguments)

            return call

    def made(array: Any) -> _Stub:
        return _Stub(array, log)

    def attribute(which: int, device: int) -> int:
        assert (which, device) == (16, 0)
        return 3

    runtime = types.SimpleNamespace(
        is_hip=False, getDevice=lambda: 0, cudaDevAttrMultiProcessorCount=16, deviceGetAttribute=attribute
    )
    stream = types.SimpleNamespace(is_capturing=lambda: log.capturing)
    cuda = types.ModuleType("cupy.cuda")
    cuda.runtime, cuda.get_current_stream = runtime, lambda: stream  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    fields = {
        "ndarray": _Stub,
        "RawModule": RawModule,
        "empty": lambda shape, dtype: made(np.empty(shape, dtype)),
        "empty_like": lambda stub: made(np.empty_like(stub.array)),
        "cuda": cuda,
        "made": made,
    }
    for key, value in fields.items():
        setattr(cupy, key, value)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "mlsm.kernels.cupy", raising=False)
    yield cupy, log
    sys.modules.pop("mlsm.kernels.cupy", None)


def test_arguments_of_cupys_calls(stub: tuple[Any, list[Any]], rng: np.random.Generator) -> None:
    import mlsm.kernels.cupy as kernel
    from mlsm._core import Operands

    cupy, log = stub
    x, y, w = rng.normal(0, 3, (5, 3000)), rng.random((5, 3000)) < 0.5, rng.random(3000)
    x = x.astype(np.float32)
    g = np.asarray(0.2)
    o = Operands(np, *map(cupy.made, (x, y, w.astype(np.float32))), None, None, 0.0, np.float32, np.float64)
    value, gradient = kernel.rows_and_vjp(o, cupy.made(g))
    expected = mlsm.value_and_grad(x, y, w.astype(np.float32), reduction="none", kernel=NAME)
    identical(value.array, expected[0])
    check(gradient.array, expected[1] * g, 2 * spacing(expected[1] * g, "float32"))
    assert log == ["device", "compiled", ("mlsm_pass", 2048), "compiled", ("mlsm_finish", 2048), "left device"]
    log.clear()
    identical(kernel.rows(o).array, expected[0])
    kernel.rows_vjp(o, cupy.made(g))
    kernel.curvature(o, cupy.made(g))
    passes = [entry for entry in log if isinstance(entry, tuple)]
    assert passes == [("mlsm_pass", 2048), ("mlsm_finish", 2048), ("mlsm_pass", 0), ("mlsm_pass", 0)]
    log.clear()
    kernel.rows_and_vjp(o, cupy.made(g))
    assert "compiled" not in log, "a variant is compiled once"


@pytest.mark.parametrize("release", ["13.6.0", "14.2.0"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_arguments_of_cupys_calls_for_tensors(
    release: str, dtype: str, stub: tuple[Any, list[Any]], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code for CUDA tensors, run on tensors in host memory and a replacement of PyTorch's current stream."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    import mlsm.kernels.cupy as kernel
    from mlsm._core import Operands

    cupy, log = stub
    cupy.__version__ = release
    cupy.cuda.Device = lambda index: _Entered(log, "device")
    cupy.cuda.ExternalStream = lambda address: _Entered(log, f"stream {address} of 13")
    protocol = types.SimpleNamespace(from_external=lambda s: _Entered(log, f"stream {s.__cuda_stream__()} of 14"))
    cupy.cuda.Stream = protocol
    monkeypatch.setattr(torch.cuda, "device", lambda device: _Entered(log, "torch"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=77))

    x = torch.from_numpy(rng.normal(0, 3, (7, 5))).to(getattr(torch, dtype)).T.requires_grad_()
    y = torch.from_numpy(rng.integers(0, 2, (5, 7)))
    compute = torch.float64 if dtype == "float64" else torch.float32
    o = Operands(xp, x, y, None, None, None, 0.0, compute, torch.float64)
    with torch.no_grad():
        value, gradient = kernel.rows_and_vjp(o, torch.tensor(0.5, dtype=torch.float64))
    entered = ["torch", "device", "stream 77 of 13" if release < "14" else "stream (0, 77) of 14"]
    assert log == [*entered, "compiled", ("mlsm_pass", log[4][1]), *(f"left {what}" for what in reversed(entered))]
    assert (value.dtype, gradient.dtype, gradient.stride()) == (compute, x.dtype, x.stride())
    with torch.no_grad():
        expected = mlsm.value_and_grad(x, y, reduction="none", kernel="generic")
    for name, found, right in (("rows", value, expected[0]), ("gradient", gradient.detach(), expected[1] * 0.5)):
        check(found.to(x.dtype).double(), right.double(), 8 * spacing(right.double(), dtype), name)
    negated = torch.complex(x.detach().double(), -x.detach().double()).conj().imag  # negated when it is read
    assert negated.is_neg()
    o = Operands(xp, negated, y, None, None, None, 0.0, torch.float64, torch.float64)
    identical(kernel.rows(o).numpy(), kernel.rows(o.holding(negated.resolve_neg(), y, None, None, None)).numpy())


def test_cupy_takes_a_stream_of_another_library(recwarn: pytest.WarningsRecorder) -> None:
    """Real CuPy, if it is installed, with or without a device: the right call for its version, without a warning."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    import mlsm.kernels.cupy as kernel

    assert kernel._shared(12_345).ptr == 12_345
    assert not [w for w in recwarn if "mlsm" in str(w.filename)]


def _operands(cupy: Any, shape: tuple[int, ...], *extra: Any, dtype: Any = np.float32) -> Any:
    from mlsm._core import Operands

    x, y = np.linspace(-3, 3, int(np.prod(shape)), dtype=dtype).reshape(shape), np.ones(shape, bool)
    made = [None if a is None else cupy.made(a) for a in (x, y, *extra, *(None,) * (3 - len(extra)))]
    return Operands(np, *made, 0.0, dtype, np.float64)


def test_a_first_call_inside_a_capture_raises_with_the_remedy(stub: tuple[Any, Any]) -> None:
    import mlsm.kernels.cupy as kernel
    from mlsm._problem import Meta, Problem

    cupy, log = stub
    meta = Meta("float32", (5, 30), "unknown")
    target = Meta("bool", (5, 30), "unknown")
    options = (None, None, None, 0.0, "mean", 1, "float32", np.float32, "plain")
    problem = Problem("cupy", "cuda:0", meta, target, *options)
    assert "compiles by NVRTC (the loss, grad, value_and_grad, hessian_diag;" in str(kernel.note(problem))
    assert "before a CUDA graph is captured" in str(kernel.note(problem))
    o = _operands(cupy, (5, 30))
    log.capturing = True
    with pytest.raises(RuntimeError, match="make the same call once before the capture begins"):
        kernel.rows(o)
    assert not any(isinstance(entry, tuple) for entry in log), "nothing was launched"
    log.capturing = False
    kernel.rows(o)
    assert "(grad, value_and_grad, hessian_diag;" in str(kernel.note(problem))
    log.capturing = True
    kernel.rows(o)
    log.capturing = False
    g = cupy.made(np.float64(1))
    kernel.rows_vjp(o, g)
    kernel.rows_and_vjp(o, g)
    kernel.curvature(o, g)
    assert kernel.note(problem) is None
    masked = problem._replace(where=Meta("bool", (30,), "unknown"), weight=Meta("float32", (5, 1), "unknown"))
    assert kernel.note(masked) is not None
    kernel.rows(_operands(cupy, (5, 30), np.ones((5, 1), np.float32), None, np.ones(30, bool)))
    assert "(grad, value_and_grad, hessian_diag;" in str(kernel.note(masked))


def test_arrays_of_several_devices_are_refused(stub: tuple[Any, Any]) -> None:
    """By the kernel itself. The public checks refuse two devices by name, and an array on several by its type."""
    import mlsm.kernels.cupy as kernel

    cupy, log = stub
    o = _operands(cupy, (5, 30), np.ones(30, np.float32))
    kernel.rows(o)
    o.w.device = _Entered(log, "another")
    with pytest.raises(ValueError, match="every array must be on the device of `input`"):
        kernel.rows(o)
    sharded = type("DistributedArray", (_Stub,), {"__module__": "cupyx.distributed.array._array"})(np.ones(3), log)
    for arguments in ((sharded, np.ones(3)), (np.ones(3), sharded)):
        with pytest.raises(TypeError, match=r"several devices; bring it together on one, .*cupy.asarray"):
            mlsm.multilabel_soft_margin_loss(*arguments)


def test_a_library_with_a_current_device_uses_that_of_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers become arrays there, and reductions and their adjoints run there, not only the kernel. NumPy arrays with
    a device replace those of CuPy."""
    import array_api_compat.numpy as namespace

    from mlsm import _check, _reduce
    from mlsm.libraries import base
    from mlsm.libraries.numpy import Library

    class Current:
        inside = False

        def __enter__(self) -> None:
            self.inside = True

        def __exit__(self, *_: object) -> None:
            self.inside = False

    device, seen = Current(), []

    def inside(name: str, function: Any) -> Any:
        def called(*args: Any, **options: Any) -> Any:
            assert device.inside, name
            seen.append(name)
            return function(*args, **options)

        return called

    form = Library.form
    monkeypatch.setattr(Library, "form", lambda self, *given: form(self, *given)._replace(device=device))
    for question in ("on", "errstate"):
        monkeypatch.setattr(Library, question, lambda self, device: device)
    monkeypatch.setattr(Library, "zero_d", base.Library.zero_d)  # NumPy's own needs no device
    monkeypatch.setattr(namespace, "full", inside("full", lambda *a, device, **o: np.full(*a, **o)))
    monkeypatch.setattr(namespace, "asarray", inside("asarray", lambda *a, device, **o: np.asarray(*a, **o)))
    for name, reduction in _reduce.REDUCE.items():
        wrapped = reduction._replace(
            apply=inside("apply", reduction.apply), adjoint=inside("adjoint", reduction.adjoint)
        )
        monkeypatch.setitem(_reduce.REDUCE, name, wrapped)
    _check._verdict.cache_clear()
    x, y = np.zeros((2, 3)), np.ones((2, 3))
    options = {"weight": [1.0, 2.0, 3.0], "pos_weight": 2.0, "kernel": "generic"}
    mlsm.multilabel_soft_margin_loss(x, y, **options)
    assert seen == ["asarray", "full", "apply"]
    for function in (mlsm.grad, mlsm.value_and_grad, mlsm.hessian_diag):
        seen.clear()
        function(x, y, **options)
        assert seen[:4] == ["asarray", "full", "full", "adjoint"]
    seen.clear()
    mlsm.grad(x, y, grad_output=2.0, wrt="weight", **options)
    assert seen == ["asarray", "full", "full", "adjoint"]
    _check._verdict.cache_clear()


def test_rocm_declines(stub: tuple[Any, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import mlsm.kernels.cupy as kernel
    from mlsm._problem import Meta, Problem

    cupy, _ = stub
    meta = Meta("float32", (2, 3), "unknown")

    def reason(library: str, device: Any) -> str | None:
        kernel._on_rocm.cache_clear()
        options = (None, None, None, 0.0, "mean", 1, "float32", np.float32, "plain")
        return kernel.accepts(Problem(library, device, meta, meta, *options))

    cuda = torch.device("cuda", 0)
    assert reason("cupy", "cuda:0") is None
    assert reason("torch", cuda) is None
    assert "the tensors are on cpu" in str(reason("torch", torch.device("cpu")))
    with monkeypatch.context() as patched:
        patched.setattr(torch.version, "hip", "6.0")
        assert "ROCm" in str(reason("torch", cuda))
    cupy.cuda.runtime.is_hip = True
    assert "ROCm" in str(reason("cupy", "cuda:0"))
    assert "ROCm" in str(reason("torch", cuda))
    kernel._on_rocm.cache_clear()


def test_host_tensors_load_no_cuda_library() -> None:
    """A tensor in host memory is declined with a reason, for which CuPy is not imported."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = "cupy" in sys.modules
    x = torch.zeros(2, 3)
    reason = dict(mlsm.explain(x, x).reasons)["cupy"]
    wanted = "CUDA memory" if importlib.util.find_spec("cupy") is not None else "not installed"
    assert wanted in reason
    assert ("cupy" in sys.modules) == before


def test_the_source_file_is_installed() -> None:
    assert Path(_cuda.__file__).with_name("_cuda.cu").is_file()


# ---------------------------------------------------------------- on a device


def _cupy() -> Any:
    """CuPy with a usable device, or a skip that names what is missing."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    import cupy

    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy sees no usable CUDA device: {error}")
    if not devices:
        pytest.skip("this machine has no CUDA device")
    return cupy


def _cuda_torch() -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no CUDA device")
    _cupy()
    return torch


class TestCuPyOnDevice(KernelSuite):
    backend = "cupy"
    kernel = "cupy"


class TestTensorsOnDevice(KernelSuite):
    backend = "torch-cuda"
    kernel = "cupy"


@pytest.mark.parametrize("shape", [(1, 1), (33, 65), (300, 3), (3, 5000), (64, 100_000)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_device_gives_the_bits_of_the_host(shape: tuple[int, int], dtype: str, rng: np.random.Generator) -> None:
    cupy = _cupy()
    x, y = rng.normal(0, 8, shape).astype(dtype), rng.random(shape).astype(dtype)
    w = rng.random(shape[-1]).astype(dtype)
    expected = _all(x, y, weight=w)
    found = _all(cupy.asarray(x), cupy.asarray(y), "cupy", weight=cupy.asarray(w))
    for seen, right in zip(found, expected, strict=True):
        identical(cupy.asnumpy(seen), right)


def test_device_works_on_the_current_stream(rng: np.random.Generator) -> None:
    cupy = _cupy()
    x = cupy.asarray(rng.normal(0, 4, (512, 1000)).astype(np.float32))
    expected = cupy.asnumpy(mlsm.grad(x, x > 0, kernel="cupy"))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        late = x * 1  # on this stream, so that a kernel on another one would read it too early
        found = mlsm.grad(late, late > 0, kernel="cupy")
        stream.synchronize()
    identical(cupy.asnumpy(found), expected)


def test_device_works_on_the_current_stream_of_torch(rng: np.random.Generator) -> None:
    torch = _cuda_torch()
    x = torch.from_numpy(rng.normal(0, 4, (512, 1000)).astype(np.float32)).to("cuda")
    expected = mlsm.grad(x, x > 0, kernel="cupy")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = x * 1
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = mlsm.grad(late, late > 0, kernel="cupy")
        finally:
            torch.cuda.set_sync_debug_mode(before)
    stream.synchronize()
    assert torch.equal(found, expected)


def test_device_counts_beyond_32_bits() -> None:
    cupy = _cupy()
    free, _ = cupy.cuda.runtime.memGetInfo()
    rows, classes = 2_200_000, 1000
    if free < 3 * rows * classes:
        pytest.skip(f"{3 * rows * classes >> 30} GiB of device memory are needed, {free >> 30} GiB are free")
    x = cupy.ones((rows, classes), cupy.float16)
    y = cupy.ones((rows, classes), cupy.uint8)
    loss = mlsm.multilabel_soft_margin_loss(x, y, reduction="none", kernel="cupy")
    expected = cupy.asnumpy(mlsm.multilabel_soft_margin_loss(x[:1], y[:1], reduction="none", kernel="cupy"))
    assert bool((loss == float(expected[0])).all())
