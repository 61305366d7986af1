"""Random calls of every kind, each judged: values within their bound, or a documented refusal.

    python -m tests.fuzz --seeds 20 --calls 500     # each seed in a process of its own, so that a crash is a finding
    python -m tests.fuzz --only 7:123               # one call again, with its arguments

A call mixes a library's variant, dtypes, layouts, options, kernels, questions and transforms. A third of them are
spoiled: an argument of another library or device, of a wrong shape or kind, in a format that is not a dense array,
or, for lazy arrays, of unknown lengths, in empty pieces, or with another shape than declared. Contains no bound: the
conformance suite judges. A call may raise only a TypeError or a ValueError that names an argument.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import math
import random
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlsm import _dispatch
from mlsm_conformance.backends import Backend, NotInstalled, Unsupported, find
from mlsm_conformance.cases.catalogue import THRESHOLDS
from mlsm_conformance.check import Ask, Context, allowed, exact, result_dtype
from mlsm_conformance.checks.elements import _column
from mlsm_conformance.formats import FORMATS, INTEGERS, round_to, step
from mlsm_conformance.run.tally import Tally
from mlsm_conformance.subjects import Declined, Mlsm
from mlsm_conformance.tensors import Case, Tensor, shape_of

# How often each variant is drawn: the slower a call, the less often.
VARIANTS = {
    "numpy": 50,
    "numpy-readonly": 10,
    "numpy-bfloat16": 16,
    "torch": 50,
    "dask": 16,
    "dask-chunked-class": 16,
    "dask-unknown": 16,
    "array-api-strict": 8,
    "array-api-strict-nodata": 8,
    "array-api-strict-nofloat64": 8,
    "jax": 2,
    "jax-x64": 2,
    "jax-jit": 1,
}
NAMES = ("input", "target", "weight", "pos_weight", "where", "grad_output")
REFUSALS = (TypeError, ValueError)


class Call(NamedTuple):
    """One call: its backend, kernel, question, case and transform."""

    backend: Backend
    kernel: str | None
    case: Case
    ask: Ask
    how: str  # "plain", "pair" (value_and_grad), "elements", "vjp", "jit" or "tracked"
    spoil: str = ""
    argument: str = ""

    def __str__(self) -> str:
        c = self.case
        kinds = {n: getattr(c, n) for n in ("input", "target", "weight", "pos_weight", "where")}
        told = {n: f"{v.dtype}{list(v.shape)}" if isinstance(v, Tensor) else v for n, v in kinds.items()}
        given = ", ".join(f"{n}={v}" for n, v in told.items() if v is not None)
        spoil = f", {self.spoil} `{self.argument}`" if self.spoil else ""
        return (
            f"{self.backend.name}, kernel {self.kernel}, {self.ask} {self.how}{spoil}: {given}, "
            f"label_smoothing={c.label_smoothing}, axis={c.axis}, layout={c.layout}"
        )


# ---------------------------------------------------------------- drawing


def _tensor(r: random.Random, shape: tuple[int, ...], dtype: str, one: Callable[[], Any]) -> Tensor:
    kind: Any = bool if dtype == "bool" else int if dtype in INTEGERS else lambda v: round_to(float(v), dtype)
    return Tensor(shape, tuple(kind(one()) for _ in range(math.prod(shape))), dtype)


def _logit(r: random.Random, dtype: str, wild: bool) -> float:
    pick = r.random()
    if wild and pick < 0.1:  # no product of the largest one with two weights leaves the range
        return r.choice((math.inf, -math.inf, math.nan, FORMATS[dtype].max / 64, -FORMATS[dtype].tiny))
    if pick < 0.3:
        return r.choice((1, -1)) * step(min(r.choice(THRESHOLDS), FORMATS[dtype].max / 4), dtype, r.randint(-2, 2))
    return r.choice((0.0, -0.0, r.gauss(0, 1), r.gauss(0, 5), r.uniform(-60, 60)))


def _shape(r: random.Random) -> tuple[int, ...]:
    sides = (1, 2, 3, 4, 5, 7, 16)
    shape = tuple(r.choice(sides) for _ in range(r.choice((1, 2, 2, 2, 2, 3))))
    if r.random() < 0.03:
        shape = (*shape[:-1], r.choice((33, 130)))
    if r.random() < 0.04 and len(shape) > 1:
        shape = (0, *shape[1:])
    return shape


def _narrowed(r: random.Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape` without enlarging it."""
    kept = tuple(n if r.random() < 0.6 else 1 for n in shape)
    return kept[r.randint(0, len(kept)) :]


