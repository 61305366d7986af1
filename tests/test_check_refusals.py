"""Every refusal of the contract: the class of the exception, and its message (argument, expectation, given value).

One row per refusal. A refusal must come before any arithmetic, and every public function must refuse alike.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlsm

from . import _support

Refusal = tuple[type[Exception], tuple[str, ...], dict[str, Any]]

X = np.zeros((2, 3))
Y = np.ones((2, 3))


def loss(x: Any = X, y: Any = Y, *args: Any, **options: Any) -> Any:
    return mlsm.multilabel_soft_margin_loss(x, y, *args, **options)


def ask(given: dict[str, Any]) -> Any:
    """Call the loss with these in place of right arguments, or the gradient if one of its own arguments is given."""
    function: Any = mlsm.grad if {"wrt", "grad_output"} & given.keys() else mlsm.multilabel_soft_margin_loss
    return function(**{"input": X, "target": Y, **given})


class Frame:
    """Replaces a data frame: a foreign class of a module called pandas."""

    dtype = np.dtype("float64")
    shape = (2, 3)
    ndim = 2

    def to_numpy(self) -> Any:
        return X


Frame.__module__ = "pandas.core.frame"

# The mistake: the error, the words in its message, and the arguments in addition to, or in place of, right ones.
REFUSALS: dict[str, Refusal] = {
    # input
    "integer input": (TypeError, ("`input`", "int64", "floating"), {"input": np.zeros((2, 3), dtype=np.int64)}),
    "bool input": (TypeError, ("`input`", "bool", "floating"), {"input": np.zeros((2, 3), dtype=bool)}),
    "complex input": (TypeError, ("`input`", "complex128"), {"input": X.astype(complex)}),
    "object input": (TypeError, ("`input`", "object"), {"input": X.astype(object)}),
    "string input": (TypeError, ("`input`", "str"), {"input": X.astype("U4")}),
    "list input": (TypeError, ("`input`", "array", "list", "asarray"), {"input": [[0.0]]}),
    "tuple input": (TypeError, ("`input`", "array", "tuple", "asarray"), {"input": ((0.0,),)}),
    "number input": (TypeError, ("`input`", "array", "float", "asarray"), {"input": 0.0}),
    "numpy scalar input": (
        TypeError,
        ("`input`", "float64", "asarray"),
        {"input": np.float64(0), "target": np.float64(1)},
    ),
    "None input": (TypeError, ("`input`", "got None"), {"input": None}),
    "data frame input": (TypeError, ("`input`", "pandas", "to_numpy"), {"input": Frame()}),
    "matrix input": (
        TypeError,
        ("`input`", "matrix", "asarray"),
        {"input": X.view(np.matrix)},
    ),  # its constructor warns
    "masked array input": (TypeError, ("`input`", "MaskedArray", "where"), {"input": np.ma.masked_array(X)}),
    "0-d input": (ValueError, ("`input`", "0-d", "dimension"), {"input": np.asarray(0.0), "target": np.asarray(1.0)}),
    "no class": (ValueError, ("`input`", "(2, 0)", "class"), {"input": np.zeros((2, 0)), "target": np.zeros((2, 0))}),
    "no class, 1-D": (ValueError, ("`input`", "(0,)", "class"), {"input": np.zeros(0), "target": np.zeros(0)}),
    "no class on axis 0": (
        ValueError,
        ("`input`", "(0, 3)", "class"),
        {"input": np.zeros((0, 3)), "target": np.zeros((0, 3)), "axis": 0},
    ),
    # target
    "list target": (TypeError, ("`target`", "list", "asarray"), {"target": [[1, 0, 1]] * 2}),
    "masked target": (TypeError, ("`target`", "MaskedArray", "where"), {"target": np.ma.masked_array(Y)}),
    "complex target": (TypeError, ("`target`", "complex128"), {"target": Y.astype(complex)}),
    "object target": (TypeError, ("`target`", "object"), {"target": Y.astype(object)}),
    "datetime target": (TypeError, ("`target`", "datetime64"), {"target": Y.astype("M8[s]")}),
    "target of another shape": (ValueError, ("`target`", "(2, 3)", "(2, 2)"), {"target": Y[:, :2]}),
    "target that would broadcast": (ValueError, ("`target`", "(2, 3)", "(3,)"), {"target": Y[0]}),
    "target that would broadcast, (1, C)": (ValueError, ("`target`", "(2, 3)", "(1, 3)"), {"target": Y[:1]}),
    "target that would enlarge": (ValueError, ("`target`", "(2, 3)", "(4, 2, 3)"), {"target": np.ones((4, 2, 3))}),
    # where
    "integer where": (TypeError, ("`where`", "bool", "int64"), {"where": np.ones((2, 3), dtype=np.int64)}),
    "float where": (TypeError, ("`where`", "bool", "float64"), {"where": Y}),
    "bfloat16 where": (TypeError, ("`where`", "bool", "bfloat16"), {"where": Y.astype(_support.BFLOAT16)}),
    "complex where": (TypeError, ("`where`", "bool", "complex128"), {"where": Y.astype(complex)}),
    "list where": (TypeError, ("`where`", "list"), {"where": [True, False, True]}),
    "bool where": (TypeError, ("`where`", "bool"), {"where": True}),
    "where of another shape": (ValueError, ("`where`", "(2, 3)", "(2,)"), {"where": np.ones(2, dtype=bool)}),
    "where that enlarges": (
        ValueError,
        ("`where`", "(1, 3)", "(2, 3)"),
        {"input": X[:1], "target": Y[:1], "where": np.ones((2, 3), dtype=bool)},
    ),
    # label_smoothing
    "label_smoothing above 1": (ValueError, ("`label_smoothing`", "[0, 1]", "1.5"), {"label_smoothing": 1.5}),
    "label_smoothing below 0": (ValueError, ("`label_smoothing`", "[0, 1]"), {"label_smoothing": -1e-9}),
    "label_smoothing NaN": (ValueError, ("`label_smoothing`", "nan"), {"label_smoothing": float("nan")}),
    "label_smoothing string": (ValueError, ("`label_smoothing`", "'x'"), {"label_smoothing": "x"}),
    "label_smoothing None": (ValueError, ("`label_smoothing`", "None"), {"label_smoothing": None}),
    "label_smoothing array": (ValueError, ("`label_smoothing`", "array"), {"label_smoothing": np.zeros(3)}),
    # reduction
    "unknown reduction": (
        ValueError,
        ("`reduction`", '"none"', '"mean"', '"sum"', "elementwise_mean"),
        {"reduction": "elementwise_mean"},
    ),
    "reduction None": (TypeError, ("`reduction`", "string", "None"), {"reduction": None}),
    "reduction integer": (TypeError, ("`reduction`", "string", "1"), {"reduction": 1}),
    # axis
    "axis too large": (ValueError, ("`axis`", "[-2, 1]", "(2, 3)", "got 2"), {"axis": 2}),
    "axis too small": (ValueError, ("`axis`", "[-2, 1]", "(2, 3)", "got -3"), {"axis": -3}),
    "axis float": (TypeError, ("`axis`", "integer", "1.0"), {"axis": 1.0}),
    "axis None": (TypeError, ("`axis`", "integer", "None"), {"axis": None}),
    "axis bool": (TypeError, ("`axis`", "integer", "True"), {"axis": True}),
    "axis tuple": (TypeError, ("`axis`", "integer", "(0, 1)"), {"axis": (0, 1)}),
    # grad's own
    "unknown wrt": (ValueError, ("`wrt`", '"input"', "logits"), {"wrt": "logits"}),
    "wrt that is not a string": (ValueError, ("`wrt`", '"input"', "3"), {"wrt": 3}),
    "wrt weight, not given": (ValueError, ("`wrt`", "`weight`"), {"wrt": "weight"}),
    "wrt pos_weight, not given": (ValueError, ("`wrt`", "`pos_weight`"), {"wrt": "pos_weight"}),
    "wrt where": (ValueError, ("`wrt`", "where"), {"wrt": "where"}),
    "grad_output of another shape": (
        ValueError,
        ("`grad_output`", "(2,)", "(2, 3)"),
        {"grad_output": X, "reduction": "none"},
    ),
    "grad_output with a shape for mean": (ValueError, ("`grad_output`", "()", "(1,)"), {"grad_output": np.ones(1)}),
    "grad_output number for none": (
        ValueError,
        ("`grad_output`", "(2,)", "2.0"),
        {"grad_output": 2.0, "reduction": "none"},
    ),
    "grad_output list": (TypeError, ("`grad_output`", "list"), {"grad_output": [1.0]}),
    "grad_output complex": (TypeError, ("`grad_output`", "complex128"), {"grad_output": np.asarray(1j)}),
    # kernel
    "unknown kernel": (ValueError, ("`kernel`", "generic", "'nonesuch'"), {"kernel": "nonesuch"}),
    "kernel number": (TypeError, ("`kernel`", "3"), {"kernel": 3}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    expected, words, given = REFUSALS[name]
    with pytest.raises(expected) as raised:
        ask(given)
    assert type(raised.value) is expected
    for word in words:
        assert word in str(raised.value), f"{word!r} is missing from: {raised.value}"


@pytest.mark.parametrize("argument", ["weight", "pos_weight"])
@pytest.mark.parametrize(
    ("value", "expected", "words"),
    [
        pytest.param("1.0", TypeError, ("str",), id="string"),
        pytest.param(b"1", TypeError, ("bytes",), id="bytes"),
        pytest.param(1j, TypeError, ("complex",), id="complex number"),
        pytest.param([1.0, "2", 3.0], TypeError, ("str",), id="list with a string"),
        pytest.param([1.0, None, 3.0], TypeError, ("NoneType",), id="list with None"),
        pytest.param([1.0, 2j, 3.0], TypeError, ("complex",), id="list with a complex"),
        pytest.param({"a": 1.0}, TypeError, ("dict",), id="dict"),
        pytest.param(np.ones(3, dtype=complex), TypeError, ("complex128",), id="complex array"),
        pytest.param(np.ones(3, dtype=object), TypeError, ("object",), id="object array"),
        pytest.param(np.ma.masked_array(np.ones(3)), TypeError, ("MaskedArray",), id="masked array"),
        pytest.param(np.ones(2), ValueError, ("(2, 3)", "(2,)"), id="(N,)"),
        pytest.param(np.ones(4), ValueError, ("(2, 3)", "(4,)"), id="too long"),
        pytest.param(np.ones((5, 3)), ValueError, ("(2, 3)", "(5, 3)"), id="too many rows"),
        pytest.param(np.ones((1, 2, 3)), ValueError, ("(2, 3)", "(1, 2, 3)"), id="adds a dimension"),
        pytest.param(np.ones(0), ValueError, ("(2, 3)", "(0,)"), id="empty"),
        pytest.param([1.0, 2.0], ValueError, ("(2, 3)", "(2,)"), id="short list"),
        pytest.param([], ValueError, ("(2, 3)", "(0,)"), id="empty list"),
        pytest.param([[1.0, 2.0, 3.0], [1.0, 2.0]], ValueError, ("rectangular",), id="ragged list"),
        pytest.param([[[1.0]]], ValueError, ("(2, 3)", "(1, 1, 1)"), id="deep list"),
        pytest.param(10**400, ValueError, ("401",), id="an integer beyond every float"),
    ],
)
def test_refused_weight(argument: str, value: Any, expected: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(expected) as raised:
        loss(**{argument: value})
    assert type(raised.value) is expected
    for word in (f"`{argument}`", *words):
        assert word in str(raised.value), f"{word!r} is missing from: {raised.value}"


def test_a_weight_that_would_enlarge_an_axis_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`weight`.*\(1, 3\).*\(2, 3\)"):
        loss(X[:1], Y[:1], np.ones((2, 3)))


def test_weights_broadcast_to_the_shape_of_input_whatever_the_axis() -> None:
    with pytest.raises(ValueError, match=r"`weight`.*\(3, 2\).*\(3,\)"):
        loss(X.T, Y.T, np.ones(3), axis=0)
    loss(X.T, Y.T, np.ones((3, 1)), axis=0)


@pytest.mark.parametrize("argument", ["input", "target"])
def test_none_as_an_array_of_a_derivative_is_refused(argument: str) -> None:
    with pytest.raises(TypeError, match=f"`{argument}` must be an array; got None"):
        mlsm.grad(**{"input": X, "target": Y, argument: None, "wrt": argument})


def test_at_most_three_positional_arguments() -> None:
    with pytest.raises(TypeError, match="positional"):
        loss(X, Y, None, "mean")


@pytest.mark.parametrize("name", ["size_average", "reduce"])
def test_legacy_arguments_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        loss(**{name: True})


FUNCTIONS = [
    mlsm.multilabel_soft_margin_loss,
    mlsm.grad,
    mlsm.value_and_grad,
    mlsm.hessian_diag,
    mlsm.explain,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_every_function_makes_the_same_checks(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="`target`"):
        function(X, Y[0])
    with pytest.raises(TypeError, match="`where`"):
        function(X, Y, where=Y)
    with pytest.raises(ValueError, match="`kernel`"):
        function(X, Y, kernel="nonesuch")


@pytest.mark.parametrize("argument", ["target", "weight", "pos_weight", "where", "grad_output"])
def test_arrays_of_two_libraries_are_refused(argument: str) -> None:
    torch = pytest.importorskip("torch", reason="needs a second library")
    other = torch.ones((2, 3), dtype=torch.bool if argument == "where" else torch.float64)
    options: dict[str, Any] = {"target": Y, argument: other}
    call = mlsm.grad if argument == "grad_output" else mlsm.multilabel_soft_margin_loss
    with pytest.raises(TypeError, match=rf"`{argument}`.*numpy.*torch"):
        call(X, **options)


@pytest.mark.parametrize("argument", ["target", "weight", "pos_weight", "where", "grad_output"])
def test_arrays_on_two_devices_are_refused(argument: str) -> None:
    torch = pytest.importorskip("torch", reason="needs devices")
    x = torch.zeros((2, 3))
    other: dict[str, Any] = {"target": torch.ones_like(x)}
    shape = () if argument == "grad_output" else (2, 3)
    other[argument] = torch.ones(shape, device="meta", dtype=torch.bool if argument == "where" else torch.float32)
    call = mlsm.grad if argument == "grad_output" else mlsm.multilabel_soft_margin_loss
    with pytest.raises(ValueError, match=rf"`{argument}`.*cpu.*meta"):
        call(x, **other)


def test_arrays_on_two_devices_of_array_api_strict_are_refused() -> None:
    xp = pytest.importorskip("array_api_strict", reason="needs its devices")
    x = xp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"`target`.*CPU_DEVICE.*device1"):
        mlsm.multilabel_soft_margin_loss(x, xp.ones((2, 3), device=xp.Device("device1")))


def test_dtypes_that_do_not_promote_are_refused() -> None:
    x = np.zeros((2, 3), dtype=np.float16)
    with pytest.raises(TypeError, match=r"`input`.*float16.*bfloat16") as raised:
        loss(x, x.astype(_support.BFLOAT16))
    assert type(raised.value) is TypeError  # not NumPy's DTypePromotionError


def test_a_class_axis_of_unknown_length_is_refused() -> None:
    da = pytest.importorskip("dask.array", reason="needs unknown lengths")
    x = da.from_array(np.zeros((4, 3)), chunks=(2, 3))
    unknown = x[x[:, 0] > -1]
    with pytest.raises(ValueError, match=r"`input`.*compute_chunk_sizes\(\)"):
        mlsm.multilabel_soft_margin_loss(unknown, unknown, axis=0)


@pytest.mark.parametrize("reason", ["shape", "dtype", "options"])
def test_refused_before_any_arithmetic(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsm import _dispatch

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a kernel was chosen before the checks were done")

    monkeypatch.setattr(_dispatch, "select", never)
    with pytest.raises((TypeError, ValueError)):
        {
            "shape": lambda: loss(X, Y[:1]),
            "dtype": lambda: loss(X, Y.astype(complex)),
            "options": lambda: loss(label_smoothing=2),
        }[reason]()


def test_messages_are_sentences() -> None:
    for name, (expected, _, given) in REFUSALS.items():
        with pytest.raises(expected) as raised:
            ask(given)
        assert re.search(r"[.)]$", str(raised.value)), f"{name}: {raised.value}"
