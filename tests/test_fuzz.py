"""Arbitrary arguments: only TypeError and ValueError are raised, with a message that names an argument.

Some arguments of a right call are replaced by arbitrary objects. A call that is not refused must give a result of the
promised shape, and no argument may be written to.
"""

import copy
import datetime
import decimal
import fractions
import pickle
from collections.abc import Callable
from typing import Any

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mlsm
from mlsm_conformance import strategies

from . import fuzz

quick = settings(strategies.profile("quick"), max_examples=400)
REFUSALS = (TypeError, ValueError)

# ---------------------------------------------------------------- arbitrary objects

DTYPES = (
    *(np.dtype(c) for c in "?bBhHiIlLqQefdgFDG"),
    *(np.dtype(f">{c}") for c in ("f4", "f8", "i4")),
    *(np.dtype(c) for c in ("O", "S3", "U3", "M8[s]", "m8[s]", "V4")),
    np.dtype([("a", np.float32), ("b", np.int8)]),
    *(np.dtype(getattr(ml_dtypes, n)) for n in ("bfloat16", "float8_e4m3fn", "int4")),
)
SHAPES = ((), (0,), (1,), (3,), (2, 3), (3, 2), (1, 3), (2, 1), (0, 3), (3, 0), (2, 2, 3), (1, 1, 1, 1))


def _filled(dtype: Any, shape: tuple[int, ...]) -> Any:
    return np.zeros(shape, dtype)


arrays = st.builds(_filled, st.sampled_from(DTYPES), st.sampled_from(SHAPES))
good = st.builds(
    lambda dtype, value: np.full((2, 3), value, dtype),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.sampled_from([0.0, 1.0, -3.0, np.inf, np.nan]),
)


class Awkward:
    """An object with some attributes of an array."""

    shape, ndim, dtype = (2, 3), 2, "float32"

    def __repr__(self) -> str:
        return "Awkward()"


odd: list[Callable[[], Any]] = [
    lambda: np.ma.masked_array(np.zeros((2, 3)), mask=True),
    lambda: np.zeros((2, 3)).view(np.matrix),  # its constructor would warn
    lambda: np.zeros((2, 3)).view(np.recarray),
    lambda: np.float32(1),
    lambda: np.float64(1),
    lambda: np.bool_(True),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.broadcast_to(np.float32(1), (2, 3)),
    lambda: memoryview(b"abc"),
    lambda: bytearray(b"abc"),
    lambda: decimal.Decimal("0.5"),
    lambda: fractions.Fraction(1, 2),
    lambda: datetime.date(2020, 1, 1),
    lambda: range(3),
    lambda: {1, 2},
    lambda: {"a": 1},
    lambda: iter([1.0]),
    lambda: (i for i in range(3)),
    lambda: object(),
    lambda: Awkward(),
    lambda: Awkward,
    lambda: np,
    lambda: len,
    lambda: NotImplemented,
    lambda: Ellipsis,
    lambda: slice(3),
    lambda: 10**400,
    lambda: 10**5000,
    lambda: -(10**400),
    lambda: 1j,
    lambda: float("nan"),
    lambda: array_api_strict.zeros((2, 3)),
    lambda: array_api_strict.ones((2, 3), dtype=array_api_strict.bool),
    lambda: array_api_strict.zeros((2, 3), dtype=array_api_strict.complex64),
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(["none", "mean", "sum", "input", "target", "weight", "generic", "numpy", "numba", "Mean", ""]),
)
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner), max_leaves=8)
anything = st.one_of(arrays, good, scalars, nested, st.sampled_from(odd).map(lambda make: make()))

COMMON = ("input", "target", "weight", "reduction", "pos_weight", "where", "label_smoothing", "axis", "kernel")
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "multilabel_soft_margin_loss": COMMON,
    "grad": (*COMMON, "grad_output", "wrt"),
    "value_and_grad": COMMON,
    "hessian_diag": COMMON,
    "explain": COMMON,
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    function = draw(st.sampled_from(sorted(FUNCTIONS)))
    arguments: dict[str, Any] = {"input": draw(good), "target": draw(good)}
    for name in draw(st.lists(st.sampled_from(FUNCTIONS[function]), min_size=1, max_size=4, unique=True)):
        arguments[name] = draw(anything)
    return function, arguments


def _bits(value: Any) -> Any:
    return (value.tobytes(), value.dtype, value.shape) if type(value) is np.ndarray and not value.dtype.hasobject else 0


def attempt(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, str | None]:
    """The result of the call, or the message of its refusal."""
    try:
        return function(*arguments, **options), None
    except REFUSALS as refusal:
        return None, f"{type(refusal).__name__}: {refusal}"


def names_one_of(refusal: str, names: tuple[str, ...]) -> None:
    """Raise unless the first name in backticks in the message is one of these arguments."""
    assert "`" in refusal, f"{refusal!r} names no argument in backticks"
    assert refusal.split("`")[1].partition(".")[0] in names, f"{refusal!r} names none of {names}"


def judge(function: str, arguments: dict[str, Any]) -> None:
    before = {name: _bits(value) for name, value in arguments.items()}
    result, refusal = attempt(getattr(mlsm, function), **arguments)
    assert before == {name: _bits(value) for name, value in arguments.items()}, "an argument was written to"
    if refusal is not None:
        names_one_of(refusal, FUNCTIONS[function])
    elif function == "multilabel_soft_margin_loss":
        shape, axis = arguments["input"].shape, arguments.get("axis", -1)
        batch = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
        wanted = batch if arguments.get("reduction", "mean") == "none" else ()
        assert result.shape == wanted


