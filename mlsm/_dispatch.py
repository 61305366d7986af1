"""The kernel table: the kernels that may serve a call, the one that does, and why each other kernel declines.

A kernel is chosen by metadata alone. This package has no environment variable and no global switch for it, and no
fallback that `explain` does not show: a kernel that declines gives the reason. Knows no formula.
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


# Named tuples and not dataclasses, whose import would take a third of the time that this package's own takes.
class Kernel(NamedTuple):
    """A faster implementation of some calls. Without it no result changes beyond its stated error bound.

    Parameters
    ----------
    name
        The name that `kernel=` accepts and `explain` shows.
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
        ``curvature(operands, g)``, the diagonal of the second derivative times g, of the logits' shape and dtype.
    note
        ``note(problem)``, a remark that `explain` adds for a call that the kernel serves (for example that it has to
        compile first), or None.
    derivatives
        ``derivatives(operands, scale, least)``, gradient and curvature of every element, not averaged, of the logits'
        shape and dtype: each times `scale` (None, or of the compute dtype and broadcasting to the logits). Masked
        elements are exactly 0, and the factor s*(1-s) of the curvature is at least `least`. Here the operands may have
        any shape, 0-d included.
    accepts_derivatives
        ``accepts_derivatives(problem)``, if `derivatives` serves other calls than the rest; by default `accepts`.
        The problem's class axis has a length of 1.
    reduced
        ``reduced(problem, operands, g)``, the loss itself, the mean or the sum of its rows in the compute dtype, and
        its gradient times a Python number g (None: no gradient). It returns None to decline, whatever g is. For calls
        in host memory that are so small that each step takes notable time, or that have many row losses. Only our own
        kernels may have it.
    observed_rows
        ``observed_rows(operands)``, how many rows have an observed class, at least 1, as a float, or None to decline.
        Only our own kernels may have it.

    Notes
    -----
    All fields after `rows` are optional: by default the generic code serves `rows_vjp`, `curvature` and `derivatives`,
    and two passes serve `rows_and_vjp`. Nothing is checked here. `register_kernel` checks the fields, and has the
    result of each function checked at every call: a shape, dtype, library or device that differs from the description
    above is a RuntimeError.

    References
    ----------
    docs/write-a-kernel writes a kernel and judges it by the conformance suite.

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
    reduced: Callable[[Problem, Operands, float | None], tuple[Any, Any] | None] | None = None
    observed_rows: Callable[[Operands], float | None] | None = None

    def reason(self, problem: Problem, elements: bool = False) -> str | None:
        """Why it declines a call of the row seam, or of `derivatives` with `elements`; None if it serves the call."""
        if elements and self.accepts_derivatives is not None:
            return self.accepts_derivatives(problem)
        return self.accepts(problem)

    def value_and_gradient(self, o: Operands, g: Any) -> tuple[Any, Any]:
        """`rows_and_vjp` if the kernel has it, else `rows` and `rows_vjp`."""
        return (self.rows(o), self.rows_vjp(o, g)) if self.rows_and_vjp is None else self.rows_and_vjp(o, g)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _immutable(self, name)

    def __delattr__(self, name: str) -> NoReturn:
        raise _immutable(self, name)


GENERIC: Final = Kernel(
    "generic", (), lambda problem: None, _core.rows, _core.rows_vjp, _core.rows_and_vjp, _core.curvature
)


class Explanation(NamedTuple):
    """The kernel that serves a call, and the reason why each other kernel does not. Prints as a table."""

    chosen: str
    reasons: tuple[tuple[str, str], ...]
    note: str | None = None  # what the chosen kernel has to do in addition

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
_tables: dict[str, tuple[Kernel, ...]] = {}  # per library, in order of preference; a new dict on each registration
# The problem of the last call, the tables at that time and the kernel: a training loop repeats the same call, for which
# the cache of verdicts has one record. Used only while no kernel is registered, because our own always give the same
# answer, and not for the reference, because a foreign library's dtype would keep the library alive.
_latest: tuple[Problem | None, Any, Kernel] = (None, None, GENERIC)


# ---------------------------------------------------------------- the table


