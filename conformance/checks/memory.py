"""How much a call takes besides its result, where the library lets one see it: NumPy arrays and CPU tensors."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

from ..check import Context, check
from ..judging import Tally

MIB = 1 << 20
SPARE = 16 * MIB
"""'A few MiB' of the contract, as the foundation's acceptance states it for an input of any size."""
ROWS, CLASSES = 32_768, 1000  # 125 MiB of float32: a single temporary of the input's size is eight times the spare room
PLENTY = math.ceil(ROWS * CLASSES * 4 / MIB)


def _served(context: Context) -> str:
    """Which kernel would serve the measured call; the generic code makes no promise about temporaries."""
    import mlsm

    probe = context.array((0.5,) * 64, (8, 8), "float32")
    return context.subject.kernel if context.subject.kernel != "auto" else mlsm.explain(probe, probe).chosen


@check(
    "memory.extra",
    "A loss takes its row losses and a few MiB, a gradient its result besides, whatever the batch.",
    "16 MiB",
    level="quick",
    anybody=False,
)
def extra(context: Context, tally: Tally) -> None:
    library = context.backend.library
    if library not in ("numpy", "torch") or context.backend.name not in ("numpy", "torch"):
        tally.passed_by("the contract promises this for NumPy arrays and CPU tensors")
        return
    if "float32" not in context.dtypes:
        tally.passed_by("float32 is not among the dtypes of this run")
        return
    served = _served(context)
    if served == "generic":
        tally.passed_by("no kernel serves this call, and the generic code makes no promise about temporaries")
        return
    if library == "numpy":
        _numpy(context, tally)
    else:
        _torch(context, tally, served)


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
        call(input=small[0], target=small[1])  # what is made once and kept is not part of a call
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


# A fresh process, because the peak of a process never falls; VmHWM, because ru_maxrss survives an exec.
_PROBE = """
import re, sys, torch, mlsm
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) << 10
kernel, call, rows, classes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
x = torch.full((rows, classes), 0.5); y = torch.zeros((rows, classes))
f = getattr(mlsm, call)
f(x[:64], y[:64], kernel=kernel)
before = peak()
made = f(x, y, kernel=kernel)
print(peak() - before)
"""


def _torch(context: Context, tally: Tally, kernel: str) -> None:
    if not Path("/proc/self/status").exists():
        tally.passed_by("the peak of a process can be read on Linux only")
        return
    result = ROWS * CLASSES * 4
    for call, size in (("multilabel_soft_margin_loss", ROWS * 8), ("value_and_grad", result + ROWS * 8)):
        command = [sys.executable, "-c", _PROBE, kernel, call, str(ROWS), str(CLASSES)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            tally.fail(f"{call}: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no answer'}")
            continue
        over = int(done.stdout) - size
        tally.true(over <= SPARE, f"{call} of {PLENTY} MiB: {over / MIB:.1f} MiB beyond its result")