@quick
@given(calls())
@example(("grad", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3)), "wrt": ["input"]}))
@example(("multilabel_soft_margin_loss", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3)), "weight": [[]]}))
@example(("multilabel_soft_margin_loss", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3)), "weight": 10**400}))
@example(("explain", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3)), "kernel": np.zeros(0)}))
@example(("grad", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3)), "weight": 10**5000}))
@example(
    ("explain", {"input": np.zeros(2, np.float32), "target": np.zeros(2, np.float32), "weight": 3.4028235677973366e38})
)
@example(("grad", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3)), "label_smoothing": 10**400}))
def test_only_refusals_are_raised(call: tuple[str, dict[str, Any]]) -> None:
    judge(*call)


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "dask.array", "array_api_strict"])
def test_arrays_of_another_library(library: str) -> None:
    """The same with right arrays of another library, for which NumPy's arbitrary arrays are foreign."""
    xp = pytest.importorskip(library, reason=f"{library} is not installed")

    @settings(strategies.profile("quick"), max_examples=80)
    @given(calls(), st.booleans())
    def law(call: tuple[str, dict[str, Any]], convert: bool) -> None:
        function, arguments = call
        for name in ("input", "target"):
            value = arguments[name]
            if type(value) is np.ndarray and value.dtype in (np.float32, np.bool_, np.int32) and value.size:
                arguments[name] = xp.asarray(value.copy())
        if convert and type(arguments.get("weight")) is np.ndarray and arguments["weight"].dtype == np.float32:
            arguments["weight"] = xp.asarray(arguments["weight"].copy())
        judge(function, arguments)

    law()


# ---------------------------------------------------------------- the object, and the kernel table

OPTIONS = ("weight", "reduction", "pos_weight", "label_smoothing", "axis")


@quick
@given(st.dictionaries(st.sampled_from(OPTIONS), anything, max_size=3))
def test_module_options(options: dict[str, Any]) -> None:
    loss, refusal = attempt(mlsm.MultiLabelSoftMarginLoss, **options)
    if refusal is not None:
        names_one_of(refusal, OPTIONS)
        return
    assert repr(loss).startswith("MultiLabelSoftMarginLoss(reduction=")
    assert repr(copy.copy(loss)) == repr(loss)
    assert repr(pickle.loads(pickle.dumps(loss))) == repr(loss)
    with pytest.raises(AttributeError):
        loss.reduction = "sum"  # type: ignore[misc]  # must be refused


@settings(strategies.profile("quick"), max_examples=100)
@given(st.dictionaries(st.sampled_from(["name", "libraries", "accepts", "rows", "curvature"]), anything, max_size=3))
def test_arbitrary_fields_of_a_kernel(fields: dict[str, Any]) -> None:
    given_ = {"name": "fuzz", "libraries": ("numpy",), "accepts": lambda problem: "never", "rows": len} | fields
    kernel = mlsm.Kernel(**given_)
    _, refusal = attempt(mlsm.register_kernel, kernel)
    if refusal is not None:
        names_one_of(refusal, ("kernel",))
        return
    try:
        with pytest.raises(ValueError, match="registered already"):
            mlsm.register_kernel(kernel)
    finally:
        mlsm.unregister_kernel(kernel.name)
    with pytest.raises(ValueError, match="`name`"):
        mlsm.unregister_kernel(kernel.name)


@settings(strategies.profile("quick"), max_examples=100)
@given(anything)
def test_registering_an_arbitrary_object(kernel: Any) -> None:
    with pytest.raises(TypeError, match="`kernel` must be a Kernel"):
        mlsm.register_kernel(kernel)
    with pytest.raises(REFUSALS, match="`name`"):
        mlsm.unregister_kernel(kernel)


# ---------------------------------------------------------------- right and spoiled calls of every library


def test_random_calls() -> None:
    """A few calls of `python -m tests.fuzz`."""
    fates, found = fuzz.seed_of_calls(0, 60)
    assert not found, "\n".join(found)
    assert fates["right"] > 20
    assert fates["refused"] > 5


@pytest.mark.parametrize("plant", ["value", "exception", "no refusal", "dtype"])
def test_a_planted_fault_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = mlsm.multilabel_soft_margin_loss

    def planted(**arguments: Any) -> Any:
        if plant == "exception":
            raise IndexError("`input`")
        try:
            value = honest(**arguments)
        except REFUSALS:
            if plant == "no refusal":
                return np.float32(0)
            raise
        if plant == "dtype":
            return np.asarray(value, np.longdouble)
        return value * (1 + 2**-6) if plant == "value" else value

    monkeypatch.setattr(mlsm, "multilabel_soft_margin_loss", planted)
    monkeypatch.setattr(fuzz, "VARIANTS", {"numpy": 1})
    monkeypatch.setattr(fuzz, "_here", ["numpy", "array-api-strict"])
    _, found = fuzz.seed_of_calls(1, 60)
    assert found


def test_a_wrong_exception_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**arguments: Any) -> Any:
        raise KeyError("input")

    monkeypatch.setattr(mlsm, "grad", broken)
    with pytest.raises(KeyError):
        judge("grad", {"input": np.zeros((2, 3)), "target": np.zeros((2, 3))})