def register_kernel(kernel: Kernel) -> None:
    """Let a kernel serve the calls that it accepts, before our own kernels and those registered earlier.

    Importing a package registers nothing; the application calls this function, from any thread.

    Parameters
    ----------
    kernel : Kernel
        Its name must not be in use yet.

    Raises
    ------
    TypeError
        If `kernel` is not a `Kernel`, or one of its fields has the wrong type.
    ValueError
        If its name is in use.

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
    name: Any = kernel.name  # Any: a field may hold a value of another type than its annotation until it is checked
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
    """The kernel with every result checked. Here, once, so that no call avoids the check, and calls of our own
    kernels, which the tests judge, do not pay for it."""
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
        observed_rows=None,
    )


def _row_losses(name: str, function: str, o: Operands, value: Any) -> Any:
    return _fitting(name, function, "the row losses", o, value, o.x.shape[:-1], o.dtype)


def _derivative(name: str, function: str, o: Operands, value: Any) -> Any:
    return _fitting(name, function, "a derivative", o, value, o.x.shape, o.x.dtype)


def _fitting(name: str, function: str, what: str, o: Operands, value: Any, shape: Any, dtype: Any) -> Any:
    """`value`, if its metadata is as the seam requires; a length that is not a number fits every other."""
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
    elif form.device != device and type(form.device) is type(device):  # an array on several devices has none
        got, asked = f"an array on {form.device}", f"one on {device}"
    else:
        return value
    raise _unfit(name, function, got, what, asked)


def _unfit(name: str, function: str, got: str, what: str, asked: str) -> RuntimeError:
    return RuntimeError(f"The kernel {name!r} returned {got} from `{function}`; it must return {what} as {asked}.")


def unregister_kernel(name: str) -> None:
    """Remove a kernel that `register_kernel` added. Our own kernels stay: `kernel=` forces or avoids them.

    Parameters
    ----------
    name : str
        The name of a kernel that was registered by `register_kernel`.

    Raises
    ------
    ValueError
        For any other name; the message lists the registered ones.

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
    """All names that `kernel=` accepts, in order of preference, the reference last."""
    return (*(k.name for k in _registered), *_ours(), GENERIC.name)


@cache
def _ours() -> dict[str, tuple[str, ...]]:
    """Our kernel files and the libraries that they serve. They are looked up, because any may have been deleted."""
    spec = importlib.util.find_spec(f"{__package__}.kernels")
    if spec is None or spec.origin is None:
        return {}
    from .kernels import present

    return present()


def _load(name: str) -> Kernel | str:
    """One of our kernels, or the reason why it is absent: the package that it needs is not installed."""
    if name not in _loaded:
        try:
            _loaded[name] = importlib.import_module(f"{__package__}.kernels.{name}").KERNEL
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == __package__:
                raise  # a file of ours is broken; the package is not missing
            _loaded[name] = f"a package that it needs is not installed: no module named {error.name!r}"
    return _loaded[name]


def _table(library: str) -> tuple[Kernel, ...]:
    tables = _tables  # kept: a table that is built while another thread registers must not be stored in the new dict
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

    With `elements` it is the kernel for `Kernel.derivatives`.
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
        if found is not GENERIC and not _registered and not elements:
            _latest = problem, tables, found
    return found


def at_once(kernel: Kernel, problem: Problem, o: Operands, g: Any) -> tuple[Any, Any] | None:
    """The reduced loss and its gradient times g by `Kernel.reduced`, or None if the kernel does not serve it so."""
    if kernel.reduced is None or problem.reduction == "none" or problem.loss_dtype != o.dtype:
        return None
    return kernel.reduced(problem, o, None if g is None else float(g))


def problem_of(o: Operands, library: Library, device: Any) -> Problem:
    """The metadata of a block, for which no check has made a `Problem`: a kernel for it is selected by this one."""

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
    assert isinstance(found, Kernel)  # `_reason` returns a string unchanged
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
        return "a compiler or a function transform traces the call, and can trace the generic code only"
    return kernel.reason(problem, elements)


def explanation(problem: Problem, name: str | None = None) -> Explanation:
    """The kernel that `select` would choose, and the reason why it would not choose each other kernel."""
    chosen = select(problem, name)
    reasons = []
    ours = _ours()
    for other in names():
        if other == chosen.name:
            continue
        if other == GENERIC.name:
            reason: str | None = f"the reference; {chosen.name} comes first"
        elif other in ours and problem.library not in ours[other]:
            reason = f"it serves {', '.join(ours[other])}, not {problem.library}"  # found without importing its package
        else:
            reason = _reason(_find(other), problem)
        reasons.append((other, reason or f"it could serve this call; {chosen.name} comes first"))
    return Explanation(chosen.name, tuple(reasons), None if chosen.note is None else chosen.note(problem))
