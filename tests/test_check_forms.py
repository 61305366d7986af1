"""The checks of forms alone, without arrays, so that lengths may be unknown and devices may be any objects.

Tests what kernels are told about a call, where the class axis may be, and the messages about unknown lengths.
"""

import itertools
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest

from mlsm import _check
from mlsm._format import plain
from mlsm._problem import Layout, State
from mlsm.libraries.base import Form
from mlsm.libraries.numpy import Library

X = (2, 3, 4)
CALL = "Call `compute_chunk_sizes()` on the arrays whose lengths are unknown."


def form(shape: tuple[Any, ...], dtype: Any = "float64", library: str = "numpy", layout: Layout = Layout.C) -> Form:
    return Form(Library(library, xp), np.dtype(dtype), shape, "cpu", layout)


def number() -> Form:
    """The form of a Python number or a list."""
    return Form(None, None, (), None, Layout.C)


def verdict(x: Form, y: Form | None = None, *, axis: int = -1, state: State = State.PLAIN, **others: Form) -> Any:
    """The verdict on a call; without a `target` it is like `input`."""
    forms = [others.get(name) for name in ("weight", "pos_weight", "where")]
    verdict = _check._verdict.__wrapped__
    return verdict(x, x if y is None else y, *forms, "mean", 0.0, axis, state)


# ---------------------------------------------------------------- the problem that a kernel gets


