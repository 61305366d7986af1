"""Foreign losses under `--impl`: a right one passes, a wrong one is caught, a misbehaving one gets a verdict."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from .. import backends, record
from ..__main__ import main
from ..check import Context
from ..record import CheckRecord
from ..run.diagnose import diagnose
from ..subjects import subject_of
from ..suite import by_id, run_check
from ._slow import backend_or_skip, slow_where

HERE = f"{__package__}.losses"
FAST = ["--check", "values", "--check", "special", "--check", "types", "--check", "purity", "--dtype", "float32"]


def verdict(id: str, impl: str, backend: str = "numpy") -> CheckRecord:
    """One check of one loss."""
    found = backend_or_skip(backend)
    context = Context(found, subject_of(found, f"{HERE}.{impl}"), "quick")
    diagnose(context)
    return run_check(by_id(id), context)


CAUGHT = [
    ("numpy", "returns_float64", "types.dtype", "returned float64, the contract's dtype is float32"),
    ("numpy", "returns_a_list", "types.library", "returns a list, not an array of numpy"),
    ("numpy", "writes_into_its_target", "purity.inputs", ""),
    ("numpy", "shares_a_buffer", "threads.bits", ""),
    ("numpy", "returns_its_buffer", "purity.kept", ""),
    ("numpy", "remembers_by_the_first_logit", "laws.difference", ""),
    ("numpy", "log_of_one_plus", "values.tail", "loses the tail"),
    ("numpy", "clips_its_logits", "values.tail", ""),
    ("numpy", "spreads_weights_over_rows", "values.weight", ""),
    ("numpy", "divides_by_one_less", "values.plain", ""),
    ("torch", "has_no_gradient", "derivatives.hard", "has a gradient of 0 everywhere"),
    ("torch", "forgets_an_axis_of_grad_output", "derivatives.grad_output", ""),
]


@pytest.mark.parametrize(("backend", "name", "id", "cause"), CAUGHT, ids=[c[1] for c in CAUGHT])
def test_a_wrong_loss_is_caught(backend: str, name: str, id: str, cause: str) -> None:
    found = verdict(id, f"wrong:{name}", backend)
    assert found.status == "fail", found.reason
    assert "raised" not in found.reason, "a wrong result, not an exception"
    if cause:
        assert any(cause in sentence for sentence in found.causes), (found.causes, found.reason)


RIGHT = [
    "values.hard", "values.tail", "values.soft-tail", "values.plain", "values.dtypes", "derivatives.hard",
    "derivatives.tail", "derivatives.plain", "derivatives.grad_output", "special.infinite", "special.zero",
    "special.nan", "types.dtype", "types.shape", "types.library", "purity.inputs", "purity.alias", "purity.kept",
    "determinism.again", "laws.split", "laws.batch-permutation", "transforms.jit", "transforms.jit-gradient",
    "transforms.vmap", "transforms.compile", "transforms.compile-gradient",
]  # fmt: skip


@pytest.mark.parametrize("id", RIGHT)
@pytest.mark.parametrize("backend", slow_where("jax".__eq__, ["numpy", "torch", "jax"]))
def test_a_right_loss_has_no_false_alarm(backend: str, id: str) -> None:
    found = verdict(id, f"right:{backend}_loss", backend)
    needed = by_id(id).needs - backends.find(backend).capabilities
    assert found.status == ("skip" if needed else "pass") or "support this transform" in found.reason, found.reason


def test_the_gradient_is_judged_without_a_second_derivative() -> None:
    found = verdict("derivatives.hard", "wrong:right_once", "torch")
    assert found.status == "pass", found.reason
    assert found.cases > 700
    assert any("no second derivative" in reason for reason in found.passed_over)


HOSTILE = [
    ("raises", 2, "cannot be called with numpy arrays (RuntimeError: not today)"),
    ("raises_in_between", 1, "raises RuntimeError: one class is not enough"),
    ("returns_nan", 1, "nan, exactly"),
    ("returns_text", 1, "returns a str, not an array of numpy"),
    ("returns_the_wrong_shape", 1, "24 values"),
    ("not_callable", 2, "is not callable: it has type int"),
    ("prints", 0, "conforms"),
    ("is_slow", 0, "conforms"),
    ("is_random", 1, "VIOLATES"),
    ("writes_its_input", 1, "FAIL purity.inputs"),
    ("exits", 1, "SystemExit"),
]


@pytest.mark.parametrize(("name", "code", "told"), HOSTILE, ids=[h[0] for h in HOSTILE])
def test_a_misbehaving_loss_gets_a_verdict(
    name: str, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "a.json", tmp_path / "a.html"
    words = ["--json", str(out), "--html", str(page), "--level", "smoke"]
    extra = ["--check", "purity.inputs", "--check", "values.hard", "--check", "types"] if code != 2 else []
    assert main(["run", "numpy", "--impl", f"{HERE}.hostile:{name}", *words, *extra]) == code
    said = capsys.readouterr()
    assert told in said.out + said.err
    assert page.exists() == out.exists() == (code != 2)
    if code != 2:
        assert record.from_json(record.to_json(record.read(out))) == record.read(out)


def test_an_import_that_raises_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("broken_one", "1/0"), ("broken_two", "raise SystemExit(0)")):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        for words in (["numpy", "--impl", f"{name}:f"], [name], ["--backend", f"{name}:B"], ["--kernel", f"{name}:k"]):
            assert main(["run", *words]) == 2, words
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: ")
            assert name in line


def test_a_loss_of_another_library_names_the_backend(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="it is PyTorch's loss")
    impl = "torch.nn.functional:multilabel_soft_margin_loss"
    assert main(["run", "numpy", "--impl", impl, "--level", "smoke"]) == 2
    assert f"name the backend whose arrays it takes, `run torch --impl {impl}`" in capsys.readouterr().err


def replayed(line: str) -> str:
    """The output of a printed line when it is pasted."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if line.startswith("python -m "):
            assert main(shlex.split(line)[3:]) in (0, 1)
        else:
            exec(line, {})
    return out.getvalue()


