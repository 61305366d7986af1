"""A check, and its context: a backend, a subject, a level, and the functions that ask for a value and judge it.

Contains no rule (the rules are in `checks/`) and does not run a list of checks (`suite.py` does).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from .backends import Backend, Unsupported
from .cases.catalogue import catalogue
from .formats import FORMATS
from .reference import bounds, oracle
from .run.tally import Question, Tally, Violation
from .subjects import Declined, Mlsm, Subject
from .tensors import Case, Tensor

T = TypeVar("T")
FAILURES = (Exception, SystemExit)
"""Exceptions of a loss or a library that fail a check: a loss that ends the program has failed, too."""
LEVELS = ("smoke", "quick", "full", "exhaustive")
SMOKE = frozenset(
    {
        "namespace.make",
        "namespace.functions",
        "namespace.recognised",
        "values.hard",
        "values.tail",
        "values.plain",
        "derivatives.hard",
        "derivatives.tail",
        "derivatives.plain",
        "special.infinite",
        "special.zero",
        "special.nan",
        "types.dtype",
        "types.library",
        "refusals.target-shape",
        "labels.set",
    }
)
"""The checks of level smoke: a first test in seconds, in float32 alone."""
GROUPS: dict[str, str] = {
    "namespace": "prerequisites: the library, and the capabilities that the backend declares",
    "values": "the loss against the oracle",
    "derivatives": "gradient, Hessian diagonal and the pullbacks of every argument against the oracle",
    "elements": "`sigmoid_binary_cross_entropy`, the element that the rows are means of, against the oracle",
    "labels": "labels as positives only, and the linear head, against the oracle and the dense call",
    "laws": "identities between results, without the oracle",
    "special": "infinities, NaN, signed zeros, empty batches, and that nothing warns",
    "types": "dtype, shape, device and library of every result",
    "purity": "no argument is changed, and no result shares memory with one",
    "lazy": "nothing is computed or copied to the host before the caller reads a result",
    "determinism": "the same call gives the same bits",
    "threads": "many threads that call at once",
    "memory": "how much a call needs in addition to its result",
    "refusals": "the whole error table",
    "transforms": "the library's own differentiation, tracing, mapping and compiling",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """One rule, with an id that never changes its meaning."""

    id: str
    rule: str
    bound: str
    run: Callable[[Context, Tally], None]
    needs: frozenset[str] = frozenset()
    """Capabilities that a backend needs for the rule to apply."""
    offers: frozenset[str] = frozenset({"loss"})
    """What the subject must offer."""
    level: str = "quick"
    """The lowest level that includes it."""
    anybody: bool = True
    """Whether it applies to any loss, or only to mlsm's own contract."""

    @property
    def group(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]


def check(
    id: str, rule: str, bound: str = "exactly", **options: Any
) -> Callable[[Callable[[Context, Tally], None]], Check]:
    """Make a function of (context, tally) a check."""
    if id in SMOKE:
        options["level"] = "smoke"
    for name in ("needs", "offers"):
        if name in options:
            options[name] = frozenset(options[name])
    return lambda run: Check(id, rule, bound, run, **options)


@dataclasses.dataclass(frozen=True)
class Ask:
    """One question to a subject: a quantity of a case, with its reduction."""

    quantity: str  # "loss", "gradient" or "hessian"
    reduction: str = "mean"
    wrt: str = "input"
    grad_output: tuple[float, ...] | None = None

    def __str__(self) -> str:
        by = "" if self.wrt == "input" else f" for {self.wrt}"
        return f"{self.quantity}{by} ({self.reduction})"


@functools.lru_cache(maxsize=1 << 15)
def exact(case: Case, ask: Ask) -> oracle.Answer:
    """The right answer; cached, since every backend is asked the same."""
    given = _cotangent(ask)
    if ask.quantity == "loss":
        return oracle.loss(case, ask.reduction)
    if ask.quantity == "gradient":
        return oracle.grad(case, ask.reduction, ask.wrt, given)
    return oracle.hessian_diag(case, ask.reduction)


