"""The door: arguments in, a `Problem` (metadata) and the `Operands` (arrays) out, or TypeError / ValueError.

Every error message about an argument stands here. Only metadata is looked at (type, dtype, shape, device), never a
value of an array, so nothing here synchronises a GPU, computes a lazy array or breaks a trace. Nothing behind this
door checks again.
"""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

from . import _policy
from ._core import Operands
from ._library import Library, library
from ._typing import Array, DType, Namespace

Shape = tuple[int | None, ...]


class Meta(NamedTuple):
    """What may be known of an array without looking into it; the class axis is the last of `shape`."""

    dtype: str
    shape: Shape  # None where a length is not known yet
    layout: str  # "C" (contiguous, aligned, native), "strided", "foreign" (byte-swapped or unaligned), "unknown"


class Problem(NamedTuple):
    """The metadata of one call: what kernels are selected by, and how the result has to look."""

    library: str
    device: Any
    input: Meta
    target: Meta
    weight: Meta | None
    pos_weight: Meta | None
    where: Meta | None
    label_smoothing: float
    reduction: str
    axis: int  # of the class axis in the caller's arrays, never negative
    dtype: str  # the compute dtype
    loss_dtype: DType
    state: str  # "plain"; for tensors also "tracked" (a gradient is wanted) and "traced" (compiler or transform)


# ---------------------------------------------------------------- options


