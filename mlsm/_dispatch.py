"""The kernel table: who may serve a call, who does, and why each other one declines.

A kernel is chosen by metadata alone. There is no environment variable, no global switch and no silent fallback:
whatever declines says why, and `explain` shows it. Knows no formula.
"""

import importlib
import importlib.util
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple, NoReturn

from . import _core
from ._core import Operands, known
from ._format import spelled
from ._problem import Meta, Problem, State
from .libraries import library_of
from .libraries.base import Library


def _immutable(record: Any, name: str) -> AttributeError:
    return AttributeError(f"`{name}` cannot be set: a {type(record).__name__} is immutable; make a new one.")


# Named tuples and not dataclasses, whose import would cost a third of this package's own.
class Kernel(NamedTuple):
    """An accelerator for some calls: delete it and no result changes beyond its stated error bound.

    Parameters
    ----------
    name
        What `kernel=` and `explain` call it.
    libraries
        The libraries whose arrays it serves, by the root name of their package: ``("numpy", "torch")``.
    accepts
        Called with a `Problem` (metadata only). Returns None to serve the call, or the reason for declining it.
    rows
        ``rows(operands) -> (*batch)``, the row losses in the compute dtype.
    rows_vjp
        ``rows_vjp(operands, g)``, their pullback for the logits, of the logits' shape and dtype. `g` is in the
        accumulation dtype and broadcasts to the row losses.
    rows_and_vjp
        Both in one pass; the rows have the bits of `rows`.
    curvature
        ``curvature(operands, g)``, the diagonal of the second derivative scaled by g, like the logits.
    note
        ``note(problem)``, what `explain` should say of a call that the kernel serves (that it has to compile first,
        say), or None.
    derivatives
        ``derivatives(operands, scale, least)``, gradient and curvature of every element, not averaged, like the logits:
        each times `scale` (None, or of the compute dtype and broadcasting to the logits), masked elements exactly 0,
        the factor s*(1-s) of the curvature no less than `least`. Here the operands may have any shape, 0-d included.
    accepts_derivatives
        ``accepts_derivatives(problem)``, where `derivatives` serves other calls than the rest; by default `accepts`.
        The problem's class axis has a length of 1.
    reduced
        ``reduced(operands, mean, g)``, the loss itself, the mean or the sum of its rows in the compute dtype, and its
        gradient times a Python number g (None: no gradient), or None to decline, whatever g is. For host memory, where
        calls are so small that each step shows, or row losses so many. Of our own kernels only.

    Notes
    -----
    All after `rows` are optional: the generic code stands in for `rows_vjp`, `curvature` and `derivatives`, and two
    passes for `rows_and_vjp`. Nothing is checked here; `register_kernel` does it, and sees to it that what the
    functions return is checked at every call: another shape, dtype, library or device than is asked for above is a
    RuntimeError.

    References
    ----------
    docs/write-a-kernel writes one, to the verdict of the conformance suite.

    Examples
    --------
    >>> import mlsm
    >>> kernel = mlsm.Kernel("mine", ("numpy",), lambda problem: "it is only an example", lambda operands: None)
    >>> kernel.name, kernel.libraries
    ('mine', ('numpy',))
    """

    name: str
    libraries: tuple[str, ...]
    accepts: Callable[[Problem], str | None]
    rows: Callable[[Operands], Any]
    rows_vjp: Callable[[Operands, Any], Any] = _core.rows_vjp
    rows_and_vjp: Callable[[Operands, Any], tuple[Any, Any]] | None = None
    curvature: Callable[[Operands, Any], Any] = _core.curvature
    note: Callable[[Problem], str | None] | None = None
    derivatives: Callable[[Operands, Any, float], tuple[Any, Any]] = _core.derivatives
    accepts_derivatives: Callable[[Problem], str | None] | None = None
    reduced: Callable[[Operands, bool, float | None], tuple[Any, Any] | None] | None = None

    def reason(self, problem: Problem, elements: bool = False) -> str | None:
        """Why it declines a call across the row seam, or one of `derivatives`; None where it serves it."""
        if elements and self.accepts_derivatives is not None:
            return self.accepts_derivatives(problem)
        return self.accepts(problem)

    def value_and_gradient(self, o: Operands, g: Any) -> tuple[Any, Any]:
        """`rows_and_vjp` where the kernel has one, else its two halves."""
        return (self.rows(o), self.rows_vjp(o, g)) if self.rows_and_vjp is None else self.rows_and_vjp(o, g)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _immutable(self, name)

    def __delattr__(self, name: str) -> NoReturn:
        raise _immutable(self, name)


