"""Runs the checks: over a backend into a record, and, under pytest, as two classes that strangers subclass.

The whole of a third party's test file for a library, or for a kernel:

    from mlsm_conformance.suite import BackendSuite

    class TestMyLibrary(BackendSuite):
        backend = "mylib"

Holds no rule and no bound; refuses to turn an exception into anything but a failed check with its reason.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from .backends import CAPABILITIES, Backend, NotInstalled, Unsupported, find
from .check import GROUPS, LEVELS, Ask, Check, Context, allowed, exact, result_dtype
from .checks import CHECKS
from .record import BackendRecord, CheckRecord, Status
from .run.tally import Tally
from .subjects import Declined, Mlsm, Subject
from .tensors import Case

FOREIGN_GROUPS = ("values", "special", "laws")
"""What somebody else's loss is judged by, unless it is said otherwise."""
PREREQUISITES = ("namespace.make", "namespace.functions", "namespace.recognised")


class UnknownCheck(ValueError):
    """No check and no group has this name."""


def select(names: Sequence[str] = (), level: str = "quick", foreign: bool = False) -> list[Check]:
    """The checks of these ids or groups (all by default) that belong to `level`, in a fixed order."""
    rank = LEVELS.index(level)
    if not names:
        groups = FOREIGN_GROUPS if foreign else tuple(GROUPS)
        return [c for c in CHECKS if c.group in groups and LEVELS.index(c.level) <= rank and (c.anybody or not foreign)]
    ids = {c.id for c in CHECKS}
    for name in names:
        if name not in ids and name not in GROUPS:
            raise UnknownCheck(f"{name!r} is neither a check nor a group; `list` shows both")
    # A check that is asked for by its id runs at any level.
    return [c for c in CHECKS if c.id in names or (c.group in names and LEVELS.index(c.level) <= rank)]


def by_id(id: str) -> Check:
    """The check of this id."""
    for c in CHECKS:
        if c.id == id:
            return c
    raise UnknownCheck(f"no check is called {id!r}; `list` shows them")


def run_check(c: Check, context: Context) -> CheckRecord:
    """One check on one backend: never raises for what the subject or the library does."""
    started = time.perf_counter()

    def record(status: Status, reason: str = "", tally: Tally | None = None) -> CheckRecord:
        return CheckRecord(
            id=c.id,
            group=c.group,
            status=status,
            reason=reason,
            worst=None if tally is None else tally.worst,
            seconds=round(time.perf_counter() - started, 4),
            cases=0 if tally is None else tally.judged,
        )

    for need in sorted(c.needs - context.backend.capabilities):
        return record("skip", f"{context.backend.name} does not declare `{need}`: {CAPABILITIES[need]}")
    for offer in sorted(c.offers - context.subject.offers):
        return record("skip", f"{context.subject.name} offers no {offer}")
    if not c.anybody and not context.ours:
        return record("skip", "it states mlsm's own contract")
    tally = Tally()
    try:
        with warnings.catch_warnings():
            # mlsm is silent, always. Others may warn: `special.silent` says so, and the numbers are judged all the
            # same.
            warnings.simplefilter("error" if context.ours and context.backend.silent else "ignore")
            with context.backend.session(), _flags(context):
                c.run(context, tally)
    except (Declined, Unsupported) as reason:
        if c.id in PREREQUISITES:  # what cannot even be made is no case to pass by
            tally.fail(str(reason))
        else:
            tally.passed_by(str(reason))
    except Exception as error:
        # Whatever a strange library raises is its verdict, not our traceback.
        text = " ".join(str(error).split())
        tally.fail(f"raised {type(error).__name__}: {text[:400]}")
    known = context.backend.known.get(c.id)
    if known is None and context.subject.kernel == "generic":
        known = context.backend.known_generic.get(c.id)
    if tally.violated:
        return record("fail" if known is None else "xfail", tally.reason if known is None else known, tally)
    if known is not None:
        return record("fail", f"listed as a known failure ({known}), but it passes: take it off the list", tally)
    return record("pass" if tally.judged else "skip", tally.reason, tally)


def _flags(context: Context) -> contextlib.AbstractContextManager[Any]:
    if context.ours and "float_flags" in context.backend.capabilities:
        return context.backend.flags()
    return contextlib.nullcontext()


def run_backend(
    context: Context, checks: Iterable[Check], progress: Callable[[CheckRecord], None] | None = None
) -> BackendRecord:
    """These checks on one backend; once a prerequisite has failed, the rest is skipped and says so."""
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


def again(backend: str, case: str, quantity: str, reduction: str = "mean", wrt: str = "input") -> None:
    """Ask one question again and print what came, what was right, and the bound: the line that a report's worst case
    gives."""
    from .checks import find_case

    context = Context(find(backend), level="full")
    found: Case = find_case(case)
    ask = Ask(quantity, reduction, wrt)
    with context.backend.session():
        seen = context.backend.to_list(context.answer(found, ask))
        limits = context.limits(found)
    bound = allowed(found, ask, limits, context.flush, context.accumulator)
    print(f"{found}  {ask}  in {result_dtype(found, ask)} on {backend}")
    for place, (s, r, b) in enumerate(zip(seen, exact(found, ask).values, bound, strict=True)):
        mark = "" if s == r or abs(s - r) <= b or (s != s and r != r) else "   <-- outside its bound"
        print(f"  [{place}] {s!r:>26}  exactly {r!r:>26}  allowed ±{b:.3g}{mark}")


# ------------------------------------------------------------ under pytest


@functools.cache
def _context(backend: str | Backend, kernel: str | None, level: str) -> Context:
    made = find(backend) if isinstance(backend, str) else backend
    return Context(made, Mlsm(kernel), level)


def _kernels() -> tuple[str, ...]:
    from mlsm import _dispatch

    return _dispatch.names()


class BackendSuite:
    """Subclass it with `backend`: a name, or an instance of `Backend`. Every check becomes a test."""

    backend: ClassVar[str | Backend] = ""
    kernel: ClassVar[str | None] = None
    level: ClassVar[str] = "quick"
    checks: ClassVar[tuple[str, ...]] = ()
    """Ids or groups; all of them by default."""
    expected: ClassVar[dict[str, str]] = {}
    """Check id -> reason, for failures that are known; one that passes fails the test."""

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

        try:
            context = _context(self.backend, self.kernel, self.level)
        except NotInstalled as absent:
            pytest.skip(str(absent))
        if self.kernel is not None and self.kernel not in _kernels():
            pytest.skip(f"mlsm has no kernel called {self.kernel!r} here: its file is not there")
        own = self.subject()
        if own is not None:
            context = Context(context.backend, own, self.level)
        result = run_check(conformance_check, context)
        reason = self.expected.get(result.id)
        if reason is not None:
            assert result.status == "fail", f"expected to fail ({reason}), but {result.status}: take it off the list"
            pytest.xfail(reason)
        if result.status == "skip":
            pytest.skip(result.reason)
        if result.status == "xfail":
            pytest.xfail(result.reason)
        assert result.status == "pass", f"{result.id}: {conformance_check.rule}\n{result.reason}"


class KernelSuite(BackendSuite):
    """Subclass it with `kernel`, a registered name, and `backend`, what its arrays are (NumPy's by default)."""

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
