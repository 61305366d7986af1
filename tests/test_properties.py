"""The laws that follow from the formula, on every installed library, with logits at which losses fail.

A law marked ⟂ holds to the bit; any other within a few units in the last place of the terms that it compares, never
within an absolute tolerance. The suite's own strategies draw the numbers; each example is one array of 24 elements, so
that libraries which compile for each shape compile once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mlsm
from mlsm_conformance import strategies

from . import _support

SIZE, ULPS = 24, 8
# Beyond these the tail is subnormal in the storage dtype, and some libraries flush it: other tests cover that.
LARGEST = {"float16": 8.0, "bfloat16": 60.0, "float32": 60.0, "float64": 600.0}

quick = settings(strategies.profile("quick"), max_examples=15)


class Sample(NamedTuple):
    """Drawn numbers for one library: logits and targets of a dtype, and the conversions to and from its arrays."""

    library: _support.Library
    dtype: str
    x: Any
    y: Any

    def ask(self, function: Callable[..., Any], x: Any, y: Any, **options: Any) -> Any:
        """The result on the library's arrays, as a NumPy array; NumPy arrays among the options are converted too."""
        make = self.library.make
        given_ = {k: make(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        with self.library.session():
            return self.library.read(function(make(x), make(y), **given_))

    def loss(self, x: Any, y: Any, **options: Any) -> Any:
        """The loss of every element, as float64, unless an option says otherwise."""
        options = {"reduction": "none"} | options
        if np.ndim(x) == 1:
            x, y = x[:, None], y[:, None]
        return self.ask(mlsm.multilabel_soft_margin_loss, x, y, **options).astype(np.float64)

    def gradient(self, x: Any, y: Any, function: Callable[..., Any] = mlsm.grad, **options: Any) -> Any:
        """The derivative of every element, as float64."""
        column = np.ndim(x) == 1
        found = self.ask(function, *(v[:, None] if column else v for v in (x, y)), **({"reduction": "sum"} | options))
        return (found[:, 0] if column else found).astype(np.float64)

    def near(self, a: Any, b: Any, size: Any, what: str) -> None:
        """Raise unless a and b differ by at most a few units in the last place of `size`."""
        _support.check(a, b, ULPS * _support.spacing(size, self.dtype), f"{self.library.name} {self.dtype}: {what}")

    def at_least(self, a: Any, b: Any, size: Any, what: str) -> None:
        """Raise unless a >= b, up to a few units in the last place of `size`."""
        self.near(np.minimum(a, b), b, size, what)


def samples(name: str, target: str = "soft", dtypes: tuple[str, ...] | None = None) -> st.SearchStrategy[Sample]:
    """24 finite logits and targets of one of the library's dtypes."""
    library = _support.find(name)

    def of(dtype: str) -> st.SearchStrategy[Sample]:
        x = strategies.tensors((SIZE,), dtype, strategies.logits(dtype, largest=LARGEST[dtype]))
        y = strategies.tensors((SIZE,), dtype, strategies.targets(dtype, target))
        kind = _support.numpy_dtype(dtype)
        return st.builds(lambda a, b: Sample(library, dtype, _array(a, kind), _array(b, kind)), x, y)

    return st.sampled_from([d for d in library.dtypes if dtypes is None or d in dtypes]).flatmap(of)


def _array(tensor: Any, kind: Any) -> Any:
    return np.asarray(tensor.values, np.float64).astype(kind)


def exact_targets(sample: Sample) -> Any:
    """Targets on a grid of 1/64, for which 1 - y is exact in every dtype."""
    return (np.round(sample.y.astype(np.float64) * 64) / 64).astype(sample.y.dtype)


def same(a: Any, b: Any, what: str) -> None:
    """Equal to the bit, except that zeros of either sign are equal."""
    _support.identical(np.asarray(a) + 0.0, np.asarray(b) + 0.0, what)


def law(
    *more: st.SearchStrategy[Any], target: str = "soft", dtypes: tuple[str, ...] | None = None
) -> Callable[[Callable[..., None]], Callable[[str], None]]:
    """Make a test for every library from a law of a sample and of further drawn values."""

    def made(holds: Callable[..., None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("name", _support.LIBRARIES)
        def test(name: str) -> None:
            if dtypes is not None and not set(dtypes) & set(_support.find(name).dtypes):
                pytest.skip(f"{name} has no {' and no '.join(dtypes)}")
            quick(given(samples(name, target, dtypes), *more)(holds))()

        return test

    return made


# ---------------------------------------------------------------- symmetry


@law()
def test_reflection(s: Sample) -> None:
    """⟂ loss(x, y) = loss(-x, 1-y); the gradient is odd and the Hessian even."""
    y = exact_targets(s)
    other = (1 - y).astype(y.dtype)
    same(s.loss(s.x, y), s.loss(-s.x, other), "loss")
    same(s.gradient(s.x, y), -s.gradient(-s.x, other), "gradient")
    same(s.gradient(s.x, y, mlsm.hessian_diag), s.gradient(-s.x, other, mlsm.hessian_diag), "Hessian")


@law()
def test_difference_is_the_logit(s: Sample) -> None:
    off, on = s.loss(s.x, np.zeros_like(s.x)), s.loss(s.x, np.ones_like(s.x))
    s.near(off - on, s.x.astype(np.float64), np.maximum(off, on), "loss(x,0) - loss(x,1) = x")


@law()
def test_affine_in_the_target(s: Sample) -> None:
    y = s.y.astype(np.float64)
    between = (1 - y) * s.loss(s.x, np.zeros_like(s.x)) + y * s.loss(s.x, np.ones_like(s.x))
    s.near(s.loss(s.x, s.y), between, between, "affine in y")


@law(st.integers(0, 3))
def test_homogeneous_in_the_weight(s: Sample, k: int) -> None:
    """⟂ for powers of two."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    one, many = np.ones(6).astype(s.x.dtype), np.full(6, 2.0**k).astype(s.x.dtype)
    for ask in (s.loss, s.gradient):
        once, often = ask(x, y, weight=one), ask(x, y, weight=many)
        whole = np.abs(once) >= 2.0**-14  # below, a half is subnormal and has fewer digits than its double
        same(np.where(whole, often, 0), np.where(whole, once * 2.0**k, 0), f"weight of 2^{k}")


# ---------------------------------------------------------------- shape of the curve


@law()
def test_at_least_the_entropy(s: Sample) -> None:
    """The loss is never negative, nor below the entropy of its target."""
    y = s.y.astype(np.float64)
    with np.errstate(all="ignore"):
        entropy = -np.where(y > 0, y * np.log(y), 0) - np.where(y < 1, (1 - y) * np.log1p(-y), 0)
    seen = s.loss(s.x, s.y)
    assert (seen >= 0).all()
    s.at_least(seen, entropy, entropy, "entropy")


@law()
def test_monotone_and_convex(s: Sample) -> None:
    """With a label of 0 the loss rises with the logit, with 1 it falls; a chord is above it."""
    x = np.sort(s.x.astype(np.float64)).astype(s.x.dtype)
    rising, falling = s.loss(x, np.zeros_like(x)), s.loss(x, np.ones_like(x))
    s.at_least(rising[1:], rising[:-1], rising[:-1], "rising")
    s.at_least(falling[:-1], falling[1:], falling[1:], "falling")
    step = np.asarray(2.0**-3, x.dtype)
    a, b, c = (s.loss((x + k * step).astype(x.dtype), s.y) for k in (-1, 0, 1))
    mid = (x + step).astype(np.float64) + (x - step).astype(np.float64) == 2 * x.astype(np.float64)
    s.at_least(np.where(mid, (a + c) / 2, 0), np.where(mid, b, 0), np.maximum(np.maximum(a, b), c), "chord")


@law()
def test_derivatives_are_bounded(s: Sample) -> None:
    """|g| <= 1/C and 0 <= h <= 1/4C for targets in [0, 1]."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    sixth, quarter = np.full((4, 6), 1 / 6), np.full((4, 6), 1 / 24)
    s.at_least(sixth, np.abs(s.gradient(x, y)), sixth, "gradient")
    h = s.gradient(x, y, mlsm.hessian_diag)
    assert (h >= 0).all()
    s.at_least(quarter, h, quarter, "Hessian")


@law(st.lists(st.integers(1, 63), min_size=SIZE, max_size=SIZE))
def test_stationary_at_the_target(s: Sample, steps: list[int]) -> None:
    """The gradient is 0 where the logit is the logit of the target, up to that logit's rounding."""
    y = np.asarray(steps) / 64
    x = np.log(y / (1 - y)).astype(s.x.dtype)
    gradient = s.gradient(x, y.astype(s.x.dtype))
    rounding = _support.spacing(x.astype(np.float64), s.dtype) / 8  # half a spacing of x, times h <= 1/4
    s.near(gradient, np.zeros(SIZE), np.maximum(y, 1 - y) + rounding, "root")


@law(dtypes=("float64",))
def test_complex_step_and_taylor(s: Sample) -> None:
    """In float64: the gradient is the complex step of the formula, and a Taylor step gives the next value."""
    x, y = np.clip(s.x, -30, 30), s.y
    z = x + 1e-200j
    step = np.imag(y * np.log1p(np.exp(-z)) + (1 - y) * np.log1p(np.exp(z))) / 1e-200
    g, h = s.gradient(x, y), s.gradient(x, y, mlsm.hessian_diag)
    terms = y / (1 + np.exp(x)) + (1 - y) / (1 + np.exp(-x))
    s.near(g, step, terms, "complex step")
    d = 2.0**-10
    here, there = s.loss(x, y), s.loss(x + d, y)
    moved = (x + d) - x  # the actual step, after rounding
    line = here + moved * g + moved**2 / 2 * h
    room = d**3 / 62 + ULPS * _support.spacing(np.maximum(here, there), "float64")  # |third derivative| < 6/62
    _support.check(there, line, room, f"{s.library.name}: Taylor")


# ---------------------------------------------------------------- rows and batches


@law(st.permutations(range(4)), st.permutations(range(6)))
def test_permutations(s: Sample, rows: list[int], classes: list[int]) -> None:
    """⟂ the order of the rows; the order of the classes within the rounding of a sum."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    seen = s.loss(x, y)
    same(s.loss(x[rows], y[rows]), seen[rows], "rows")
    s.near(s.loss(x[:, classes], y[:, classes]), seen, seen, "classes")


@law()
def test_reductions_split_and_duplicate(s: Sample) -> None:
    """none -> sum -> mean; a batch in two parts; every row twice."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    rows, total, mean = (s.loss(x, y, reduction=r) for r in ("none", "sum", "mean"))
    s.near(total, rows.sum(), rows.sum() + rows.max(), "sum")
    s.near(mean, rows.sum() / 4, rows.sum() / 4 + rows.max(), "mean")
    s.near(np.concatenate([s.loss(x[:1], y[:1]), s.loss(x[1:], y[1:])]), rows, rows, "parts")
    twice = s.loss(np.concatenate([x, x]), np.concatenate([y, y]), reduction="mean")
    s.near(twice, mean, mean, "duplicates")


@law()
def test_pullback_is_linear(s: Sample) -> None:
    """⟂ twice the `grad_output`, twice the gradient; and a reduction's gradient is its adjoint of that of the rows."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    g = np.asarray([1.0, -0.5, 2.0, 0.25]).astype(s.x.dtype)
    once, twice = (
        s.gradient(x, y, reduction="none", grad_output=k * g) for k in (s.x.dtype.type(1), s.x.dtype.type(2))
    )
    whole = (np.abs(once) >= 2.0**-14) | (once == 0)
    same(np.where(whole, twice, 0), np.where(whole, 2 * once, 0), "linear")
    mean = s.gradient(x, y, reduction="mean")
    through = s.gradient(x, y, reduction="none", grad_output=np.full(4, 0.25).astype(s.x.dtype))
    s.near(mean, through, through, "adjoint of the mean")


# ---------------------------------------------------------------- equivalent calls


@law(dtypes=("float16", "bfloat16"))
def test_half_is_rounded_once(s: Sample) -> None:
    """⟂ a half-precision result is the float32 result of the same numbers, rounded."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    wide = x.astype(np.float32), y.astype(np.float32)
    for reduction in ("none", "mean", "sum"):
        narrow = s.loss(x, y, reduction=reduction)
        right = np.asarray(s.loss(*wide, reduction=reduction)).astype(np.float32).astype(s.x.dtype)
        same(narrow, right.astype(np.float64), f"{reduction} {s.dtype}")
    with np.errstate(under="ignore"):
        right = s.gradient(*wide).astype(np.float32).astype(s.x.dtype)
    big = np.abs(right.astype(np.float64)) >= 2.0**-14  # some libraries flush a subnormal half
    same(np.where(big, s.gradient(x, y), 0), np.where(big, right.astype(np.float64), 0), "gradient")


@law(target="hard")
def test_hard_targets_of_any_dtype(s: Sample) -> None:
    """⟂ bool, uint8, int32 and floating 0 and 1."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    for kind in (np.bool_, np.uint8, np.int32):
        other = y.astype(kind)
        same(s.loss(x, other), s.loss(x, y), f"{kind.__name__}: loss")
        same(s.gradient(x, other), s.gradient(x, y), f"{kind.__name__}: gradient")


@law(st.sampled_from([np.nan, np.inf, -np.inf]))
def test_padding_and_masking(s: Sample, junk: float) -> None:
    """⟂ a class of (+inf, 1) adds 0; a masked class does not count, whatever its values are."""
    x, y = s.x[:, None], s.y[:, None]
    alone = s.loss(x, y)
    assume((alone >= 2.0**-13).all() or s.dtype != "float16")
    inf, one = np.full_like(x, np.inf), np.ones_like(y)
    same(s.loss(np.concatenate([x, inf], 1), np.concatenate([y, one], 1)), alone / 2, "padding")
    mask = np.concatenate([np.ones_like(x, bool), np.zeros_like(x, bool)], 1)
    wide = np.concatenate([x, np.full_like(x, junk)], 1), np.concatenate([y, np.full_like(y, junk)], 1)
    s.near(s.loss(*wide, where=mask), alone, alone, "masking")
    for function in (mlsm.grad, mlsm.hessian_diag):
        assert (s.gradient(*wide, function, where=mask)[:, 1] == 0).all()


@law()
def test_axis_and_layout(s: Sample) -> None:
    """⟂ the class axis first, on the transposed memory."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    same(s.loss(x.T, y.T, axis=0), s.loss(x, y), "loss")
    same(s.gradient(x.T, y.T, axis=0).T, s.gradient(x, y), "gradient")


@law(st.sampled_from([0.125, 0.25, 1.0]), target="hard")
def test_smoothing_equals_a_smoothed_target(s: Sample, eps: float) -> None:
    smoothed = (s.y.astype(np.float64) * (1 - eps) + eps / 2).astype(s.y.dtype)
    seen = s.loss(s.x, s.y, label_smoothing=eps)
    s.near(seen, s.loss(s.x, smoothed), seen, "smoothing")


@law()
def test_every_library_agrees_with_numpy(s: Sample) -> None:
    """Eager, lazy and traced: the same numbers as NumPy's reference; under jit the same as eager."""
    x, y = s.x.reshape(4, 6), s.y.reshape(4, 6)
    seen = s.loss(x, y)
    with np.errstate(all="ignore"):
        right = mlsm.multilabel_soft_margin_loss(x, y, reduction="none", kernel="generic").astype(np.float64)
    s.near(seen, right, right, "NumPy")
    if s.library.name.startswith("jax"):
        import jax

        jitted = jax.jit(lambda a, b: mlsm.multilabel_soft_margin_loss(a, b, reduction="none"))
        with s.library.session():
            s.near(np.asarray(jitted(x, y)).astype(np.float64), seen, seen, "jit")
