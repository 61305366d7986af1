"""The numba kernel by itself: its exp and log1p, sums, threads and blocks, what it declines, when it compiles.

The conformance suite judges its results (`run --kernel numba`).
"""

import gc
import importlib.util
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm_conformance.backends import find

from .. import _support
from .._support import check, identical, read_only, spacing, unaligned


def _reason() -> str | None:
    """Why the kernel cannot be tested here; None if it can."""
    if importlib.util.find_spec("mlsm.kernels") is None or importlib.util.find_spec("mlsm.kernels.numba") is None:
        return "mlsm/kernels/numba.py is deleted"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "NUMBA_DISABLE_JIT is set, and the kernel declines"
    return "numba is not installed" if importlib.util.find_spec("numba") is None else None


REASON = _reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

loss = mlsm.multilabel_soft_margin_loss
CLASSES = [1, 3, 8, 20, 63, 64, 65, 255, 256, 257, 700]  # around NARROW and BLOCK


@pytest.fixture
def kernel() -> Any:
    import mlsm.kernels.numba

    return mlsm.kernels.numba


@pytest.fixture
def loops() -> Any:
    import mlsm.kernels._numba_loops

    return mlsm.kernels._numba_loops


def _data(n: int, c: int, dtype: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    return (4 * rng.standard_normal((n, c))).astype(dtype), (rng.random((n, c)) < 0.3).astype(dtype)


# ---------------------------------------------------------------- arithmetic


@pytest.fixture
def elementary(loops: Any) -> Callable[[Any], tuple[Any, Any, Any]]:
    """exp(-a), log1p of it and the gradient's s, as the compiled code has them."""
    import numba

    @numba.njit(error_model="numpy")
    def evaluate(a: Any, e: Any, smooth: Any, s: Any) -> None:
        for i in range(a.size):
            e[i] = loops._decay(a[i])
            smooth[i] = loops._log1p(e[i])
            s[i] = e[i] / (loops._real(1, a[i]) + e[i])

    def run(a: Any) -> tuple[Any, Any, Any]:
        e, smooth, s = np.empty_like(a), np.empty_like(a), np.empty_like(a)
        evaluate(a, e, smooth, s)
        return e, smooth, s

    return run


def test_elementary_float32(elementary: Any) -> None:
    # Every 1009th float from 0 to where exp(-a) is 0, judged in float64. Seen over every 7th: 0.993, 1.799, 2.343.
    a = np.arange(0, int(np.float32(110).view(np.int32)), 1009, dtype=np.int32).view(np.float32)
    exact = np.exp(-a.astype(np.float64))
    for observed, right, ulp, what in zip(
        elementary(a), (exact, np.log1p(exact), exact / (1 + exact)), (1, 1.9, 2.5), ("exp", "log1p", "s"), strict=True
    ):
        check(observed, right, ulp * spacing(right, "float32"), what)


def test_elementary_float64(elementary: Any, rng: np.random.Generator) -> None:
    # Seen over 16,000 points: 0.914, 1.470, 1.805. A wrong digit of a coefficient shows at the ends.
    mpmath = pytest.importorskip("mpmath", reason="float64 is judged by mpmath")
    ends = np.array([0.0, math.log(2) / 2, math.log(2), 1e-300, 1e-8, 708.3964, 745.1332])
    a = np.concatenate([ends, rng.uniform(0, 2, 600), rng.uniform(2, 40, 600), rng.uniform(700, 746, 200)])
    found = elementary(a)
    with mpmath.workprec(120):
        e = [mpmath.exp(-mpmath.mpf(float(v))) for v in a]
        for observed, right, ulp, what in zip(
            found,
            (e, [mpmath.log1p(v) for v in e], [v / (1 + v) for v in e]),
            (1, 1.6, 1.9),
            ("exp", "log1p", "s"),
            strict=True,
        ):
            off = [
                abs(mpmath.mpf(float(o)) - r) / max(np.spacing(float(r)), 5e-324)
                for o, r in zip(observed, right, strict=True)
            ]
            worst = int(np.argmax(off))
            assert off[worst] <= ulp, f"{what}: {float(off[worst]):.3f} ULP off at {a[worst]!r}, {ulp} allowed"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_specials(elementary: Any, dtype: Any) -> None:
    e, smooth, s = elementary(np.array([0, -0.0, np.inf, np.nan, 800], dtype))
    for found, right in ((e, [1, 1, 0, np.nan, 0]), (smooth, [math.log(2)] * 2 + [0, np.nan, 0]), (s, [0.5] * 2)):
        check(found[: len(right)], np.array(right, dtype), 0)


@pytest.mark.parametrize(("bits", "dtype"), [(np.uint32, np.float32), (np.uint64, np.float64)])
def test_every_nan_stays_nan(elementary: Any, bits: Any, dtype: Any, rng: np.random.Generator) -> None:
    """Whatever its last bits are, which exp shifts into an exponent."""
    quiet = np.full(1, np.nan, dtype).view(bits)
    payloads = rng.integers(0, 2 ** np.finfo(dtype).nmant // 2, 500, bits)
    for found in elementary((quiet | payloads).view(dtype)):
        assert np.all(np.isnan(found))


def test_a_mean_of_finite_losses_whose_sum_overflows_float32(rng: np.random.Generator) -> None:
    for c in CLASSES:
        x = np.full((2, c), np.float32(3e38))
        identical(loss(x, np.zeros_like(x), reduction="none", kernel="numba"), np.full(2, np.float32(3e38)))


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums(dtype: Any, c: int, rng: np.random.Generator) -> None:
    """A row is the mean of the losses of its single classes, up to the rounding of a short tree."""
    x, y = _data(5, c, dtype, rng)
    single = loss(x.reshape(-1, 1), y.reshape(-1, 1), reduction="none", kernel="numba").reshape(5, c)
    row = loss(x, y, reduction="none", kernel="numba").astype(np.float64)
    exact = np.array([math.fsum(map(float, v)) / c for v in single])
    u = float(np.finfo(dtype).eps) / 2
    allowed = (4 * u if dtype is np.float32 else (math.log2(c) + 8) * u) * exact
    assert np.all(np.abs(row - exact) <= allowed)


def test_error_does_not_grow_with_classes() -> None:
    x = np.full((1, 2**21 + 3), -30.0)
    y = np.zeros_like(x)
    one = loss(x[:, :1], y[:, :1], reduction="none", kernel="numba")
    row = loss(x, y, reduction="none", kernel="numba")
    assert abs(row[0] - one[0]) <= 2 * np.spacing(one[0])


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_has_the_bits_of_the_loss(dtype: Any, c: int, rng: np.random.Generator) -> None:
    x, y = _data(9, c, dtype, rng)
    w = rng.random(c).astype(dtype)
    for options in ({}, {"weight": w}, {"pos_weight": w, "label_smoothing": 0.1}):
        value, gradient = mlsm.value_and_grad(x, y, reduction="none", kernel="numba", **options)
        identical(value, loss(x, y, reduction="none", kernel="numba", **options))
        identical(gradient, mlsm.grad(x, y, reduction="none", kernel="numba", **options))
        identical(gradient[3:], mlsm.value_and_grad(x[3:], y[3:], reduction="none", kernel="numba", **options)[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("option", ["plain", "where", "where of rows", "weight", "everything"])
def test_a_small_loss_has_the_bits_of_its_rows_and_of_numpys_sum(
    option: str, library: str, dtype: Any, kernel: Any, rng: np.random.Generator
) -> None:
    to: Any = (lambda v: v) if library == "numpy" else pytest.importorskip("torch").from_numpy
    for n in (*range(1, 20), 127, 128, 129, 300, kernel.FEW - 1, kernel.FEW):
        x, y = _data(n, 5, dtype, rng)
        m = rng.random((n, 5)) < 0.2
        options: dict[str, Any] = {
            "plain": {},
            "where": {"where": m},
            "where of rows": {"where": m[:, :1]},
            "weight": {"weight": dtype(0) * -abs(x[:, :1])},  # losses of -0.0
            "everything": {"weight": x[:, :1], "pos_weight": x[0] ** 2, "where": m, "label_smoothing": 0.1},
        }[option]
        rows = loss(x, y, reduction="none", **options)
        seen = np.broadcast_to(options.get("where", np.True_), x.shape).any(axis=1).sum()
        total = np.add.reduce(rows, dtype=np.float64)
        given = {name: v if name == "label_smoothing" else to(v) for name, v in options.items()}
        for reduction, right in (("sum", dtype(total)), ("mean", dtype(total / max(float(seen), 1.0)))):
            if library == "numpy":
                found, gradient = mlsm.value_and_grad(x, y, reduction=reduction, **options)
                identical(np.asarray(loss(x, y, reduction=reduction, **options)), np.asarray(found))
            else:
                leaf = to(x.copy()).requires_grad_()
                found = loss(leaf, to(y), reduction=reduction, **given)
                found.backward()
                found, gradient = found.detach(), leaf.grad
            identical(np.asarray(found), np.asarray(right))
            identical(np.asarray(gradient), mlsm.grad(x, y, reduction=reduction, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("n", [5, 60, 1000, 1024, 8192, 8193, 50000])
def test_sums_of_rows_have_the_bits_of_numpys(n: int, classes: int, dtype: Any, rng: np.random.Generator) -> None:
    """Losses that almost cancel, so that each rounding of the sum shows: a large logit equals its loss."""
    for stride in (1, 1, 1, 1, 1, 3):
        v = (2.0 ** rng.uniform(20, 100, n - 3) * rng.choice([-1, 1], n - 3)).astype(dtype)
        for _ in range(3):
            v = np.append(v, -dtype(np.add.reduce(v, dtype=np.float64)))
        x = np.repeat(abs(v)[:, None], classes, axis=1)[::stride]
        y, w = np.zeros_like(x), np.sign(v)[::stride, None]
        rows = loss(x, y, w, reduction="none")
        found = loss(x, y, w, reduction="sum")
        identical(np.asarray(found), np.asarray(dtype(np.add.reduce(rows, dtype=np.float64))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", ["same", "int8", "stepped"])
@pytest.mark.parametrize("n", [1024, 8191, 8192, 8193, 16384, 20000])
def test_sums_of_elements_have_the_bits_of_numpys(n: int, target: str, dtype: Any, rng: np.random.Generator) -> None:
    """Losses that almost cancel: of a large logit the loss is its absolute value, or minus that with a target of 2."""
    for _ in range(5):
        v = (2.0 ** rng.uniform(0, 100, n - 3) * rng.choice([-1, 1], n - 3)).astype(dtype)
        for _ in range(3):
            v = np.append(v, -dtype(np.add.reduce(v, dtype=np.float64)))
        x, y = abs(v)[:, None], np.where(v < 0, 2, 0)[:, None].astype("int8" if target == "int8" else dtype)
        if target == "stepped":
            x, y = np.repeat(x, 3, axis=0)[::3], np.repeat(y, 2, axis=1)[:, :1]
        rows = loss(x, y, reduction="none", kernel="numba")
        for reduction, count in (("sum", 1), ("mean", n)):
            found = loss(x, y, reduction=reduction, kernel="numba")
            identical(np.asarray(found), np.asarray(dtype(np.add.reduce(rows, dtype=np.float64) / count)))


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_special_value_among_many_elements(special: float, label: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 4, (20000, 1)).astype(np.float32), (rng.random((20000, 1)) < 0.5).astype(np.float32)
    x[9000], y[9000] = special, label
    found, rows = loss(x, y, kernel="numba"), loss(x, y, reduction="none", kernel="numba")
    identical(np.asarray(found), np.asarray(np.float32(np.add.reduce(rows, dtype=np.float64) / 20000)))
    assert np.isnan(found) == np.isnan(special)
    assert np.isinf(found) == (np.isinf(special) and (special > 0) != label)


@pytest.mark.parametrize("kind", ["two axes", "swapped bytes", "swapped targets"])
def test_many_elements_in_other_layouts(kind: str, rng: np.random.Generator) -> None:
    x, y = (rng.normal(0, 4, (128, 130, 1)).astype(np.float32) for _ in range(2))
    if kind == "two axes":
        a, b = x, np.ascontiguousarray(y.swapaxes(0, 1)).swapaxes(0, 1)
    elif kind == "swapped bytes":
        a, b = x.astype(x.dtype.newbyteorder()), y
    else:
        a, b = x, y.astype(y.dtype.newbyteorder())
    for reduction in ("mean", "sum"):
        found, right = (np.asarray(loss(*v, reduction=reduction, kernel="numba")) for v in ((a, b), (x, y)))
        identical(found.astype(np.float32), right)


@pytest.mark.parametrize("c", [20, 700])
def test_scale_of_every_row(c: int, rng: np.random.Generator) -> None:
    x, y = _data(30, c, np.float64, rng)
    g = rng.random(30)
    whole = mlsm.grad(x, y, reduction="none", grad_output=g, kernel="numba")
    for i in range(30):
        identical(whole[i], mlsm.grad(x[i], y[i], reduction="none", grad_output=float(g[i]), kernel="numba"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiler_takes_several_elements_at_a_time(dtype: Any, kernel: Any, loops: Any) -> None:
    one = dtype(1)
    x = np.zeros((2, 300), dtype)
    mlsm.value_and_grad(x, x, kernel="numba")
    fresh = loops._njit(error_model="numpy")(loops.fused.py_func)
    fresh.compile(kernel._signature(one))
    code = fresh.inspect_llvm(fresh.signatures[0])
    real = "float" if dtype is np.float32 else "double"
    for name in (
        "line",
        "gradient",
        "both",
        *(("both_float16", "both_bfloat16") if dtype is np.float32 else ()),
        "hessian",
        "loss",
        "loss_and_gradient",
        "line_of",
        "both_of",
        "loss_of",
        "gradient_of",
        "loss_and_gradient_of",
        "hessian_of",
    ):
        body = re.search(rf"define internal[^\n]*@mlsm\.{name}\.{real}(?:\.\d+)?\(.*?\n}}", code, re.DOTALL)
        assert body, f"{name} is not a separate function"
        assert re.search(rf"<\d+ x {real}> @llvm\.fmuladd", body[0]), f"the loop of {name} is not vectorised"
        if real == "float":
            assert not re.search(r"<\d+ x double> @llvm\.fmuladd", body[0]), "float32 is computed in float64"
    assert '"prefer-vector-width"="512"' in code, "the compiler uses half of the machine's vector width"


# ---------------------------------------------------------------- arrays


def _swapped(a: Any) -> Any:
    return a.astype(a.dtype.newbyteorder())


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every other class": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "byte-swapped": _swapped,
    "unaligned": unaligned,
    "read-only": read_only,
}


def _everything(x: Any, y: Any, **options: Any) -> list[Any]:
    """The kernel's results, in the byte order of this machine: a gradient has the byte order of its logits."""
    found = (
        *mlsm.value_and_grad(x, y, kernel="numba", reduction="none", **options),
        mlsm.hessian_diag(x, y, kernel="numba", reduction="none", **options),
    )
    return [np.ascontiguousarray(v).astype(v.dtype.newbyteorder("=")) for v in found]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layouts_have_the_same_bits(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    """Layouts of each operand and of all; 600 classes and 35 rows are more than one slab."""
    change = LAYOUTS[layout]
    for n, c in ((23, 70), (35, 600), (3, 1100), (40, 1)):
        x, y = _data(n, c, dtype, rng)
        w, m = rng.random((n, c)).astype(dtype), rng.random((n, c)) < 0.5
        for options in ({}, {"weight": w, "pos_weight": w[::-1], "where": m}):
            straight = _everything(x, y, **options)
            other = {name: change(v) for name, v in options.items()}
            for a, b, given in ((change(x), y, options), (x, change(y), other), (change(x), change(y), other)):
                before = a.copy(), b.copy()
                for found, right in zip(_everything(a, b, **given), straight, strict=True):
                    identical(found, right)
                identical(a, before[0])
                identical(b, before[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_axes_that_do_not_merge_have_the_same_bits(dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((3, 4, 5), (2, 3, 2, 300), (5, 40, 1), (2, 3, 1100)):
        x, y = (rng.standard_normal(shape) * 4).astype(dtype), rng.random(shape).astype(dtype)
        w = rng.random((*shape[:-1], 1)).astype(dtype)
        m = rng.random((shape[-2], shape[-1])) < 0.6
        straight = _everything(x, y, weight=w, where=m)
        for axes in ((1, 0), (0, 1), (-1, 0), (-1, 1)):
            a, b = (np.swapaxes(np.ascontiguousarray(np.swapaxes(v, *axes)), *axes) for v in (x, y))
            stepped = np.repeat(a, 2, axis=0)[::2]
            for found, right in zip(_everything(a, b, weight=w, where=m), straight, strict=True):
                identical(found, right)
            for found, right in zip(_everything(stepped, y, weight=w, where=m), straight, strict=True):
                identical(found, right)


def test_one_compilation_serves_all_arrays_of_one_compute_dtype(loops: Any, rng: np.random.Generator) -> None:
    """Numba compiles for each dtype, layout and writability: each difference would cost the user some seconds."""
    torch = pytest.importorskip("torch", reason="tensors are served by the same code")
    x, y = _data(5, 7, np.float32, rng)
    mlsm.value_and_grad(x, y, kernel="numba")
    compiled = len(loops.fused.overloads)
    for a, b in ((read_only(x), y > 0.5), (x[::-1], y.astype(np.int8)), (x.astype(np.float16), np.asfortranarray(y))):
        for options in ({}, {"weight": y, "where": y > 0.2}, {"pos_weight": 2.0, "label_smoothing": 0.1}):
            _everything(a, b, **options)
    z = torch.zeros((3, 4), dtype=torch.bfloat16)
    mlsm.value_and_grad(z, z, kernel="numba")
    assert len(loops.fused.overloads) == compiled


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masked_entries_do_not_count(dtype: Any, c: int, rng: np.random.Generator) -> None:
    """They are exactly 0, whatever their values are, even with an infinite scale; the divisor is the observed count."""
    x, y = _data(9, c, dtype, rng)
    w, m = rng.random((9, c)).astype(dtype), rng.random((9, c)) < 0.5
    m[2], m[3] = False, True
    g = rng.random(9)
    g[5] = np.inf
    for options in ({}, {"weight": w}, {"pos_weight": w}, {"weight": w, "label_smoothing": 0.1}):
        clean = _results(x, y, m, g, options)
        worst = {}
        for name, v in {"x": x, "y": y, **options}.items():
            worst[name] = (
                v if name == "label_smoothing" else np.where(m, v, rng.choice([np.nan, np.inf, -np.inf], v.shape))
            )
        dirty = _results(worst.pop("x").astype(dtype), worst.pop("y").astype(dtype), m, g, worst)
        for a, b in zip(clean, dirty, strict=True):
            identical(a, b)
        rows, gradient, hessian = clean
        assert not gradient[~m].any()
        assert not hessian[~m].any()
        assert rows[2] == 0
        for i in (0, 3, 8):
            seen = np.flatnonzero(m[i])
            if seen.size:
                part = {k: v if k == "label_smoothing" else v[i, seen].astype(dtype) for k, v in options.items()}
                alone = loss(x[i, seen], y[i, seen], kernel="numba", **part)
                check(rows[i], alone, 4 * spacing(np.asarray(alone), np.dtype(dtype).name))


def _results(x: Any, y: Any, m: Any, g: Any, options: Any) -> Any:
    options = {name: v if name == "label_smoothing" else v.astype(x.dtype) for name, v in options.items()}
    rows, gradient = mlsm.value_and_grad(x, y, where=m, reduction="none", grad_output=g, kernel="numba", **options)
    return rows, gradient, mlsm.hessian_diag(x, y, where=m, reduction="none", grad_output=g, kernel="numba", **options)


@pytest.mark.parametrize("c", [20, 700])
def test_no_product_of_scale_and_weight_leaves_the_range(c: int, rng: np.random.Generator) -> None:
    """Only the whole product may leave it: where the loss is tiny, a steep gradient is tiny, too."""
    x, y = np.full((3, c), np.float32(70)), np.ones((3, c), np.float32)
    w = np.full((3, c), np.float32(1e30))
    for weight in (w, w[:, :1]):
        for function in (mlsm.grad, mlsm.hessian_diag):
            found = function(x, y, weight, reduction="sum", grad_output=1e20, kernel="numba")
            right = function(x, y, weight, reduction="sum", grad_output=1e20, kernel="generic")
            assert np.isfinite(right).all()
            check(found, right, 8 * spacing(right, "float32"))


@pytest.mark.parametrize("target", ["bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float64"])
def test_targets_are_read_in_their_own_dtype(target: str, rng: np.random.Generator) -> None:
    x, y = _data(6, 33, np.float64, rng)
    right = mlsm.value_and_grad(x, y, kernel="numba")
    for found, expected in zip(mlsm.value_and_grad(x, y.astype(target), kernel="numba"), right, strict=True):
        identical(found, expected)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_byte_but_0_is_true(library: str, dtype: str, rng: np.random.Generator) -> None:
    make = _support.find(library).make
    x = make(rng.normal(0, 4, (9, 131)).astype(dtype))
    bytes_ = rng.choice(np.array([0, 0, 1, 2, 128, 255], np.uint8), (9, 131))
    odd = find(library).as_bool(make(bytes_))
    for function in (mlsm.value_and_grad, mlsm.hessian_diag):
        found, right = (function(x, y, kernel="numba") for y in (odd, make(bytes_ != 0)))
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, right)), strict=True):
            identical(np.asarray(a), np.asarray(b))


@pytest.fixture
def convert(kernel: Any, loops: Any) -> Callable[..., Any]:
    """An array converted to another dtype, as the compiled code reads and writes it."""
    import numba

    @numba.njit(error_model="numpy")
    def read(kind: Any, source: Any, n: Any, to: Any, one: Any) -> None:
        loops._read(kind, source, n, to, one)

    @numba.njit(error_model="numpy")
    def write(kind: Any, source: Any, n: Any, to: Any, one: Any) -> None:
        loops._write(kind, source, n, to, one)

    def run(values: Any, name: str, to: Any, reading: bool) -> Any:
        found, one = np.empty(values.size, to), (np.empty(1, to) if reading else values)[0] * 0 + 1
        function = read if reading else write
        function(loops.KINDS[name], values.ctypes.data, values.size, found.ctypes.data, one)
        return found

    return run


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("hardware", [True, False])
def test_every_half_is_read_exactly(
    hardware: bool, real: Any, convert: Any, loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16")
    if not hardware:
        monkeypatch.setattr(loops, "_F16C", False)
    bits = np.arange(2**16, dtype=np.uint16)
    for name, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        found = convert(bits, name, real, True)
        with np.errstate(all="ignore"):  # signalling NaN among them
            check(found, bits.view(dtype).astype(real), 0)
        assert np.array_equal(np.signbit(found), bits >= 2**15)


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_halves_are_rounded_to_the_nearest(
    name: str, hardware: bool, convert: Any, loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 4001st float32, every tie and its neighbours, and the ends of the range."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16")
    if not hardware:
        monkeypatch.setattr(loops, "_F16C", False)
    dtype, top = (np.float16, 0x7C00) if name == "float16" else (ml_dtypes.bfloat16, 0x7F80)
    halves = np.arange(top, dtype=np.uint16).view(dtype).astype(np.float32)
    ties = ((halves[1:].astype(float) + halves[:-1]) / 2).astype(np.float32)
    ends = np.array([65519.996, 65520, 65535, 65536, np.inf, np.nan, 0, 2**-25, 2**-24, 2**-149, 3.4e38], np.float32)
    strided = np.arange(0, 2**32, 4001, dtype=np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([strided, ties, np.nextafter(ties, 0), np.nextafter(ties, np.float32(np.inf)), ends, -ends])
    found = convert(values, name, np.uint16, False).view(dtype)
    with np.errstate(all="ignore"):
        right = values.astype(dtype)
        check(found.astype(np.float32), right.astype(np.float32), 0)
    number = ~np.isnan(values)
    assert np.array_equal(np.signbit(found)[number], np.signbit(right)[number])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(9, 65), (40, 100), (3, 1000), (2, 1024), (3, 2500), (2, 3, 70), (2, 3, 1000), (5, 64), (1, 1)]
)
def test_halves_that_are_read_in_place_have_the_bits_of_copied_ones(
    shape: tuple[int, ...], name: str, special: bool, kernel: Any, loops: Any, monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Beside the same numbers in an array whose classes are apart, which are copied before they are read."""
    torch = pytest.importorskip("torch")
    in_place: list[bool] = []
    plan = kernel._plan

    def noticed(*arguments: Any) -> Any:
        made = plan(*arguments)
        in_place.append(bool(made.numbers[loops.HALF]))
        return made

    monkeypatch.setattr(kernel, "_plan", noticed)
    dtype = getattr(torch, name)
    larger = (*shape[:-2], shape[-2] + 1, shape[-1])  # of which all but the last are taken: several batch axes in 3-D
    x = torch.from_numpy(rng.normal(0, 4, larger)).to(dtype)[..., :-1, :]
    y = torch.from_numpy(rng.random(larger)).to(dtype)[..., :-1, :]
    if special:
        values = torch.tensor([0.0, -0.0, 1e-7, -1e-7, 6e4, -6e4, torch.inf, -torch.inf, torch.nan], dtype=dtype)
        x[..., 0, : values.numel()] = values[: shape[-1]]
    apart = torch.stack([x, x + 1], dim=-1)[..., 0]
    g = torch.from_numpy(rng.normal(0, 1, shape[:-1]).astype(np.float32))
    other = torch.bfloat16 if name == "float16" else torch.float16
    targets = (y, torch.stack([y, y + 1], dim=-1)[..., 0], y.float(), y.to(other), y > 0.5)
    choices: list[dict[str, Any]] = [
        {},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"reduction": "none", "grad_output": g},
        {"weight": abs(y.reshape(-1, shape[-1])[0] + 1)},
        {"weight": abs(y[..., :1] + 1)},
        {"pos_weight": y + 1},
        {"where": y > 0.3},
        {"label_smoothing": 0.1},
    ]
    for target, given in [*((t, {}) for t in targets), *((y, v) for v in choices)]:
        options = {**given, "kernel": "numba"}
        in_place.clear()
        found = mlsm.value_and_grad(x, target, **options)
        served = (
            target is y and given.keys() <= {"reduction", "grad_output"} and shape not in [(2, 3, 70), (5, 64), (1, 1)]
        )
        assert any(in_place) == served
        in_place.clear()
        right = mlsm.value_and_grad(apart, target, **options)
        curvatures = mlsm.hessian_diag(x, target, **options), mlsm.hessian_diag(apart, target, **options)
        by_itself = mlsm.grad(x, target, **options), right[1]
        if "grad_output" not in options:
            identical(loss(x, target, **options).float().numpy(), right[0].float().numpy())
        assert not any(in_place)
        for a, b in (*zip(found, right, strict=True), by_itself, curvatures):
            identical(a.float().numpy(), b.float().numpy())
    if len(shape) == 3:
        turned = mlsm.value_and_grad(x.swapaxes(0, 1), y.swapaxes(0, 1), kernel="numba", reduction="none")[1]
        whole = mlsm.value_and_grad(x, y, kernel="numba", reduction="none")[1]
        identical(turned.float().numpy(), whole.swapaxes(0, 1).float().numpy())


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("classes", [40, 70])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_threads_do_not_change_a_bit(
    threads: int, classes: int, dtype: Any, kernel: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    x, y = _data(31, classes, dtype, rng)

    def asked() -> list[Any]:
        both = mlsm.value_and_grad(x, y, kernel="numba", reduction="none")
        return [*both, mlsm.grad(x, y, kernel="numba"), mlsm.hessian_diag(x, y, kernel="numba")]

    alone = asked()
    monkeypatch.setattr(kernel, "ALONE", 1)
    used: set[int] = set()
    spread = kernel._threads.spread

    def noticed(threads: int, count: int, work: Any) -> None:
        def watched(i: int, j: int) -> None:
            used.add(threading.get_ident())
            work(i, j)

        spread(threads, count, watched)

    monkeypatch.setattr(kernel._threads, "spread", noticed)
    monkeypatch.setattr(kernel._threads, "allowed", lambda tensors: threads)
    for found, right in zip(asked(), alone, strict=True):
        identical(found, right)
    assert len(used) > 1


def test_thread_count(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(kernel._threads, "_quota", lambda: 2**31)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert kernel._threads.allowed(False) == cores
    for text, most in (("1", 1), ("1,4", 1), (" 1 ", 1), ("0", 1), (str(cores + 5), cores), ("many", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert kernel._threads.allowed(False) == most, text
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(kernel._threads, "_quota", lambda: 1)
    assert kernel._threads.allowed(False) == 1
    monkeypatch.setattr(kernel._threads, "_quota", lambda: 2**31)
    found: list[int] = []
    worker = threading.Thread(
        target=lambda: found.extend((kernel._threads.allowed(False), kernel._threads.allowed(True)))
    )
    worker.start()
    worker.join()
    assert found == [1, 1]  # a caller that has several threads is parallel already


# The content of /proc/self/cgroup, the files of the control groups, and the number of cores that they allow.
GROUPS: list[tuple[str, dict[str, str], int]] = [
    ("0::/\n", {}, 2**31),
    ("0::/\n", {"cpu.max": "max 100000\n"}, 2**31),
    ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),
    ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "400000 100000"}, 2),
    ("0::/../host/path\n", {"cpu.max": "200000 100000\n"}, 2),
    ("4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
     {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
      "memory/x/cpu.max": "100000 100000"}, 4),
    ("3:cpu:/docker/x\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2**31),
    ("3:cpu:/docker/x\n", {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 5),
    ("0::/\n", {"cpu.max": "unreadable"}, 2**31),
]  # fmt: skip


@pytest.mark.parametrize(("own", "files", "expected"), GROUPS)
def test_quota_of_control_groups(own: str, files: dict[str, str], expected: int, kernel: Any, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert kernel._threads._quota(tmp_path) == expected


def test_no_control_groups(kernel: Any, tmp_path: Path) -> None:
    assert kernel._threads._quota(tmp_path) == 2**31


BIG = """
import numpy as np
import mlsm
x = np.linspace(-9, 9, 2**20, dtype=np.float32).reshape(1024, 1024)
y = x > 1
"""


def _script(code: str, **environment: str | None) -> str:
    """The output of a process that has our environment with these changes."""
    own = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    command = [sys.executable, "-W", "error", "-c", BIG + code]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def right() -> str:
    return _script("print(mlsm.multilabel_soft_margin_loss(x, y), mlsm.grad(x, y).sum(dtype=float))")


TWO = "from mlsm.kernels import _threads\n_threads.allowed = lambda tensors: 2\n"
LOSS = "print(mlsm.multilabel_soft_margin_loss(x, y))\n"
BOTH = "print(mlsm.multilabel_soft_margin_loss(x, y), mlsm.grad(x, y).sum(dtype=float))\n"


def test_a_call_while_the_interpreter_ends(right: str) -> None:
    """No pool accepts work then, whether it exists already or not."""
    late = f"import atexit\n@atexit.register\ndef late():\n    {BOTH}"
    assert _script(TWO + late) == right
    assert _script(TWO + late + BOTH) == f"{right}\n{right}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_call_in_a_signal_handler(right: str) -> None:
    """The handler interrupts a call that holds the pool's locks while it submits its parts."""
    code = f"""
import os, signal
from mlsm.kernels import _threads
_threads.allowed = lambda tensors: 2
signal.signal(signal.SIGUSR1, lambda *_: {BOTH.strip()})
executor = _threads._executor
def interrupted(size):
    with _threads._lock:
        os.kill(os.getpid(), signal.SIGUSR1)
        len([0])  # a handler runs between two instructions
    return executor(size)
_threads._executor = interrupted
mlsm.multilabel_soft_margin_loss(x, y)
"""
    assert _script(code) == right


def test_calls_work_when_no_thread_can_be_started(right: str) -> None:
    """Not even one, or only one: the caller computes each part that the pool has queued anyway, exactly once."""
    refuse = """
import threading
from mlsm.kernels import _threads
_threads.allowed = lambda tensors: 4
start, left = threading.Thread.start, [{left}]
def limited(self):
    if not left[0]:
        raise RuntimeError("can't start new thread")
    left[0] -= 1
    start(self)
threading.Thread.start = limited
"""
    for left in (0, 1):
        assert _script(refuse.format(left=left) + BOTH) == right


def test_each_part_is_computed_once_if_a_thread_cannot_start(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, done = kernel._threads, []
    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(threads, "_executor", lambda size: pool)
    adjust, calls = pool._adjust_thread_count, []  # type: ignore[attr-defined]  # this starts a thread

    def limited() -> None:
        calls.append(0)
        if len(calls) > 1:
            raise RuntimeError("can't start new thread")
        adjust()

    monkeypatch.setattr(pool, "_adjust_thread_count", limited)
    threads.spread(4, 8, lambda i, j: done.append((i, j)))
    pool.shutdown()  # all queued parts are finished
    assert len(calls) > 1
    assert sorted(done) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_one_thread_in_a_worker_of_a_pool() -> None:
    code = """
import multiprocessing
from mlsm.kernels import _threads
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(_threads.allowed, (False,)), pool.apply(_threads.allowed, (True,)))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["1", "1"]


def test_compiler_switched_off() -> None:
    """Every call works by another kernel; forcing this one raises with the reason."""
    code = """
print(mlsm.explain(x, y).chosen, dict(mlsm.explain(x, y).reasons)["numba"])
mlsm.multilabel_soft_margin_loss(x, y), mlsm.value_and_grad(x, y), mlsm.hessian_diag(x, y)
try:
    mlsm.grad(x, y, kernel="numba")
except ValueError as error:
    print(error)
"""
    said = _script(code, NUMBA_DISABLE_JIT="1").splitlines()
    assert said[0] == "numpy Numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    assert "`kernel` 'numba' cannot serve this call: Numba's compiler is switched off" in said[1]


@pytest.mark.slow  # compiles in five new processes
def test_a_cache_that_fails(right: str, tmp_path: Path) -> None:
    """A disk that is full when the code is written, a damaged index or code file, no cache folder."""
    full = """
import builtins, errno, os, tempfile
from numba.core import caching
def refuse(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")
import mlsm.kernels._numba_loops
caching.IndexDataCacheFile.save = refuse
"""
    assert _script(full + LOSS, NUMBA_CACHE_DIR=str(tmp_path / "full")) == right.split()[0]
    assert _script(LOSS, NUMBA_CACHE_DIR=str(tmp_path / "kept")) == right.split()[0]
    for ending in (".nbc", ".nbi"):
        files = [*(tmp_path / "kept").rglob(f"*{ending}")]
        assert files
        for file in files:
            file.write_bytes(b"damaged")
        note = "print(mlsm.explain(x, y).note is not None)\n"
        assert _script(note + LOSS, NUMBA_CACHE_DIR=str(tmp_path / "kept")).splitlines()[1] == right.split()[0]
    (tmp_path / "file").write_text("no folder")
    nowhere = {"NUMBA_CACHE_DIR": str(tmp_path / "file"), "HOME": None, "XDG_CACHE_HOME": None}
    assert _script(LOSS, **nowhere) == right.split()[0]


def test_tensors_follow_torch(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="this test asks for PyTorch's number of threads")
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(kernel._threads, "_quota", lambda: 2**31)
    cores = kernel._threads.allowed(False)
    try:
        for threads in (1, cores, cores + 1):  # at most as many as the process may use
            torch.set_num_threads(threads)
            assert kernel._threads.allowed(True) == min(threads, cores)
    finally:
        torch.set_num_threads(before)


def test_small_work_uses_one_thread(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a small call was handed to the pool")

    monkeypatch.setattr(kernel._threads, "spread", refuse)
    x = np.zeros((32, 20), np.float32)
    loss(x, x, kernel="numba")


def test_error_in_a_thread_is_raised(kernel: Any) -> None:
    def work(i: int, j: int) -> None:
        if i:
            raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        kernel._threads.spread(2, 10, work)


def test_releases_the_interpreter(loops: Any) -> None:
    assert loops.fused.targetoptions["nogil"]
    assert loops.elements.targetoptions["nogil"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_fork() -> None:
    """A child inherits the pool without its threads, and would wait for them forever."""
    script = """
import os, threading
from mlsm.kernels import _threads
_threads.spread(2, 10, lambda i, j: None)
child = os.fork()
if child == 0:
    _threads.spread(2, 10, lambda i, j: None)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", script], check=True, timeout=60)


# ---------------------------------------------------------------- reasons to decline, and compilation


def _why(*arguments: Any, **options: Any) -> str:
    return dict(mlsm.explain(*arguments, **options).reasons).get("numba", "serves")


def test_reasons_to_decline() -> None:
    x, y = np.zeros((4, 3), np.float32), np.zeros((4, 3))
    wide, cube = np.zeros((1, 2**18 + 1), np.float16), np.zeros((2, 4, 6))[..., ::2]
    for a, b, options in (
        (x, y, {"weight": [[1.0, 2.0, 3.0]], "pos_weight": 2.0, "label_smoothing": 0.1}),
        (x, y, {"weight": np.ones((4, 1)), "pos_weight": np.ones((4, 3)), "where": np.ones(3, bool)}),
        (wide, wide, {}),
        (cube, cube, {}),
        (x.astype(">f4"), y, {}),
    ):
        assert _why(a, b, **options) == "serves"
    torch = pytest.importorskip("torch", reason="only a tensor may be declined")
    negated = torch.view_as_complex(torch.zeros((4, 3, 2))).conj().imag
    assert "negates" in _why(torch.zeros((4, 3)), negated)
    meta = torch.zeros((4, 3), device="meta")
    assert "the tensors are on meta" in _why(meta, meta)


def test_import_does_not_import_numba() -> None:
    script = """
import sys
import numpy as np
import mlsm
import mlsm.kernels.numba
x = np.zeros((2, 3))
mlsm.multilabel_soft_margin_loss(x, x, kernel="generic")
assert "numba" not in sys.modules, "numba was imported before a call needed it"
mlsm.multilabel_soft_margin_loss(x, x)
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


NOTE = """
import sys
import numpy as np
import mlsm
from mlsm import _check
from mlsm.kernels import numba as kernel
x = np.zeros((2, 3), np.float32)
y = np.zeros((2, 3), np.int16)
problem, *_ = _check.problem(x, y, 2.0, None, None, "mean", 0.0, -1)
note = kernel.note(problem)
mlsm.multilabel_soft_margin_loss(x, y, 2.0)
print(note)
print(kernel.note(problem))
"""


def _notes(cache: Path) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-c", NOTE],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    return found.stdout.splitlines()


def test_the_note_says_what_compiles(tmp_path: Path) -> None:
    before, after = _notes(tmp_path)
    assert "its first call in float32 compiles" in before
    assert str(tmp_path) in before
    assert after == "None"
    again, _ = _notes(tmp_path)  # in another process, which loads the code from disk
    assert again == after


def test_without_a_writable_cache_folder_every_process_compiles(loops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of another kind is not swallowed."""
    from numba.core.dispatcher import Dispatcher

    def refuse(message: str) -> Callable[[Any], None]:
        def enable(self: Any) -> None:
            raise RuntimeError(message)

        return enable

    monkeypatch.setattr(Dispatcher, "enable_caching", refuse("cannot cache function: no locator available for file"))
    x, gradient, hessian = np.zeros(3), np.empty(3), np.empty(3)
    places = [v.ctypes.data for v in (gradient, hessian)]
    address = x.ctypes.data
    loops._compiled(loops.elements.py_func)(np.float64(1), 3, address, address, 0, 0, 0, *places, 0.0, 1.0, 0.0)
    assert list(gradient) == [0.5] * 3
    assert list(hessian) == [0.25] * 3
    monkeypatch.setattr(Dispatcher, "enable_caching", refuse("another"))
    with pytest.raises(RuntimeError, match="another"):
        loops._compiled(loops.elements.py_func)


def test_a_long_compilation_is_logged(
    loops: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = (np.float64(1), 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 1.0, 0.0)
    for limit, told in ((1e9, 0), (0.0, 1)):
        monkeypatch.setattr(loops, "SILENCE", limit)
        caplog.clear()
        with caplog.at_level("INFO", logger="mlsm"):
            loops._compiled(loops.elements.py_func)(*arguments)
        assert len(caplog.records) == told
        assert all("compiled elements in" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [65, 100, 500, 1000, 1025])
def test_a_mask_alone_gives_the_same_bits_in_one_pass_and_in_two(classes: int, dtype: Any) -> None:
    """Each row has its own number of known labels, also where one pass takes several rows; one row has none."""
    random = np.random.default_rng(classes)
    x = (4 * random.standard_normal((23, classes))).astype(dtype)
    y, where = random.random(x.shape) < 0.3, random.random(x.shape) < random.random((23, 1))
    where[7] = False
    for reduction in ("mean", "sum"):
        for mask in (where, np.asfortranarray(where), where[::-1]):
            options: Any = {"where": mask, "reduction": reduction, "kernel": "numba"}
            value, gradient = mlsm.value_and_grad(x, y, **options)
            assert value == mlsm.multilabel_soft_margin_loss(x, y, **options)
            assert np.array_equal(gradient, mlsm.grad(x, y, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_of_rows_are_spread_at_every_width(dtype: Any, rng: np.random.Generator) -> None:
    """By whole vectors, whose ends must not reach what is kept of another operand: here a `pos_weight` that is copied
    once, for all blocks."""
    for c in range(2, 65):
        n = 3 * (1024 // c) + 2  # more than three blocks
        x, y = _data(n, c, dtype, rng)
        w, p = rng.random((n, 1)).astype(dtype), (0.5 + rng.random(2 * c)).astype(dtype)[::2]
        full = np.ascontiguousarray(np.broadcast_to(w, (n, c)))
        for function in (loss, mlsm.grad, mlsm.hessian_diag):
            seen, right = (function(x, y, v, pos_weight=p, reduction="none", kernel="numba") for v in (w, full))
            identical(seen, right, f"{function.__name__}, {c} classes")


MASKS: dict[str, Callable[[Any], Any]] = {
    "C": lambda m: m,
    "F": np.asfortranarray,
    "reversed": lambda m: m[::-1],
    "every second row": lambda m: np.repeat(m, 2, axis=0)[::2],
    "every second class": lambda m: np.repeat(m, 2, axis=-1)[..., ::2],
    "the first classes": lambda m: np.pad(m, [(0, 0)] * (m.ndim - 1) + [(0, 3)])[..., : m.shape[-1]],
    "one row for all": lambda m: np.broadcast_to(m[:1], m.shape),
    "odd bytes": lambda m: (m.view(np.uint8) * np.uint8(130)).view(np.bool_),
}


@pytest.mark.parametrize("layout", MASKS)
@pytest.mark.parametrize("alone", [2**18, 8])  # elements of a thread: of one thread, and of several
def test_rows_with_an_observed_class_are_counted(
    layout: str, alone: int, kernel: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "ALONE", alone)
    monkeypatch.setattr(kernel._threads, "allowed", lambda tensors: 3)
    counted = 0
    for shape in [(40, c) for c in (*range(2, 36), 63, 64, 65, 96, 127, 130)] + [(7, 3, 15), (3, 1100), (2100, 5)]:
        for share in (0.0, 1 / shape[-1], 1.0):
            m = MASKS[layout](rng.random(shape) < share)
            x = np.zeros(shape, np.float32)
            seen = kernel.observed_rows(_operands(x, m))
            if seen is not None:
                counted += 1
                assert seen == max(1, np.count_nonzero(m.view(np.uint8).astype(bool).any(axis=-1))), (shape, share)
    assert counted == (0 if layout in ("F", "every second class") else 3 * 43)


def _operands(x: Any, m: Any) -> Any:
    from mlsm import _check

    return _check.problem(x, x, None, None, m, "mean", 0.0, -1)[1]


def test_masks_that_numpy_counts_faster_are_declined(kernel: Any) -> None:
    x = np.zeros((4, 3), np.float32)
    for m in (np.ones(3, bool), np.ones((4, 1), bool), np.ones((), bool)):
        assert kernel.observed_rows(_operands(x, m)) is None
    assert kernel.observed_rows(_operands(x[:, :1], np.ones((4, 1), bool))) is None


@pytest.mark.parametrize("enabled", [True, False])
def test_a_compilation_leaves_the_garbage_collector_as_it_was(loops: Any, enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        loops._compiled(loops.elements.py_func)(np.float64(1), 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 1.0, 0.0)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.slow
@pytest.mark.parametrize("names", ["loops._LINKING", "loops._LINKING + ('nonesuch',)"])
def test_a_numba_without_the_private_names_still_works(names: str, right: str, tmp_path: Path) -> None:
    """If a private name of Numba has moved, calls give the same bits and do not fail."""
    code = f"from mlsm.kernels import _numba_loops as loops; loops._LINKING = {names}\n" + BOTH
    assert _script(code, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == right


@pytest.mark.slow
def test_warm_compiles_for_other_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlsm", "warm"]
    own = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(command, env=own, capture_output=True, text=True, check=True, timeout=300).stdout
        for _ in range(2)
    ]
    assert said[0].count("Numba compiled fused in") == 2
    assert "the numba kernel is ready" in said[1]
    refused = subprocess.run(
        command, env={**own, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 1
    assert "nothing to compile: Numba's compiler is switched off" in refused.stdout


def test_the_kernel_checks_lengths_again(kernel: Any, rng: np.random.Generator) -> None:
    """The loops use the lengths of the logits: an operand with other lengths is refused, not read past its end."""
    from array_api_compat import numpy as xp

    from mlsm._core import Operands

    x, y, one = rng.random((6, 4)), rng.random((6, 4)), np.asarray(1.0)

    def refused(name: str, g: Any, **other: Any) -> None:
        o = Operands(xp, x, y, None, None, None, 0.0, np.float64, np.float64)._replace(**other)
        for run in (kernel.KERNEL.rows_vjp, kernel.KERNEL.rows_and_vjp, kernel.KERNEL.curvature):
            with pytest.raises(ValueError, match=f"`{name}`"):
                run(o, g)

    for wrong in (y[:1], y[:5], np.concatenate([y, y]), y[:, :3], y[0]):
        refused("target", one, y=wrong)
    for n in (0, 3, 5, 24):
        refused("weight", one, w=np.ones(n))
        refused("pos_weight", one, p=np.ones(n))
    for n in (0, 1, 5, 7):
        refused("grad_output", np.ones(n))