GENERIC: Final = Kernel(
    "generic", (), lambda problem: None, _core.rows, _core.rows_vjp, _core.rows_and_vjp, _core.curvature
)


class Explanation(NamedTuple):
    """Which kernel serves a call, and for each other one the reason why not. Prints as a table."""

    chosen: str
    reasons: tuple[tuple[str, str], ...]
    note: str | None = None  # what the chosen kernel has to do besides

    def __str__(self) -> str:
        served = "serves this call" if self.note is None else f"serves this call; {self.note}"
        lines = [(self.chosen, served), *self.reasons]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {reason}" for name, reason in lines)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _immutable(self, name)

    def __delattr__(self, name: str) -> NoReturn:
        raise _immutable(self, name)


_lock = threading.Lock()
_registered: tuple[Kernel, ...] = ()  # third parties' kernels, the latest first
_loaded: dict[str, Kernel | str] = {}  # our own by file name: the kernel, or why it is absent
_tables: dict[str, tuple[Kernel, ...]] = {}  # per library, in order of preference; another dict on each registration
# The problem that was served last, the tables of then and the kernel: a training loop asks the same each time, and the
# memo of verdicts has one record for it. Only of our own kernels, which answer alike each time.
_latest: tuple[Problem | None, Any, Kernel] = (None, None, GENERIC)


# ---------------------------------------------------------------- the table


def register_kernel(kernel: Kernel) -> None:
    """Let a kernel serve the calls that it accepts, before our own kernels and those registered earlier.

    Importing a package registers nothing; the application does, by this call. It may come from any thread.

    Parameters
    ----------
    kernel : Kernel
        Under a name that is not taken yet.

    Raises
    ------
    TypeError
        If `kernel` is no `Kernel`, or one of its fields has the wrong type.
    ValueError
        If its name is taken.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> kernel = mlsm.Kernel("mine", ("numpy",), lambda problem: "it is only an example", lambda operands: None)
    >>> mlsm.register_kernel(kernel)
    >>> dict(mlsm.explain(np.zeros((2, 3)), np.ones((2, 3))).reasons)["mine"]
    'it is only an example'
    >>> mlsm.unregister_kernel("mine")
    """
    global _registered, _tables
    if not isinstance(kernel, Kernel):
        raise TypeError(f"`kernel` must be a Kernel; got a {type(kernel).__qualname__}.")
    name: Any = kernel.name  # Any: what stands in a field is not what its annotation says until it was looked at
    libraries: Any = kernel.libraries
    if not (isinstance(name, str) and name):
        raise TypeError(f"`kernel.name` must be a non-empty string; got {spelled(name)}.")
    if not (isinstance(libraries, tuple) and libraries and all(isinstance(n, str) for n in libraries)):
        raise TypeError(f'`kernel.libraries` must be a tuple of names such as ("numpy",); got {libraries!r}.')
    for field in (
        "accepts",
        "rows",
        "rows_vjp",
        "curvature",
        "rows_and_vjp",
        "note",
        "derivatives",
        "accepts_derivatives",
    ):
        value = getattr(kernel, field)
        if not callable(value) and not (field in ("rows_and_vjp", "note", "accepts_derivatives") and value is None):
            raise TypeError(f"`kernel.{field}` must be callable; got {value!r}.")
    with _lock:
        if kernel.name in names():
            raise ValueError(f"`kernel.name` must be new; {kernel.name!r} is registered already.")
        _registered = (_watched(kernel), *_registered)
        _tables = {}


def _watched(kernel: Kernel) -> Kernel:
    """The kernel with every result looked at. Here, once, so that nobody goes past this, and none pays for it
    that has a kernel of ours, which the tests judge."""
    name, both = kernel.name, kernel.rows_and_vjp

    def rows(o: Operands) -> Any:
        return _row_losses(name, "rows", o, kernel.rows(o))

    def rows_vjp(o: Operands, g: Any) -> Any:
        return _derivative(name, "rows_vjp", o, kernel.rows_vjp(o, g))

    def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
        found: Any = None if both is None else both(o, g)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise RuntimeError(
                f"The kernel {name!r} must return a pair from `rows_and_vjp`, the row losses and their pullback; "
                f"got a {type(found).__qualname__}."
            )
        return _row_losses(name, "rows_and_vjp", o, found[0]), _derivative(name, "rows_and_vjp", o, found[1])

    def curvature(o: Operands, g: Any) -> Any:
        return _derivative(name, "curvature", o, kernel.curvature(o, g))

    return kernel._replace(
        rows=rows,
        rows_vjp=rows_vjp if kernel.rows_vjp is not _core.rows_vjp else kernel.rows_vjp,
        rows_and_vjp=None if both is None else rows_and_vjp,
        curvature=curvature if kernel.curvature is not _core.curvature else kernel.curvature,
        reduced=None,
    )


