"""NumPy's kernel: every option, shape and layout by blocks, the same bits in every layout, and little memory."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _blocks, _check, _core

from .._support import KERNELS_PRESENT, check, identical, needs_kernels

if KERNELS_PRESENT:
    from mlsm.kernels import numpy as kernel

pytestmark = needs_kernels
MIB = 1 << 20


@pytest.fixture(params=["its own log1p", "NumPy's log1p"])
def log1p(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each implementation of log1p, whichever one this processor would use."""
    monkeypatch.setattr(kernel, "SMALL", 0)
    monkeypatch.setattr(kernel, "_log1p_is_fast", lambda: request.param == "NumPy's log1p")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "FEW", 4)
    monkeypatch.setattr(kernel, "WHOLE", 30)
    monkeypatch.setattr(kernel, "BLOCK", 24)
    monkeypatch.setattr(kernel, "WIDEST", 10)


def _operands(*arguments: Any, eps: float = 0.0) -> Any:
    _, o, _ = _check.problem(*arguments, "none", eps, -1)
    return o


# ---------------------------------------------------------------- the logarithm


def test_log1p_is_good_to_one_and_a_half_ulp() -> None:
    """On every 97th float32 in [0, 1], and on points that a sweep would miss."""
    bits = np.arange(0, np.float32(1).view(np.uint32) + 1, 97, dtype=np.uint32)
    special = np.asarray([0, 1, 2.0**-149, 2.0**-126, 2.0**-24, 0.5], np.float32)
    for e in (*np.array_split(bits.view(np.float32), 12), special):
        out, *room = np.empty((4, e.size), np.float32)
        kernel._log1p(e, out, *room)
        exact = np.log1p(e.astype(np.float64))
        check(out, exact, 1.5 * np.spacing(exact.astype(np.float32)).astype(np.float64), "log1p")
    out, *room = np.empty((4, 1), np.float32)
    kernel._log1p(np.asarray([np.nan], np.float32), out, *room)
    assert np.isnan(out)


def test_log1p_in_place_is_log1p() -> None:
    """The loss alone overwrites exp, a derivative still needs it: both must have the same bits."""
    e = np.random.default_rng(2).random(1000, np.float32)
    out, *room = np.empty((4, 1000), np.float32)
    kernel._log1p(e, out, *room)
    kernel._log1p(e, e, *room)
    identical(e, out, "in place")


def test_numpys_log1p_is_used_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = kernel._log1p_is_fast.__wrapped__
    found = {"log1p": {"ff": {"current": "X86_V4", "available": "X86_V4 baseline(X86_V2)"}}}
    monkeypatch.setattr(kernel.sys, "platform", "linux")
    if not hasattr(np.lib, "introspect"):
        assert not ask()
        return
    monkeypatch.setattr(np.lib.introspect, "opt_func_info", lambda **_: found)
    assert ask()
    found["log1p"]["ff"]["current"] = "baseline(X86_V2)"
    assert not ask()
    found["log1p"]["ff"]["current"] = "AVX512_SKX"
    assert ask()
    monkeypatch.setattr(kernel.sys, "platform", "darwin")
    assert not ask()


# ---------------------------------------------------------------- every option, by blocks


SHAPES: list[tuple[int, ...]] = [(5, 3), (70, 1), (3, 25), (2, 31), (3, 5, 8), (4, 3, 2, 6), (41,), (2, 1, 12), (0, 3)]


@pytest.mark.usefixtures("log1p", "small_blocks")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_option_is_the_formula(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    """Each shape of each argument, not combined with every shape of the others; with a matched infinite logit."""
    x, y = (3 * rng.standard_normal(shape)).astype(dtype), rng.random(shape).astype(dtype)
    if x.size:
        x[..., 0], y[..., 0] = np.inf, 1
    each = (*itertools.product(*({1, n} for n in shape)), ())
    u = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}[dtype]
    for place, (m_shape, eps) in enumerate(itertools.product((None, *each), (0.0, 0.1))):
        w_shape, p_shape = each[place % len(each)], each[(3 * place + 1) % len(each)]
        w, p = ((0.5 + rng.random(s)).astype(dtype) for s in (w_shape, p_shape))
        m = None if m_shape is None else np.asarray(rng.random(m_shape) < 0.6)
        for given in ((w, p), (w, None), (None, p), (None, None)):
            arguments = [x, y, *(None if v is None else np.asarray(v) for v in given), m]
            o = _operands(*arguments, eps=eps if m_shape is None or place % 3 else 0.0)
            g = rng.random(shape[:-1]) + 0.5 if place % 2 else np.float64(0.7)
            _agrees(o, np.asarray(g) if np.ndim(g) else g, u)


