"""The GPU benchmark on a machine without a GPU: its measurements, its goals, and its list of what was left out."""

import json
import subprocess
from pathlib import Path

import pytest

from ..bench import gpu

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize("gradient", [False, True])
def test_a_case_is_measured(gradient: bool) -> None:
    clock = gpu.Clock(torch, "cpu")
    case = gpu.measured(torch, (50, 20), "float32", gradient, clock, "cpu", False)
    ours, *others = case["seconds"]
    assert ours.startswith("mlsm, torch, ")
    assert others == ["torch eager"]
    assert not case["failed"]
    assert case["bytes"] == (3 if gradient else 2) * 4000
    a, b = case["values"].values()
    assert abs(a - b) <= 8 * 2.0**-24 * b


def test_goals_are_judged() -> None:
    case = {
        "shape": (65536, 1000),
        "dtype": "float32",
        "work": "loss",
        "bytes": 90,
        "seconds": {"mlsm, torch, cupy": 1.0, "torch eager": 4.0, "torch compiled": 1.0, "mlsm, torch, triton": 0.1},
    }
    judged = gpu.judged(case, 100.0)
    assert judged["share_of_copy_bandwidth"]["mlsm, torch, cupy"] == 0.9
    assert judged["goals"] == {
        "share >= 0.85": True,
        "speed / torch eager >= 5.0": False,
        "speed / torch compiled >= 1.0": True,
    }
    assert gpu.goals((64, 10**6), "bfloat16") == 0.75
    assert gpu.goals((10**6, 80), "float32") == 0.70


def test_omitted_cases_are_listed(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert gpu.main([str(out), "--device", "cpu", "--seconds", "0"]) == 0
    report = json.loads(out.read_text())
    assert report["cases"] == []
    assert len(report["left_out"]) == 2 * len(gpu.DTYPES) * len(gpu.TINY)
    assert report["copy_bandwidth"] > 0


def test_without_a_device_it_exits_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert gpu.main([str(tmp_path / "bench.json")]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_shell_script_parses_and_prints_its_usage() -> None:
    script = Path(__file__).parents[1] / "gpu.sh"
    if not script.exists():
        pytest.skip("gpu.sh is in the checkout only")
    subprocess.run(["bash", "-n", str(script)], check=True)
    missing = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert missing.returncode != 0
    assert "usage: conformance/gpu.sh RESULTS [WHEELS]" in missing.stderr