def _weight(r: random.Random, shape: tuple[int, ...], dtypes: tuple[str, ...], lowest: float) -> Any:
    def one() -> float:
        return r.choice((1.0, 2.0, r.uniform(0.125, 8), r.uniform(lowest, 4), 0.0))

    pick = r.random()
    if pick < 0.5:
        return None
    if pick < 0.6:
        return r.choice((one(), r.randint(0, 3), True))
    drawn = _tensor(r, _narrowed(r, shape), r.choice(dtypes), one)
    return drawn.nested if pick < 0.7 and drawn.values and drawn.shape else drawn


def draw_case(r: random.Random, backend: Backend) -> Case:
    """A case that this backend can make."""
    while True:
        dtypes = backend.dtypes if r.random() < 0.4 else (r.choice(backend.dtypes),)
        shape, own = _shape(r), r.choice(dtypes)
        wild = r.random() < 0.25
        given = _tensor(r, shape, own, lambda own=own, wild=wild: _logit(r, own, wild))
        kinds = r.choice((*dtypes, *dtypes, "bool", "int8", "uint8", "int32"))
        soft = r.random() < 0.4 and kinds in FORMATS
        truth = _tensor(r, shape, kinds, (lambda: r.uniform(-0.2, 1.2)) if soft else (lambda: r.randint(0, 1)))
        where = _tensor(r, _narrowed(r, shape), "bool", lambda: r.random() < 0.7) if r.random() < 0.3 else None
        case = Case(
            "drawn",
            given,
            truth,
            weight=_weight(r, shape, dtypes, -1.0),
            pos_weight=_weight(r, shape, dtypes, 0.0),
            where=where,
            label_smoothing=r.choice((0.0, 0.0, 0.0, 0.1, 0.25, 1.0)),
            axis=-1 if r.random() < 0.7 else r.randint(-len(shape), len(shape) - 1),
            layout=r.choice([x for x in sorted(backend.layouts) if x != "broadcast"]) if math.prod(shape) else "C",
        )
        if case.classes and backend.serves(case):
            return case


def draw(r: random.Random) -> Call | None:
    """A call, or None where its library is not installed."""
    try:
        backend = find(r.choices(list(VARIANTS), list(VARIANTS.values()))[0])
    except NotInstalled:
        return None
    kernel = None if r.random() < 0.6 else r.choice(_dispatch.names())
    case = draw_case(r, backend)
    wrts = ["input", "input", "target"]
    wrts += [n for n in ("weight", "pos_weight") if getattr(case, n) is not None]
    quantity = r.choice(("loss", "loss", "gradient", "gradient", "hessian"))
    reduction = r.choice(("none", "mean", "sum"))
    wrt = r.choice(wrts) if quantity == "gradient" else "input"
    outer = None
    if quantity == "gradient" and r.random() < 0.4:
        rows = math.prod(case.batch) if reduction == "none" else 1
        outer = tuple(round_to(r.choice((1.0, -2.0, r.gauss(0, 3))), case.compute_dtype) for _ in range(rows))
    ask = Ask(quantity, reduction, wrt, outer)
    ways = ["plain"] * 6
    if quantity == "gradient" and wrt == "input":
        ways += ["pair"] * 2
    if quantity == "loss" and reduction == "none":
        ways += ["elements"] * 2
    differentiable = isinstance(getattr(case, wrt), Tensor) and getattr(case, wrt).dtype in FORMATS
    finite = all(map(math.isfinite, case.input.values))
    if "autograd" in backend.capabilities and quantity == "gradient" and differentiable and (finite or wrt == "input"):
        ways += ["vjp"] * 2
    if "jit" in backend.capabilities and backend.name != "jax-jit":
        ways += ["jit"]
    if backend.library == "torch":
        ways += ["tracked"]
    call = Call(backend, kernel, case, ask, r.choice(ways))
    if r.random() < 0.35 and backend.name != "jax-jit" and call.how in ("plain", "pair", "elements"):
        spoils = ["foreign", "shape", "junk", "kind", "device", "format"]
        if "unknown_sizes" in backend.capabilities:
            spoils += ["lie", "lie", "pieces", "unknown", "sum"]
        here = [n for n in NAMES[:5] if isinstance(getattr(case, n), Tensor)]
        if outer is not None and reduction == "none" and call.how != "elements":
            here.append("grad_output")
        call = call._replace(spoil=r.choice(spoils), argument=r.choice(here))
    return call


# ---------------------------------------------------------------- spoiling