def _agrees(o: Any, g: Any, u: float) -> None:
    with np.errstate(all="ignore"):
        rows, both = kernel.rows(o), kernel.rows_and_vjp(o, g)
        # The reference in a wider format, so that the whole difference is the kernel's error.
        wide = _operands(*(v if v is None or v.dtype == bool else v.astype(np.float64) for v in o[1:6]), eps=o.eps)
        identical(rows, both[0], "the losses of both")
        compute = u if o.x.dtype != np.float16 else 2.0**-24
        right = _core.rows(wide)
        check(rows, right, 24 * compute * np.abs(right), "rows")
        # A gradient is a difference of terms of at most q: the error is relative to them.
        f = _core.parts(wide)
        size = np.abs(_core.times_scale(wide, g / _core._divisor(wide), _core._scaled(f.w, f.ybar + f.positive)))
        for what, found, exact, terms in (
            ("rows_vjp", kernel.rows_vjp(o, g), _core.rows_vjp(wide, g), size),
            ("curvature", kernel.curvature(o, g), _core.curvature(wide, g), None),
        ):
            assert (found.shape, found.dtype) == (o.x.shape, o.x.dtype), what
            terms = np.abs(exact) if terms is None else terms
            tiny = float(np.finfo(o.x.dtype).smallest_subnormal)
            check(found, exact, 12 * compute * terms + u * np.abs(exact) + tiny / 2, what)
        identical(both[1], kernel.rows_vjp(o, g), "the gradient of both")


@pytest.mark.usefixtures("log1p", "small_blocks")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 1), (1, 4), (4,), ()], ids=str)
def test_masked_entries_are_exactly_zero(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Whatever the values of any argument and of `grad_output` are there; the mask's bytes may differ from 0 and 1."""
    m = np.asarray(rng.random(shape) < 0.5)
    full = np.broadcast_to(m, (6, 4))
    arrays = [np.where(full, rng.random((6, 4)) + 0.5, bad).astype(dtype) for bad in (np.nan, np.inf, -np.inf, np.nan)]
    clean = [np.where(full, v, 0).astype(dtype) for v in arrays]
    odd = np.asarray(m.view(np.uint8) * 2).view(np.bool_)
    g = np.where(full.any(-1), 0.5, np.nan)
    with np.errstate(all="ignore"):
        dirty, tidy = _operands(*arrays, odd), _operands(*clean, m)
        identical(kernel.rows(dirty), kernel.rows(tidy), "rows")
        for function in (kernel.rows_vjp, kernel.curvature):
            found = function(dirty, g)
            identical(found[~full], np.zeros((~full).sum(), dtype), function.__name__)
            identical(found[full], function(tidy, g)[full], function.__name__)


@pytest.mark.usefixtures("log1p", "small_blocks")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values_stay_in_their_row(dtype: str) -> None:
    inf, nan = np.inf, np.nan
    x = np.asarray([[inf, 1], [-inf, 1], [inf, 1], [-inf, 1], [nan, 1], [1, 1], [0, -0.0]], dtype)
    y = np.asarray([[1, 1], [0, 1], [0, 1], [1, 1], [1, 1], [nan, 1], [0.25, 1]], dtype)
    one = float(np.log1p(np.exp(-1)))
    for options in ({}, {"pos_weight": np.ones((7, 2), dtype)}, {"where": np.ones((7, 2), bool)}):
        with np.errstate(all="ignore"):
            o = _operands(x, y, None, options.get("pos_weight"), options.get("where"))
            rows, gradient = kernel.rows_and_vjp(o, np.float64(2))
        right = [one / 2, one / 2, inf, inf, nan, nan, np.log(2)]
        check(rows, right, 8 * float(np.finfo(dtype).eps), str(options))
        check(gradient[:4, 0], [0, 0, 1, -1], 0, str(options))
        check(gradient[6], [0.25, -0.5], 0, str(options))


# ---------------------------------------------------------------- layouts


def _stepped(a: Any) -> Any:
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "F": np.asfortranarray,
    "stepped": _stepped,
    "first axes swapped": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "last axes swapped": lambda a: np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2),
    "reversed": lambda a: np.ascontiguousarray(a[::-1, ..., ::-1])[::-1, ..., ::-1],
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@pytest.mark.usefixtures("log1p", "small_blocks")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(9, 4), (9, 1), (3, 25), (5, 4, 3), (4, 3, 2, 9)], ids=str)
def test_a_layout_changes_no_bit(shape: tuple[int, ...], dtype: str, layout: str, rng: np.random.Generator) -> None:
    plain = [(3 * rng.standard_normal(shape)).astype(dtype), rng.random(shape).astype(dtype)]
    more = [(rng.random(shape) + 0.5).astype(dtype) for _ in range(2)] + [rng.random(shape) < 0.7]
    for arrays in ([*plain, None, None, None], [*plain, *more]):
        straight = _operands(*arrays)
        # Only the logits, only the other arguments, and all of them.
        for changed in ((0,), (1, 2, 3, 4), range(5)):
            other = _operands(
                *(v if v is None or i not in changed else LAYOUTS[layout](v) for i, v in enumerate(arrays))
            )
            with np.errstate(all="ignore"):
                identical(kernel.rows(other), kernel.rows(straight), "rows")
                for function in (kernel.rows_vjp, kernel.curvature):
                    one, two = (function(o, np.float64(0.3)) for o in (other, straight))
                    identical(np.ascontiguousarray(one).astype(dtype), two, function.__name__)
                    assert one.strides == np.empty_like(other.x).strides, function.__name__


