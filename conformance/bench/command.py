"""The bench command: mlsm and every installed peer, as ratios to the floor of the same run.

Chooses what to measure, starts one process for each number of threads, shows progress, writes JSON, table, page and
plot. The clock is in `measure.py`. Never prints a bare time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlsm

from ..backends import installed_versions
from ..run.channel import Channel
from ..run.progress import Progress
from .cases import DTYPES, PLAIN, SHAPES, VARIANTS, WORKS, parse_shape, shape_text
from .peers import present
from .report import performance_page, text_header, text_table
from .svg import picture
from .worker import cases_of

SCHEMA = 1
KIND = "mlsm-bench"
QUICK_SHAPES = SHAPES[:3]
SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
"""Set in addition to pinning the process to a processor: on a system that cannot pin, only these limit threads."""


class BenchError(RuntimeError):
    """The benchmark could not be run, or a file is not one of its results."""


def cpu() -> tuple[str, list[str]]:
    """The processor's name, and the vector instruction sets that decide how fast NumPy is."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), []
    fields: dict[str, str] = {}
    for text in info.read_text(encoding="utf-8").splitlines():
        name, _, value = text.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    named = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "sve2")
    return fields.get("model name", platform.machine()), [f for f in named if f in flags]


def accelerator(device: str) -> str:
    """The GPU's name; empty if none takes part."""
    if device == "cpu":
        return ""
    import torch

    return str(torch.cuda.get_device_name())


def run_worker(spec: Mapping[str, Any], progress: Progress) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run one measuring process; returns its results and its data about processors."""
    environment = SINGLE_THREAD if spec["threads"] == "1" else {}
    results: list[dict[str, Any]] = []
    end: dict[str, Any] = {}
    with Channel(f"{__package__}.worker", spec, environment) as worker:
        for kind, value in worker.messages():
            if kind == "result":
                results.append(value)
                progress.step("done")
            elif kind == "end":
                end = value
            else:
                getattr(progress, kind)(*(value if isinstance(value, list) else [value]))
        code = worker.code()
    if code != 0 or not end:
        raise BenchError(f"the measuring process ended with {code}; its message is above")
    return results, {"threads": spec["threads"], **end}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for; the JSON of the whole."""
    here, absent = present()
    spec: dict[str, Any] = {
        "shapes": arguments.shape,
        "dtypes": arguments.dtype,
        "works": arguments.work,
        "variants": arguments.variant,
        "libraries": here,
        "only": arguments.only,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "compiled": not arguments.quick,
        "memory": arguments.memory,
        "memory_from": arguments.memory_from,
        "memory_threads": arguments.threads[0],
        "device": arguments.device,
    }
    total = sum(1 for threads in arguments.threads for _ in cases_of({**spec, "threads": threads}))
    results: list[dict[str, Any]] = []
    runs = []
    with Progress(total, sys.stderr) as progress:
        for threads in arguments.threads:
            found, end = run_worker({**spec, "threads": threads}, progress)
            results += found
            runs.append(end)
    if arguments.only and not any(e["over_floor"] is not None for r in results for e in r["entries"]):
        raise BenchError(
            f"--only {' '.join(arguments.only)}: no implementation of these cases has such a name. It is part of a "
            'name or of a library, such as `torch BCE`; a kernel is written with its library, such as "torch, numba"'
        )
    name, features = cpu()
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "mlsm": mlsm.__version__,
        "machine": {"cpu": name, "features": features, "accelerator": accelerator(arguments.device), "runs": runs},
        "versions": {"Python": platform.python_version(), **installed_versions(*here)},
        "absent": absent,
        "results": results,
    }


