"""Runs the checks: on a backend, into a record; and under pytest, as classes for other projects to subclass.

A third party's whole test file for a library, or for a kernel:

    from mlsm_conformance.suite import BackendSuite

    class TestMyLibrary(BackendSuite):
        backend = "mylib"

Contains no rule and no bound. An exception always becomes a failed check with its reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from .backends import CAPABILITIES, Backend, NotInstalled, Unsupported, find
from .check import FAILURES, GROUPS, LEVELS, Ask, Cause, Check, Context, exact, raised, result_dtype, row_of
from .checks import CHECKS
from .record import BackendRecord, CheckRecord, Status
from .run.diagnose import diagnose
from .run.tally import Question, Tally, Violation
from .subjects import Declined, Foreign, Subject, subject_of
from .tensors import Case

OF_A_LIBRARY = ("namespace",)
"""Groups that judge the library and not the loss. Whether its arrays can be made is checked for every loss."""
PREREQUISITES = ("namespace.make", "namespace.functions", "namespace.recognised")


class UnknownCheck(ValueError):
    """No check and no group has this name."""


def select(names: Sequence[str] = (), level: str = "quick") -> list[Check]:
    """The checks of these ids or groups (all by default) that belong to `level`, in a fixed order.

    Checks that do not concern a subject are included: `run_check` skips them with the reason.
    """
    rank = LEVELS.index(level)
    if not names:
        return [c for c in CHECKS if LEVELS.index(c.level) <= rank]
    ids = {c.id for c in CHECKS}
    for name in names:
        if name not in ids and name not in GROUPS:
            raise UnknownCheck(f"{name!r} is neither a check nor a group; `list` shows both")
    # A check that is given by its id runs at any level.
    return [c for c in CHECKS if c.id in names or (c.group in names and LEVELS.index(c.level) <= rank)]


def by_id(id: str) -> Check:
    """The check of this id."""
    for c in CHECKS:
        if c.id == id:
            return c
    raise UnknownCheck(f"no check is called {id!r}; `list` shows them")


def run_check(c: Check, context: Context) -> CheckRecord:
    """One check on one backend: never raises, whatever the subject or the library does."""
    started = time.perf_counter()

    def record(status: Status, reason: str = "", tally: Tally | None = None) -> CheckRecord:
        seconds = round(time.perf_counter() - started, 4)
        if tally is None:
            return CheckRecord(c.id, c.group, status, reason, seconds=seconds)
        worst = tally.worst
        if worst is not None and not worst.repro:
            worst = dataclasses.replace(worst, repro=context.command())
        told = tally.told
        return CheckRecord(
            id=c.id,
            group=c.group,
            status=status,
            reason=reason,
            worst=worst,
            seconds=seconds,
            cases=tally.judged,
            passed_over=dict(tally.passed_over),
            again=tuple(dict.fromkeys(v.repro or context.command() for v in told)),
            causes=explained(tally.violations, context.causes),
            severity=told[0].severity if told else (),
        )

    context.check = c.id
    if not context.ours:
        if not c.anybody:
            return record("skip", "it states mlsm's own contract")
        if c.group in OF_A_LIBRARY and c.id not in PREREQUISITES:
            return record("skip", "it judges the array library, not a loss")
    for need in sorted(c.needs - context.backend.capabilities):
        return record("skip", f"{context.backend.name} does not declare `{need}`: {CAPABILITIES[need]}")
    for offer in sorted(c.offers - context.subject.offers):
        return record("skip", context.subject.lacking(offer))
    expected = context.expected.get(c.id, {})
    tally = Tally(expected)
    heard: list[str] = []
    try:
        with warnings.catch_warnings():
            # mlsm must never warn. Other libraries may: `special.silent` reports it, and the numbers are still
            # judged.
            warnings.simplefilter("error" if context.ours and context.backend.silent else "ignore")
            with context.together("check", id=c.id) as heard, context.backend.session(), _flags(context):
                c.run(context, tally)
    except (Declined, Unsupported) as reason:
        if c.id in PREREQUISITES:  # arrays that cannot be made are a failure, not a skipped case
            tally.fail(str(reason))
        else:
            tally.passed_by(str(reason))
    except FAILURES as error:  # an exception of the library is a verdict, not a traceback
        tally.fail(f"raised {raised(error)}")
    if heard and not tally.violated:
        tally.fail(heard[0])
    known = context.backend.known.get(c.id)
    if known is None and context.subject.kernel == "generic":
        known = context.backend.known_generic.get(c.id)
    if tally.violated:
        return record("fail" if known is None else "xfail", tally.reason if known is None else known, tally)
    if known is not None:
        return record("fail", f"listed as a known failure ({known}), but it passes: take it off the list", tally)
    context.stale += [
        f"{context.backend.name}:{c.id}/{case} was expected to fail ({expected[case]}), but it did not"
        for case in sorted(expected.keys() - tally.known)
    ]
    if tally.known:
        return record("xfail", "; ".join(f"{case}: {expected[case]}" for case in sorted(tally.known)), tally)
    return record("pass" if tally.judged else "skip", tally.reason, tally)


def explained(violations: Sequence[Violation], causes: Sequence[Cause]) -> tuple[str, ...]:
    """The causes that together explain every violation; none if one is left over. An exception explains itself."""
    found: dict[str, None] = {}
    for violation in violations:
        sentence = next((c.sentence for c in causes if c.explains(violation)), "")
        if not sentence and "raised " in violation.text:
            sentence = "raises " + violation.text.partition("raised ")[2].partition(" for the ")[0]
        if not sentence:
            return ()
        found[sentence] = None
    return tuple(found)


def _flags(context: Context) -> contextlib.AbstractContextManager[Any]:
    if context.ours and "float_flags" in context.backend.capabilities:
        return context.backend.flags()
    return contextlib.nullcontext()


def run_backend(
    context: Context, checks: Iterable[Check], progress: Callable[[CheckRecord], None] | None = None
) -> BackendRecord:
    """These checks on one backend; after a failed prerequisite the others are skipped with that reason."""
    found: list[CheckRecord] = []
    broken = ""
    for c in checks:
        if broken:
            result = CheckRecord(c.id, c.group, "skip", f"the prerequisite {broken} failed")
        else:
            result = run_check(c, context)
            if result.status == "fail" and c.id in PREREQUISITES:
                broken = c.id
        found.append(result)
        if progress is not None:
            progress(result)
    b = context.backend
    return BackendRecord(
        name=b.name,
        library=b.library,
        device=b.device,
        kernel=context.subject.kernel,
        dtypes=context.dtypes,
        capabilities=tuple(sorted(b.capabilities)),
        checks=tuple(found),
    )


class _Found(BaseException):
    """Raised by a check that makes the wanted case; a BaseException, so that no check takes it for a failure."""

    def __init__(self, case: Case, arrays: dict[str, Any] | None) -> None:
        self.case = case
        self.arrays = arrays


class _Finder(Context):
    """A context that asks nothing and stops at one case, because only the checks know their cases."""

    wanted = ""

    def _look(self, case: Case, arrays: dict[str, Any] | None) -> None:
        if case.name == self.wanted:
            raise _Found(case, arrays)
        name, row, number = self.wanted.rpartition("-row")
        if row and name == case.name and number.isdigit():
            raise _Found(row_of(case, int(number)), None)

    def judge(self, tally: Tally, case: Case, asks: Sequence[Ask], arrays: dict[str, Any] | None = None) -> None:
        self._look(case, arrays)

    def judge_one(self, tally: Tally, case: Case, ask: Ask, seen: Sequence[float], limits: str) -> None:
        self._look(case, None)

    def tried(
        self, tally: Tally, case: Case, asks: Sequence[Ask], arrays: dict[str, Any] | None = None, read: bool = True
    ) -> list[Any]:
        self._look(case, arrays)
        return [None] * len(asks)


def again(
    backend: str,
    check: str,
    case: str,
    quantity: str,
    reduction: str = "mean",
    wrt: str = "input",
    *,
    grad_output: Sequence[float] | None = None,
    place: int | None = None,
    level: str = "quick",
    dtypes: Sequence[str] | None = None,
    impl: str | None = None,
    kernel: str | None = None,
    elementwise: bool = False,
) -> None:
    """Ask one question of a check again and print the answer, the right one, and the bound; a report prints this call
    for each violation. `place` chooses one value of the answer; without it all are shown."""
    found = find(backend)
    subject = subject_of(found, impl, kernel, elementwise)
    if isinstance(subject, Foreign):
        diagnose(Context(found, subject, level, dtypes))
    finder = _Finder(found, subject, level, dtypes)
    finder.wanted = case
    context = Context(found, subject, level, dtypes)
    context.check = finder.check = check
    arrays: dict[str, Any] | None = None
    asked: dict[str, Any] = {"check": check, "case": case, "quantity": quantity, "reduction": reduction, "wrt": wrt}
    asked |= {"grad_output": grad_output, "place": place}
    with context.together("again", **asked), warnings.catch_warnings(), found.session():
        warnings.simplefilter("ignore")
        try:
            by_id(check).run(finder, Tally())
        except _Found as hit:
            it, arrays = hit.case, hit.arrays
        else:
            raise KeyError(f"{check} has no case called {case!r} on {backend}")
        ask = Ask(quantity, reduction, wrt, None if grad_output is None else tuple(grad_output))
        print(f"{it}  {ask}  in {result_dtype(it, ask)} on {backend}")
        try:
            seen = context.backend.to_list(context.answers(it, [ask], arrays)[0])
        except FAILURES as error:
            print(f"  raised {raised(error)}")
            return
        bound = context.allowed(it, ask, context.limits(it))
    right = exact(it, ask).values
    if len(seen) != len(right):
        print(f"  {len(seen)} values, {len(right)} expected: {seen[:8]}")
        return
    question = Question(it, quantity, reduction, wrt)
    for at, (s, r, b) in enumerate(zip(seen, right, bound, strict=True)):
        if place in (None, at):
            outside = not (s == r or abs(s - r) <= b or (s != s and r != r))
            mark = "   <-- outside its bound" if outside else ""
            print(f"  [{at}] {question.words(at)}: {s!r}, exactly {r!r}, allowed ±{b:.3g}{mark}")


# ------------------------------------------------------------ under pytest


class BackendSuite:
    """Subclass it with `backend`: a name, or an instance of `Backend`. Every check becomes a test."""

    backend: ClassVar[str | Backend] = ""
    kernel: ClassVar[str | None] = None
    impl: ClassVar[str] = ""
    elementwise: ClassVar[bool] = False
    level: ClassVar[str] = "quick"
    checks: ClassVar[tuple[str, ...]] = ()
    """Ids or groups; all of them by default."""
    expected: ClassVar[dict[str, str]] = {}
    """Check id, or `id/case`, -> reason, for failures that are known; one that passes fails the test."""

    def subject(self) -> Subject | None:
        """Override it to judge something other than mlsm itself."""
        return None

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        """One test for each check (called by pytest)."""
        if cls.backend and "conformance_check" in metafunc.fixturenames:
            chosen = select(cls.checks, cls.level)
            metafunc.parametrize("conformance_check", chosen, ids=[c.id for c in chosen])

    def test_conforms(self, conformance_check: Check) -> None:
        """The check passes, is skipped with a reason, or fails with one."""
        import pytest

        if self.kernel is not None and ":" not in self.kernel and self.kernel not in _kernels():
            pytest.skip(f"mlsm has no kernel called {self.kernel!r} here: its file is missing")
        try:
            context = _context(self.backend, self.kernel, self.impl, self.elementwise, self.level)
        except NotInstalled as absent:
            pytest.skip(str(absent))
        own = self.subject()
        if own is not None:
            context = Context(context.backend, own, self.level)
        context.expected = {}
        for name, why in self.expected.items():
            id, slash, case = name.partition("/")
            if slash:
                context.expected.setdefault(id, {})[case] = why
        result = run_check(conformance_check, context)
        reason = self.expected.get(result.id)
        if reason is not None:
            assert result.status == "fail", f"expected to fail ({reason}), but {result.status}: take it off the list"
            pytest.xfail(reason)
        if result.status == "skip":
            pytest.skip(result.reason)
        if result.status == "xfail":
            pytest.xfail(result.reason)
        assert not context.stale, context.stale.pop()
        lines = "\n".join((*result.causes, *result.again))
        assert result.status == "pass", f"{result.id}: {conformance_check.rule}\n{result.reason}\n{lines}"


@functools.cache
def _context(backend: str | Backend, kernel: str | None, impl: str, elementwise: bool, level: str) -> Context:
    made = find(backend) if isinstance(backend, str) else backend
    context = Context(made, subject_of(made, impl or None, kernel, elementwise), level)
    if impl:
        diagnose(context)
    return context


def _kernels() -> tuple[str, ...]:
    from mlsm import _dispatch

    return _dispatch.names()


class KernelSuite(BackendSuite):
    """Subclass it with `kernel`, a registered name or `pkg.module:kernel`, and `backend`, the library of its arrays."""

    backend: ClassVar[str | Backend] = ""
    checks: ClassVar[tuple[str, ...]] = (
        "values",
        "derivatives",
        "laws",
        "special",
        "types",
        "purity",
        "determinism",
        "threads",
        "memory",
    )


class LossSuite(BackendSuite):
    """Subclass it with `impl`, a foreign loss as `pkg.module:callable`, and `backend`, the library of its arrays
    (NumPy by default)."""

    backend: ClassVar[str | Backend] = "numpy"
    checks: ClassVar[tuple[str, ...]] = (
        "values",
        "derivatives",
        "laws",
        "special",
        "types",
        "purity",
        "determinism",
        "threads",
        "transforms",
    )
