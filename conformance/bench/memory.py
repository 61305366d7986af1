"""Peak extra memory of one piece of work, in a process of its own, at the other end of a `Channel`.

Measures resident memory, so that every library's own allocator is seen (tracemalloc sees NumPy's only). Times nothing.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import resource
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..run.channel import Channel, Wire
from .candidate import Candidate
from .cases import Case, make_data, varied
from .peers import BUILDERS

METHOD = (
    "peak resident memory during a warm call in a process of its own, over the resident memory before it, less the "
    "bytes of the gradient that is returned"
)
LINUX = METHOD + " (VmHWM after a reset through /proc/self/clear_refs)"
ELSEWHERE = METHOD + " (growth of ru_maxrss over the first call, compilation included)"

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def resettable() -> bool:
    """Whether this system lets a process reset its peak memory."""
    if not _CLEAR.exists():
        return False
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _field(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _return_freed_memory() -> None:
    """Return glibc's free pages to the system: a call that reuses them would not raise the peak."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none, and keeps no free pages
        if trim is not None:
            trim(0)


def _maxrss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def peak_of(work: Callable[[], Any]) -> tuple[int, str]:
    """Extra bytes at the peak of one call, and how they were measured."""
    if resettable():
        work()
        _return_freed_memory()
        _CLEAR.write_text("5", encoding="ascii")
        before = _field("VmRSS")
        work()
        return max(0, _field("VmHWM") - before), LINUX
    before = _maxrss()
    work()
    return _maxrss() - before, ELSEWHERE


def main() -> None:
    """The child: makes the data, finds its candidate, measures it and sends the result."""
    wire = Wire()
    wanted = next(wire.hear())
    case = Case(tuple(wanted["shape"]), wanted["dtype"], wanted["gradient"], wanted["threads"], wanted["variant"])
    data = varied(make_data(case.shape, case.dtype), case.variant)
    for candidate in BUILDERS[wanted["library"]](case, data, wanted["device"]):
        if candidate.name == wanted["name"]:
            peak, method = peak_of(candidate.make())
            # The pages of the result are not extra memory.
            extra = max(0, peak - (case.nbytes if case.gradient and case.variant != "for weight" else 0))
            wire.say("peak", (extra / 2**20, method))
            return
    raise SystemExit(f"no implementation is called {wanted['name']!r}")


def measure_memory(case: Case, candidate: Candidate, device: str, limit: float = 600.0) -> tuple[float | None, str]:
    """(MiB, how measured), or (None, why not)."""
    if device != "cpu":
        return None, "resident memory of the host says nothing about a GPU"
    spec = {**dataclasses.asdict(case), "library": candidate.library, "name": candidate.name, "device": device}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as noise, Channel(__name__, spec, stderr=noise) as child:
        expired = threading.Event()

        def end() -> None:
            expired.set()
            child.kill()

        late = threading.Timer(limit, end)
        late.start()
        answers = [value for kind, value in child.messages() if kind == "peak"]
        code = child.code()
        late.cancel()
        if answers:
            ((mib, method),) = answers
            return float(mib), str(method)
        if expired.is_set():
            return None, f"not done within {limit:.0f} s"
        noise.seek(0)
        tail = noise.read().strip().splitlines()
    return None, tail[-1][:200] if tail else f"the process ended with {code}"


if __name__ == "__main__":
    main()
