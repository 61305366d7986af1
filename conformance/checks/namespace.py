"""Prerequisites: the library does what the generic code needs, and the backend has what it declares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..backends import CAPABILITIES, Backend, Unsupported
from ..check import Check, Context, check
from ..formats import FORMATS
from ..run.tally import Tally
from ..tensors import Tensor


@check(
    "namespace.make",
    "Arrays of every declared dtype can be made and read back exactly: zeros, infinities and NaN included.",
)
def make(context: Context, tally: Tally) -> None:
    for dtype in context.dtypes:
        form = FORMATS[dtype]
        values = (0.0, -0.0, 1.0, -2.5, form.min_normal, form.max, math.inf, -math.inf, math.nan, 0.5)
        array = context.array(values, (2, 5), dtype)
        tally.exactly(context.backend.to_list(array), values, f"{dtype}")
        tally.equal(context.backend.shape_of(array), (2, 5), f"{dtype}: shape")
        tally.equal(context.backend.dtype_of(array), dtype, "dtype")
    array = context.array((True, False, True), (3,), "bool")
    tally.exactly(context.backend.to_list(array), (1.0, 0.0, 1.0), "bool")


@check(
    "namespace.functions",
    "The functions of the Array API standard that a generic loss needs exist, and mean what the standard says.",
    "the standard's meaning",
)
def functions(context: Context, tally: Tally) -> None:
    xp = context.backend.namespace()
    x = context.array((-1.5, 0.0, 2.0, -0.25), (2, 2), "float32")
    read = context.backend.to_list

    def one(name: str, result: Callable[[], Any], expected: tuple[float, ...]) -> None:
        try:
            tally.exactly(read(result()), expected, name)
        except Exception as error:  # the verdict names what is missing
            tally.fail(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")

    # Each function is called by itself: a namespace whose `where` or `astype` means something else is found here.
    one("comparison", lambda: x >= 0, (0, 1, 1, 0))
    one("astype", lambda: xp.astype(x >= 0, xp.float32), (0, 1, 1, 0))
    one("where", lambda: xp.where(x >= 0, x, xp.zeros_like(x)), (0, 0, 2, 0))
    one("isinf", lambda: xp.isinf(x), (0, 0, 0, 0))
    one("negative", lambda: -x, (1.5, 0, -2, 0.25))
    one("arithmetic", lambda: 2 * x - 1, (-4, -1, 3, -1.5))
    one("sum over an axis", lambda: xp.sum(x, axis=-1), (-1.5, 1.75))
    one("sum with dtype", lambda: xp.sum(x, dtype=x.dtype), (0.25,))
    one("reshape", lambda: xp.reshape(x, (-1,)), (-1.5, 0, 2, -0.25))
    one("moveaxis", lambda: xp.moveaxis(x, 0, -1), (-1.5, 2, 0, -0.25))
    one("exp", lambda: xp.exp(xp.zeros_like(x)), (1, 1, 1, 1))
    one("log1p", lambda: xp.log1p(xp.zeros_like(x)), (0, 0, 0, 0))
    one("indexing with None", lambda: x[..., None], (-1.5, 0, 2, -0.25))
    one("full", lambda: xp.full((2,), 0.5, dtype=xp.float32), (0.5, 0.5))
    one("any", lambda: xp.any(x >= 0, axis=-1), (1, 1))
    tally.equal(xp.result_type(xp.float32, xp.float32), xp.float32, "result_type")


@check("namespace.recognised", "mlsm recognises the arrays and names their library.", anybody=False)
def recognised(context: Context, tally: Tally) -> None:
    import mlsm

    x = context.array((0.5, -1.0), (1, 2), "float32")
    y = context.array((1.0, 0.0), (1, 2), "float32")
    tally.true(bool(mlsm.explain(x, y).chosen), "explain names no kernel")
    value = context.backend.to_list(mlsm.multilabel_soft_margin_loss(x, y, kernel="generic"))
    tally.true(len(value) == 1 and abs(value[0] - 0.39366933584213257) < 1e-6, f"the loss of two elements: {value}")
    tally.true(context.backend.owns(mlsm.multilabel_soft_margin_loss(x, y)), "the loss belongs to another library")


# ------------------------------------------------------------ capabilities, in both directions


def _tensor(dtype: str = "float32") -> Tensor:
    return Tensor((2, 2), (0.5, -1.0, 2.0, 0.25), dtype)


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(what)


def _float(dtype: str) -> Callable[[Backend], None]:
    def probe(b: Backend) -> None:
        made = b.make(_tensor(dtype))
        # A library that silently gives another dtype does not have this one.
        _expect(b.dtype_of(made) == dtype, f"{dtype} became {b.dtype_of(made)}")
        _expect(b.to_list(made + made) == [1.0, -2.0, 4.0, 0.5], f"{dtype} does not add")

    return probe


def _layouts(*names: str) -> Callable[[Backend], None]:
    def probe(b: Backend) -> None:
        for layout in names:
            values = (0.5, -1.0, 0.5, -1.0)  # equal rows, which "broadcast" needs
            made = b.make(Tensor((2, 2), values, "float32"), layout)
            _expect(b.to_list(made) == list(values), f"layout {layout} changes the values")

    return probe


def _writable(b: Backend) -> None:
    made = b.make(_tensor())
    b.write(made, 7.0)
    _expect(b.to_list(made) == [7.0] * 4, "writing changed nothing")


def _watched(b: Backend) -> None:
    """Reading a value raises, and nothing before that does."""
    made = b.make(_tensor())
    b.unseen(lambda x: x + x, made)
    try:
        b.unseen(lambda x: b.to_list(x + x), made)
    except Exception:  # each library has its own exception, and any exception shows that reading was noticed
        return
    raise Unsupported("reading a value was not noticed")


def _square(x: Any) -> Any:
    return x * x


def _autograd(b: Backend) -> None:
    _expect(
        b.to_list(b.vjp(_square, [b.make(_tensor())], 0)) == [1.0, -2.0, 4.0, 0.5], "the derivative of x*x is not 2x"
    )


def _forward(b: Backend) -> None:
    x, ones = b.make(_tensor()), b.make(Tensor((2, 2), (1.0,) * 4, "float32"))
    _expect(b.to_list(b.jvp(_square, x, ones)) == [1.0, -2.0, 4.0, 0.5], "the derivative of x*x is not 2x")


def _mapped(kind: str) -> Callable[[Backend], None]:
    def probe(b: Backend) -> None:
        x = b.make(_tensor())
        if kind == "vmap":
            result = b.vmap(_square, x)
        else:
            result = (b.jit if kind == "jit" else b.compile)(_square)(x)
        _expect(b.to_list(result) == [0.25, 1.0, 4.0, 0.0625], "x*x is not x*x")

    return probe


def _lazy(b: Backend) -> None:
    made = b.make(_tensor())
    total = b.unseen(lambda x: x + x, made)
    # A result that was built while computing was forbidden can be computed later.
    _expect(b.to_list(total) == [1.0, -2.0, 4.0, 0.5], "the result, built without computing, cannot be computed later")
    _expect(type(total) is type(made), "the result, built without computing, is not an array of the library")


def _unknown(b: Backend) -> None:
    made = b.unknown(_tensor())
    length = made.shape[0]
    _expect(length is None or length != length, "the length is known")
    _expect(b.to_list(made) == [0.5, -1.0, 2.0, 0.25], "the values are not those given")


def _flushes(b: Backend) -> None:
    try:
        seen = b.to_list(b.namespace().exp(b.make(Tensor((1,), (-100.0,), "float32"))))[0]
    except FloatingPointError as flag:
        raise Unsupported(f"it flags a subnormal result: {flag}") from flag
    _expect(seen == 0.0, f"exp(-100) is {seen!r} in float32: subnormal, not flushed")


def _flags(b: Backend) -> None:
    x = b.make(Tensor((1,), (-100.0,), "float32"))
    try:
        with b.flags():
            b.to_list(b.namespace().exp(x) * 1e-30)
    except FloatingPointError:
        return
    raise Unsupported("an underflow raised nothing")


def _readonly(b: Backend) -> None:
    made = b.make(_tensor(), "read_only")
    try:
        b.write(made, 1.0)
    except (ValueError, TypeError, Unsupported):
        return
    raise AssertionError("a read-only array was written to")


def _any_byte(b: Backend) -> None:
    made = b.as_bool(b.make(Tensor((2, 2), (0, 1, 2, 255), "uint8")))
    _expect(b.dtype_of(made) == "bool", f"bytes became {b.dtype_of(made)}")
    _expect([bool(v) for v in b.to_list(made)] == [False, True, True, True], "a byte other than 0 is not true")


PROBES: dict[str, Callable[[Backend], None]] = {
    "float16": _float("float16"),
    "bfloat16": _float("bfloat16"),
    "float64": _float("float64"),
    "writable": _writable,
    "layouts": _layouts("F", "broadcast", "offset_view"),
    "foreign_layouts": _layouts("byte_swapped", "unaligned"),
    "readonly": _readonly,
    "any_byte": _any_byte,
    "lazy": _lazy,
    "unknown_sizes": _unknown,
    "watched": _watched,
    "autograd": _autograd,
    "forward": _forward,
    "vmap": _mapped("vmap"),
    "jit": _mapped("jit"),
    "compile": _mapped("compile"),
    "flushes_subnormals": _flushes,
    "float_flags": _flags,
}
REFUSALS = (Unsupported, NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, UserWarning)
"""The exceptions that are a clean refusal of an undeclared capability (a warning is an error here)."""


def _capability(name: str) -> Check:
    def run(context: Context, tally: Tally) -> None:
        declared = name in context.backend.capabilities
        try:
            PROBES[name](context.backend)
        except REFUSALS as refusal:
            tally.true(not declared, f"`{name}` is declared, but: {refusal}")
        else:
            tally.true(declared, f"`{name}` is not declared, but it works: {CAPABILITIES[name]}")

    rule = f"`{name}` ({CAPABILITIES[name]}): works if declared, refuses cleanly if not."
    return check(f"namespace.capability.{name}", rule)(run)


for _name in CAPABILITIES:
    globals()[f"capability_{_name}"] = _capability(_name)
