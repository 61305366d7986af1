"""The checks: arguments in, a `Problem` (metadata) and the `Operands` (arrays) out, or TypeError / ValueError.

An argument is judged by its `Form` alone (library, dtype, shape, device), never by a value, so nothing synchronises
a GPU, computes a lazy array or breaks a trace. The verdict depends on nothing else, so it is cached. Two checks are
elsewhere: `libraries` refuses an argument that is not an array of any library, and `libraries/dask.py` refuses a block
that differs from what its graph declares. The formula and the reductions do not check again.
"""

import math
import operator
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

from . import _policy
from ._core import Operands
from ._format import plain, quoted, spelled
from ._operands import class_axis_last, number, operand
from ._problem import Layout, Meta, Problem, Shape, State
from ._typing import Array, DType
from .libraries import is_literal, library_of
from .libraries.base import Form, Library
from .many_classes._labels import Labels, taken
from .many_classes._targets import target as made_target


class Verdict(NamedTuple):
    """What follows from the forms of the arguments if all of them are valid."""

    problem: Problem
    compute: DType
    acc: DType


# ---------------------------------------------------------------- options

_NUMBER = (float, Real)  # float first: Real searches the registry of abstract classes


def check_reduction(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"`reduction` must be a string, one of {quoted(_policy.REDUCTIONS)}; got {spelled(value)}.{_static(value)}"
        )
    if value not in _policy.REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {quoted(_policy.REDUCTIONS)}; got {spelled(value)}.")
    # Our own string instead of an equal member of a caller's enum, which the cache of verdicts would keep alive.
    return value if type(value) is str else _policy.REDUCTIONS[_policy.REDUCTIONS.index(value)]


def check_label_smoothing(value: Any) -> float:
    number: Any = value  # Any: typing gives Real no order; compared first, because float(10**400) raises an error
    if isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 <= number <= 1:
        return float(number)
    raise ValueError(f"`label_smoothing` must be a Python number in [0, 1]; got {spelled(value)}.{_static(value)}")


def check_min_hessian(value: Any) -> float:
    number: Any = value
    if isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 <= number < math.inf:
        return float(number)
    raise ValueError(f"`min_hessian` must be a finite Python number of at least 0; got {spelled(value)}.")


def check_axis(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"`axis` must be an integer, the class axis; got {spelled(value)}.")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`axis` must be an integer, the class axis; got {spelled(value)}.{_static(value)}") from None


def check_count(value: Any, argument: str) -> int:
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        raise TypeError(f"`{argument}` must be an integer; got {spelled(value)}.") from None
    if found < 1:
        raise ValueError(f"`{argument}` must be an integer of at least 1; got {spelled(value)}.")
    return found


def check_wrt(value: Any, given: dict[str, Any]) -> None:
    if not isinstance(value, str) or value not in _policy.WRT:
        raise ValueError(f"`wrt` must be one of {quoted(_policy.WRT)}; got {spelled(value)}.")
    if value not in ("input", "target") and given[value] is None:  # these two are required, and checked later
        raise ValueError(f"`wrt` is {spelled(value)}, but `{value}` was not given: pass `{value}`.")
    if value == "target" and type(taken(given[value])) is Labels:
        raise ValueError(
            '`wrt` can be "target" only for a dense `target`; got `Labels` or a CSR matrix: pass its `.toarray()`.'
        )


def check_weight(value: Any, argument: str) -> None:
    """The checks of a weight that need no `input`: that it is an array, a number or a list, and its dtype."""
    if value is not None:
        _real(_weight_form(value, argument), argument)


def _static(value: Any) -> str:
    """The remedy for an option that is an array: a compiler passes each argument as one."""
    if not hasattr(value, "dtype"):
        return ""
    return " An option cannot be an array: if a function is compiled, mark it static (`static_argnames` of jit)."


# ---------------------------------------------------------------- the whole call


