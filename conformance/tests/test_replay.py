"""Every line of a report can be pasted: it asks the same question again and shows the same number.

For mlsm and for losses of others, every check at the level of `--conformance-level` (smoke in `make test`; a job of the
workflow does it at quick, on more libraries: `--replay torch`).
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import shlex
from pathlib import Path

import pytest

from .. import backends, record
from ..__main__ import main
from ..record import CheckRecord
from ..reference.bounds import ulp
from ..suite import BackendSuite

HERE = f"{__package__}.losses"
SUBJECTS: dict[str, list[str | None]] = {
    "numpy": [None, f"{HERE}.wrong:log_of_one_plus", f"{HERE}.hostile:returns_nan", f"{HERE}.right:numpy_loss"],
    "torch": [None, "mlsm_conformance.peers:torch_bce_with_logits", "torch.nn.functional:multilabel_soft_margin_loss"],
    "jax-x64": [None, "mlsm_conformance.peers:optax_sigmoid_bce"],
    "array-api-strict": [None],
    "dask": [None],
}
NUMBERS = re.compile(r": ([^ ]+), exactly ([^ ]+), allowed ±([^ ]+)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each subject on the chosen backend."""
    backend = metafunc.config.getoption("--replay")
    if "impl" in metafunc.fixturenames:
        found = SUBJECTS.get(backend, [None])
        metafunc.parametrize(("backend", "impl"), [(backend, i) for i in found], ids=[i or "mlsm" for i in found])


def pasted(line: str) -> tuple[int, str]:
    """The exit code (0 for a line of Python) and the output of a line."""
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        if line.startswith("python -m "):
            code = main(shlex.split(line)[3:])
        else:
            exec(line, {})
    return code, out.getvalue()


def replay(check: CheckRecord, line: str) -> None:
    """Assert that a line shows the number of the check."""
    code, said = pasted(line)
    if line.startswith("python -m "):
        assert code == (check.status == "fail"), (line, said)
        assert (f"  FAIL {check.id}: " in said) == (check.status == "fail"), (line, said)
        return
    numbers = NUMBERS.search(said)
    if check.worst is not None and line == check.worst.repro:
        assert numbers, (line, said)
        seen, right, allowed = map(float, numbers.groups())
        dtype = re.search(r" in (\w+) on ", said)
        assert dtype, said
        unit = ulp(right, dtype[1])
        off = abs(seen - right) / unit if math.isfinite(seen) else math.inf
        assert off == pytest.approx(check.worst.ulp, rel=1e-6), (line, said)
        assert allowed / unit == pytest.approx(check.worst.bound, rel=2e-2), (line, said)
        return
    if numbers:
        assert "outside its bound" in said, (line, said)
        assert f"{numbers[1]}, exactly {numbers[2]}" in check.reason, (line, said, check.reason)
    else:
        assert re.search("raised|expected", said), (line, said)
        assert re.search("raised|expected", check.reason), (line, check.reason)


def test_every_line_of_a_report_shows_its_number_again(backend: str, impl: str | None, tmp_path: Path) -> None:
    try:
        backends.find(backend)
    except backends.NotInstalled as absent:
        pytest.skip(str(absent))
    out = tmp_path / "a.json"
    words = ["run", backend, "--level", BackendSuite.level, "--json", str(out), "--no-curves", "--jobs", "1"]
    if impl is not None:
        words += ["--impl", impl]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) in (0, 1)
    lines = 0
    for check in record.read(out).backends[0].checks:
        repro = [check.worst.repro] if check.worst is not None else []
        for line in dict.fromkeys((*check.again, *repro)):
            replay(check, line)
            lines += 1
        assert check.status != "fail" or check.again, check.id
    assert lines >= 4


def test_a_line_that_shows_another_number_is_noticed(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ["run", "numpy", "--level", "smoke", "--check", "values.hard", "--json", str(out), "--no-curves"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
    (check,) = record.read(out).backends[0].checks
    assert check.worst is not None
    replay(check, check.worst.repro)
    other = CheckRecord(check.id, check.group, "pass", worst=record.Worst(1e3, 4.0, "", check.worst.repro))
    with pytest.raises(AssertionError):
        replay(other, check.worst.repro)