def test_no_layout_is_computed_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    rows = kernel._Work.rows

    def counting(self: Any, o: Any, *rest: Any) -> None:
        seen.append(o.x.shape)
        rows(self, o, *rest)

    monkeypatch.setattr(kernel._Work, "rows", counting)
    for shape in ((20_000, 20, 1), (200, 500, 2), (2_000, 200)):
        for layout in LAYOUTS.values():
            x = layout(np.zeros(shape, np.float32))
            seen.clear()
            mlsm.grad(x, x, kernel="numpy")
            assert len(seen) <= 3 * x.size / kernel.BLOCK + 3, (shape, len(seen))


# ---------------------------------------------------------------- scratch and memory


def test_scratch_memory_is_not_shared_while_it_is_used() -> None:
    kept = list(kernel._rooms)
    try:
        kernel._rooms[:] = [np.empty(64, np.uint8)]
        assert not np.shares_memory(kernel._taken(64), kernel._taken(64))
        kernel._rooms.clear()
        for _ in range(kernel.ROOMS + 3):
            kernel._given_back(np.empty(8, np.uint8))
        assert len(kernel._rooms) == kernel.ROOMS
        assert kernel._taken(1 << 10).nbytes >= 1 << 10  # memory that is too small is not reused
    finally:
        kernel._rooms[:] = kept


OPTIONS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "a mask": lambda n, c: {"where": np.ones((n, c), np.bool_)},
    "row weights": lambda n, c: {"weight": np.ones((n, 1), np.float32)},
    "pos_weight of each element": lambda n, c: {"pos_weight": np.ones((n, c), np.float32)},
    "everything": lambda n, c: {
        "where": np.ones((n, 1), np.bool_),
        "weight": np.ones((n, c), np.float32),
        "pos_weight": np.ones(c, np.float32),
        "label_smoothing": 0.1,
    },
}


@pytest.mark.thread_unsafe(reason="it measures the memory of all threads together")
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_options_and_layouts_need_the_memory_of_blocks_only(option: str, order: Any) -> None:
    import tracemalloc

    n, c = 8192, 1000
    x, y = np.zeros((n, c), np.float32, order=order), np.zeros((n, c), np.bool_, order=order)
    options = OPTIONS[option](n, c)
    for function, result in (
        (mlsm.multilabel_soft_margin_loss, 0),
        (mlsm.grad, x.nbytes),
        (mlsm.hessian_diag, x.nbytes),
    ):
        tracemalloc.start()
        function(x, y, kernel="numpy", **options)  # type: ignore[operator]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < result + 6 * MIB, (function, peak / MIB)


@pytest.mark.thread_unsafe(reason="it measures the memory of all threads together")
def test_the_gradient_for_class_weights_needs_the_memory_of_blocks_only() -> None:
    import tracemalloc

    x, y = np.zeros((8192, 1000), np.float32), np.zeros((8192, 1000), np.bool_)
    weight = np.ones(1000, np.float32)
    mlsm.grad(x[:64], y[:64], weight, wrt="weight")
    tracemalloc.start()
    found = mlsm.grad(x, y, weight, wrt="weight")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB, peak / MIB
    check(found, np.full(1000, np.log(2) / 1000), 8 * 2.0**-24 * np.log(2) / 1000)


def test_the_gradient_for_class_weights_runs_the_kernel_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the reference, which takes ten times as long."""
    monkeypatch.setattr(_core, "by_weight", lambda o, f: pytest.fail("the reference was called"))
    x = np.linspace(-3, 3, 4 * _blocks.BLOCK).reshape(-1, 8)
    y = np.ones(x.shape, np.bool_)
    found = mlsm.grad(x, y, np.ones(8), wrt="weight", reduction="sum")
    exact = np.ascontiguousarray(np.logaddexp(0, -x).T).sum(axis=-1) / 8  # pair by pair
    check(found, exact, 32 * 2.0**-53 * exact)