@pytest.mark.parametrize("impl", ["wrong:log_of_one_plus", "wrong:divides_by_one_less", "hostile:raises_in_between"])
def test_every_printed_line_shows_its_number_again(
    impl: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    words = ["run", "numpy", "--impl", f"{HERE}.{impl}", *FAST, "--json", str(out), "--no-curves"]
    assert main(words) == 1
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    lines: dict[str, str] = {}
    for c in record.read(out).backends[0].checks:
        for line in c.again:
            assert line in printed
            lines[line] = c.reason
        if c.worst is not None and c.worst.repro:
            lines.setdefault(c.worst.repro, "")
    assert len(lines) > 5
    for line, reason in lines.items():
        said = replayed(line)
        if line.startswith("python -m ") or not reason:
            assert said
            assert ("  FAIL " in said) == bool(reason) or not line.startswith("python -m ")
            continue
        assert "outside its bound" in said or "raised" in said or "expected" in said, (line, said)
        if "outside its bound" in said:
            number = re.search(r": ([^ ]+), exactly", said)
            assert number
            assert number[1] in reason, (line, said, reason)


def test_mlsms_own_lines_can_be_pasted(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    assert main(["run", "numpy", *FAST, "--json", str(out), "--no-curves"]) == 0
    lines = {c.worst.repro for c in record.read(out).backends[0].checks if c.worst is not None}
    assert len(lines) > 20
    for line in sorted(lines):
        if not line.startswith("python -m "):
            assert "exactly" in replayed(line), line


def test_show_prints_a_script_for_a_foreign_loss(capsys: pytest.CaptureFixture[str]) -> None:
    impl = f"{HERE}.wrong:log_of_one_plus"
    assert main(["show", "values.tail", "--impl", impl]) == 0
    text = capsys.readouterr().out
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(text[text.index("from mlsm_conformance") :], {})
    assert "loses the tail" in out.getvalue()
    assert "fail " in out.getvalue()


def test_all_violations_of_optax_are_explained() -> None:
    pytest.importorskip("optax", reason="it is optax's loss")
    found = backends.find("jax-x64")
    context = Context(found, subject_of(found, "mlsm_conformance.peers:optax_sigmoid_bce"), "quick", ("float64",))
    diagnose(context)
    causes = run_check(by_id("derivatives.tail"), context).causes
    assert any("as exp(x - softplus(x)) does, whose exponent is rounded" in c for c in causes), causes
    assert any("second derivative that loses its digits" in c for c in causes), causes


def test_violations_of_a_bulk_comparison_have_a_cause() -> None:
    found = verdict("values.half-exhaustive", "wrong:log_of_one_plus")
    assert found.status == "fail"
    assert re.search(r"x=[^,]+, y=[^:]+: ", found.reason), found.reason
    assert not any(c.startswith("raises") for c in found.causes), found.causes
