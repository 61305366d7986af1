"""Mutation testing: change one operator of the code that matters at a time and see whether a test notices.

    python tests/mutants.py [--module NAME ...] [--limit N]

Works on a copy of the checkout in build/mutants, because Cosmic Ray rewrites the files it mutates. Prints the share
that was killed and every survivor as a diff; exits 1 under 95 %. A survivor is either turned into a test or, with
the reason why no test can tell it from the original, added to EQUIVALENT. Slow: it runs the named tests once for each
mutant.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "mutants"
ENOUGH = 0.95

# What each module is tested by, the quickest first: the first failure ends a mutant. One library that is permissive and
# one that is strict are enough to tell a mutant, and others would cost a hundred times as long.
FAST = ["-k", "not torch and not jax and not dask and not cupy"]
TESTS = {
    "_core": ["tests/test_core.py", "tests/test_hazards.py"],
    "_reduce": ["tests/test_reduce.py", "tests/test_core.py", "tests/test_sums.py"],
    "_check": ["tests/test_check_refusals.py", "tests/test_layouts.py", "tests/test_module.py"],
    "_dispatch": ["tests/test_dispatch.py"],
    "_policy": ["tests/test_check_refusals.py", "tests/test_core.py"],
}

# (module, operator, occurrence) -> why it changes nothing that could be observed.
EQUIVALENT: dict[tuple[str, str, int], str] = {}


def copy() -> None:
    """The checkout as it is, uncommitted changes included."""
    shutil.rmtree(COPY, ignore_errors=True)
    made = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, COPY, ignore=made)


def cosmic_ray(*words: str) -> str:
    """Run one of its commands in the copy, with the copy's own package first on the path."""
    command = [sys.executable, "-m", "cosmic_ray.cli", *words]
    done = subprocess.run(command, cwd=COPY, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def mutate(module: str, limit: int | None) -> list[tuple[tuple[str, str, int], bool, str]]:
    """Every mutant of a module: its identity, whether it was killed, and its diff."""
    # An absolute PYTHONPATH, because an editable installation would otherwise win with the original.
    pytest = ["env", f"PYTHONPATH={COPY}", sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command = " ".join([*pytest, *TESTS[module], FAST[0], f"'{FAST[1]}'"])
    config = COPY / f"{module}.toml"
    config.write_text(
        "[cosmic-ray]\n"
        f'module-path = "mlsm/{module}.py"\n'
        "timeout = 120.0\n"
        "excluded-modules = []\n"
        f"test-command = {json.dumps(command)}\n"
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    session = f"{module}.sqlite"
    cosmic_ray("baseline", config.name)  # the tests pass before anything is changed, or nothing below means a thing
    cosmic_ray("init", config.name, session)
    if limit is not None:
        keep(COPY / session, limit)
    cosmic_ray("exec", config.name, session)
    found = []
    for line in cosmic_ray("dump", session).splitlines():
        item, result = json.loads(line)
        mutation = item["mutations"][0]
        identity = (module, mutation["operator_name"], mutation["occurrence"])
        killed = result is not None and result["test_outcome"] != "survived"
        found.append((identity, killed, "" if result is None else result.get("diff") or ""))
    return found


def keep(session: Path, limit: int) -> None:
    """Forget all but `limit` mutants, evenly spread: a sample for a first look."""
    import sqlite3

    with sqlite3.connect(session) as database:
        jobs = [row[0] for row in database.execute("SELECT job_id FROM work_items ORDER BY job_id")]
        kept = set(jobs[:: max(1, len(jobs) // limit)][:limit])
        gone = [(job,) for job in jobs if job not in kept]
        database.executemany("DELETE FROM mutation_specs WHERE job_id = ?", gone)
        database.executemany("DELETE FROM work_items WHERE job_id = ?", gone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", action="append", choices=list(TESTS), help="repeatable (default: all of them)")
    parser.add_argument("--limit", type=int, help="at most so many mutants a module, evenly spread")
    options = parser.parse_args()
    copy()
    found = [mutant for module in options.module or TESTS for mutant in mutate(module, options.limit)]
    survivors = [m for m in found if not m[1] and m[0] not in EQUIVALENT]
    for (module, operator, occurrence), _, diff in survivors:
        print(f"\nsurvivor: ({module!r}, {operator!r}, {occurrence})\n{diff}")
    for identity, reason in EQUIVALENT.items():
        print(f"equivalent: {identity}: {reason}")
    score = 1 - len(survivors) / max(1, len(found))
    print(f"\n{len(found)} mutants, {len(survivors)} survived, {score:.1%} killed or equivalent")
    return int(score < ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
