"""The formula and its four derivatives against the suite's oracle, on every library and with every option.

Also special values and masks, and cases whose answer needs no formula: empty batches, rows without an observed class,
symmetries that hold to the bit.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import array_api_compat.numpy
import numpy as np
import pytest

import mlsm
from mlsm import _check, _core, _reduce
from mlsm_conformance import oracle

from ._support import ROUTES, Library, Route, answer, case, check, find, identical, numpy_dtype, spacing

INF, NAN = np.inf, np.nan
POINTS = [0.0, -0.0, 1.0, -1.0, 0.3, 17.0, -17.0, 40.0, -40.0, 700.0, -700.0, 1e4, 1e-30, -1e-30]

# name -> (weight, pos_weight, where, label_smoothing, axis); shapes go with an input of (3, 4)
OPTIONS: dict[str, tuple[Any, Any, Any, float, int]] = {
    "plain": (None, None, None, 0.0, -1),
    "class weight": (np.asarray([0.5, 1.5, 0.0, 3.0]), None, None, 0.0, -1),
    "row weight": (np.asarray([[0.5], [1.5], [3.0]]), None, None, 0.0, -1),
    "number weight": (2.5, None, None, 0.0, -1),
    "list weight": ([0.5, 1.5, 0.25, 3.0], None, None, 0.0, -1),
    "pos_weight": (None, np.asarray([0.5, 1.0, 2.0, 3.0]), None, 0.0, -1),
    "number pos_weight": (None, 3, None, 0.0, -1),
    "where": (None, None, np.asarray([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool), 0.0, -1),
    "class where": (None, None, np.asarray([True, False, True, True]), 0.0, -1),
    "row where": (None, None, np.asarray([[True], [False], [True]]), 0.0, -1),
    "label_smoothing": (None, None, None, 0.1, -1),
    "label_smoothing 1": (None, None, None, 1.0, -1),
    "axis 0": (np.asarray([[0.5], [1.5], [3.0]]), None, None, 0.0, 0),
    "everything": (
        np.asarray([[0.5, 1.5, 0.25, 3.0]]),
        np.asarray([[0.5], [1.0], [2.0]]),
        np.asarray([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool),
        0.25,
        0,
    ),
}


def _made(library: Library, value: Any, dtype: str) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return library.make(value if value.dtype == bool else value.astype(numpy_dtype(dtype)))


def _data(dtype: str, rng: np.random.Generator) -> tuple[Any, Any]:
    x = (4 * rng.standard_normal((3, 4))).astype(dtype)
    y = rng.random((3, 4)).astype(dtype)
    x[0, 0], y[0, 0], y[0, 1], y[2, 2] = 0, 1, 0, 1
    return x, y


def _combinations() -> Iterator[Any]:
    """All combinations if a call is quick, elsewhere each option once: the rest changes no graph and no trace."""
    for name, (library, _) in ROUTES.items():
        for dtype, option, reduction in itertools.product(("float32", "float64"), OPTIONS, ("none", "mean", "sum")):
            quick = library in ("numpy", "torch") or (library == "array-api-strict" and dtype == "float64")
            once = dtype == ("float32" if library == "jax" else "float64") and (
                reduction == "mean" if library in ("jax", "dask") else option == "everything"
            )
            if quick or once:
                yield pytest.param(name, dtype, option, reduction, id=f"{name}-{dtype}-{option}-{reduction}")


@pytest.mark.parametrize(("route", "dtype", "option", "reduction"), list(_combinations()), indirect=["route"])
def test_values_and_derivatives(
    route: Route, dtype: str, option: str, reduction: Any, rng: np.random.Generator
) -> None:
    library, kernel = route
    w, p, m, eps, axis = OPTIONS[option]
    x, y = _data(dtype, rng)
    c = case(x, y, w, p, m, eps, axis)
    arrays = [_made(library, v, dtype) for v in (x, y, w, p, m)]
    call: dict[str, Any] = {"pos_weight": arrays[3], "where": arrays[4], "label_smoothing": eps}
    call |= {"axis": axis, "reduction": reduction, "kernel": kernel}
    head = arrays[:3]
    u = 2.0**-24 if dtype == "float32" else 2.0**-53
    # An element is right to 5 ULP (10u), followed by up to three factors and sums of 12 terms. The error of terms that
    # cancel is relative to the sum of their sizes, at most the weight's part of 1 (gradient) or of |x| (target).
    elementwise, size = 20 * u, 3.0 * 3.0

    value = library.read(mlsm.multilabel_soft_margin_loss(*head, **call))
    assert value.dtype == numpy_dtype(dtype)
    exact = answer(oracle.loss(c, reduction))
    check(value, exact, elementwise * np.abs(exact), "loss")

    both = mlsm.value_and_grad(*head, **call)
    identical(library.read(both[0]), value, "value_and_grad")
    for gradient in (both[1], mlsm.grad(*head, **call)):
        exact = answer(oracle.grad(c, reduction))
        check(library.read(gradient), exact, elementwise * size, "gradient")
    exact = answer(oracle.hessian_diag(c, reduction))
    hessian = library.read(mlsm.hessian_diag(*head, **call))
    assert hessian.dtype == numpy_dtype(dtype)
    check(hessian, exact, elementwise * np.abs(exact), "hessian")
    for wrt, given in (("target", y), ("weight", w), ("pos_weight", p)):
        if given is None:
            continue
        result = library.read(mlsm.grad(*head, wrt=wrt, **call))
        exact = answer(oracle.grad(c, reduction, wrt))
        allowed = elementwise * size * np.abs(x).max() if wrt == "target" else elementwise * np.abs(exact)
        check(result, exact, allowed, wrt)
        assert result.dtype == numpy_dtype(dtype), wrt


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tails_keep_their_digits(route: Route, dtype: str) -> None:
    """Relative error of each element: one row per element, so that no larger neighbour hides an error."""
    library, kernel = route
    if dtype not in library.dtypes:
        pytest.skip(f"{library.name} has no {dtype}")
    pairs = [(x, y) for x, y in itertools.product(POINTS, (0.0, 1.0)) if dtype == "float64" or abs(x) < 80 or x == 1e4]
    x, y = (np.asarray(v, dtype=dtype)[:, None] for v in zip(*pairs, strict=True))
    c = case(x, y)
    a, b = library.make(x), library.make(y)
    for name, function, exact in (
        ("loss", mlsm.multilabel_soft_margin_loss, oracle.loss(c, "none")),
        ("grad", mlsm.grad, oracle.grad(c, "none")),
        ("hessian", mlsm.hessian_diag, oracle.hessian_diag(c, "none")),
    ):
        right = answer(exact)
        smallest = np.finfo(dtype).tiny
        # XLA flushes values below the normal range; there 0 is right, too.
        allowed = np.where(np.abs(right) < smallest, np.abs(right), 5 * spacing(right, dtype))
        check(library.read(function(a, b, reduction="none", kernel=kernel)), right, allowed, name)


@pytest.mark.parametrize("eps", [1e-3, 1e-7, 0.3])
def test_label_smoothing_keeps_its_digits(route: Route, eps: float) -> None:
    """1 - y' of an already rounded y' would be 760 ULP off at eps = 1e-3, and 19 % at 1e-7."""
    library, kernel = route
    pairs = list(itertools.product((1e4, -1e4, 3.0, -30.0, 0.0), (0.0, 1.0)))
    x, y = (np.asarray(v, dtype=np.float32)[:, None] for v in zip(*pairs, strict=True))
    c = case(x, y, eps=eps)
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": eps, "kernel": kernel}
    exact = answer(oracle.loss(c, "none"))
    found = library.read(mlsm.multilabel_soft_margin_loss(library.make(x), library.make(y), **options))
    check(found, exact, 5 * spacing(exact, "float32"), "loss")
    exact = answer(oracle.grad(c, "none"))
    with np.errstate(all="ignore"):  # sizes of the two terms, which cancel where the logit is that of y'
        sizes = np.maximum(np.abs(exact), np.exp(-np.abs(x.astype(np.float64))))
    found = library.read(mlsm.grad(library.make(x), library.make(y), **options))
    check(found, exact, 5 * spacing(sizes, "float32"), "gradient")


def test_sums_run_in_float64_where_the_device_has_it(library: Library) -> None:
    for dtype in library.dtypes:
        x = library.make(np.zeros((3, 4), dtype=numpy_dtype(dtype)))
        _, o, _ = _check.problem(x, x, None, None, None, "mean", 0.0, -1)
        expected = "float32" if library.name == "jax" else "float64"
        assert library.read(_core.total(o, _core.loss(o, _core.parts(o)))).dtype == expected


# x, y, loss, gradient, Hessian, exactly
LN2 = float(np.log(2))
SPECIAL = [
    (INF, 1.0, 0, 0, 0),
    (-INF, 0.0, 0, 0, 0),
    (INF, 0.0, INF, 1, 0),
    (-INF, 1.0, INF, -1, 0),
    (INF, 0.5, INF, 0.5, 0),
    (-INF, 0.5, INF, -0.5, 0),
    (NAN, 1.0, NAN, NAN, NAN),
    (0.0, 1.0, LN2, -0.5, 0.25),
    (-0.0, 1.0, LN2, -0.5, 0.25),
    (0.0, 0.0, LN2, 0.5, 0.25),
    (-0.0, 0.0, LN2, 0.5, 0.25),
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_special_values(route: Route, dtype: str) -> None:
    library, kernel = route
    if dtype not in library.dtypes:
        pytest.skip(f"{library.name} has no {dtype}")
    kind = numpy_dtype(dtype)
    table = np.asarray(SPECIAL)
    x, y, exact = table[:, :1].astype(kind), table[:, 1:2].astype(kind), table[:, 2:]
    exact[:, 0] = exact[:, 0].astype(np.float32 if dtype != "float64" else dtype).astype(kind)
    a, b = library.make(x), library.make(y)
    options: dict[str, Any] = {"reduction": "none", "kernel": kernel}
    check(library.read(mlsm.multilabel_soft_margin_loss(a, b, **options)), exact[:, 0], 0, "loss")
    check(library.read(mlsm.grad(a, b, **options)), exact[:, 1:2], 0, "gradient")
    check(library.read(mlsm.hessian_diag(a, b, **options)), exact[:, 2:3], 0, "hessian")
    value, gradient = mlsm.value_and_grad(a, b, **options)
    check(library.read(value), exact[:, 0], 0, "value")
    check(library.read(gradient), exact[:, 1:2], 0, "its gradient")


def test_nan_stays_in_its_row(library: Library) -> None:
    x = np.zeros((3, 4), dtype=np.float32)
    y = np.ones_like(x)
    x[0, 1], y[2, 3] = NAN, NAN
    a, b = library.make(x), library.make(y)
    rows = library.read(mlsm.multilabel_soft_margin_loss(a, b, reduction="none"))
    assert np.isnan(rows).tolist() == [True, False, True]
    gradient = library.read(mlsm.grad(a, b, reduction="sum"))
    assert np.isnan(gradient).tolist() == (np.isnan(x) | np.isnan(y)).tolist()
    hessian = library.read(mlsm.hessian_diag(a, b, reduction="sum"))
    assert np.isnan(hessian).tolist() == np.isnan(x).tolist()  # without pos_weight it does not depend on the target


def test_weight_of_zero(library: Library) -> None:
    x = library.make(np.asarray([[1.0, 2.0], [INF, 2.0]], dtype=np.float32))
    y = library.make(np.zeros((2, 2), dtype=np.float32))
    rows = library.read(mlsm.multilabel_soft_margin_loss(x, y, 0.0, reduction="none"))
    assert rows[0] == 0
    assert np.isnan(rows[1])  # 0 * inf; `where` avoids it


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_masked_entries_never_contribute(route: Route, poison: float) -> None:
    """The NaN or infinity may be in any argument, and even in grad_output of a row without an observed class."""
    library, kernel = route
    where = np.asarray([[True, False, True], [False, False, False], [True, True, True]])
    rng = np.random.default_rng(3)
    clean = [rng.random((3, 3)).astype(np.float32) for _ in range(4)]
    bad = [np.where(where, v, np.float32(poison)) for v in clean]
    g = np.asarray([1.0, poison, 2.0], dtype=np.float32)
    m = library.make(where)

    def everything(v: list[Any], g: Any) -> list[Any]:
        x, y, w, p = (library.make(a) for a in v)
        options: dict[str, Any] = {"pos_weight": p, "where": m, "kernel": kernel, "label_smoothing": 0.25}
        results = [mlsm.multilabel_soft_margin_loss(x, y, w, reduction=r, **options) for r in ("none", "mean", "sum")]
        results += [mlsm.hessian_diag(x, y, w, **options)]
        for wrt in ("input", "target", "weight", "pos_weight"):
            results += [mlsm.grad(x, y, w, wrt=wrt, reduction="none", grad_output=library.make(g), **options)]
        return [library.read(r) for r in results]

    for a, b in zip(everything(bad, g), everything(clean, np.asarray([1, 1, 2], dtype=np.float32)), strict=True):
        identical(a, b)
        if a.ndim == 2:
            assert (a[~where] == 0).all()


def test_rows_without_a_class(library: Library) -> None:
    x = np.asarray([[1.0, -2.0], [3.0, 4.0], [0.5, 0.5]], dtype=np.float32)
    where = np.asarray([[True, True], [False, False], [True, False]])
    a, b, m = library.make(x), library.make(np.ones_like(x)), library.make(where)
    rows = library.read(mlsm.multilabel_soft_margin_loss(a, b, where=m, reduction="none"))
    assert rows[1] == 0
    mean = library.read(mlsm.multilabel_soft_margin_loss(a, b, where=m))
    check(mean, (float(rows[0]) + float(rows[2])) / 2, 2.0**-23, "mean over two rows")
    gradient = library.read(mlsm.grad(a, b, where=m))
    assert (gradient[~where] == 0).all()
    assert (gradient[where] != 0).all()
    nothing = library.make(np.zeros_like(where))
    for reduction in ("mean", "sum"):
        assert library.read(mlsm.multilabel_soft_margin_loss(a, b, where=nothing, reduction=reduction)) == 0
    assert (library.read(mlsm.grad(a, b, where=nothing)) == 0).all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 3), (2, 0, 3)])
def test_empty_batch(route: Route, shape: tuple[int, ...]) -> None:
    library, kernel = route
    if library.name == "dask":
        import dask.array as da

        x = da.zeros(shape, dtype="float32")
    else:
        x = library.make(np.zeros(shape, dtype=np.float32))
    options: dict[str, Any] = {"kernel": kernel}
    rows = library.read(mlsm.multilabel_soft_margin_loss(x, x, reduction="none", **options))
    assert rows.shape == shape[:-1]
    assert library.read(mlsm.multilabel_soft_margin_loss(x, x, reduction="sum", **options)) == 0
    assert np.isnan(library.read(mlsm.multilabel_soft_margin_loss(x, x, **options)))
    assert library.read(mlsm.multilabel_soft_margin_loss(x, x, where=x == 0, **options)) == 0
    for gradient in (mlsm.grad(x, x, **options), mlsm.hessian_diag(x, x, **options), mlsm.value_and_grad(x, x)[1]):
        assert library.read(gradient).shape == shape


@pytest.mark.parametrize("library", ["numpy", "torch", "array-api-strict"], indirect=True)
@pytest.mark.parametrize("wrt", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (0, 1), (0, 3)])
def test_weight_gradients_of_an_empty_batch(library: Library, shape: tuple[int, ...], wrt: Any) -> None:
    """Empty sums in the weight's own shape, which may itself be empty."""
    x, v = (library.make(np.zeros(s, dtype=np.float32)) for s in ((0, 3), shape))
    gradient = library.read(mlsm.grad(x, x, wrt=wrt, reduction="sum", **{wrt: v}))
    identical(gradient, np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint8", "float32"])
def test_targets_of_every_kind_have_the_same_bits(route: Route, dtype: str, rng: np.random.Generator) -> None:
    library, kernel = route
    x, y = rng.standard_normal((3, 4)).astype(np.float32), rng.integers(0, 2, (3, 4))
    a = library.make(x)
    reference = library.read(mlsm.multilabel_soft_margin_loss(a, library.make(y.astype(np.float32)), kernel=kernel))
    identical(
        library.read(mlsm.multilabel_soft_margin_loss(a, library.make(y.astype(dtype)), kernel=kernel)), reference
    )
    by_target = library.read(mlsm.grad(a, library.make(y.astype(dtype)), wrt="target", kernel=kernel))
    assert by_target.dtype == np.float32  # the dtype of the logits, since the target's is not floating


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "dask", "array-api-strict"], indirect=True)
@pytest.mark.parametrize("y", [2, -1])
def test_targets_outside_of_0_and_1_get_the_formula(library: Library, y: int) -> None:
    x = np.asarray([[3.0, -1.5, 0.0, 20.0]], dtype=np.float32)
    kind = np.uint8 if y > 0 else np.int8  # 1 - uint8(2) would be 255
    c = case(x, np.full_like(x, y))
    a, b = library.make(x), library.make(np.full(x.shape, y, dtype=kind))
    exact = answer(oracle.grad(c, "none"))
    check(library.read(mlsm.grad(a, b, reduction="none")), exact, 2.0**-21 * 2, "gradient")
    terms = np.abs(x).sum() * 3
    check(
        library.read(mlsm.multilabel_soft_margin_loss(a, b)), answer(oracle.loss(c, "mean")), 2.0**-22 * terms, "loss"
    )


