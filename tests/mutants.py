"""Mutation testing: change one operator of the code that matters at a time, and see whether a test fails.

    python tests/mutants.py [--module NAME ...] [--jobs N] [--limit N] [--quick] [--resume]

Cosmic Ray makes the mutants, and its session in build/mutants keeps the results. 1600 cold starts of pytest would take
hours, so the tests are collected once in a process that forks for each mutant and replaces the code there in memory; no
file is rewritten. Prints the score and every survivor. Exits with 1 below 95 %, and for a survivor without a proof, or
a proof without a survivor, in tests/equivalents.toml: every survivor needs a test or a proof that it is harmless.
"""

import argparse
import ast
import gc
import importlib.util
import inspect
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tomllib
import warnings
import zlib
from collections.abc import Iterator
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from itertools import groupby
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "mutants"
COPY = BUILD / "copy"  # a copy of the checkout, which may be edited during the run
ENOUGH = 0.95
SECONDS = 120  # of processor time, for tests that take half a minute: a mutant that needs more counts as killed

# The tests of each module: first quick ones, on a permissive and a strict library; only for mutants that survive them,
# those on other libraries. No random tests, because a score must be reproducible.
LIGHT = ("-k", "not torch and not jax and not dask and not cupy and not slow_axis and not threads")
QUICK: dict[str, tuple[str, ...]] = {
    "_core": ("tests/test_core.py", "tests/test_hazards.py", *LIGHT),
    "_reduce": ("tests/test_reduce.py", "tests/test_core.py", *LIGHT),
    "_check": (
        "tests/test_check_forms.py",
        "tests/test_check_refusals.py",
        "tests/test_check_calls.py",
        "tests/test_module.py",
        *LIGHT,
    ),
    "_dispatch": ("tests/test_dispatch.py", "-k", "not atomic"),
    "_policy": ("tests/test_policy.py", "tests/test_check_refusals.py", "tests/test_core.py", *LIGHT),
}
OTHERS = (
    "tests/autograd/test_torch.py",
    "tests/libraries/test_dask.py",
    "-k",
    "not cluster and not processes and not jax",
)
THOROUGH: dict[str, tuple[str, ...]] = {
    "_core": ("tests/test_layouts.py", *OTHERS),
    "_reduce": OTHERS,
    "_check": (
        "tests/test_check_calls.py",
        "tests/test_core.py",
        "tests/test_dispatch.py",
        "tests/test_layouts.py",
        *OTHERS,
    ),
    "_dispatch": ("tests/test_dispatch.py", *OTHERS),
    "_policy": ("tests/test_policy.py", *OTHERS),
}
# Imported once instead of once for each mutant; none of them imports mlsm.
SLOW_IMPORTS = ("numpy", "ml_dtypes", "mpmath", "hypothesis", "array_api_strict", "numba", "torch", "dask.array",
                "array_api_compat.torch", "jax.numpy")  # fmt: skip


class Place(NamedTuple):
    """A mutant named by its change, so that an edit elsewhere in the file does not change the name."""

    where: str  # the function, "" for the module
    before: str
    after: str


class Mutant(NamedTuple):
    module: str
    job: str  # its id in the session
    place: Place
    code: str
    inside: bool  # only a function's body, which can be replaced after the import of the module


# ---------------------------------------------------------------- the mutants


def mutants(module: str, session: WorkDB) -> Iterator[Mutant]:
    """The mutants of one module that differ in meaning from the original.

    Mutants that Python's compiler refuses or warns about (`is "word"`) and those of annotations are left out: they fail
    at import or are never evaluated, and would raise the score.
    """
    original = (COPY / "mlsm" / f"{module}.py").read_text(encoding="utf-8")
    meaning, frame = _meaning(original), _meaning(original, bodies=False)
    for item in session.work_items:
        mutation = item.mutations[0]
        code = mutate_code(original, get_operator(mutation.operator_name)(), mutation.occurrence)
        assert code is not None, mutation
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                compile(code, module, "exec")
            except SyntaxError:
                continue
        if _meaning(code) != meaning:
            place = _place(mutation.definition_name or "", original, code)
            yield Mutant(module, item.job_id, place, code, _meaning(code, bodies=False) == frame)