class Unfit(Exception):
    """This spoil does not apply to this call, which stays unchanged."""


def _junk(r: random.Random) -> tuple[str, Any]:
    """An option or argument that must be refused."""
    nothing = [("input", None), ("target", None), ("target", [0, 1]), ("input", 1.0), ("where", [True])]
    nothing += [(n, v) for n in ("weight", "pos_weight") for v in ("1", 1j, object(), {}, [[1.0], [1.0, 2.0]], [None])]
    nothing += [(n, v) for n in NAMES for v in (np.zeros(3, object), np.ma.masked_array([1.0]), b"x", len)]
    nothing += [("reduction", v) for v in ("avg", None, 0)] + [("axis", v) for v in (99, 1.5, None, "rows")]
    nothing += [("label_smoothing", v) for v in (-0.1, 1.5, math.nan, "x", None)]
    return r.choice([n for n in nothing if n[0] != "grad_output"])


def spoiled(r: random.Random, call: Call, given: dict[str, Any]) -> bool:
    """Spoil `given` in place; whether the call must now be refused (else it must be refused or right)."""
    b, name = call.backend, call.argument
    value = _tensor_of(call, name)
    if call.spoil == "foreign":
        others = [n for n in VARIANTS if n in _installed() and find(n).library != b.library]
        other = find(r.choice(others))
        if value.dtype in FORMATS and value.dtype not in other.dtypes:
            raise Unfit
        given[name] = other.make(value)
        return True
    if call.spoil == "shape":
        last = call.case.batch[-1:] if name == "grad_output" else call.case.input.shape[-1:]
        if not last or not last[0]:
            raise Unfit
        shape = (*value.shape[:-1], last[0] + 1) if value.shape or name != "grad_output" else (2,)
        if r.random() < 0.3 and name != "grad_output":
            shape = (1, *call.case.input.shape)
        given[name] = b.make(Tensor(shape, (value.values[0] if value.values else 1,) * math.prod(shape), value.dtype))
        return True
    if call.spoil == "junk":
        option, junk = _junk(r)
        if call.how == "elements" and option in ("reduction", "axis"):
            raise Unfit
        given[option] = junk
        return True
    if call.spoil == "kind":  # integer logits, a mask of numbers
        chosen = {"input": "int32", "where": "float32"}.get(name)
        if chosen is None:
            raise Unfit
        numbers = (0,) * math.prod(value.shape) if chosen == "int32" else (0.0,) * math.prod(value.shape)
        given[name] = b.make(Tensor(value.shape, numbers, chosen))
        return True
    if call.spoil == "device":
        given["target"] = b.elsewhere(call.case.target)
        return True
    if call.spoil == "format":
        if len(value.shape) != 2 or not value.values or name == "grad_output":
            raise Unfit
        made = b.formats(value)
        if not made:
            raise Unfit
        given[name] = made[r.choice(sorted(made))][0]
        return False
    return _lazily(r, call, given, value)


def _lazily(r: random.Random, call: Call, given: dict[str, Any], value: Tensor) -> bool:
    """Likewise, for arrays that are made later."""
    b, name, axes = call.backend, call.argument, [i for i, n in enumerate(value.shape) if n]
    if call.spoil == "sum":
        weight = call.case.weight if name == "weight" else call.case.pos_weight
        if name not in ("weight", "pos_weight") or not isinstance(weight, Tensor) or weight.shape:
            raise Unfit
        given[name] = b.summed(Tensor((2,), (*weight.values, 0.0), weight.dtype))
        return False
    if not axes:
        raise Unfit
    axis = r.choice(axes)
    if call.spoil == "lie":
        length = r.choice([n for n in (0, 1, value.shape[axis] - 1, value.shape[axis] + 1) if n != value.shape[axis]])
        shape = (*value.shape[:axis], length, *value.shape[axis + 1 :])
        actual = Tensor(shape, (value.values or (0,))[:1] * math.prod(shape), value.dtype)
        given[name] = b.lying(value, actual)
        return True
    if call.spoil == "unknown":
        if name == "grad_output" or len(value.shape) < 2 or call.case.axis % len(value.shape) == 0:
            raise Unfit
        given[name] = b.unknown(value)
        return False
    pieces = []
    for n in value.shape:
        cut = r.randint(0, n)
        pieces.append(r.choice(((n,), (cut, n - cut), (cut, 0, n - cut), (n, 0))) if n > 1 else (n,))
    given[name] = b.pieces(value, pieces)
    return False