@functools.lru_cache(maxsize=1 << 15)
def allowed(case: Case, ask: Ask, limits: str, flush: frozenset[str], accumulator: str) -> tuple[float, ...]:
    """The bound of each value of the answer; cached likewise."""
    if ask.quantity == "loss":
        return bounds.bound_loss(case, ask.reduction, limits, flush, accumulator)
    if ask.quantity == "gradient":
        return bounds.bound_grad(case, ask.reduction, ask.wrt, _cotangent(ask), limits, flush, accumulator)
    return bounds.bound_hessian(case, ask.reduction, limits, flush)


def _cotangent(ask: Ask) -> Any:
    if ask.grad_output is None:
        return None
    return ask.grad_output if ask.reduction == "none" else ask.grad_output[0]


def floats_of(case: Case) -> set[str]:
    """The floating dtypes that take part in a case."""
    given = (case.input, case.target, case.weight, case.pos_weight)
    return {t.dtype for t in given if isinstance(t, Tensor) and t.dtype in FORMATS}


def result_dtype(case: Case, ask: Ask) -> str:
    """The dtype that the answer must have."""
    if ask.quantity == "loss":
        return case.loss_dtype
    return case.grad_dtype(ask.wrt if ask.quantity == "gradient" else "input")


@dataclasses.dataclass(frozen=True)
class Cause:
    """One mistake of a loss, in a sentence, and the violations that it explains."""

    sentence: str
    explains: Callable[[Violation], bool]
    check: str
    """The check whose rule it breaks."""


