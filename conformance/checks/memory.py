"""How much memory a call needs in addition to its result, where it can be measured: NumPy arrays and CPU tensors."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..check import Context, check
from ..run.tally import Tally

MIB = 1 << 20
SPARE = 16 * MIB
"""'A few MiB' of the contract, for an input of any size."""
ROWS, CLASSES = 32_768, 1000  # 125 MiB of float32: a single temporary of the input's size is eight times the spare room
PLENTY = math.ceil(ROWS * CLASSES * 4 / MIB)


def _served(context: Context, tally: Tally) -> str:
    """The kernel that serves the measured call; none, with the reason counted, if nothing is promised."""
    import mlsm

    if context.backend.name not in ("numpy", "torch"):
        tally.passed_by("the contract promises this for NumPy arrays and CPU tensors")
        return ""
    probe = context.array((0.5,) * 64, (8, 8), "float32")
    served = context.subject.kernel if context.subject.kernel != "auto" else mlsm.explain(probe, probe).chosen
    if served == "generic":
        tally.passed_by("no kernel serves this call, and the generic code makes no promise about temporaries")
        return ""
    return served


@check(
    "memory.extra",
    "A loss needs its row losses and a few MiB, a gradient its result in addition, whatever the batch size.",
    "16 MiB",
    anybody=False,
)
def extra(context: Context, tally: Tally) -> None:
    served = _served(context, tally)
    if served and "float32" not in context.dtypes:
        tally.passed_by("float32 is not among the dtypes of this run")
    elif served and context.backend.library == "numpy":
        _numpy(context, tally)
    elif served:
        cases = [_case(call, {}) for call in ("multilabel_soft_margin_loss", "value_and_grad")]
        for case, over in _probed(context, tally, ROWS, CLASSES, cases):
            within = over != "declined" and int(over) <= SPARE
            tally.true(within, f"{case['call']} of {PLENTY} MiB: {over} bytes beyond its result")


def _numpy(context: Context, tally: Tally) -> None:
    import numpy as np

    x = np.full((ROWS, CLASSES), 0.5, dtype=np.float32)
    y = np.zeros((ROWS, CLASSES), dtype=np.float32)
    small = x[:2], y[:2]
    for name, call, result in (
        ("loss", context.subject.loss, ROWS * 8),
        ("gradient", context.subject.grad, x.nbytes),
        ("value and gradient", context.subject.value_and_grad, x.nbytes + ROWS * 8),
        ("hessian", context.subject.hessian_diag, x.nbytes),
    ):
        call(input=small[0], target=small[1])  # memory that is allocated once and kept is not counted
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            made = call(input=x, target=y)
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        del made
        over = peak - result
        tally.true(over <= SPARE, f"{name} of {PLENTY} MiB: {over / MIB:.1f} MiB beyond its result")


# A separate process for many cases: it has no other library, and Linux lets its peak be reset.
_PROBE = """
import gc, json, re, sys
import numpy as np, mlsm
kernel, library, rows, classes, cases = json.loads(sys.argv[1])
if library == "torch":
    import torch
    torch.set_num_threads(1)

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) << 10

def made(shape, kind):
    if library == "torch":
        return torch.full(shape, 1, dtype=getattr(torch, kind))
    return np.full(shape, 1, dtype=kind)

def arguments(n, case):
    given = {"input": made((n, classes), case["dtype"]), "target": made((n, classes), case["dtype"])}
    for name, shape in case["arrays"].items():
        kind = "bool" if name == "where" else case["dtype"]
        given[name] = made([{"N": n, "C": classes}.get(length, length) for length in shape], kind)
    for name in case["tracked"]:
        given[name].requires_grad_()
    return given

def call(given, case):
    loss = case["call"] == "backward"
    function = mlsm.multilabel_soft_margin_loss if loss else getattr(mlsm, case["call"])
    found = function(**given, **case["options"], kernel=kernel)
    if loss:
        found.backward()
        found = tuple(given[name].grad for name in case["tracked"])
    return found if isinstance(found, tuple) else (found,)