def _tensor_of(call: Call, name: str) -> Tensor:
    if name == "grad_output":
        assert call.ask.grad_output is not None
        return Tensor(call.case.batch, call.ask.grad_output, call.case.compute_dtype)
    value = getattr(call.case, name)
    assert isinstance(value, Tensor)
    return value


_here: list[str] = []


def _installed() -> list[str]:
    if not _here:
        for name in VARIANTS:
            try:
                find(name)
            except NotInstalled:
                continue
            _here.append(name)
    return _here


# ---------------------------------------------------------------- judging


class Finding(AssertionError):
    """A result or an exception that no call may have."""


def _documented(error: Exception) -> None:
    words = str(error).split("`")
    if len(words) < 3 or words[1].partition(".")[0].partition("[")[0] not in (*NAMES, *OTHERS):
        raise Finding(f"{type(error).__name__} names no argument in backticks: {error}") from error


OTHERS = ("reduction", "axis", "label_smoothing", "kernel", "wrt")


def perform(r: random.Random, call: Call) -> str:
    """One call, judged: "right", "refused" or "declined"; a Finding for anything else."""
    context = Context(call.backend, Mlsm(call.kernel), "full")
    b = call.backend
    with warnings.catch_warnings():
        # A lazy graph runs with the floating-point state of its scheduler.
        warnings.simplefilter("error" if b.silent and "lazy" not in b.capabilities else "ignore")
        with b.session(), b.flags() if "float_flags" in b.capabilities else contextlib.nullcontext():
            return _performed(r, call, context)


def _performed(r: random.Random, call: Call, context: Context) -> str:
    b, case, ask = call.backend, call.case, call.ask
    arrays = context.arrays(case)
    if ask.grad_output is not None and ask.reduction == "none" and call.how != "elements":
        arrays["grad_output"] = b.cotangent(_tensor_of(call, "grad_output"), case)
    must = False
    if call.spoil:
        try:
            must = spoiled(r, call, arrays)
        except (Unfit, Unsupported):
            call = call._replace(spoil="")
    before = [] if "lazy" in b.capabilities or call.spoil else [b.to_list(a) for a in arrays.values()]
    try:
        found = _asked(call, context, dict(arrays))
        seen = [(a, b.to_list(a)) for a in found]
    except Declined:
        return "declined"
    except REFUSALS as error:
        if not call.spoil:
            raise Finding(f"a right call was refused: {type(error).__name__}: {error}") from error
        _documented(error)
        return "refused"
    if must:
        raise Finding(f"nothing was refused; it gave {[s[:4] for _, s in seen]}")
    if before and not all(_same(x, b.to_list(a)) for x, a in zip(before, arrays.values(), strict=True)):
        raise Finding("an argument was written to")
    for one, (array, values) in zip(_questions(call), seen, strict=True):
        _judged(call, context, one, array, values)
    return "right"