def reduction(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`reduction` must be a string, one of {_quoted(_policy.REDUCTIONS)}; got {value!r}.")
    if value not in _policy.REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {_quoted(_policy.REDUCTIONS)}; got {value!r}.")
    return value


def label_smoothing(value: Any) -> float:
    # Identity first: the default costs nothing, and a bool is no amount.
    if value is _ZERO or (isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1):
        return float(value)
    raise ValueError(f"`label_smoothing` must be a Python number in [0, 1]; got {value!r}.")


_ZERO = 0.0


def axis(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`axis` must be an integer, the class axis; got {value!r}.") from None


def wrt(value: Any, given: dict[str, Any]) -> str:
    if value not in _policy.WRT:
        raise ValueError(f"`wrt` must be one of {_quoted(_policy.WRT)}; got {value!r}.")
    if given.get(value, value) is None:
        raise ValueError(f"`wrt` is {value!r}, but `{value}` was not given.")
    return str(value)


def weight_option(value: Any, argument: str) -> None:
    """What a module can say of a weight before it has seen an input: that it is one at all."""
    if value is None or isinstance(value, Real):
        return
    if isinstance(value, list | tuple):
        _nested_shape(value, argument)
        return
    lib = library(value, argument)
    _real(value, argument)


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
) -> tuple[Problem, Operands]:
    """All checks of one call; its metadata and its operands."""
    how = reduction(reduction_)
    eps = label_smoothing(label_smoothing_)
    classes = axis(axis_)

    lib = library(input, "input")
    xp = lib.xp
    x_dtype = input.dtype
    x_name = _policy.name(x_dtype)
    if x_name not in _policy.FLOATS:
        raise TypeError(
            f"`input` must have a real floating dtype ({', '.join(sorted(_policy.FLOATS))}); got {x_name}: "
            "cast the logits to one of these first."
        )
    shape = _shape(input)
    ndim = len(shape)
    if not ndim:
        raise ValueError("`input` must have at least one dimension, the classes; got a 0-d array.")

    y_lib = library(target, "target")
    if y_lib is not lib:
        _same_library(y_lib, "target", lib)
    y_name = _real(target, "target")
    y_shape = _shape(target)
    if y_shape != shape:
        raise ValueError(
            f"`target` must have exactly the shape of `input`, {_plain(shape)}; got {_plain(y_shape)}. "
            "Nothing is broadcast between the two: reshape or broadcast it explicitly."
            + _unknown_remedy(shape, y_shape)
        )
    device = _device(input, lib)
    _same_device(target, "target", lib, device)

    floats = [x_dtype]
    if y_name in _policy.FLOATS:
        floats.append(target.dtype)
    _weight(weight, "weight", lib, device, shape, floats)
    _weight(pos_weight, "pos_weight", lib, device, shape, floats)
    if where is not None:
        _mask(where, lib, device, shape)

    if not -ndim <= classes < ndim:
        raise ValueError(
            f"`axis` must be in [{-ndim}, {ndim - 1}] for an `input` of shape {_plain(shape)}; got {classes}."
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

    loss_dtype, compute = _promoted(xp, floats)
    o = Operands(
        xp=xp,
        x=_last(xp, input, classes, ndim),
        y=_last(xp, target, classes, ndim),
        w=_operand(xp, weight, "weight", compute, device, classes, ndim),
        p=_operand(xp, pos_weight, "pos_weight", compute, device, classes, ndim),
        m=_operand(xp, where, "where", compute, device, classes, ndim),
        eps=eps,
        dtype=compute,
        acc=_policy.accumulator(xp, lib.name, device, compute),
    )
    if lib.name == "dask" and None in shape:
        from .lazy.dask import aligned

        o = aligned(o)
    described = Problem(
        library=lib.name,
        device=device,
        input=_meta(o.x, lib.name),
        target=_meta(o.y, lib.name),
        weight=None if o.w is None else _meta(o.w, lib.name),
        pos_weight=None if o.p is None else _meta(o.p, lib.name),
        where=None if o.m is None else _meta(o.m, lib.name),
        label_smoothing=eps,
        reduction=how,
        axis=classes,
        dtype=_policy.name(compute),
        loss_dtype=loss_dtype,
        state=_state(lib.name, o),
    )
    return described, o


def cotangent(value: Any, problem: Problem, o: Operands) -> tuple[Problem, Any]:
    """`grad_output` as an array in the accumulation dtype (None stands for ones), and the problem that includes it."""
    expected = problem.input.shape[:-1] if problem.reduction == "none" else ()
    if value is None:
        return problem, _number(o.xp, 1.0, "grad_output", o.acc, problem.device)  # one serves every row
    if isinstance(value, Real):
        if expected:
            raise ValueError(
                f'`grad_output` must have the shape of the loss, {_plain(expected)} for reduction="none"; '
                f"got the number {value!r}."
            )
        return problem, _number(o.xp, value, "grad_output", o.acc, problem.device)
    lib = library(value, "grad_output")
    _same_library(lib, "grad_output", library(o.x, "input"))
    _real(value, "grad_output")
    shape = _shape(value)
    if shape != expected:
        raise ValueError(
            f"`grad_output` must have the shape of the loss, {_plain(expected)} for "
            f'reduction="{problem.reduction}"; got {_plain(shape)}.'
        )
    _same_device(value, "grad_output", lib, problem.device)
    g = o.xp.astype(value, o.acc, copy=False)
    return problem._replace(state=_state(problem.library, o, g)), g


def floating_dtype(value: Any) -> DType | None:
    """The dtype of a floating array; None for integer and bool arrays, numbers and lists."""
    if isinstance(value, Real | list | tuple) or _policy.name(value.dtype) not in _policy.FLOATS:
        return None
    return value.dtype


def rank(value: Any) -> int:
    """The number of dimensions of a weight as it was given: an array, a number or a nested list."""
    return (
        0
        if isinstance(value, Real)
        else len(_nested_shape(value, ""))
        if isinstance(value, list | tuple)
        else value.ndim
    )


# ---------------------------------------------------------------- one argument


def _weight(value: Any, argument: str, lib: Library, device: Any, shape: Shape, floats: list[DType]) -> None:
    """Check a weight, and add its dtype to those that take part in the promotion if it is a floating array."""
    if value is None or isinstance(value, Real):
        return
    if isinstance(value, list | tuple):
        _broadcasts(_nested_shape(value, argument), argument, shape)
        return
    _same_library(library(value, argument), argument, lib)
    if _real(value, argument) in _policy.FLOATS:
        floats.append(value.dtype)
    _broadcasts(_shape(value), argument, shape)
    _same_device(value, argument, lib, device)


def _mask(value: Any, lib: Library, device: Any, shape: Shape) -> None:
    _same_library(library(value, "where"), "where", lib)
    kind = _policy.name(value.dtype)
    if kind != "bool":
        raise TypeError(f"`where` must be a bool array, true where a class was observed; got dtype {kind}.")
    _broadcasts(_shape(value), "where", shape)
    _same_device(value, "where", lib, device)


def _real(value: Any, argument: str) -> str:
    kind = _policy.name(value.dtype)
    if not _policy.is_real(kind):
        raise TypeError(f"`{argument}` must have a bool, integer or real floating dtype; got {kind}.")
    return kind


def _same_library(other: Library, argument: str, lib: Library) -> None:
    if other is not lib and other.name != lib.name:
        raise TypeError(
            f"`{argument}` must belong to the library of `input`, {lib.name}; got an array of {other.name}. "
            "Convert one of them explicitly."
        )


def _same_device(value: Any, argument: str, lib: Library, device: Any) -> None:
    other = _device(value, lib)
    # Shardings and a tracer's unknown place are not devices: their library checks them itself when it computes.
    if other != device and type(other) is type(device) and "Sharding" not in type(device).__name__:
        raise ValueError(
            f"`{argument}` must be on the device of `input`, {device}; got {other}. Move one of them explicitly."
        )


def _broadcasts(own: Shape, argument: str, shape: Shape) -> None:
    fits = len(own) <= len(shape) and all(
        a == 1 or a == b for a, b in zip(reversed(own), reversed(shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"`{argument}` must broadcast to the shape of `input`, {_plain(shape)}, without enlarging it or adding a "
            f"dimension; got {_plain(own)}." + _unknown_remedy(shape, own)
        )


def _nested_shape(value: Any, argument: str) -> tuple[int, ...]:
    """The shape of a nested list; TypeError for anything that is no number, ValueError for a ragged one."""
    if isinstance(value, Real):
        return ()
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"`{argument}` must be an array, a Python number or a (nested) list of Python numbers; "
            f"got a list that holds a {type(value).__qualname__}."
        )
    inner = [_nested_shape(v, argument) for v in value]
    if any(s != inner[0] for s in inner):
        raise ValueError(f"`{argument}` must be a rectangular list; got rows of shapes {sorted(set(inner))}.")
    return (len(inner), *(inner[0] if inner else ()))


# ---------------------------------------------------------------- arrays behind the door


def _operand(xp: Namespace, value: Any, argument: str, compute: DType, device: Any, classes: int, ndim: int) -> Any:
    """A weight or mask as an array whose class axis is the last, where it has one; None stays None."""
    if value is None:
        return None
    if isinstance(value, Real):
        return _number(xp, value, argument, compute, device)
    if isinstance(value, list | tuple):
        value = xp.asarray(_floats(value, argument, compute), dtype=compute, device=device)
    if classes == ndim - 1 or not value.ndim:
        return value
    return _last(xp, value[(None,) * (ndim - value.ndim)], classes, ndim)


def _last(xp: Namespace, value: Any, classes: int, ndim: int) -> Any:
    return value if classes == ndim - 1 else xp.moveaxis(value, classes, -1)


def _number(xp: Namespace, value: Any, argument: str, dtype: DType, device: Any) -> Any:
    # `full` and not `asarray`: copying a host value would synchronise a GPU.
    return xp.full((), _float(value, argument, dtype), dtype=dtype, device=device)


def _floats(value: Any, argument: str, dtype: DType) -> Any:
    if isinstance(value, list | tuple):
        return [_floats(v, argument, dtype) for v in value]
    return _float(value, argument, dtype)


_LARGEST = {"float32": math.ldexp(2 - 2.0**-23, 127)}


def _float(value: Any, argument: str, dtype: DType) -> float:
    """The number as a float that `dtype` can take; beyond its range it is ±inf, as rounding would have it."""
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(
            f"`{argument}` must fit into a float; got an integer of {len(str(abs(value)))} digits."
        ) from None
    if abs(number) > _LARGEST.get(_policy.name(dtype), math.inf):
        return math.copysign(math.inf, number)
    return number


def _promoted(xp: Namespace, floats: list[DType]) -> tuple[DType, DType]:
    try:
        return _policy.promoted(xp, floats)
    except TypeError as error:
        names = ", ".join(dict.fromkeys(_policy.name(d) for d in floats))
        raise TypeError(
            f"`input`, `target`, `weight` and `pos_weight` must have dtypes that their library can promote together; "
            f"got {names}. Cast them to one dtype explicitly."
        ) from error


def _state(name: str, o: Operands, *more: Any) -> str:
    if name != "torch":
        return "plain"
    from .autograd.torch import state_of

    return state_of(o.x, o.y, o.w, o.p, o.m, *more)


def _device(value: Any, lib: Library) -> Any:
    if lib.name == "numpy":
        return "cpu"
    if lib.name == "torch":
        return value.device
    import array_api_compat

    return array_api_compat.device(value)


def _shape(value: Any) -> Shape:
    """The shape, with None for every length that is not known (NaN in Dask)."""
    shape = value.shape
    if all(n is not None and n == n for n in shape):
        return tuple(shape)
    return tuple(None if n is None or n != n else n for n in shape)


def _meta(value: Any, name: str) -> Meta:
    if name == "numpy":
        flags = value.flags
        if not (flags.aligned and value.dtype.isnative):
            layout = "foreign"
        else:
            layout = "C" if flags.c_contiguous else "strided"
    elif name == "torch":
        layout = "C" if value.is_contiguous() else "strided"
    else:
        layout = "unknown"
    return Meta(_policy.name(value.dtype), _shape(value), layout)


# ---------------------------------------------------------------- words


def shown(value: Any) -> str:
    """An option as a `repr` shows it: an array by its shape and dtype, not by its contents."""
    if isinstance(value, Real | list | tuple):
        return repr(value)
    return f"<{library(value, 'weight').name} array of shape {_plain(_shape(value))}, {_policy.name(value.dtype)}>"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def _plain(shape: Shape) -> str:
    inside = ", ".join("unknown" if n is None else str(n) for n in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


def _unknown_remedy(shape: Shape, own: Shape) -> str:
    if (None in shape) != (None in own) or (None in shape and shape != own):
        return " Call `compute_chunk_sizes()` on the arrays whose lengths are unknown."
    return ""