for case in cases:
    try:
        for _ in range(2):  # memory that is allocated once and kept is not counted
            call(arguments(256, case), case)
    except ValueError as error:
        if "cannot serve" not in str(error):
            raise
        print("declined")
        continue
    given = arguments(rows, case)
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    found = call(given, case)
    print(status("VmHWM") - before - sum(v.nbytes for v in found))
    del given, found
"""


_Shape = tuple[str | int, ...]


def _case(
    call: str, arrays: dict[str, _Shape], tracked: tuple[str, ...] = (), dtype: str = "float32", wrt: str = ""
) -> dict[str, Any]:
    """One measured call: the shapes of its arrays ("N" rows, "C" classes), and which of them require a gradient."""
    options = {"wrt": wrt} if wrt else {}
    return {"call": call, "arrays": arrays, "tracked": tracked, "dtype": dtype, "options": options}


def _probed(
    context: Context, tally: Tally, rows: int, classes: int, cases: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each case with the bytes that it needs beyond its result ("declined" if the named kernel declines it)."""
    if not Path("/proc/self/clear_refs").exists():
        tally.passed_by("the peak of a process can be read and reset on Linux only")
        return
    kernel = None if context.subject.kernel == "auto" else context.subject.kernel
    spec = json.dumps((kernel, context.backend.library, rows, classes, cases))
    command = [sys.executable, "-c", _PROBE, spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        tally.fail(done.stderr.strip().splitlines()[-1] if done.stderr else "no answer")
        return
    yield from zip(cases, done.stdout.split(), strict=True)


_FUNCTIONS = ("multilabel_soft_margin_loss", "grad", "value_and_grad", "hessian_diag")
_SHAPES: tuple[_Shape, ...] = (("N", "C"), ("N", 1), (1, "C"), ("C",))
_WEIGHTS = ("weight", "pos_weight")
_CASES = [
    *(_case(call, {}) for call in _FUNCTIONS),
    *(_case(call, {"where": mask}) for call in _FUNCTIONS for mask in _SHAPES),
    *(_case(call, {"weight": ("N", 1)}) for call in _FUNCTIONS),
    *(_case("grad", {"where": mask}, wrt="target") for mask in _SHAPES),
    *(_case("grad", {wrt: shape}, wrt=wrt) for wrt in _WEIGHTS for shape in _SHAPES),
]
_TENSORS = [
    *(_case(call, {"where": ("N", "C"), "weight": ("N", 1)}, dtype="bfloat16") for call in _FUNCTIONS),
    *(_case(call, {}, ("input",), dtype) for call in _FUNCTIONS[1:] for dtype in ("float32", "bfloat16")),
    *(_case("grad", {"weight": ("C",)}, ("input",), dtype, "weight") for dtype in ("float32", "bfloat16")),
    *(_case("backward", {wrt: ("C",)}, ("input", wrt)) for wrt in _WEIGHTS),
    _case("backward", {"weight": ("C",), "where": ("N", 1)}, ("weight",), "bfloat16"),
]
WIDTH, HEIGHT = 500, 20_000  # 38 MiB of float32, 9.5 MiB of bool
FEW = 8 * MIB
"""Less than one mask of that size."""


@check(
    "memory.options",
    "Masks, weights of rows, derivatives of every argument, half precision and tracked tensors need no more.",
    "8 MiB",
    anybody=False,
)
def options(context: Context, tally: Tally) -> None:
    if not _served(context, tally):
        return
    library = context.backend.library
    cases = [c for c in _CASES + _TENSORS * (library == "torch") if c["dtype"] in context.dtypes]
    for case, over in _probed(context, tally, HEIGHT, WIDTH, cases):
        if over != "declined":
            tally.true(int(over) <= FEW, f"{case}: {int(over) / MIB:.1f} MiB beyond the result")