class Context:
    """One backend, one subject, one level: everything that a check may use."""

    def __init__(
        self,
        backend: Backend,
        subject: Subject | None = None,
        level: str = "quick",
        dtypes: Sequence[str] | None = None,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"`level` must be one of {', '.join(LEVELS)}; got {level!r}")
        self.backend = backend
        self.subject = subject if subject is not None else Mlsm()
        self.level = level
        self.asked_dtypes = tuple(dtypes) if dtypes is not None else None
        self.causes: list[Cause] = []
        """The mistakes of the subject that are known before the checks begin."""
        self.expected: dict[str, dict[str, str]] = {}
        """Check id -> case -> why it is known to fail."""
        self.stale: list[str] = []
        """Expected cases that did not fail."""
        if dtypes is None and level == "smoke" and "float32" in backend.dtypes:
            dtypes = ("float32",)
        self.dtypes = tuple(d for d in backend.dtypes if dtypes is None or d in dtypes)
        self.flush = frozenset(FORMATS) - {"float16"} if "flushes_subnormals" in backend.capabilities else frozenset()
        self.accumulator = "float64" if "float64" in backend.capabilities else "float32"
        self.check = ""
        """The id of the check that is running; `run_check` sets it."""

    @property
    def ours(self) -> bool:
        """Whether mlsm itself is judged."""
        return isinstance(self.subject, Mlsm)

    def together(self, task: str, **given: Any) -> contextlib.AbstractContextManager[list[str]]:
        """A context for a task that every process with a part of this backend's arrays has to run."""
        if not self.ours or type(self.subject) is not Mlsm:
            return self.backend.together("nothing")  # a function cannot be sent; a check that needs that reports it
        kernel = None if self.subject.kernel == "auto" else self.subject.kernel
        return self.backend.together(task, kernel=kernel, level=self.level, dtypes=list(self.dtypes), **given)

    def catalogue(self) -> Iterator[Case]:
        """The named cases of this level, in this backend's dtypes."""
        level = "full" if self.level == "exhaustive" else self.level
        # All dtypes first, then a selection: every backend gets the same objects, whose exact answers are cached.
        for case in catalogue(level, tuple(FORMATS)):
            if floats_of(case) <= set(self.dtypes) and self.backend.serves(case):
                yield case

    @property
    def expensive(self) -> bool:
        """Whether calls are so slow on this backend that, at this level, only some cases are run."""
        return self.backend.slow >= 4 and self.level not in ("full", "exhaustive")

    def subsample(self, cases: Sequence[T], most: int = 48) -> list[T]:
        """All cases on a fast backend or at level full; on a slow one an even selection, the same every time."""
        most = max(2, round(most * 4 / self.backend.slow))
        if not self.expensive or len(cases) <= most:
            return list(cases)
        return [cases[i * len(cases) // most] for i in range(most)]

    def arrays(self, case: Case) -> dict[str, Any]:
        """The array arguments of a case."""
        return self.backend.arguments(case)

    def options(self, case: Case) -> dict[str, Any]:
        """Its other arguments."""
        plain = {"weight": case.weight, "pos_weight": case.pos_weight}
        out: dict[str, Any] = {k: v for k, v in plain.items() if v is not None and not isinstance(v, Tensor)}
        if case.label_smoothing:
            out["label_smoothing"] = case.label_smoothing
        if case.axis != -1:
            out["axis"] = case.axis
        return out

    @property
    def few_dtypes(self) -> tuple[str, ...]:
        """The dtypes, or the widest alone where calls are slow."""
        return self.dtypes[-1:] if self.expensive else self.dtypes

    @property
    def wide_dtypes(self) -> list[str]:
        """float32 and float64, or the wider alone where calls are slow (half precisions use the same formula, cast)."""
        wide = [d for d in self.dtypes if d in ("float32", "float64")]
        return wide[-1:] if self.expensive else wide

    def array(self, values: Sequence[float], shape: Sequence[int], dtype: str) -> Any:
        """A plain array of this backend."""
        return self.backend.make(Tensor(tuple(shape), tuple(values), dtype))

    def call(self, function: Callable[..., Any], arrays: dict[str, Any], **fixed: Any) -> Any:
        """A function of arguments by name, called as this backend calls: `fixed` stays outside its trace."""
        return self.backend.call(by_place(function, arrays, **fixed), *arrays.values())

    def answer(self, case: Case, ask: Ask) -> Any:
        """What the subject answers, as an array of the backend. Raises `Declined` or `Unsupported`."""
        return self.answers(case, [ask])[0]

    def numbers(self, case: Case, *asks: Ask) -> list[list[float]]:
        """What the subject answers, as flat lists; raises likewise."""
        return [self.backend.to_list(array) for array in self.answers(case, asks)]

    def answers(self, case: Case, asks: Sequence[Ask], arrays: dict[str, Any] | None = None) -> list[Any]:
        """Several answers in one call of the backend (one trace, where it traces); `arrays` in place of the case's."""
        arrays = self.arrays(case) if arrays is None else arrays
        fixed = self.options(case)
        self.subject.claims({**arrays, **fixed})
        cotangents: dict[str, Any] = {}
        for index, ask in enumerate(asks):
            if ask.grad_output is None:
                continue
            if ask.reduction == "none":
                # A library's own differentiation requires the dtype of the loss.
                dtype = case.loss_dtype if self.subject.differentiates else case.compute_dtype
                cotangents[f"cotangent{index}"] = self.backend.cotangent(
                    Tensor(case.batch, ask.grad_output, dtype), case
                )

        def run(**given: Any) -> list[Any]:
            seeds = {name: given.pop(name) for name in cotangents}
            return [self.one(ask, given, seeds.get(f"cotangent{i}")) for i, ask in enumerate(asks)]

        return list(self.call(run, {**arrays, **cotangents}, **fixed))

    def one(self, ask: Ask, given: dict[str, Any], cotangent: Any = None) -> Any:
        """The subject's answer to one question with these arguments."""
        given = {**given, "reduction": ask.reduction}
        if ask.quantity == "loss":
            return self.subject.loss(**given)
        if ask.quantity == "hessian":
            return self.subject.hessian_diag(**given)
        if ask.grad_output is not None:
            given["grad_output"] = ask.grad_output[0] if cotangent is None else cotangent
        if ask.wrt != "input":
            given["wrt"] = ask.wrt
        return self.subject.grad(**given)

    def limits(self, case: Case) -> str:
        """The name of the set of element budgets that the contract promises for this call."""
        if self.backend.library != "torch" or not self.ours or self.subject.kernel == "generic":
            return self.limits_of({})
        return self.limits_of({**self.arrays(case), **self.options(case)})

    def limits_of(self, given: dict[str, Any]) -> str:
        """Likewise, of a call's arguments. PyTorch's own exp is better than NumPy's, but a kernel may not use it."""
        if self.backend.library != "torch" or not self.ours:
            return "generic"
        if self.subject.kernel == "generic":
            return "torch"
        import mlsm

        return "torch" if mlsm.explain(**given).chosen == "generic" else "generic"

    def allowed(self, case: Case, ask: Ask, limits: str) -> tuple[float, ...]:
        """The bound of each value of an answer here."""
        room = allowed(case, ask, limits, self.flush, self.accumulator)
        # A Hessian by differentiating twice is the difference s - s*s: three budgets, as in `checks/transforms.py`.
        return tuple(3 * r for r in room) if ask.quantity == "hessian" and self.subject.differentiates else room

    @property
    def reductions(self) -> tuple[str, ...]:
        """The reductions of the subject, in the order in which they are asked."""
        has = self.subject.reductions
        return tuple(r for r in ("none", "mean", "sum") if r in has)

    @property
    def reduction(self) -> str:
        """The reduction that shows most: the first one of the subject."""
        return self.reductions[0] if self.reductions else "none"

    def concerns(self, tally: Tally, case: Case) -> bool:
        """Whether a case can be built here and the subject claims it; if not claimed, the reason is counted."""
        if not self.backend.serves(case):
            return False
        names = ("input", "weight", "pos_weight", "where", "label_smoothing", "axis")
        try:
            self.subject.claims({name: getattr(case, name) for name in names})
        except Declined as reason:
            tally.passed_by(str(reason))
            return False
        return True

    def offered(self, asks: Sequence[Ask], tally: Tally | None = None) -> list[Ask]:
        """The questions that the subject offers to answer; for the others the reason is counted."""
        out = []
        for ask in asks:
            why = self.subject.lacking("arguments" if ask.wrt != "input" else ask.quantity)
            if not why:
                out.append(ask)
            elif tally is not None:
                tally.passed_by(why)
        return out

    def owed(self, case: Case, asks: Sequence[Ask]) -> list[Ask]:
        """The questions that any loss must answer. A finite Hessian at a NaN target is promised by mlsm only."""
        nan = any(y != y for y in case.target.values)
        return [ask for ask in asks if self.ours or not nan or ask.quantity != "hessian"]

    def tried(
        self, tally: Tally, case: Case, asks: Sequence[Ask], arrays: dict[str, Any] | None = None, read: bool = True
    ) -> list[Any]:
        """The answers as flat lists (as arrays without `read`), None for each that is missing.

        If they cannot be computed together, each is asked alone: a missing second derivative does not hide the first.
        """
        try:
            found = self.answers(case, asks, arrays)
        except (Declined, Unsupported) as reason:
            if len(asks) == 1 or self.ours:
                tally.passed_by(str(reason))
                return [None] * len(asks)
        except FAILURES as error:  # a verdict on this call; the others are still judged
            if len(asks) == 1:
                what = f"{case.name}: raised {raised(error)}"
                what += "" if asks[0].quantity == "loss" else f" for the {asks[0]}"
                tally.fail(what, "raised", self.again(case, asks[0]))
                return [None]
        else:
            return [
                self._read(tally, case, ask, array) if read else array for ask, array in zip(asks, found, strict=True)
            ]
        return [self.tried(tally, case, [ask], arrays, read)[0] for ask in asks]

    def _read(self, tally: Tally, case: Case, ask: Ask, array: Any) -> list[float] | None:
        try:
            return self.backend.to_list(array)
        except FAILURES:
            kind = type(array)
            what = (
                f"{case.name}: {ask} is a {kind.__module__}.{kind.__qualname__}, which {self.backend.name} cannot read"
            )
            tally.fail(what, "type", self.again(case, ask))
            return None

    def judge(self, tally: Tally, case: Case, asks: Sequence[Ask], arrays: dict[str, Any] | None = None) -> None:
        """Ask about a case that can be built here, and judge every value by its bound. A question that does not concern
        the subject is counted as not asked."""
        asks = self.owed(case, self.offered(asks, tally)) if self.backend.serves(case) else []
        if not asks:
            return
        alone = [ask for ask in asks if ask.reduction == "none" and "none" not in self.reductions]
        if alone and _is_column(case) and arrays is None:
            # Without row losses, each row is a call of its own: a lost tail would not show in the mean of many rows.
            for i in self.subsample(sorted({p: i for i, p in enumerate(_pairs(case))}.values())):
                row = row_of(case, i)
                self.judge(tally, row, [dataclasses.replace(ask, reduction=self.reduction) for ask in alone])
            asks = [ask for ask in asks if ask not in alone]
            if not asks:
                return
        found = self.tried(tally, case, asks, arrays)
        if all(seen is None for seen in found):
            return
        limits = self.limits(case)
        for ask, seen in zip(asks, found, strict=True):
            if seen is not None:
                self.judge_one(tally, case, ask, seen, limits)

    def judge_one(self, tally: Tally, case: Case, ask: Ask, seen: Sequence[float], limits: str) -> None:
        """Judge one answer that has been read already."""
        right, bound = exact(case, ask).values, self.allowed(case, ask, limits)
        what = f"{case.name}: {ask} on {self.backend.name}"
        question = Question(case, ask.quantity, ask.reduction, ask.wrt)
        tally.values(seen, right, bound, what, result_dtype(case, ask), self.again(case, ask), question)

    def judge_transformed(
        self,
        tally: Tally,
        case: Case,
        ask: Ask,
        array: Any,
        how: str,
        times: float = 1.0,
        leave: Sequence[int] = (),
    ) -> None:
        """Judge the result of a transform of the library by `times` budgets, without the positions in `leave`."""
        seen, right = self.backend.to_list(array), exact(case, ask).values
        room = allowed(case, ask, "generic", self.flush, self.accumulator)
        if len(seen) != len(right):
            tally.fail(f"{case.name}: {ask} by {how}: {len(seen)} values, {len(right)} expected")
            return
        kept = [i for i in range(len(right)) if i not in leave]
        tally.values(
            [seen[i] for i in kept],
            [right[i] for i in kept],
            [times * room[i] for i in kept],
            f"{case.name}: {ask} by {how}",
            result_dtype(case, ask),
            question=None if leave else Question(case, ask.quantity, ask.reduction, ask.wrt),
        )

    def again(self, case: Case, ask: Ask) -> str:
        """A line to paste: it asks the same question of the same case, and prints the answer and the right one."""
        if not self.check:
            return ""
        words = [self.backend.found_as or self.backend.name, self.check, case.name, ask.quantity, ask.reduction]
        more: dict[str, Any] = {}
        if ask.wrt != "input":
            more["wrt"] = ask.wrt
        if ask.grad_output is not None:
            more["grad_output"] = ask.grad_output
        if self.level != "quick":
            more["level"] = self.level
        if self.asked_dtypes is not None:
            more["dtypes"] = self.asked_dtypes
        given = ", ".join([*map(repr, words), *(f"{k}={v!r}" for k, v in {**more, **self.subject.named}.items())])
        return f"from mlsm_conformance.suite import again; again({given}, place=PLACE)"

    def command(self) -> str:
        """A line for a shell: it runs only the check that is running now."""
        words = ["python -m mlsm_conformance run", self.backend.found_as or self.backend.name, "--check", self.check]
        if self.level != "quick":
            words += ["--level", self.level]
        words += [f"--dtype {name}" for name in self.asked_dtypes or ()]
        for name, value in self.subject.named.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return " ".join(words)


def by_place(function: Callable[..., Any], names: Iterable[str], **fixed: Any) -> Callable[..., Any]:
    """A function of keyword arguments as one of positional values in the order of `names`, which transforms need."""
    names = tuple(names)

    def placed(*values: Any) -> Any:
        return function(**dict(zip(names, values, strict=True)), **fixed)

    return placed


def raised(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _pairs(case: Case) -> list[tuple[str, str]]:
    return [(repr(x), repr(y)) for x, y in zip(case.input.values, case.target.values, strict=True)]


def _is_column(case: Case) -> bool:
    options = (case.weight, case.pos_weight, case.where)
    return len(case.input.shape) == 2 and case.input.shape[1] == 1 and case.axis == -1 and options == (None,) * 3


@functools.lru_cache(maxsize=1 << 13)
def row_of(case: Case, index: int) -> Case:
    """One row of a case of one class, as a case of its own."""
    x, y = (Tensor((1, 1), (t.values[index],), t.dtype) for t in (case.input, case.target))
    return dataclasses.replace(case, name=f"{case.name}-row{index}", input=x, target=y)