def _meaning(code: str, *, bodies: bool = True) -> str:
    """The syntax tree without annotations."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
            node.body = node.body if bodies else []
    return ast.dump(tree)


def _place(where: str, original: str, code: str) -> Place:
    """The lines that differ: those between the common beginning and the common end."""
    before, after = original.splitlines(), code.splitlines()
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return Place(where, " ".join(line.strip() for line in before), " ".join(line.strip() for line in after))


# ---------------------------------------------------------------- replacing the original by a mutant


class Imported(Loader):
    """Finds the mutant in place of the module."""

    def __init__(self, mutant: Mutant) -> None:
        self.name, self.code = f"mlsm.{mutant.module}", mutant.code

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # the usual finder

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, f"{self.name}, mutated", "exec"), vars(module))


def exchange(mutant: Mutant) -> None:
    """Give each function of the imported module the mutant's code; every reference to the function gets it."""
    name = f"mlsm.{mutant.module}"
    codes = {c.co_qualname: c for c in _codes(compile(mutant.code, f"{name}, mutated", "exec"))}
    for function in _functions(sys.modules[name], name):
        function.__code__ = codes.get(function.__qualname__, function.__code__)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _functions(holder: Any, module: str) -> Iterator[FunctionType]:
    for value in vars(holder).values():
        if isinstance(value, type) and value.__module__ == module:
            yield from _functions(value, module)
        elif callable(value):
            function = inspect.unwrap(value)
            if isinstance(function, FunctionType) and function.__module__ == module:
                yield function


# ---------------------------------------------------------------- running tests


def work(file: Path, share: list[Mutant], name: str, tests: tuple[str, ...]) -> None:
    """A worker: runs each of its mutants in a separate process, and writes the result into the session."""
    os.chdir(COPY)
    sys.path.insert(0, str(COPY))  # before the finder of an editable installation
    for library in SLOW_IMPORTS:
        if importlib.util.find_spec(library.partition(".")[0]) is not None:
            importlib.import_module(library)
    warnings.filterwarnings("ignore", message=r"os.fork\(\)")  # JAX's, which has no threads without a backend
    gc.freeze()
    arguments = ["-x", "-qq", "--tb=line", "--capture=sys", "-p", "no:cacheprovider", *tests]
    with use_db(file) as session:
        for mutant in (m for m in share if not m.inside):
            if (child := os.fork()) == 0:
                _alone()
                sys.meta_path.insert(0, Imported(mutant))
                _leave(pytest.main(arguments))
            _record(session, mutant, name, child)
        forks = Forks(session, [m for m in share if m.inside], name)
        code = pytest.main(arguments, plugins=[forks])
        if forks.mutated:
            _leave(code)
        assert code == 0, f"pytest ended with {code}"


class Forks:
    """A plugin of pytest that runs the collected tests once for the original and then for each mutant."""

    def __init__(self, session: WorkDB, share: list[Mutant], name: str) -> None:
        self.session, self.share, self.name = session, share, name
        self.mutated = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None  # pytest's own loop reports that collecting failed
        gc.freeze()
        for mutant in (None, *self.share):
            if (child := os.fork()) == 0:
                _alone()
                self.mutated = True
                if mutant is not None:
                    exchange(mutant)
                return None  # pytest's own loop, which runs the tests
            if mutant is not None:
                _record(self.session, mutant, self.name, child)
            elif os.waitpid(child, 0)[1]:
                raise RuntimeError(f"the tests fail without any mutation:\n{_output(child)}")
        return True


