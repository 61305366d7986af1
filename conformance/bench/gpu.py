"""Speed on one GPU, in a few minutes: the share of the device's copy bandwidth that mlsm's and PyTorch's loss reach.

Makes the data on the device, times by its events, and writes JSON; judges no digit (the suite does). `--device cpu`
runs the same code on a host with tiny shapes, which only shows that the script works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlsm

from ..backends import installed_versions
from .contestants import differentiated, value_of

SHAPES = ((65536, 1000), (64, 1_000_000), (1_000_000, 64), (3_276_800, 20), (819_200, 80), (655_360, 100))
TINY = ((64, 100), (2, 5000), (500, 6), (300, 20))
DTYPES = ("float32", "bfloat16", "float16")
ROUNDS = 9
COPIED = 2**28
"""Elements of float32 that are copied to measure the bandwidth: 1 GiB, read and written."""


def goals(shape: tuple[int, int], dtype: str) -> float:
    """The share of the copy bandwidth that is required."""
    if shape[1] in (20, 80, 100):
        return 0.70
    return 0.85 if dtype == "float32" else 0.75


class Clock:
    """Seconds that the device, or the host, spends on several calls."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch, self._cuda = torch, device != "cpu"

    def __call__(self, work: Callable[[], Any], repeat: int) -> float:
        if not self._cuda:
            start = time.perf_counter()
            for _ in range(repeat):
                work()
            return (time.perf_counter() - start) / repeat
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeat):
            work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeat


def bandwidth(torch: Any, device: str, clock: Clock, elements: int = COPIED) -> float:
    """Bytes per second of a copy on the device, reads and writes both counted."""
    a = torch.ones(elements, device=device)
    b = torch.empty_like(a)
    clock(lambda: b.copy_(a), 2)
    return float(2 * a.nbytes) / statistics.median(clock(lambda: b.copy_(a), 5) for _ in range(5))


def contestants(torch: Any, x: Any, y: Any, gradient: bool, compiled: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, work) of each contestant that can do this work."""
    theirs = torch.nn.functional.multilabel_soft_margin_loss

    def of(function: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        return differentiated(function, x.detach().requires_grad_(gradient), y, lambda: None)

    function: Any = mlsm.value_and_grad if gradient else mlsm.multilabel_soft_margin_loss
    served: list[tuple[str, str | None]] = [(mlsm.explain(x, y).chosen, None)]
    if x.device.type == "cuda" and served[0][0] == "cupy" and importlib.util.find_spec("triton"):
        served.append(("triton", "triton"))
    for name, forced in served:

        def ours(forced: str | None = forced) -> Any:
            return function(x, y, kernel=forced)

        yield f"mlsm, torch, {name}", ours
    if x.device.type == "cuda" and importlib.util.find_spec("cupy") and x.dtype != torch.bfloat16:
        import cupy

        a, b = cupy.from_dlpack(x), cupy.from_dlpack(y)
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)

        def arrays() -> Any:
            with stream:
                return function(a, b)

        yield f"mlsm, cupy, {mlsm.explain(a, b).chosen}", arrays
    yield "torch eager", of(theirs)
    if compiled:
        torch._dynamo.reset()
        yield "torch compiled", of(torch.compile(theirs, dynamic=False))


def measured(
    torch: Any, shape: tuple[int, int], dtype: str, gradient: bool, clock: Clock, device: str, compiled: bool
) -> dict[str, Any]:
    """One case: the median seconds of each contestant, all in turn in each round."""
    torch.manual_seed(20)
    kind = getattr(torch, dtype)
    x = (3 * torch.randn(shape, device=device)).to(kind)
    y = (torch.rand(shape, device=device) < 0.3).to(kind)
    works: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    values: dict[str, float] = {}
    for name, work in contestants(torch, x, y, gradient, compiled):
        try:
            value = work()
            values[name] = float(value_of(value))
            clock(work, 2)
        except Exception as error:  # another library's exception becomes its line of the result
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            works[name] = work
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            seconds[name].append(clock(work, 3))
    return {
        "shape": shape,
        "dtype": dtype,
        "work": "value_and_grad" if gradient else "loss",
        "bytes": (3 if gradient else 2) * x.nbytes,
        "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "spread": {name: max(s) / min(s) for name, s in seconds.items()},
        "values": values,
        "failed": failed,
    }


def judged(case: dict[str, Any], copy: float) -> dict[str, Any]:
    """Shares and ratios, and whether they reach the goals."""
    seconds = case["seconds"]
    ours = [name for name in seconds if name.startswith("mlsm") and "generic" not in name and "triton" not in name]
    share = {name: case["bytes"] / s / copy for name, s in seconds.items()}
    case["share_of_copy_bandwidth"] = share
    goal = goals(tuple(case["shape"]), case["dtype"])
    case["goals"] = {
        f"share >= {goal}": bool(ours) and max(share[name] for name in ours) >= goal,
    }
    if ours:
        best = min(seconds[name] for name in ours)
        for peer, least in (("torch eager", 5.0 if case["work"] == "loss" else 1.0), ("torch compiled", 1.0)):
            if peer in seconds:
                case["goals"][f"speed / {peer} >= {least}"] = seconds[peer] / best >= least
    return case


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mlsm_conformance.bench.gpu", description=__doc__)
    parser.add_argument("json", type=Path, help="where the result goes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=240, help="begin no further case after this long")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes seconds a case")
    arguments = parser.parse_args(argv)
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("bench_gpu: this PyTorch sees no CUDA device", file=sys.stderr)
        return 2
    tiny = arguments.device == "cpu"
    clock = Clock(torch, arguments.device)
    started = time.monotonic()
    copy = bandwidth(torch, arguments.device, clock, 2**20 if tiny else COPIED)
    report: dict[str, Any] = {
        "kind": "mlsm-bench-gpu",
        "mlsm": mlsm.__version__,
        "device": platform.processor() if tiny else torch.cuda.get_device_name(),
        "versions": {"Python": platform.python_version(), **installed_versions("torch", "cupy", "triton", "numpy")},
        "copy_bandwidth": copy,
        "cases": [],
        "left_out": [],
    }
    # Float32 and the loss first, so that a lack of time leaves out the least important cases.
    for dtype in DTYPES:
        for gradient in (False, True):
            for shape in TINY if tiny else SHAPES:
                if time.monotonic() - started > arguments.seconds:
                    report["left_out"].append([shape, dtype, gradient])
                    continue
                compiled = not arguments.no_compile and time.monotonic() - started < 0.6 * arguments.seconds
                case = judged(measured(torch, shape, dtype, gradient, clock, arguments.device, compiled), copy)
                report["cases"].append(case)
                shares = ", ".join(f"{n} {s:.0%}" for n, s in case["share_of_copy_bandwidth"].items())
                print(f"{shape[0]}x{shape[1]} {dtype} {case['work']}: {shares}; {case['goals']}", flush=True)
                arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