@pytest.mark.parametrize(
    ("x", "y", "value", "gradient"), [(INF, 2.0, -INF, -1.0), (-INF, -1.0, -INF, 1.0), (INF, -1.0, INF, 2.0)]
)
def test_an_infinite_logit_and_a_target_outside_of_0_and_1(
    route: Route, x: float, y: float, value: float, gradient: float
) -> None:
    """A negative coefficient must not be treated as zero."""
    library, kernel = route
    a, b = (library.make(np.asarray([v], dtype=np.float32)) for v in (x, y))
    assert library.read(mlsm.multilabel_soft_margin_loss(a, b, kernel=kernel)) == value
    assert library.read(mlsm.grad(a, b, kernel=kernel)).tolist() == [gradient]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_logit_of_zero_counts_as_positive(library: Library, zero: float) -> None:
    """The gradient at 0 is (1 - y) - 1/2; as a negative logit's it would be 1/2 - y, which has other bits here."""
    x, y = (np.asarray([v], dtype=np.float32) for v in (zero, 2.0**-25))
    gradient = library.read(mlsm.grad(library.make(x), library.make(y), kernel="generic"))
    identical(gradient, (1 - y) - np.float32(0.5))
    assert gradient != np.float32(0.5) - y


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "dask", "array-api-strict"], indirect=True)
def test_symmetries_hold_to_the_bit(library: Library, rng: np.random.Generator) -> None:
    x = (8 * rng.standard_normal((64, 3))).astype(np.float32)
    y = rng.integers(0, 2, (64, 3)).astype(np.float32)
    a, b, c, d = (library.make(v) for v in (x, y, -x, 1 - y))
    options: dict[str, Any] = {"reduction": "none"}
    one, other = (library.read(mlsm.multilabel_soft_margin_loss(*v, **options)) for v in ((a, b), (c, d)))
    identical(one, other, "l(x, y) = l(-x, 1-y)")
    identical(library.read(mlsm.grad(a, b)), -library.read(mlsm.grad(c, d)), "the gradient is odd")
    identical(library.read(mlsm.hessian_diag(a, b)), library.read(mlsm.hessian_diag(c, d)), "the Hessian is even")
    scaled = library.read(mlsm.multilabel_soft_margin_loss(a, b, 4, **options))
    identical(scaled, 4 * one, "homogeneous in the weight")