def _alone() -> None:
    """In the child: send its output to a file, and limit its time."""
    file = os.open(str(BUILD / "output" / str(os.getpid())), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(10 * SECONDS)  # for one that waits forever


def _leave(code: int) -> None:
    sys.stdout.flush()
    os._exit(int(code))


def _output(child: int) -> str:
    file = BUILD / "output" / str(child)
    text = file.read_text(encoding="utf-8", errors="replace")
    file.unlink()
    return text


def _record(session: WorkDB, mutant: Mutant, name: str, child: int) -> None:
    _, status = os.waitpid(child, 0)
    outcome = TestOutcome.KILLED if status else TestOutcome.SURVIVED
    ended = WorkerOutcome.ABNORMAL if os.WIFSIGNALED(status) else WorkerOutcome.NORMAL
    session.set_result(mutant.job, WorkResult(ended, f"{name}\n{_output(child)}", outcome))
    print("." if status else "S", end="", file=sys.__stderr__, flush=True)


# ---------------------------------------------------------------- a run


class Tally(NamedTuple):
    killed: int
    by_signal: int  # of the killed: they crashed or exceeded their time
    equivalent: int
    survivors: list[Place]
    stale: list[Place]


def run(module: str, options: argparse.Namespace) -> Tally:
    source = COPY / "mlsm" / f"{module}.py"
    file = BUILD / f"{module}-{zlib.crc32(source.read_bytes()):08x}.sqlite"
    proved = harmless(module)
    with use_db(file) as session:
        if not (options.resume and session.num_work_items):
            init([source], session, {})
        chosen = list(mutants(module, session))
    if options.limit:
        chosen = chosen[:: max(1, len(chosen) // options.limit)][: options.limit]
    survivors = _survivors(file, chosen) if options.resume else chosen
    survivors = _put_to(file, survivors, "quick", QUICK[module], options.jobs)
    unproved = [m for m in survivors if m.place not in proved]
    if unproved and not options.quick:
        unproved = _put_to(file, unproved, "thorough", THOROUGH[module], options.jobs)
    with use_db(file) as session:
        ended = {job for job, result in session.results if result.worker_outcome == WorkerOutcome.ABNORMAL}
    seen = {m.place for m in survivors}
    equivalent = sum(m.place in proved for m in survivors)
    return Tally(
        len(chosen) - equivalent - len(unproved),
        sum(m.job in ended for m in chosen),
        equivalent,
        [m.place for m in unproved],
        [] if options.limit else sorted(proved - seen),
    )


def harmless(module: str) -> set[Place]:
    """The mutants of a module that no test can distinguish from the original, each with its proof."""
    entries = tomllib.loads((ROOT / "tests" / "equivalents.toml").read_text(encoding="utf-8")).get(module, [])
    assert all(entry["why"] for entry in entries), module
    return {Place(entry["where"], entry["before"], after) for entry in entries for after in entry["after"]}


def _survivors(file: Path, share: list[Mutant]) -> list[Mutant]:
    with use_db(file) as session:
        killed = {job for job, result in session.results if result.is_killed}
    return [m for m in share if m.job not in killed]


def _put_to(file: Path, share: list[Mutant], name: str, tests: tuple[str, ...], jobs: int) -> list[Mutant]:
    """The mutants that survive these tests."""
    context = multiprocessing.get_context("fork")
    parts = [part for i in range(jobs) if (part := share[i::jobs])]
    workers = [context.Process(target=work, args=(file, part, name, tests)) for part in parts]
    print(f"\n{file.stem}, {name}, {len(share)}: ", end="", file=sys.stderr, flush=True)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit(f"{file.stem}: a worker failed")
    return _survivors(file, share)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", action="append", choices=list(QUICK), help="repeatable (default: all of them)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time (default: one per core)")
    parser.add_argument("--limit", type=int, help="at most this many mutants per module, evenly spread")
    parser.add_argument("--quick", action="store_true", help="leave out the tests that are run for survivors only")
    parser.add_argument("--resume", action="store_true", help="try only what an earlier run has not killed")
    options = parser.parse_args()
    for folder in (COPY, BUILD / "output"):
        shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, COPY, ignore=ignored)
    (BUILD / "output").mkdir()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(COPY)}
    return report({module: run(module, options) for module in options.module or QUICK})


def report(tallies: dict[str, Tally]) -> int:
    for module, tally in tallies.items():
        for place in tally.stale:
            print(f"\n{module}: proved harmless, but no such mutant survives: {place}")
        for (where, before), group in groupby(sorted(tally.survivors), lambda place: place[:2]):
            # In the format of equivalents.toml; JSON strings are TOML strings.
            print(f"\n[[{module}]]\nwhere = {json.dumps(where)}\nbefore = {json.dumps(before)}\nafter = [")
            print("".join(f"    {json.dumps(place.after)},\n" for place in group) + ']\nwhy = ""')
    print("\nmodule     mutants  killed  (by signal)  equivalent  survivors")
    for module, (killed, by_signal, equivalent, survivors, _) in tallies.items():
        mutants = killed + equivalent + len(survivors)
        print(f"{module:<10} {mutants:>7}  {killed:>6}  {by_signal:>11}  {equivalent:>10}  {len(survivors):>9}")
    killed = sum(t.killed for t in tallies.values())
    every = killed + sum(t.equivalent + len(t.survivors) for t in tallies.values())
    print(f"{killed / max(1, every):.1%} of {every} mutants killed")
    return int(killed < ENOUGH * every or any(t.survivors or t.stale for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