def _row_losses(name: str, function: str, o: Operands, value: Any) -> Any:
    return _fitting(name, function, "the row losses", o, value, o.x.shape[:-1], o.dtype)


def _derivative(name: str, function: str, o: Operands, value: Any) -> Any:
    return _fitting(name, function, "a derivative", o, value, o.x.shape, o.x.dtype)


def _fitting(name: str, function: str, what: str, o: Operands, value: Any, shape: Any, dtype: Any) -> Any:
    """`value`, if its metadata is what the seam asks for; a length that is no number fits every other."""
    library = library_of(o.x, "input")
    try:
        came = library if library.is_scalar(value) else library_of(value, "input")
        form = came.form(value, "input")
    except TypeError:
        raise _unfit(name, function, f"a {type(value).__qualname__}", what, f"an array of {library.name}") from None
    device = library.form(o.x, "input").device
    if came.name != library.name:
        got, asked = f"an array of {came.name}", f"an array of {library.name}"
    elif len(form.shape) != len(shape) or any(
        a != b for a, b in zip(form.shape, shape, strict=True) if known(a) and known(b)
    ):
        got, asked = f"an array of shape {tuple(value.shape)}", f"one of shape {tuple(shape)}"
    elif library.dtype_name(form.dtype) != library.dtype_name(dtype):
        got, asked = f"an array of {library.dtype_name(form.dtype)}", f"one of {library.dtype_name(dtype)}"
    elif form.device != device and type(form.device) is type(device):  # what lies on several has none
        got, asked = f"an array on {form.device}", f"one on {device}"
    else:
        return value
    raise _unfit(name, function, got, what, asked)


def _unfit(name: str, function: str, got: str, what: str, asked: str) -> RuntimeError:
    return RuntimeError(f"The kernel {name!r} returned {got} from `{function}`; it must return {what} as {asked}.")


def unregister_kernel(name: str) -> None:
    """Take back what `register_kernel` did. Our own kernels stay: they are forced or avoided by `kernel=`.

    Parameters
    ----------
    name : str
        That of a kernel which was registered by `register_kernel`.

    Raises
    ------
    ValueError
        For any other name; the message lists those that were.

    Examples
    --------
    >>> import mlsm
    >>> mlsm.unregister_kernel("nobody")
    Traceback (most recent call last):
        ...
    ValueError: `name` must be that of a kernel registered by `register_kernel` (none); got 'nobody'.
    """
    global _registered, _tables
    given: Any = name  # Any: an array would compare elementwise
    with _lock:
        kept = tuple(k for k in _registered if not (isinstance(given, str) and k.name == given))
        if len(kept) == len(_registered):
            known = ", ".join(k.name for k in _registered) or "none"
            raise ValueError(
                f"`name` must be that of a kernel registered by `register_kernel` ({known}); got {spelled(name)}."
            )
        _registered = kept
        _tables = {}


def names() -> tuple[str, ...]:
    """All names that `kernel=` takes, in order of preference, the reference last."""
    return (*(k.name for k in _registered), *_ours(), GENERIC.name)


@cache
def _ours() -> dict[str, tuple[str, ...]]:
    """Our kernel files and the libraries they serve; the folder is the table, and it may have been deleted."""
    spec = importlib.util.find_spec(f"{__package__}.kernels")
    if spec is None or spec.origin is None:
        return {}
    from .kernels import present

    return present()


def _load(name: str) -> Kernel | str:
    """One of our kernels, or the reason why it cannot be had here: its engine is not installed."""
    if name not in _loaded:
        try:
            _loaded[name] = importlib.import_module(f"{__package__}.kernels.{name}").KERNEL
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == __package__:
                raise  # a file of ours is broken, not an engine missing
            _loaded[name] = f"its engine is not installed: no module named {error.name!r}"
    return _loaded[name]