@pytest.mark.parametrize("full", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_shapes_have_the_class_axis_last(full: tuple[int, ...]) -> None:
    """Also those of weights and masks of every rank, with axes of length one for axes that they lack."""
    ndim = len(full)
    owns = [own for n in range(ndim + 1) for own in itertools.product(*((1, m) for m in full[ndim - n :]))]
    for axis, own in itertools.product(range(-ndim, ndim), owns):
        problem = verdict(form(full), axis=axis, weight=form(own), where=form(own, "bool")).problem
        assert problem.axis == axis % ndim
        assert problem.input.shape == problem.target.shape == np.moveaxis(np.zeros(full), axis, -1).shape
        if not own or axis % ndim == ndim - 1:
            assert problem.weight.shape == own
        else:
            padded = (1,) * (ndim - len(own)) + own
            assert problem.weight.shape == np.moveaxis(np.zeros(padded), axis, -1).shape
        assert problem.where.shape == problem.weight.shape
        assert problem.pos_weight is None


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("full", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_a_layout_changes_only_if_an_axis_moves(layout: Layout, full: tuple[int, ...]) -> None:
    x, ndim = form(full, layout=layout), len(full)
    for axis in (-1, ndim - 1):
        assert verdict(x, axis=axis).problem.input.layout == layout
    for axis in range(ndim - 1):
        assert verdict(x, axis=axis).problem.input.layout == (Layout.STRIDED if layout is Layout.C else layout)
        problem = verdict(x, axis=axis, weight=form((), layout=layout), pos_weight=number()).problem
        assert (problem.weight.layout, problem.pos_weight.layout) == (layout, Layout.C)


@pytest.mark.parametrize(
    ("given", "loss", "compute"),
    [
        ({}, "float16", "float32"),
        ({"y": form(X, "int64")}, "float16", "float32"),
        ({"y": form(X, "bool")}, "float16", "float32"),
        ({"y": form(X, "float32")}, "float32", "float32"),
        ({"weight": form((4,), "float64")}, "float64", "float64"),
        ({"pos_weight": form((4,), "float32")}, "float32", "float32"),
        ({"weight": form((), "int64"), "pos_weight": number()}, "float16", "float32"),
        ({"where": form((4,), "bool")}, "float16", "float32"),
    ],
)
def test_the_dtypes_of_a_call(given: dict[str, Any], loss: str, compute: str) -> None:
    y = given.get("y", form(X, "float16"))
    found = verdict(form(X, "float16"), y, **{k: v for k, v in given.items() if k != "y"})
    assert np.dtype(found.problem.loss_dtype) == loss
    assert np.dtype(found.compute) == found.problem.dtype == compute
    assert found.acc == np.float64
    assert found.problem.target.dtype == y.dtype.name
    if "pos_weight" in given:
        assert found.problem.pos_weight.dtype == (given["pos_weight"].dtype or np.dtype(compute)).name


@pytest.mark.parametrize("state", State)
def test_the_options_are_passed_on(state: State) -> None:
    x = form(X)
    found = _check._verdict.__wrapped__(x, x, None, None, None, "sum", 0.25, 1, state).problem
    assert (found.reduction, found.label_smoothing, found.axis, found.state) == ("sum", 0.25, 1, state)
    assert (found.library, found.device) == ("numpy", "cpu")


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("axis", [-4, -5, 3, 4, 100])
def test_an_axis_out_of_range_is_refused(axis: int) -> None:
    with pytest.raises(ValueError, match=rf"`axis` must be in \[-3, 2\] for an `input` of shape .*; got {axis}\."):
        verdict(form(X), axis=axis)


@pytest.mark.parametrize("axis", range(3))
def test_an_empty_class_axis_is_refused(axis: int) -> None:
    shape = (*X[:axis], 0, *X[axis + 1 :])
    for given in (axis, axis - 3):
        with pytest.raises(ValueError, match=f"`input` must have at least one class; axis {axis} of"):
            verdict(form(shape), axis=given)
    others = [verdict(form(shape), axis=other).problem for other in range(3) if other != axis]
    assert all(0 in problem.input.shape for problem in others)  # an empty batch is accepted


def test_one_class_and_one_dimension_are_enough() -> None:
    assert verdict(form((1,))).problem.input.shape == (1,)
    assert verdict(form((3,)), weight=form((3,))).problem.axis == 0
    with pytest.raises(ValueError, match="0-d"):
        verdict(form(()))


@pytest.mark.parametrize("own", list(itertools.product((1, 2, 3), repeat=2)), ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("argument", ["weight", "pos_weight", "where"])
def test_weights_broadcast_without_enlarging_input(own: tuple[int, int], shape: tuple[int, int], argument: str) -> None:
    given = {argument: form(own, "bool" if argument == "where" else "float64")}
    if all(a in (1, b) for a, b in zip(own, shape, strict=True)):
        assert getattr(verdict(form(shape), **given).problem, argument).shape == own
    else:
        with pytest.raises(ValueError, match=f"`{argument}` must broadcast to the shape of `input`") as raised:
            verdict(form(shape), **given)
        assert str(raised.value).endswith(f"got {own}.")


def test_lengths_are_compared_by_value() -> None:
    """CPython has one object for each small integer, but not for these."""
    long, same = int("1000"), int("1000")
    assert long is not same
    found = verdict(form((2, long)), form((2, same)), weight=form((same,)), where=form((2, same), "bool"))
    assert found.problem.weight.shape == (1000,)


# ---------------------------------------------------------------- unknown lengths


def test_an_unknown_batch_length_is_accepted() -> None:
    unknown = form((None, 3))
    problem = verdict(unknown, weight=form((3,)), where=form((None, 3), "bool"), pos_weight=form((1, 1))).problem
    assert problem.input.shape == problem.where.shape == (None, 3)
    assert verdict(form((3, None)), axis=0).problem.input.shape == (None, 3)


def test_an_unknown_class_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"number of classes; axis 1 of shape \(3, unknown\).*compute_chunk_sizes"):
        verdict(form((3, None)))


@pytest.mark.parametrize(
    ("x", "other", "remedy"),
    [((None, 3), (4, 3), True), ((4, 3), (None, 3), True), ((None, 3), (None, 2), True), ((4, 3), (4, 2), False)],
)
def test_lengths_that_cannot_be_compared_are_refused(x: tuple[Any, ...], other: tuple[Any, ...], remedy: bool) -> None:
    """The message says how to make them known, if they are unknown."""
    for argument in ("target", "weight"):
        given = {"y": form(other)} if argument == "target" else {"weight": form(other)}
        with pytest.raises(ValueError, match=f"`{argument}` must") as raised:
            verdict(form(x), **given)
        assert str(raised.value).endswith(CALL) == remedy
        assert ("unknown" in str(raised.value)) == remedy


def test_messages_print_shapes_as_python_tuples() -> None:
    shapes: list[tuple[Any, ...]] = [(), (3,), (2, 3), (2, 3, 4)]
    assert [plain(s) for s in shapes] == [str(s) for s in shapes]
    assert [plain(s) for s in ((None,), (None, 3))] == ["(unknown,)", "(unknown, 3)"]


# ---------------------------------------------------------------- libraries and devices


@pytest.mark.parametrize("argument", ["target", "weight", "pos_weight", "where"])
@pytest.mark.parametrize(("one", "other"), [("numpy", "zarr"), ("zarr", "numpy"), ("numpy", "numpy.ma")])
def test_two_libraries_are_refused(one: str, other: str, argument: str) -> None:
    x, stranger = form(X, library=one), form(X, "bool", library=other)
    y = stranger if argument == "target" else x
    given = {} if argument == "target" else {argument: stranger}
    with pytest.raises(TypeError, match=f"`{argument}` must belong to .*, {one}; got an array of {other}"):
        verdict(x, y, **given)
    spelled = stranger._replace(library=Library("".join(one), xp))  # an equal name, but another string object
    verdict(x, spelled if argument == "target" else x, **dict.fromkeys(given, spelled))


class Place:
    pass


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        ("cpu", "gpu", True),
        ("gpu", "cpu", True),
        ("cpu", "".join("cpu"), False),
        ("cpu", Place(), False),
        (Place(), Place(), True),
        (None, "cpu", False),  # on several devices, or traced: only its library can compare
    ],
    ids=["cpu, gpu", "gpu, cpu", "the same", "not comparable", "objects", "no single device"],
)
def test_devices(one: Any, other: Any, refused: bool) -> None:
    x = form(X)._replace(device=one)
    for argument in ("target", "weight", "pos_weight", "where"):
        given = {argument: form(X, "bool")._replace(device=other)}
        given |= {"target": x} if argument != "target" else {}
        y = given.pop("target")
        if refused:
            with pytest.raises(ValueError, match=f"`{argument}` must be on the device of `input`"):
                verdict(x, y, **given)
        else:
            verdict(x, y, **given)
    verdict(x, weight=number())  # a number has no device