def problem(
    input: Array,
    target: Array,
    weight: Any,
    pos_weight: Any,
    where: Any,
    reduction: Any,
    label_smoothing: Any,
    axis: Any,
    *,
    elementwise: bool = False,
) -> tuple[Problem, Operands, Library]:
    """All checks of one call; returns its metadata, its operands and their library. `elementwise` makes each element
    a row of one class."""
    library = library_of(input, "input")
    if library.recalled is not None:
        arguments = input, target, weight, pos_weight, where
        options = reduction, label_smoothing, axis, elementwise, weight is None, pos_weight is None, where is None
        known = library.recalled(arguments, options)
        if known is not None:
            return *known, library
    reduction = check_reduction(reduction)
    label_smoothing = check_label_smoothing(label_smoothing)
    axis = check_axis(axis)
    if type(target) is not type(input) or (library.is_sparse is not None and library.is_sparse(target)):
        target = taken(target)
    state = library.state(input, target, weight, pos_weight, where) if library.state is not None else State.PLAIN
    x = library.form(input, "input", state)
    # Inside a trace lengths may be symbols, which must not be cached.
    verdict = _verdict if library.memorable and state is not State.TRACED else _verdict.__wrapped__
    # An array of the type of `input` has its library; finding that again would double the time that a form takes.
    kind = type(input)
    described, compute, acc = verdict(
        x,
        library.form(target, "target", state) if type(target) is kind else _form(target, "target", state),
        None if weight is None else _weight_form(weight, "weight", state),
        None if pos_weight is None else _weight_form(pos_weight, "pos_weight", state),
        None
        if where is None
        else library.form(where, "where", state)
        if type(where) is kind
        else _form(where, "where", state),
        reduction,
        label_smoothing,
        None if elementwise else axis,
        state,
    )
    axis, ndim, device = described.axis, input.ndim, x.device
    if type(target) is Labels:
        if axis < ndim - 1:
            raise ValueError(
                f"`axis` must be the last axis, {ndim - 1}, if `target` is `Labels` or a CSR matrix; got {axis}: move "
                "the class axis of `input` to the end."
            )
        traced = state is State.TRACED or library.traced(input, *target.arrays())
        target = made_target(library, target, device, traced)
    if state is State.TRACED:
        library.alike(input, target=target, weight=weight, pos_weight=pos_weight, where=where)
    if library.lazy is not None and axis != ndim - 1:  # before the axes move: a block may have fewer
        verified = library.lazy.verified
        input, target = verified(input, "input"), verified(target, "target")
        weight, pos_weight = verified(weight, "weight"), verified(pos_weight, "pos_weight")
        where = verified(where, "where")
    o = Operands(
        library.xp,
        input if axis == ndim - 1 else class_axis_last(library.xp, input, axis, ndim),
        target if axis == ndim - 1 else class_axis_last(library.xp, target, axis, ndim),
        None if weight is None else operand(library, weight, "weight", compute, device, axis, input),
        None if pos_weight is None else operand(library, pos_weight, "pos_weight", compute, device, axis, input),
        where if where is None or axis == ndim - 1 else operand(library, where, "where", compute, device, axis, input),
        label_smoothing,
        compute,
        acc,
        x.flat,
        x.host,
    )
    if library.recalled is not None and state is not State.TRACED:
        library.remember(arguments, options, described, o)
    return described, o if library.lazy is None else library.lazy.prepared(o), library


def cotangent(value: Any, problem: Problem, o: Operands, library: Library) -> tuple[Problem, Any]:
    """`grad_output` as an array in the accumulation dtype (None stands for ones), and the problem that includes it."""
    if value is None:
        return problem, number(library, 1.0, "grad_output", o.acc, problem.device)  # one number for all rows
    expected = problem.input.shape[:-1] if problem.reduction == "none" else ()
    wanted = (
        f'`grad_output` must have the shape of the loss, {plain(expected)} for reduction="{problem.reduction}"; got'
    )
    if isinstance(value, Real):
        if expected:
            raise ValueError(f"{wanted} the number {spelled(value)}.")
        return problem, number(library, value, "grad_output", o.acc, problem.device)
    form = _form(value, "grad_output")
    _same_library(form, "grad_output", library)
    _real(form, "grad_output")
    if form.shape != expected:
        raise ValueError(f"{wanted} {plain(form.shape)}.")
    _same_device(form, "grad_output", problem.device)
    state = library.state(o.x, o.y, o.w, o.p, o.m, value) if library.state is not None else State.PLAIN
    if state is State.TRACED:
        library.alike(o.x, grad_output=value)
    if library.lazy is not None:
        value = library.lazy.prepared_cotangent(value, o)
    return problem._replace(state=state), o.xp.astype(value, o.acc, copy=False)


