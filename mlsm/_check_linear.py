"""The door of the linear head: what `_check` refuses of logits, said of the arrays that they are a product of."""

from typing import Any

from . import _policy
from ._check import Form, _form, _judge, _plain, _same_device, _same_library, _weight_form, label_smoothing
from ._check import reduction as checked_reduction
from ._core import Operands
from ._guard import on
from ._labels import Labels, taken
from ._library import library
from ._operands import operand
from ._problem import Problem, device_of, state
from ._targets import target as made_target
from ._typing import DType
from .many import of


def linear(
    input: Any,
    linear_weight: Any,
    linear_bias: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    where: Any,
    reduction: Any,
    smoothing: Any,
    reference: bool,
) -> tuple[Problem, Operands, DType]:
    """All checks of one call; the metadata of its logits, their operands without them, and their dtype.

    The state of the problem is "traced" wherever nothing may be cut or written to, in JAX too.
    """
    how, eps = checked_reduction(reduction), label_smoothing(smoothing)
    name, xp = library(input, "input")
    device, record = device_of(input, name), of(name)
    h = _form(input, "input")
    _floating(h, "input")
    if not h.shape:
        raise ValueError("`input` must have at least one dimension, the features; got a 0-d array.")
    W = _parameter(linear_weight, "linear_weight", name, device)
    if len(W.shape) != 2 or W.shape[1] != h.shape[-1]:
        raise ValueError(
            f"`linear_weight` must have shape (num_classes, {_length(h.shape[-1])}), with the features of `input`, "
            f"{_plain(h.shape)}; got {_plain(W.shape)}."
        )
    classes = W.shape[0]
    if classes is None:
        raise ValueError("`linear_weight` must have a known number of classes: call its `compute_chunk_sizes()` first.")
    if classes == 0:
        raise ValueError(
            f"`linear_weight` must have at least one class; got shape {_plain(W.shape)}, and a mean over no class has "
            "no value."
        )
    if linear_bias is not None:
        b = _parameter(linear_bias, "linear_bias", name, device)
        if b.shape != (classes,):
            raise ValueError(
                f"`linear_bias` must have one number a class, ({classes},), for a `linear_weight` of shape "
                f"{_plain(W.shape)}; got {_plain(b.shape)}."
            )
    target = taken(target)
    now = state(name, input, linear_weight, linear_bias, target, weight, pos_weight, where)
    labels = target.arrays() if type(target) is Labels else (target,)
    try:
        dtype = record.logits_dtype(xp, input, linear_weight, linear_bias)
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = [_policy.name(v.dtype) for v in (input, linear_weight, linear_bias) if v is not None]
        raise TypeError(
            f"`input`, `linear_weight` and `linear_bias` must have dtypes that their library multiplies together; got "
            f"{', '.join(kinds)}. Cast them to one dtype explicitly."
        ) from error
    judge = _judge if name in _policy.MEMORABLE and now != "traced" else _judge.__wrapped__
    try:
        problem, compute, acc = judge(
            Form(name, dtype, (*h.shape[:-1], classes), device, "unknown" if now == "traced" else "C"),
            _form(target, "target", now),
            None if weight is None else _weight_form(weight, "weight", now),
            None if pos_weight is None else _weight_form(pos_weight, "pos_weight", now),
            None if where is None else _form(where, "where", now),
            how,
            eps,
            -1,
            now,
            xp,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("the shape of `input`", "the shape of the logits")) from None
    if now != "traced" and record.traced(input, linear_weight, *labels):
        now = "traced"
    if type(target) is Labels:
        target = made_target(xp, target, name, device, now == "traced" or reference, always=True)
    at = input.ndim - 1
    with on(name, device):
        o = Operands(
            xp,
            None,
            target,
            None if weight is None else operand(xp, weight, "weight", compute, device, at, input),
            None if pos_weight is None else operand(xp, pos_weight, "pos_weight", compute, device, at, input),
            None if where is None else operand(xp, where, "where", compute, device, at, input),
            eps,
            compute,
            acc,
            flat=name in _policy.FLATTENED and (now != "traced" or type(input).__name__ in ("Tensor", "Parameter")),
            host=name == "numpy" or (name == "torch" and now != "traced" and device.type == "cpu"),
        )
    return problem._replace(state=now), o, dtype


def _floating(form: Form, argument: str) -> None:
    kind = _policy.name(form.dtype)
    if kind not in _policy.FLOATS:
        raise TypeError(
            f"`{argument}` must have a real floating dtype ({', '.join(sorted(_policy.FLOATS))}); got {kind}: "
            f"{_policy.stored(form.library, kind) or 'cast it to one of these first'}."
        )


def _parameter(value: Any, argument: str, name: str, device: Any) -> Form:
    form = _form(value, argument)
    _same_library(form, argument, name)
    _floating(form, argument)
    _same_device(form, argument, device)
    return form


def _length(n: int | None) -> str:
    return "unknown" if n is None else str(n)
