"""The door: arguments in, a `Problem` (metadata) and the `Operands` (arrays) out, or TypeError / ValueError.

Every error message about an argument stands here. An argument is judged by its `Form` alone (library, dtype, shape,
device), never by a value, so nothing here synchronises a GPU, computes a lazy array or breaks a trace; and since a
verdict depends on nothing else, it is remembered. Nothing behind this door checks again.
"""

import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

from . import _policy
from ._core import Operands
from ._guard import on
from ._labels import Labels, taken
from ._library import library
from ._operands import last, number, operand
from ._problem import Meta, Problem, Shape, device_of, layout_of, shape_of, state
from ._targets import target as made_target
from ._typing import Array, DType, Namespace
from ._words import spelled
from .many import of


class Form(NamedTuple):
    """All that is judged of an argument. A number and a list have no library, no dtype and no device."""

    library: str
    dtype: DType
    shape: Shape
    device: Any
    layout: str


class Verdict(NamedTuple):
    """What follows from the forms of the arguments, once they have been found good."""

    problem: Problem
    compute: DType
    acc: DType


# ---------------------------------------------------------------- options

_NUMBER = (float, Real)  # float first: Real asks the registry of abstract classes


def reduction(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`reduction` must be a string, one of {_quoted(_policy.REDUCTIONS)}; got {spelled(value)}.")
    if value not in _policy.REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {_quoted(_policy.REDUCTIONS)}; got {spelled(value)}.")
    # Our own string in place of an equal one of somebody's enum, which the memo of verdicts would keep.
    return value if type(value) is str else _policy.REDUCTIONS[_policy.REDUCTIONS.index(value)]


def label_smoothing(value: Any) -> float:
    number: Any = value  # Any: Real has no order for the type checker; compared before it is converted, for 10**400
    if isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 <= number <= 1:
        return float(number)
    raise ValueError(f"`label_smoothing` must be a Python number in [0, 1]; got {spelled(value)}.")


def min_hessian(value: Any) -> float:
    number: Any = value
    if isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 <= number < math.inf:
        return float(number)
    raise ValueError(f"`min_hessian` must be a finite Python number of at least 0; got {spelled(value)}.")


def axis(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"`axis` must be an integer, the class axis; got {spelled(value)}.")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`axis` must be an integer, the class axis; got {spelled(value)}.") from None


def count(value: Any, argument: str) -> int:
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        raise TypeError(f"`{argument}` must be an integer; got {spelled(value)}.") from None
    if found < 1:
        raise ValueError(f"`{argument}` must be an integer of at least 1; got {spelled(value)}.")
    return found


def wrt(value: Any, given: dict[str, Any], target: Any) -> None:
    if not isinstance(value, str) or value not in _policy.WRT:
        raise ValueError(f"`wrt` must be one of {_quoted(_policy.WRT)}; got {spelled(value)}.")
    if given.get(value, value) is None:
        raise ValueError(f"`wrt` is {spelled(value)}, but `{value}` was not given.")
    if value == "target" and type(taken(target)) is Labels:
        raise ValueError('`wrt` is "target", for which only a dense target has a gradient; got labels or a CSR matrix.')


def weight_option(value: Any, argument: str) -> None:
    """What a module can say of a weight before it has seen an input: that it is one at all."""
    form = _weight_form(value, argument)
    if form is not None and form.dtype is not None:
        _real(form, argument)


# ---------------------------------------------------------------- the whole call


def problem(
    input: Array,
    target: Array,
    weight: Any,
    pos_weight: Any,
    where: Any,
    reduction_: Any,
    label_smoothing_: Any,
    axis_: Any,
    *,
    elementwise: bool = False,
) -> tuple[Problem, Operands]:
    """All checks of one call; its metadata and its operands. `elementwise` makes each element a row of one class."""
    how, eps, classes = reduction(reduction_), label_smoothing(label_smoothing_), axis(axis_)
    name, xp = library(input, "input")
    device = device_of(input, name)
    if name == "torch" or type(target) is not type(input):
        target = taken(target)
    now = state(name, input, target, weight, pos_weight, where)
    # Inside a trace lengths may be symbols; and JAX's float64 is a switch, on which a verdict depends.
    judge = _judge if name in _policy.MEMORABLE and now != "traced" else _judge.__wrapped__
    described, compute, acc = judge(
        Form(name, input.dtype, shape_of(input, name), device, _layout(input, name, now)),
        # An array of the same type is one of the same library, which it takes as long to find as all else of a form;
        # but a tensor's type does not say whether it is dense.
        _form(target, "target", now, name if type(target) is type(input) and name != "torch" else ""),
        None if weight is None else _weight_form(weight, "weight", now),
        None if pos_weight is None else _weight_form(pos_weight, "pos_weight", now),
        None if where is None else _form(where, "where", now),
        how,
        eps,
        None if elementwise else classes,
        now,
        xp,
    )
    at, ndim = described.axis, input.ndim
    if type(target) is Labels:
        if at < ndim - 1:
            raise ValueError(f"`axis` must be the last axis where the target is labels, {ndim - 1}; got {at}.")
        target = made_target(xp, target, name, device, now == "traced" or of(name).traced(input, *target.arrays()))
    if name == "dask":
        from .lazy.dask import prepared, verified

        if at != ndim - 1:  # before axes are moved that a block may not have
            input, target = verified(input, "input"), verified(target, "target")
            weight, pos_weight = verified(weight, "weight"), verified(pos_weight, "pos_weight")
            where = verified(where, "where")
    with on(name, device):  # a number or a list becomes an array of it
        o = Operands(
            xp,
            last(xp, input, at, ndim),
            last(xp, target, at, ndim),
            None if weight is None else operand(xp, weight, "weight", compute, device, at, input),
            None if pos_weight is None else operand(xp, pos_weight, "pos_weight", compute, device, at, input),
            None if where is None else operand(xp, where, "where", compute, device, at, input),
            eps,
            compute,
            acc,
            # A subclass of a tensor may lie anywhere, as DTensor does, and is always called traced.
            flat=name in _policy.FLATTENED and (now != "traced" or type(input).__name__ in ("Tensor", "Parameter")),
            host=name == "numpy" or (name == "torch" and now != "traced" and device.type == "cpu"),
        )
    return described, prepared(o) if name == "dask" else o


def cotangent(value: Any, problem: Problem, o: Operands) -> tuple[Problem, Any]:
    """`grad_output` as an array in the accumulation dtype (None stands for ones), and the problem that includes it."""
    if value is None:
        with on(problem.library, problem.device):
            return problem, number(o.xp, 1.0, "grad_output", o.acc, problem.device)  # one serves every row
    expected = problem.input.shape[:-1] if problem.reduction == "none" else ()
    wanted = (
        f'`grad_output` must have the shape of the loss, {_plain(expected)} for reduction="{problem.reduction}"; got'
    )
    if isinstance(value, Real):
        if expected:
            raise ValueError(f"{wanted} the number {spelled(value)}.")
        with on(problem.library, problem.device):
            return problem, number(o.xp, value, "grad_output", o.acc, problem.device)
    form = _form(value, "grad_output")
    _same_library(form, "grad_output", problem.library)
    _real(form, "grad_output")
    if form.shape != expected:
        raise ValueError(f"{wanted} {_plain(form.shape)}.")
    _same_device(form, "grad_output", problem.device)
    now = state(problem.library, o.x, o.y, o.w, o.p, o.m, value)
    if problem.library == "dask":
        from .lazy.dask import prepared_cotangent

        value = prepared_cotangent(value, o)
    return problem._replace(state=now), o.xp.astype(value, o.acc, copy=False)


def sample_weight(value: Any, input: Array, problem: Problem, o: Operands) -> tuple[Problem, Any]:
    """`sample_weight` as an array in the compute dtype that broadcasts to `input`, and the problem that includes it."""
    if value is None:
        return problem, None
    form = _weight_form(value, "sample_weight")
    assert form is not None  # None has returned already
    shape = problem.input.shape[:-1]  # without the class axis that each element was given
    expected = shape[:-1] if len(shape) > 1 else shape
    if form.dtype is not None:
        _same_library(form, "sample_weight", problem.library)
        _real(form, "sample_weight")
    if form.shape != expected:
        raise ValueError(
            f"`sample_weight` must have one number a row, {_plain(expected)} for an `input` of shape {_plain(shape)}; "
            f"got {_plain(form.shape)}." + _remedy(shape, form.shape)
        )
    if form.dtype is not None:
        _same_device(form, "sample_weight", problem.device)
    scale = operand(o.xp, value, "sample_weight", o.dtype, problem.device, input.ndim - 1, input)
    scale = o.xp.astype(scale, o.dtype, copy=False)
    now = state(problem.library, o.x, o.y, o.w, o.p, o.m, scale)
    return problem._replace(state=now), scale[..., None] if len(shape) > 1 else scale


# ---------------------------------------------------------------- forms


def _form(value: Any, argument: str, now: str = "traced", name: str = "") -> Form:
    if type(value) is Labels:
        return _labels_form(value, now)
    name = name or library(value, argument).name
    return Form(name, value.dtype, shape_of(value, name), device_of(value, name), _layout(value, name, now))


def _labels_form(labels: Labels, now: str) -> Form:
    """That of the dense target, which is made for the call."""
    name, _ = library(labels.indices, "target")
    if getattr(labels.values, "requires_grad", False):
        raise ValueError("`target` has `values` that require a gradient, which only a dense target can have.")
    layout = "unknown" if now == "traced" else "C"
    return Form(name, labels.dtype, shape_of(labels, name), device_of(labels.indices, name), layout)


def _layout(value: Any, name: str, now: str) -> str:
    """Of interest to kernels only, none of which serves inside a trace, where not every question can be asked."""
    return "unknown" if now == "traced" else layout_of(value, name)


def _weight_form(value: Any, argument: str, now: str = "traced") -> Form | None:
    if value is None:
        return None
    if type(value).__module__ != "torch" and isinstance(value, Real | list | tuple):  # a Size is a tuple, and no weight
        return Form("", None, _nested_shape(value, argument), None, "C")
    return _form(value, argument, now)


_DEEPEST = 64  # levels of a nested list: as many as any library has dimensions


def _nested_shape(value: Any, argument: str, around: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The shape of a nested list; TypeError for anything that is no number, ValueError for a ragged one.

    `around` has the ids of the lists that this one lies in.
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


def floating_dtype(value: Any) -> DType | None:
    """The dtype of a floating array; None for integer and bool arrays, numbers and lists."""
    if isinstance(value, Real | list | tuple) or _policy.name(value.dtype) not in _policy.FLOATS:
        return None
    return value.dtype


# ---------------------------------------------------------------- the verdict


@lru_cache(maxsize=512)
def _judge(
    x: Form,
    y: Form,
    weight: Form | None,
    pos_weight: Form | None,
    where: Form | None,
    how: str,
    eps: float,
    classes: int | None,
    now: str,
    xp: Namespace,
) -> Verdict:
    kind = _policy.name(x.dtype)
    if kind not in _policy.FLOATS:
        raise TypeError(
            f"`input` must have a real floating dtype ({', '.join(sorted(_policy.FLOATS))}); got {kind}: "
            f"{_policy.stored(x.library, kind) or 'cast the logits to one of these first'}."
        )
    if classes is not None and not x.shape:
        raise ValueError("`input` must have at least one dimension, the classes; got a 0-d array.")
    _same_library(y, "target", x.library)
    floats = [x.dtype]
    if _real(y, "target") in _policy.FLOATS:
        floats.append(y.dtype)
    if y.shape != x.shape:
        raise ValueError(
            f"`target` must have exactly the shape of `input`, {_plain(x.shape)}; got {_plain(y.shape)}. "
            f"{_hint(x, y)}Nothing is broadcast between the two: reshape or broadcast it explicitly."
            + _remedy(x.shape, y.shape)
        )
    _same_device(y, "target", x.device)
    for form, argument in ((weight, "weight"), (pos_weight, "pos_weight")):
        if form is not None:
            if form.dtype is not None:
                _same_library(form, argument, x.library)
                if _real(form, argument) in _policy.FLOATS:
                    floats.append(form.dtype)
                _same_device(form, argument, x.device)
            _broadcasts(form.shape, argument, x.shape)
    if where is not None:
        _same_library(where, "where", x.library)
        if _policy.name(where.dtype) != "bool":
            raise TypeError(
                f"`where` must be a bool array, true where a class was observed; got dtype {_policy.name(where.dtype)}."
            )
        _broadcasts(where.shape, "where", x.shape)
        _same_device(where, "where", x.device)
    if classes is None:
        at = len(x.shape)
        x, y = (form._replace(shape=(*form.shape, 1)) for form in (x, y))
        weight, pos_weight, where = (
            form if form is None or not form.shape else form._replace(shape=(*form.shape, 1))
            for form in (weight, pos_weight, where)
        )
    else:
        at = _class_axis(x.shape, classes)
    loss_dtype, compute = _promoted(xp, floats)

    def meta(form: Form | None) -> Any:
        return None if form is None else _meta(form, len(x.shape), at, compute)

    problem = Problem(
        x.library,
        x.device,
        meta(x),
        meta(y),
        meta(weight),
        meta(pos_weight),
        meta(where),
        eps,
        how,
        at,
        _policy.name(compute),
        loss_dtype,
        now,
    )
    return Verdict(problem, compute, _policy.accumulator(xp, x.device, compute))


def _meta(form: Form, ndim: int, at: int, compute: DType) -> Meta:
    """What a kernel may know of an operand: its form once the class axis has been moved to the end."""
    dtype = _policy.name(compute if form.dtype is None else form.dtype)
    if at == ndim - 1 or not form.shape:
        return Meta(dtype, form.shape, form.layout)
    shape = (1,) * (ndim - len(form.shape)) + form.shape
    layout = "strided" if form.layout == "C" else form.layout
    return Meta(dtype, shape[:at] + shape[at + 1 :] + shape[at : at + 1], layout)


def _class_axis(shape: Shape, classes: int) -> int:
    ndim = len(shape)
    if not -ndim <= classes < ndim:
        raise ValueError(
            f"`axis` must be in [{-ndim}, {ndim - 1}] for an `input` of shape {_plain(shape)}; got {spelled(classes)}."
        )
    classes %= ndim
    if shape[classes] is None:
        raise ValueError(
            f"`input` must have a known number of classes; axis {classes} of shape {_plain(shape)} is unknown: "
            "call its `compute_chunk_sizes()` first. (An unknown batch length is fine.)"
        )
    if shape[classes] == 0:
        raise ValueError(
            f"`input` must have at least one class; axis {classes} of shape {_plain(shape)} has none, "
            "and a mean over no class has no value."
        )
    return classes


def _real(form: Form, argument: str) -> str:
    kind = _policy.name(form.dtype)
    if not _policy.is_real(kind):
        remedy = _policy.stored(form.library, kind) or "cast it to one that its library computes with first"
        raise TypeError(f"`{argument}` must have a bool, integer or real floating dtype; got {kind}: {remedy}.")
    return kind


def _same_library(form: Form, argument: str, name: str) -> None:
    if form.library != name:
        raise TypeError(
            f"`{argument}` must belong to the library of `input`, {name}; got an array of {form.library}. "
            "Convert one of them explicitly."
        )


def _same_device(form: Form, argument: str, device: Any) -> None:
    other = form.device
    # What is traced, or lies on several devices, has no device: its library checks it itself when it computes.
    if other != device and type(other) is type(device):
        raise ValueError(
            f"`{argument}` must be on the device of `input`, {device}; got {other}. Move one of them explicitly."
        )


def _broadcasts(own: Shape, argument: str, shape: Shape) -> None:
    if len(own) > len(shape) or any(a != 1 and a != b for a, b in zip(reversed(own), reversed(shape), strict=False)):
        raise ValueError(
            f"`{argument}` must broadcast to the shape of `input`, {_plain(shape)}, without enlarging it or adding a "
            f"dimension; got {_plain(own)}." + _remedy(shape, own)
        )


def _promoted(xp: Namespace, floats: list[DType]) -> tuple[DType, DType]:
    try:
        return _policy.promoted(xp, floats)
    except (TypeError, ValueError) as error:  # JAX's strict mode raises a ValueError of its own
        names = ", ".join(dict.fromkeys(_policy.name(d) for d in floats))
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
    return f"<{form.library} array of shape {_plain(form.shape)}, {_policy.name(form.dtype)}>"


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


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def _plain(shape: Shape) -> str:
    inside = ", ".join("unknown" if n is None else str(n) for n in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


def _hint(x: Form, y: Form) -> str:
    """For a target that looks like the indices of classes."""
    if len(x.shape) < 2 or y.shape[:-1] != x.shape[:-1] or not _policy.name(y.dtype).startswith(("int", "uint")):
        return ""
    return f"If it holds indices of classes, pass `mlsm.Labels(target, num_classes={x.shape[-1]})`. "


def _remedy(shape: Shape, own: Shape) -> str:
    if None in shape or None in own:
        return " Call `compute_chunk_sizes()` on the arrays whose lengths are unknown."
    return ""