def scaled_rows(value: Any, input: Array, problem: Problem, o: Operands, library: Library) -> tuple[Problem, Any]:
    """`sample_weight` as an array in the compute dtype that broadcasts to `input`, and the problem that includes it."""
    if value is None:
        return problem, None
    form = _weight_form(value, "sample_weight")
    shape = problem.input.shape[:-1]  # without the class axis that each element was given
    expected = shape[:-1] if len(shape) > 1 else shape
    _same_library(form, "sample_weight", library)
    _real(form, "sample_weight")
    if form.shape != expected:
        raise ValueError(
            f"`sample_weight` must have one number per row, {plain(expected)} for an `input` of shape {plain(shape)}; "
            f"got {plain(form.shape)}." + _remedy(shape, form.shape)
        )
    _same_device(form, "sample_weight", problem.device)
    scale = operand(library, value, "sample_weight", o.dtype, problem.device, input.ndim - 1, input)
    scale = o.xp.astype(scale, o.dtype, copy=False)
    state = library.state(o.x, o.y, o.w, o.p, o.m, scale) if library.state is not None else State.PLAIN
    return problem._replace(state=state), scale[..., None] if len(shape) > 1 else scale


# ---------------------------------------------------------------- forms


def _form(value: Any, argument: str, state: State = State.TRACED) -> Form:
    if type(value) is Labels and argument == "target":
        return _labels_form(value, state)
    return library_of(value, argument).form(value, argument, state)


def _labels_form(labels: Labels, state: State) -> Form:
    """The form of the dense target that is made for the call."""
    if getattr(labels.values, "requires_grad", False):
        raise ValueError("`target` has `values` that require a gradient, which needs a dense target: pass one.")
    form = library_of(labels.indices, "target").form(labels.indices, "target", state)
    batch: Shape = form.shape[:-1] if labels.indptr is None else labels.shape[:1]
    layout = Layout.UNKNOWN if state is State.TRACED else Layout.C
    return form._replace(dtype=labels.dtype, shape=(*batch, labels.num_classes), layout=layout)


def _weight_form(value: Any, argument: str, state: State = State.TRACED) -> Form:
    if isinstance(value, str):
        keyword = f" `reduction` is given by keyword: reduction={value!r}." if value in _policy.REDUCTIONS else ""
        raise TypeError(
            f"`{argument}` must be an array, a Python number or a (nested) list of Python numbers; got the string "
            f"{value!r}.{keyword}"
        )
    if is_literal(value):
        return Form(None, None, _nested_shape(value, argument), None, Layout.C)
    return _form(value, argument, state)


_DEEPEST = 64  # levels of a nested list: no library has more dimensions