def load(path: str) -> dict[str, Any]:
    """A result written by --json; BenchError for any other file."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BenchError(f"{path}: not JSON: {error}") from error
    if not isinstance(report, dict) or report.get("kind") != KIND or report.get("schema") != SCHEMA:
        raise BenchError(f"{path}: not a result of `bench --json` of schema {SCHEMA}")
    return report


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several results as one; BenchError if they are not of one machine with the same versions."""
    first, *others = reports
    same = ("mlsm", "versions", "absent")
    cases = [json.dumps(r["case"], sort_keys=True) for report in reports for r in report["results"]]
    if len(set(cases)) < len(cases):
        raise BenchError("two of the results contain the same case")
    for report in others:
        machines = [{**r["machine"], "runs": None} for r in (first, report)]
        if machines[0] != machines[1] or any(first[k] != report[k] for k in same):
            raise BenchError("the results are of different machines or versions: their ratios cannot be compared")
    runs = {run["threads"]: run for report in reports for run in report["machine"]["runs"]}
    return {
        **first,
        "machine": {**first["machine"], "runs": list(runs.values())},
        "results": [result for report in reports for result in report["results"]],
    }


def _shape(text: str) -> tuple[int, int]:
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m mlsm_conformance bench`."""
    shapes = ", ".join(shape_text(s) for s in SHAPES)
    parser.add_argument(
        "--shape", action="append", type=_shape, metavar="NxC", help=f"rows x classes, repeatable ({shapes})"
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="repeatable (all four; with --quick float32)")
    parser.add_argument("--work", action="append", choices=WORKS, help="repeatable (all three)")
    parser.add_argument(
        "--variant",
        action="append",
        choices=(PLAIN, *VARIANTS),
        help="further arguments, in float32 and up to 2^24 elements, repeatable (all; with --quick plain)",
    )
    parser.add_argument("--threads", action="append", choices=("1", "all"), help="repeatable (both; with --quick 1)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="time only implementations whose name contains TEXT; a TEXT with a comma may name a kernel; repeatable",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each case (21; with --quick 7)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop a case's rounds after this long (60; with --quick 5)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small shapes, float32, one thread, nothing that compiles for seconds"
    )
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, help="peak extra memory (yes; with --quick no)"
    )
    parser.add_argument(
        "--memory-from", type=int, default=2**20, metavar="N", help="measure memory from N elements on (2^20)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--from",
        dest="source",
        action="append",
        metavar="FILE",
        help="measure nothing: show a result written by --json; repeatable, for one machine measured in parts",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result")
    parser.add_argument("--markdown", metavar="FILE", help="write the page docs/performance.md")
    parser.add_argument("--svg", metavar="FILE", help="write the plot of time over floor against size")


def complete(arguments: argparse.Namespace) -> None:
    """Fill in the options that were not given: everything, or a small part of it with --quick."""
    quick = arguments.quick
    arguments.shape = arguments.shape or list(QUICK_SHAPES if quick else SHAPES)
    arguments.dtype = arguments.dtype or (["float32"] if quick else list(DTYPES))
    arguments.work = arguments.work or list(WORKS)
    arguments.variant = arguments.variant or [PLAIN, *(() if quick else VARIANTS)]
    arguments.threads = arguments.threads or (["1"] if quick else ["1", "all"])
    arguments.rounds = arguments.rounds or (7 if quick else 21)
    arguments.seconds = arguments.seconds or (5.0 if quick else 60.0)
    arguments.memory = not quick if arguments.memory is None else arguments.memory


def run_command(arguments: argparse.Namespace) -> int:
    """0 if everything was measured and written, else 2."""
    complete(arguments)
    try:
        report = merged([load(f) for f in arguments.source]) if arguments.source else run(arguments)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if arguments.svg:
            Path(arguments.svg).write_text(picture(report), encoding="utf-8")
        if arguments.markdown:
            name = os.path.relpath(arguments.svg, Path(arguments.markdown).parent) if arguments.svg else ""
            Path(arguments.markdown).write_text(performance_page(report, name), encoding="utf-8")
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(text_header(report))
    print(text_table(report["results"]))
    return 0
