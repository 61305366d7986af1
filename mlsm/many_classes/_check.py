"""The checks of the linear head: those of `_check`, with messages about the arrays whose product the logits are."""

from typing import Any

from .. import _policy
from .._check import (
    _form,
    _same_device,
    _same_library,
    _verdict,
    _weight_form,
    check_label_smoothing,
    check_reduction,
)
from .._core import Operands
from .._format import plain
from .._operands import operand
from .._problem import Layout, Problem, State
from .._typing import DType
from ..libraries import library_of
from ..libraries.base import Form, Library
from ._labels import Labels, taken
from ._targets import target as made_target


def linear(
    input: Any,
    linear_weight: Any,
    linear_bias: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    where: Any,
    reduction: Any,
    label_smoothing: Any,
    reference: bool,
) -> tuple[Problem, Operands, DType, Library]:
    """All checks of one call; returns the metadata, the operands (without logits), the dtype and the library of its
    logits.

    The state of the problem is "traced" if nothing may be cut into blocks or written to, in JAX too.
    """
    reduction, label_smoothing = check_reduction(reduction), check_label_smoothing(label_smoothing)
    library = library_of(input, "input")
    target = taken(target)
    arrays = (input, linear_weight, linear_bias, target, weight, pos_weight, where)
    state = library.state(*arrays) if library.state is not None else State.PLAIN
    h = library.form(input, "input", state)
    device = h.device
    _floating(h, "input")
    if not h.shape:
        raise ValueError("`input` must have at least one dimension, the features; got a 0-d array.")
    W = _parameter(linear_weight, "linear_weight", library, device)
    if len(W.shape) != 2 or W.shape[1] != h.shape[-1]:
        raise ValueError(
            f"`linear_weight` must have shape (num_classes, {_length(h.shape[-1])}), with the features of `input`, "
            f"{plain(h.shape)}; got {plain(W.shape)}."
        )
    classes = W.shape[0]
    if classes is None:
        raise ValueError("`linear_weight` must have a known number of classes: call its `compute_chunk_sizes()` first.")
    if classes == 0:
        raise ValueError(
            f"`linear_weight` must have at least one class; got shape {plain(W.shape)}, and a mean over no class has "
            "no value."
        )
    if linear_bias is not None:
        b = _parameter(linear_bias, "linear_bias", library, device)
        if b.shape != (classes,):
            raise ValueError(
                f"`linear_bias` must have one number per class, ({classes},), for a `linear_weight` of shape "
                f"{plain(W.shape)}; got {plain(b.shape)}."
            )
    labels = target.arrays() if type(target) is Labels else (target,)
    try:
        dtype = library.logits_dtype(input, linear_weight, linear_bias)
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = [library.dtype_name(v.dtype) for v in (input, linear_weight, linear_bias) if v is not None]
        raise TypeError(
            f"`input`, `linear_weight` and `linear_bias` must have dtypes that their library multiplies together; got "
            f"{', '.join(kinds)}. Cast them to one dtype explicitly."
        ) from error
    verdict = _verdict if library.memorable and state is not State.TRACED else _verdict.__wrapped__
    try:
        problem, compute, acc = verdict(
            h._replace(
                dtype=dtype,
                shape=(*h.shape[:-1], classes),
                layout=Layout.UNKNOWN if state is State.TRACED else Layout.C,
            ),
            _form(target, "target", state),
            None if weight is None else _weight_form(weight, "weight", state),
            None if pos_weight is None else _weight_form(pos_weight, "pos_weight", state),
            None if where is None else _form(where, "where", state),
            reduction,
            label_smoothing,
            -1,
            state,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("the shape of `input`", "the shape of the logits")) from None
    if state is not State.TRACED and library.traced(input, linear_weight, *labels):
        state = State.TRACED
    if type(target) is Labels:
        target = made_target(library, target, device, state is State.TRACED or reference, always=True)
    axis = input.ndim - 1
    o = Operands(
        library.xp,
        None,
        target,
        None if weight is None else operand(library, weight, "weight", compute, device, axis, input),
        None if pos_weight is None else operand(library, pos_weight, "pos_weight", compute, device, axis, input),
        None if where is None else operand(library, where, "where", compute, device, axis, input),
        label_smoothing,
        compute,
        acc,
        h.flat,
        h.host,
    )
    return problem._replace(state=state), o, dtype, library


def _floating(form: Form, argument: str) -> None:
    assert form.library is not None
    kind = form.library.dtype_name(form.dtype)
    if kind not in _policy.FLOATS:
        raise TypeError(
            f"`{argument}` must have a real floating dtype ({', '.join(sorted(_policy.FLOATS))}); got {kind}: "
            f"{form.library.stored(kind) or 'cast it to one of these first'}."
        )


def _parameter(value: Any, argument: str, library: Library, device: Any) -> Form:
    form = _form(value, argument)
    _same_library(form, argument, library)
    _floating(form, argument)
    _same_device(form, argument, device)
    return form


def _length(n: int | None) -> str:
    return "unknown" if n is None else str(n)