def _nested_shape(value: Any, argument: str, around: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The shape of a nested list; TypeError for an entry that is not a number, ValueError for a ragged list.

    `around` has the ids of the lists that contain this one.
    """
    if isinstance(value, Real):
        return ()
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"`{argument}` must be an array, a Python number or a (nested) list of Python numbers; "
            f"got a list that holds a {type(value).__qualname__}."
        )
    if id(value) in around:
        raise ValueError(f"`{argument}` must be a (nested) list of Python numbers; got a list that contains itself.")
    if len(around) == _DEEPEST:
        raise ValueError(f"`{argument}` must be a list of at most {_DEEPEST} levels; got one that is nested deeper.")
    around = (*around, id(value))
    inner = [_nested_shape(v, argument, around) for v in value]
    if any(s != inner[0] for s in inner):
        raise ValueError(f"`{argument}` must be a rectangular list; got rows of shapes {sorted(set(inner))}.")
    return (len(inner), *(inner[0] if inner else ()))


def rank(value: Any) -> int:
    """The number of dimensions of a weight as it was given: an array, a number or a nested list."""
    return len(_nested_shape(value, "weight")) if isinstance(value, Real | list | tuple) else int(value.ndim)


def floating_dtype(value: Any, library: Library) -> DType | None:
    """The dtype of a floating array; None for integer and bool arrays, numbers and lists."""
    if isinstance(value, Real | list | tuple):
        return None
    return value.dtype if library.dtype_name(value.dtype) in _policy.FLOATS else None


# ---------------------------------------------------------------- the verdict


@lru_cache(maxsize=512)
def _verdict(
    x: Form,
    y: Form,
    weight: Form | None,
    pos_weight: Form | None,
    where: Form | None,
    reduction: str,
    label_smoothing: float,
    axis: int | None,
    state: State,
) -> Verdict:
    library = x.library
    assert library is not None  # the logits are an array
    kind = library.dtype_name(x.dtype)
    if kind not in _policy.FLOATS:
        swapped = y.library is library and library.dtype_name(y.dtype) in _policy.FLOATS and _policy.is_real(kind)
        raise TypeError(
            f"`input` must have a real floating dtype ({', '.join(sorted(_policy.FLOATS))}); got {kind}: "
            f"{library.stored(kind) or 'cast the logits to one of these first'}."
            + (" Are `input` and `target` swapped? `target` is floating." if swapped else "")
        )
    if axis is not None and not x.shape:
        raise ValueError(
            "`input` must have at least one dimension, the classes; got a 0-d array: for one logit call "
            "`mlsm.sigmoid_binary_cross_entropy`."
        )
    _same_library(y, "target", library)
    floats = [x.dtype]
    if _real(y, "target") in _policy.FLOATS:
        floats.append(y.dtype)
    if y.shape != x.shape:
        raise ValueError(
            f"`target` must have exactly the shape of `input`, {plain(x.shape)}; got {plain(y.shape)}. "
            f"{_hint(x, y)}Nothing is broadcast between the two: reshape or broadcast it explicitly."
            + _remedy(x.shape, y.shape)
        )
    _same_device(y, "target", x.device)
    for form, argument in ((weight, "weight"), (pos_weight, "pos_weight")):
        if form is not None:
            _same_library(form, argument, library)
            if _real(form, argument) in _policy.FLOATS:
                floats.append(form.dtype)
            _same_device(form, argument, x.device)
            _broadcasts(form.shape, argument, x.shape)
    if where is not None:
        _same_library(where, "where", library)
        mask = library.dtype_name(where.dtype)
        if mask != "bool":
            raise TypeError(
                f"`where` must be a bool array, true where a label was observed; got dtype {mask}: compare it first, "
                "for example `where > 0`."
            )
        _broadcasts(where.shape, "where", x.shape)
        _same_device(where, "where", x.device)
    if axis is None:
        axis = len(x.shape)
        x, y = (form._replace(shape=(*form.shape, 1)) for form in (x, y))
        weight, pos_weight, where = (
            form if form is None or not form.shape else form._replace(shape=(*form.shape, 1))
            for form in (weight, pos_weight, where)
        )
    else:
        axis = _class_axis(x.shape, axis)
    loss_dtype, compute = _promoted(library, floats)

    name = library.dtype_name(compute)

    def meta(form: Form | None) -> Any:
        return None if form is None else _meta(form, len(x.shape), axis, name)

    problem = Problem(
        library=library.name,
        device=x.device,
        input=meta(x),
        target=meta(y),
        weight=meta(weight),
        pos_weight=meta(pos_weight),
        where=meta(where),
        label_smoothing=label_smoothing,
        reduction=reduction,
        axis=axis,
        dtype=name,
        loss_dtype=loss_dtype,
        state=state,
    )
    return Verdict(problem, compute, _policy.accumulator(library, x.device, compute))


def _meta(form: Form, ndim: int, axis: int, compute: str) -> Meta:
    """What a kernel is told of an operand: its form with the class axis moved to the end."""
    dtype = compute if form.library is None else form.library.dtype_name(form.dtype)
    if axis == ndim - 1 or not form.shape:
        return Meta(dtype, form.shape, form.layout)
    shape = (1,) * (ndim - len(form.shape)) + form.shape
    layout = Layout.STRIDED if form.layout is Layout.C else form.layout
    return Meta(dtype, shape[:axis] + shape[axis + 1 :] + shape[axis : axis + 1], layout)


def _class_axis(shape: Shape, axis: int) -> int:
    ndim = len(shape)
    if not -ndim <= axis < ndim:
        raise ValueError(
            f"`axis` must be in [{-ndim}, {ndim - 1}] for an `input` of shape {plain(shape)}; got {spelled(axis)}."
        )
    axis %= ndim
    if shape[axis] is None:
        raise ValueError(
            f"`input` must have a known number of classes; axis {axis} of shape {plain(shape)} is unknown: "
            "call its `compute_chunk_sizes()` first. (An unknown batch length is fine.)"
        )
    if shape[axis] == 0:
        raise ValueError(
            f"`input` must have at least one class; axis {axis} of shape {plain(shape)} has none, "
            "and a mean over no class has no value."
        )
    return axis


_REMEDIES = {
    "object": (
        "it holds Python objects. For a nullable data frame pass `.to_numpy(dtype=float, na_value=float('nan'))`, and "
        "`where=` for missing labels; for lists of class indices pass a multi-hot array"
    )
}


def _real(form: Form, argument: str) -> str:
    if form.library is None:
        return "a number"
    kind = form.library.dtype_name(form.dtype)
    if not _policy.is_real(kind):
        remedy = form.library.stored(kind) or _REMEDIES.get(kind, "cast it to one of these first")
        raise TypeError(f"`{argument}` must have a bool, integer or real floating dtype; got {kind}: {remedy}.")
    return kind


def _same_library(form: Form, argument: str, library: Library) -> None:
    other = form.library
    if other is not library and other is not None and other.name != library.name:
        raise TypeError(
            f"`{argument}` must belong to the library of `input`, {library.name}; got an array of {other.name}: "
            f"convert it with `{library.conversion}({argument})`, or convert `input`."
        )


def _same_device(form: Form, argument: str, device: Any) -> None:
    other = form.device
    # A traced or sharded array has no single device: its library checks the devices itself when it computes.
    if other != device and type(other) is type(device):
        raise ValueError(
            f"`{argument}` must be on the device of `input`, {device}; got {other}. Move one of them explicitly."
        )


def _broadcasts(given: Shape, argument: str, shape: Shape) -> None:
    pairs = zip(reversed(given), reversed(shape), strict=False)
    if len(given) > len(shape) or any(a != 1 and a != b for a, b in pairs):
        raise ValueError(
            f"`{argument}` must broadcast to the shape of `input`, {plain(shape)}, without enlarging it or adding a "
            f"dimension; got {plain(given)}." + _remedy(shape, given) + _per_row(given, argument, shape)
        )


def _per_row(given: Shape, argument: str, shape: Shape) -> str:
    """The remedy for one weight per row that lacks the class axis."""
    if len(given) == 1 and len(shape) == 2 and given == shape[:1]:
        return f" For one value per row pass `{argument}[:, None]`."
    return ""


def _promoted(library: Library, floats: list[DType]) -> tuple[DType, DType]:
    try:
        return _policy.promoted(library, floats)
    except (TypeError, ValueError) as error:  # JAX's strict promotion raises its own ValueError
        names = ", ".join(dict.fromkeys(library.dtype_name(d) for d in floats))
        raise TypeError(
            f"`input`, `target`, `weight` and `pos_weight` must have dtypes that their library can promote together; "
            f"got {names}. Cast them to one dtype explicitly."
        ) from error


# ---------------------------------------------------------------- words


def _shown(value: Any) -> str:
    """An option as a `repr` shows it: an array by its shape and dtype, not by its contents."""
    if isinstance(value, Real | list | tuple):
        return repr(value)
    form = _form(value, "weight")
    assert form.library is not None
    return f"<{form.library.name} array of shape {plain(form.shape)}, {form.library.dtype_name(form.dtype)}>"


def configuration(options: Any) -> str:
    """What the `repr` of a module shows: the reduction, and every other option that was set."""
    shown = [f"reduction={options.reduction!r}"]
    for name, default in (("weight", None), ("pos_weight", None), ("label_smoothing", 0.0), ("axis", -1)):
        value = getattr(options, name)
        if value is not default and not (is_number(value) and value == default):
            shown.append(f"{name}={_shown(value)}")
    return ", ".join(shown)


def is_number(value: Any) -> bool:
    return isinstance(value, Real)


def _hint(x: Form, y: Form) -> str:
    """The remedy for a target that looks like class indices."""
    assert y.library is not None
    integers = y.library.dtype_name(y.dtype).startswith(("int", "uint"))
    if len(x.shape) < 2 or y.shape[:-1] != x.shape[:-1] or not integers:
        return ""
    return f"If it holds indices of classes, pass `mlsm.Labels(target, num_classes={x.shape[-1]})`. "


def _remedy(shape: Shape, given: Shape) -> str:
    """The remedy for a length that is not known."""
    if None in shape or None in given:
        return " Call `compute_chunk_sizes()` on the arrays whose lengths are unknown."
    return ""