def test_half_is_the_compute_dtypes_result_rounded(route: Route, rng: np.random.Generator) -> None:
    library, kernel = route
    x = rng.standard_normal((5, 7)).astype(np.float16)
    y = rng.random((5, 7)).astype(np.float16)
    if "float16" not in library.dtypes:
        pytest.skip(f"{library.name} has no float16")
    half = [library.make(v) for v in (x, y)]
    single = [library.make(v.astype(np.float32)) for v in (x, y)]
    for reduction in ("none", "mean", "sum"):
        for function in (mlsm.multilabel_soft_margin_loss, mlsm.grad, mlsm.hessian_diag):
            narrow, wide = (library.read(function(*v, reduction=reduction, kernel=kernel)) for v in (half, single))
            identical(narrow, wide.astype(np.float16), f"{function.__name__}, {reduction}")


def test_loss_dtype_is_the_promotion(library: Library) -> None:
    if "float64" not in library.dtypes:
        pytest.skip(f"{library.name} has no float64")
    x = library.make(np.zeros((2, 3), dtype=np.float32))
    wide = library.make(np.ones(3))
    whole = library.make(np.ones(3, dtype=np.int64))
    y = library.make(np.ones((2, 3), dtype=np.int8))
    for options, expected in (
        ({}, "float32"),
        ({"weight": wide}, "float64"),
        ({"pos_weight": wide}, "float64"),
        ({"weight": whole}, "float32"),
        ({"weight": [1.0, 2.0, 3.0], "pos_weight": 3}, "float32"),
    ):
        assert library.read(mlsm.multilabel_soft_margin_loss(x, y, **options)).dtype == expected
        assert library.read(mlsm.grad(x, y, **options)).dtype == "float32"
        assert library.read(mlsm.hessian_diag(x, y, **options)).dtype == "float32"


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "dask", "array-api-strict"], indirect=True)
@pytest.mark.parametrize("wrt", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 4), (3, 4)])
@pytest.mark.parametrize("axis", [0, -1])
def test_weight_gradients_have_the_weights_shape(library: Library, shape: tuple[int, ...], wrt: Any, axis: int) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((3, 4)).astype(np.float32), rng.random((3, 4)).astype(np.float32)
    v = rng.random(shape).astype(np.float32)
    if library.name == "dask":
        import dask.array as da

        own = da.from_array(v, chunks=-1)
    else:
        own = library.make(v)
    c = case(x, y, v if wrt == "weight" else None, v if wrt == "pos_weight" else None, axis=axis)
    exact = answer(oracle.grad(c, "mean", wrt))
    for given in (own, v.tolist()):  # a list (or a number, for shape ()) has its nested shape
        result = library.read(mlsm.grad(library.make(x), library.make(y), wrt=wrt, axis=axis, **{wrt: given}))
        check(result, exact, 2.0**-20 * np.abs(exact), f"{wrt} {shape}")


