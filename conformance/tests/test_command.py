"""The command line: every exit code, every option, and no traceback, whatever a user names."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .. import backends, record
from ..__main__ import COMMANDS, main
from ..record import BackendRecord, CheckRecord
from ..run import workers
from ..run.command import read_expected
from ..run.plan import apply_expected
from ..run.progress import Progress
from ..subjects import base, peers

FAST = ["--check", "values.hard", "--check", "special.zero", "--dtype", "float32"]


def test_conforming_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "numpy", "--level", "smoke"]) == 0
    assert "numpy: conforms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "no_such_library"], "no_such_library"),
        (["run", "numpy", "--check", "valves"], "valves"),
        (["run", "numpy", "--impl", "no_such_module:f"], "no_such_module"),
        (["run", "numpy", "--impl", "math"], "pkg.module:callable"),
        (["run", "numpy", "--impl", "math:pi"], "float"),
        (["run", "numpy", "--impl", "math:no_such_name"], "no_such_name"),
        (["run", "numpy", "--kernel", "warp"], "generic"),
        (["run", "numpy", "--jobs", "0"], "--jobs"),
        (["run", "numpy", "--kernel", "generic", "--impl", "math:sqrt"], "exclude"),
        (["run", "numpy", "--expected-failures", "no such file"], "no such file"),
        (["show", "values.no-such"], "values.no-such"),
        (["sabotage", "no_such_library"], "no_such_library"),
        ([], "usage"),
        (["no-such-command"], "no-such-command"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_exits_with_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def absent() -> str:
    """The name of a backend that is not installed."""
    names = [*backends.installed()[1]]
    if not names:
        pytest.skip("every backend is installed here")
    return names[0]


def test_a_backend_that_is_not_installed_exits_with_2(absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", absent]) == 2
    assert absent in capsys.readouterr().err


def test_a_required_backend_that_is_absent_exits_with_1(absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "numpy", *FAST, "--require", absent]) == 1
    assert f"required: {absent}" in capsys.readouterr().out


def test_a_required_backend_that_is_installed_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "numpy", *FAST, "--require", "numpy", "--require", "numpy-readonly"]) == 0
    assert "numpy-readonly: conforms" in capsys.readouterr().out


def test_a_run_in_which_no_check_applies_does_not_conform(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "numpy", "--check", "lazy"]) == 1
    assert "SAYS NOTHING" in capsys.readouterr().out


PACKAGE = __package__.partition(".")[0]
PEER = f"{PACKAGE}.peers:torch_bce_with_logits"


def test_expected_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the peer that fails is PyTorch's")
    words = ["run", "torch", "--impl", PEER, "--check", "special.zero", "--check", "values.tail", "--dtype", "float64"]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "FAIL values.tail" in told
    known = tmp_path / "known.txt"
    known.write_text("# comment\ntorch:values.tail loses the tail\n", encoding="utf-8")
    assert main([*words, "--expected-failures", str(known)]) == 0
    known.write_text("values.tail loses the tail\nspecial.zero it does not\n", encoding="utf-8")
    assert main([*words, "--expected-failures", str(known)]) == 3
    assert "torch:special.zero was expected to fail (it does not)" in capsys.readouterr().out
    known.write_text("values.tail\n", encoding="utf-8")
    assert main([*words, "--expected-failures", str(known)]) == 2
    known.write_text("values.tale it does\n", encoding="utf-8")
    assert main([*words, "--expected-failures", str(known)]) == 2


def test_a_skipped_check_is_not_stale(tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("lazy.result eager\n", encoding="utf-8")
    skipped = CheckRecord("lazy.result", "lazy", "skip", "not lazy")
    found = BackendRecord("b", "b", "cpu", "auto", (), (), (skipped,))
    assert apply_expected(found, tuple(read_expected(known))) == (found, [])


@pytest.mark.slow
def test_pytorchs_own_loss_fails_the_known_checks(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="it judges PyTorch's own loss")
    out = tmp_path / "torch.json"
    words = ["run", "--impl", "torch.nn.functional:multilabel_soft_margin_loss", "--json", str(out), "--no-curves"]
    assert main([*words, "--dtype", "float32", "--dtype", "float64"]) == 1
    (found,) = record.read(out).backends
    verdict = {c.id: c for c in found.checks}
    assert found.name == "torch"
    for id in ("values.hard", "values.tail", "values.plain", "values.weight", "special.zero", "laws.difference"):
        assert verdict[id].status == "pass", verdict[id].reason
    assert verdict["special.infinite"].status == "fail"
    assert "nan, exactly 0.0" in verdict["special.infinite"].reason
    # Bool targets raise, and a float64 target is combined with a float32 log-sigmoid.
    assert verdict["values.dtypes"].status == "fail"
    assert "target-bool: raised RuntimeError" in verdict["values.dtypes"].reason


def test_a_lost_tail_is_in_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="it judges PyTorch's BCE-with-logits")
    out = tmp_path / "bce.json"
    assert main(["run", "torch", "--impl", PEER, "--dtype", "float64", "--json", str(out), "--level", "smoke"]) == 1
    (found,) = record.read(out).backends
    assert next(c for c in found.checks if c.id == "values.tail").status == "fail"
    lost = next(c for c in found.curves if c.quantity == "loss" and c.target == 0.0)
    kept = next(c for c in found.curves if c.quantity == "loss" and c.target == 1.0)
    assert max(lost.ulp) > 1e15  # every one of the 53 bits
    assert max(kept.ulp) < 3


def test_a_peer_that_is_not_installed_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    if not backends.missing("keras"):
        pytest.skip("Keras is installed here")
    assert main(["run", "--impl", f"{PACKAGE}.peers:keras_bce"]) == 2
    assert "keras" in capsys.readouterr().err


def test_a_peer_without_its_engine_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like Keras without TensorFlow: the module is found, but its import fails."""
    (tmp_path / "engineless.py").write_text("import no_such_engine\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    broken = [p._replace(modules=("engineless",)) if p.call is peers.keras_bce else p for p in peers.PEERS]
    for module in (peers, base):
        monkeypatch.setattr(module, "PEERS", tuple(broken))
    assert main(["run", "--impl", f"{PACKAGE}.peers:keras_bce"]) == 2
    assert "no_such_engine" in capsys.readouterr().err
    assert "Keras BCE" not in [p.name for p in peers.installed_peers()]


@pytest.mark.parametrize("word", ["math", "json"])
def test_a_module_that_is_not_a_namespace_gets_a_verdict(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", word]) == 1
    told = capsys.readouterr().out
    assert "namespace.make" in told
    assert "is not an Array API namespace" in told
    assert "VIOLATES" in told


def test_side_by_side_backends_get_the_same_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("array_api_strict", reason="two libraries are judged")
    known = tmp_path / "known.txt"
    known.write_text("array-api-strict:values.hard it does not\n", encoding="utf-8")
    found = {}
    for jobs in ("1", "2"):
        out = tmp_path / f"{jobs}.json"
        words = ["run", "numpy", "array-api-strict", *FAST, "--jobs", jobs, "--json", str(out)]
        assert main([*words, "--expected-failures", str(known)]) == 3
        told = capsys.readouterr().out
        assert "numpy: conforms" in told
        assert "array-api-strict:values.hard was expected to fail" in told
        run = record.read(out)
        found[jobs] = [
            dataclasses.replace(b, checks=tuple(dataclasses.replace(c, seconds=0.0) for c in b.checks))
            for b in run.backends
        ]
    assert found["1"] == found["2"]


def test_a_process_that_dies_fails_its_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fatal_loss.py").write_text(
        "import os\n\ndef loss(input, target, **options):\n    os._exit(7)\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    words = ["run", "numpy", "numpy-readonly", "--impl", "fatal_loss:loss", "--jobs", "2"]
    assert main([*words, "--check", "values.hard", "--check", "special.zero"]) == 1
    told = capsys.readouterr().out
    for name in ("numpy", "numpy-readonly"):
        assert f"{name}: VIOLATES (1 fail, 1 skip;" in told
    assert told.count("FAIL values.hard: the process that judged it ended, with code 7") == 2


def test_an_unknown_namespace_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nobodys.py").write_text("from array_api_strict import *\n", encoding="utf-8")
    pytest.importorskip("array_api_strict", reason="a namespace by another name")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", "nobodys", "--level", "smoke"]) == 0
    assert "nobodys: conforms" in capsys.readouterr().out


def test_json_and_html_are_written(tmp_path: Path) -> None:
    out, page = tmp_path / "a.json", tmp_path / "a.html"
    assert main(["run", "numpy", *FAST, "--json", str(out), "--html", str(page)]) == 0
    run = record.read(out)
    assert record.from_json(record.to_json(run)) == run
    (found,) = run.backends
    assert [c.id for c in found.checks] == ["values.hard", "special.zero"]
    assert {(c.quantity, c.dtype) for c in found.curves} == {(q, "float32") for q in record.QUANTITIES}
    for curve in found.curves:
        assert len(curve.logit) > 200
        assert all(0 <= u <= b for u, b in zip(curve.ulp, curve.bound, strict=True))
    assert page.read_text(encoding="utf-8").startswith("<!")


def test_list_prints_checks_and_show_prints_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert "values.soft-tail" in told
    assert main(["list", "laws"]) == 0
    assert "values.hard" not in capsys.readouterr().out
    assert main(["show", "values.hard"]) == 0
    text = capsys.readouterr().out
    script = text[text.index("from mlsm_conformance") :]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pass")
    # The last line that it prints is the worst case, as a line to paste.
    done = subprocess.run(
        [sys.executable, "-c", done.stdout.splitlines()[-1]], capture_output=True, text=True, check=True
    )
    assert "exactly" in done.stdout


def test_a_closed_pipe_ends_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", PACKAGE, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == ""
    assert done.returncode == 1


def test_the_first_variant_of_each_library_starts_before_any_second() -> None:
    names = ["numpy", "numpy-readonly", "array-api-strict", "numpy-bfloat16", "array-api-strict-nodata"]
    found = [backends.find(name) for name in names if not backends.missing("array_api_strict") or "strict" not in name]
    turns = workers._turns(found)
    assert sorted(turns) == sorted(b.name for b in found)
    assert turns[-1] == "numpy-bfloat16"
    assert turns.index("numpy-readonly") > turns.index("numpy")
    assert turns[0] == "numpy"


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"    {name} " in told for name in COMMANDS)
    assert main(["help"]) == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: python -m mlsm_conformance {name} [-h]")
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == told


def test_progress_draws_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, live = io.StringIO(), Terminal()
    for out in (plain, live):
        bar = Progress(2, out)
        bar.title("numpy (float32)")
        bar.step("values.hard")
        bar.line("a line")
        bar.step("values.tail")
        bar.close()
    assert plain.getvalue() == "numpy (float32)\na line\n", "nothing is due before 15 s"
    assert "█" in live.getvalue()
    assert "2/2" in live.getvalue()


def test_progress_without_a_terminal_prints_a_line_at_intervals() -> None:
    out = io.StringIO()
    with Progress(3, out, seldom=0.05) as bar:
        bar.title("numpy (float32)")
        bar.step("values.hard")
        deadline = time.monotonic() + 20
        while out.getvalue().count("[1/3") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.search(r"^\[1/3, \d+ s\] numpy values.hard$", out.getvalue(), re.MULTILINE), out.getvalue()
    assert out.getvalue().count("[1/3") >= 2, "a long step is printed again"


def test_reading_an_invalid_record_raises(tmp_path: Path) -> None:
    for text, told in (
        ("{", "not JSON"),
        ("[]", "no `schema`"),
        ('{"schema": 99}', "99"),
        ('{"schema": 1}', "mlsm"),
    ):
        path = tmp_path / "bad.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(record.RecordError, match=told):
            record.read(path)


def test_infinite_numbers_survive_strict_json() -> None:
    curve = record.Curve("loss", "float32", 1.0, (0.0, 1.0, 2.0), (float("inf"), 0.5, 1.0), (1.0, 2.0, 3.0))
    run = record.Run("0", {}, (), (record.PeerRecord("p", (curve,)),))
    text = record.to_json(run)
    assert "Infinity" not in text
    assert record.from_json(text) == run