def _same(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


def _questions(call: Call) -> list[Ask]:
    return [Ask("loss", call.ask.reduction), call.ask] if call.how == "pair" else [call.ask]


def _asked(call: Call, context: Context, arrays: dict[str, Any]) -> list[Any]:
    """The results, as arrays."""
    b, ask = call.backend, call.ask
    # A spoiled option keeps its name.
    fixed = {**context.options(call.case), **{n: arrays.pop(n) for n in OTHERS if n in arrays}}
    if call.how == "elements":
        fixed.pop("axis", None)
        return [context.subject.elements(**{**fixed, **arrays})]
    fixed = {"reduction": ask.reduction, **fixed}
    if call.how == "pair":
        outer = {} if ask.grad_output is None or "grad_output" in arrays else {"grad_output": ask.grad_output[0]}
        return list(context.subject.value_and_grad(**{**fixed, **arrays, **outer}))
    names = list(arrays)
    if call.how == "vjp":
        # Without the caller's cotangent, which is the seed of the differentiation.
        seed = arrays.pop("grad_output", None)
        if ask.grad_output is not None and seed is None:
            seed = b.make(Tensor((), _rounded(call), call.case.loss_dtype))
        elif seed is not None and call.case.loss_dtype != call.case.compute_dtype:
            seed = b.make(Tensor(call.case.batch, _rounded(call), call.case.loss_dtype))
        names = list(arrays)

        def loss(*values: Any) -> Any:
            return context.subject.loss(**dict(zip(names, values, strict=True)), **fixed)

        return [b.vjp(loss, list(arrays.values()), names.index(ask.wrt), seed)]

    def run(*values: Any) -> Any:
        given = {**fixed, **dict(zip(names, values, strict=True))}
        if ask.quantity == "loss":
            return context.subject.loss(**given)
        if ask.quantity == "hessian":
            return context.subject.hessian_diag(**given)
        if ask.grad_output is not None and "grad_output" not in given:
            given["grad_output"] = ask.grad_output[0]
        return context.subject.grad(**given, wrt=ask.wrt)

    if call.how == "tracked":
        for name in names:
            if name != "where" and arrays[name].is_floating_point():
                arrays[name] = arrays[name].detach().requires_grad_()
    if call.how == "jit":
        return [b.jit(run)(*arrays.values())]
    return [b.call(run, *arrays.values()) if not call.spoil else run(*arrays.values())]


def _rounded(call: Call) -> tuple[float, ...]:
    assert call.ask.grad_output is not None
    return tuple(round_to(v, call.case.loss_dtype) for v in call.ask.grad_output)


def _judged(call: Call, context: Context, ask: Ask, array: Any, seen: list[float]) -> None:
    b, case = call.backend, call.case
    if call.how == "elements":
        wanted, case = case.input.shape, _column(case)
    else:
        wanted = _shape_of(case, ask)
    if call.how == "vjp" and ask.grad_output is not None:
        ask = Ask(ask.quantity, ask.reduction, ask.wrt, _rounded(call))
    tally = Tally()
    tally.equal(b.shape_of(array), wanted, "shape")
    tally.equal(b.dtype_of(array), result_dtype(case, ask), "dtype")
    tally.true(b.owns(array), "the result is an array of another library")
    limits = "generic" if call.how in ("vjp", "elements", "pair") else context.limits(case)
    right = exact(case, ask).values
    room = allowed(case, ask, limits, context.flush, context.accumulator)
    tally.values(seen, right, room, str(ask), result_dtype(case, ask))
    if tally.violated:
        raise Finding(tally.reason)


def _shape_of(case: Case, ask: Ask) -> tuple[int, ...]:
    if ask.quantity == "loss":
        return case.batch if ask.reduction == "none" else ()
    return shape_of(getattr(case, ask.wrt))


# ---------------------------------------------------------------- the command


def one(seed: int, index: int, show: bool = False) -> str:
    """Judge the call of this seed and index; returns how it ended."""
    r = random.Random(f"{seed}:{index}")
    call = draw(r)
    if call is None:
        return "not installed"
    if show:
        print(call)
        print(call.case.input, call.case.target, call.case.weight, call.case.pos_weight, call.case.where, sep="\n")
    try:
        return perform(r, call)
    except Exception as error:  # any exception is a finding, reported with its call
        raise Finding(f"{seed}:{index}: {call}\n    {type(error).__name__}: {error}") from error


def seed_of_calls(seed: int, calls: int) -> tuple[Counter[str], list[str]]:
    """How the calls of one seed ended, and the findings."""
    fates: Counter[str] = Counter()
    found = []
    for index in range(calls):
        try:
            fates[one(seed, index)] += 1
        except Finding as finding:
            found.append(str(finding))
            fates["found"] += 1
    exact.cache_clear()
    allowed.cache_clear()
    return fates, found


def main() -> int:
    """The command: returns 0 if nothing was found."""
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="how many seeds")
    p.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    p.add_argument("--calls", type=int, default=500, metavar="N", help="calls of each seed")
    p.add_argument("--here", action="store_true", help="in this process, which a crash would end")
    p.add_argument("--only", metavar="SEED:CALL", help="repeat and print one call")
    args = p.parse_args()
    faulthandler.enable()
    if args.only:
        print(one(*map(int, args.only.split(":")), show=True))
        return 0
    bad = 0
    started = time.perf_counter()
    for seed in range(args.first, args.first + args.seeds):
        if args.here:
            fates, found = seed_of_calls(seed, args.calls)
            print(f"seed {seed}: {', '.join(f'{n} {fate}' for fate, n in sorted(fates.items()))}", *found, sep="\n")
            bad += len(found)
        else:
            words = [sys.executable, "-m", "tests.fuzz", "--here", "--first", str(seed), "--calls", str(args.calls)]
            code = subprocess.run(words, check=False).returncode
            if code < 0:
                print(f"seed {seed}: the process ended by signal {-code}")
            bad += code != 0
        sys.stdout.flush()
    if not args.here:
        seconds = time.perf_counter() - started
        print(f"{args.seeds * args.calls} calls in {seconds:.0f} s; {'' if bad else 'nothing '}found")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