@pytest.mark.parametrize("library", ["numpy", "array-api-strict"], indirect=True)
@pytest.mark.parametrize("wrt", ["weight", "pos_weight"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (4,), (3, 1), (1, 4), (1, 1), (3, 4), (2, 1, 1), (1, 3, 1), (1, 1, 4), (2, 1, 4), (1, 3, 4)]
)
def test_weight_gradients_over_two_batch_axes(library: Library, shape: tuple[int, ...], wrt: Any) -> None:
    """Axes that the weight lacks and axes where it has one entry, in every order: each is summed once."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 3, 4)), rng.random((2, 3, 4))
    v = rng.random(shape)
    c = case(x, y, v if wrt == "weight" else None, v if wrt == "pos_weight" else None)
    exact = answer(oracle.grad(c, "sum", wrt))
    result = mlsm.grad(library.make(x), library.make(y), wrt=wrt, reduction="sum", **{wrt: library.make(v)})
    check(library.read(result), exact, 2.0**-48 * np.abs(exact), f"{wrt} {shape}")
    _, o, _ = _check.problem(x, y, v, v, None, "sum", 0.0, -1)
    for pullback in (_core.weight_vjp, _core.pos_weight_vjp):
        assert pullback(o, np.ones(()), x.dtype).shape == shape


def test_grad_output(library: Library, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((3, 4)).astype(np.float32), rng.random((3, 4)).astype(np.float32)
    a, b = library.make(x), library.make(y)
    g = np.asarray([0.5, -2.0, 4.0], dtype=np.float32)  # powers of two: exact
    one = library.read(mlsm.grad(a, b, reduction="none"))
    identical(library.read(mlsm.grad(a, b, reduction="none", grad_output=library.make(g))), one * g[:, None])
    mean = library.read(mlsm.grad(a, b))
    for scalar in (2, 2.0, library.make(np.asarray(2, dtype=np.float32)), library.make(np.asarray(2, dtype=np.int32))):
        identical(library.read(mlsm.grad(a, b, grad_output=scalar)), 2 * mean)


class Symbol:
    """A length that is not a number: it raises if it is computed with, compared or converted."""


@pytest.mark.parametrize("n", [None, math.nan, -1, np.int64(3), Symbol(), 3.0], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_length_that_is_not_a_number_is_counted(n: Any, axis: int, rng: np.random.Generator) -> None:
    """Whatever the shape contains: jagged tensors have a symbol there that is 1 in every product."""

    class Odd(np.ndarray[Any, Any]):
        @property
        def shape(self) -> Any:
            own = np.ndarray.shape.__get__(self)
            return (*own[:axis], n, *own[axis + 1 :]) if len(own) == 3 else own

        def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
            return np.asarray(array)

    x, y = rng.standard_normal((2, 3, 4)), rng.random((2, 3, 4))
    _, o, _ = _check.problem(x, y, None, None, None, "mean", 0.0, -1)
    odd = o._replace(x=x.view(Odd), flat=False)
    assert odd.x.shape[axis] is n
    g = _reduce.REDUCE["mean"].adjoint(odd, np.float64(1))
    for function in (_core.rows_vjp, _core.curvature):
        identical(np.asarray(function(odd, g)), np.asarray(function(o, np.float64(1) / 6)))
    identical(np.asarray(_core.rows(odd)), np.asarray(_core.rows(o)))


def test_counted_lengths_are_exact_beyond_the_integers_of_float32() -> None:
    n = 2**24 + 1
    _, o, _ = _check.problem(np.zeros((1, 1)), np.zeros((1, 1)), None, None, None, "mean", 0.0, -1)
    for acc in (np.float32, np.float64):
        found = _core.counted(o._replace(acc=acc), np.broadcast_to(np.float32(0), (n,)), axis=None)
        assert found == acc(n)
        assert found.dtype == acc


class Thrifty:
    """A namespace that raises if an array is copied to cast it to its own dtype."""

    def __getattr__(self, name: str) -> Any:
        return getattr(array_api_compat.numpy, name)

    def astype(self, values: Any, dtype: Any, *, copy: bool = True) -> Any:
        assert not (copy and values.dtype == dtype), "copied without need"
        return array_api_compat.numpy.astype(values, dtype, copy=copy)


def test_the_reference_does_not_copy_to_cast_to_the_same_dtype() -> None:
    x, w = np.ones((4, 3)), np.ones((4, 3))
    problem, o, library = _check.problem(x, x, w, w, x > 0, "none", 0.25, -1)
    o = o._replace(xp=Thrifty())
    _, g = _check.cotangent(np.ones(4), problem, o, library)
    rows, _ = _core.rows_and_vjp(o, g)
    for function in (_core.rows_vjp, _core.curvature):
        function(o, g)
    for pullback in (_core.target_vjp, _core.weight_vjp, _core.pos_weight_vjp):
        pullback(o, g, np.dtype("float64"))
    for reduction in ("none", "mean", "sum"):
        _reduce.reduced(reduction, o, rows, np.dtype("float64"))
        _reduce.reduced(reduction, o._replace(dtype=np.float64), rows, np.dtype("float64"))  # equal, not identical
    with pytest.raises(AssertionError, match="copied without need"):
        o.xp.astype(rows, rows.dtype)


def test_numpy_scalar_as_grad_output() -> None:
    x = np.zeros((2, 3), dtype=np.float32)
    expected = mlsm.grad(x, x) * np.float32(2)
    for scalar in (np.float32(2), np.float64(2), np.int64(2)):
        identical(mlsm.grad(x, x, grad_output=scalar), expected)


def test_numpy_is_among_the_found_libraries() -> None:
    """The fixture skips libraries that are not installed; NumPy always is."""
    assert find("numpy").name == "numpy"