def _table(library: str) -> tuple[Kernel, ...]:
    tables = _tables  # kept: a table that is built while another thread registers must not land in the dict of after
    table = tables.get(library)
    if table is None:
        ours = (_load(name) for name, libraries in _ours().items() if library in libraries)
        table = (
            *(k for k in _registered if library in k.libraries),
            *(k for k in ours if isinstance(k, Kernel)),
        )
        tables[library] = table
    return table


# ---------------------------------------------------------------- the choice


def select(problem: Problem, name: str | None = None, *, elements: bool = False) -> Kernel:
    """The kernel that serves this call: the one forced by name, else the first that accepts, else the generic code.

    `elements` asks for `Kernel.derivatives`.
    """
    if name is not None:
        return _forced(problem, name, elements)
    if problem.state is State.TRACED:
        return GENERIC
    global _latest
    asked, tables, found = _latest
    if asked is not problem or tables is not _tables or elements:
        tables, found = _tables, GENERIC
        for kernel in _table(problem.library):
            if kernel.reason(problem, elements) is None:
                found = kernel
                break
        if not _registered and not elements:
            _latest = problem, tables, found
    return found


def at_once(kernel: Kernel, problem: Problem, o: Operands, g: Any) -> tuple[Any, Any] | None:
    """The reduced loss and its gradient times g by `Kernel.reduced`, where the kernel serves this call so."""
    if kernel.reduced is None or problem.reduction == "none" or problem.loss_dtype != o.dtype:
        return None
    return kernel.reduced(o, problem.reduction == "mean", None if g is None else float(g))


def problem_of(o: Operands, library: Library, device: Any) -> Problem:
    """The metadata of a block, of which there is no other: what a kernel for it is selected by."""

    def meta(value: Any) -> Meta:
        form = library.form(value, "input", State.PLAIN)
        return Meta(library.dtype_name(form.dtype), form.shape, form.layout)

    w, p, m = (None if v is None else meta(v) for v in (o.w, o.p, o.m))
    return Problem(
        library=library.name,
        device=device,
        input=meta(o.x),
        target=meta(o.y),
        weight=w,
        pos_weight=p,
        where=m,
        label_smoothing=o.eps,
        reduction="none",
        axis=o.x.ndim - 1,
        dtype=library.dtype_name(o.dtype),
        loss_dtype=o.dtype,
        state=State.PLAIN,
    )


def _forced(problem: Problem, name: str, elements: bool) -> Kernel:
    if not isinstance(name, str):
        raise TypeError(f"`kernel` must be the name of a kernel or None; got {spelled(name)}.")
    if name == GENERIC.name:
        return GENERIC
    found = _find(name)
    if found is None:
        raise ValueError(f"`kernel` must be one of {', '.join(names())}; got {spelled(name)}.")
    reason = _reason(found, problem, elements)
    if reason is not None:
        raise ValueError(f"`kernel` {name!r} cannot serve this call: {reason}.")
    assert isinstance(found, Kernel)  # a string would have been its own reason
    return found


def _find(name: str) -> Kernel | str | None:
    for kernel in _registered:
        if kernel.name == name:
            return kernel
    return _load(name) if name in _ours() else None


def _reason(kernel: Kernel | str | None, problem: Problem, elements: bool = False) -> str | None:
    if kernel is None or isinstance(kernel, str):
        return kernel
    if problem.library not in kernel.libraries:
        return f"it serves {', '.join(kernel.libraries)}, not {problem.library}"
    if problem.state is State.TRACED:
        return "a compiler or a function transform is at work, which sees through the generic code only"
    return kernel.reason(problem, elements)


def explanation(problem: Problem, name: str | None = None) -> Explanation:
    """What `select` would choose, and the reason of each kernel that it would pass over."""
    chosen = select(problem, name)
    reasons = []
    ours = _ours()
    for other in names():
        if other == chosen.name:
            continue
        if other == GENERIC.name:
            reason: str | None = f"the reference; {chosen.name} comes first"
        elif other in ours and problem.library not in ours[other]:
            reason = f"it serves {', '.join(ours[other])}, not {problem.library}"  # said without importing its engine
        else:
            reason = _reason(_find(other), problem)
        reasons.append((other, reason or f"it could serve this call; {chosen.name} comes first"))
    return Explanation(chosen.name, tuple(reasons), None if chosen.note is None else chosen.note(problem))
