"""Threads for a kernel that releases the GIL: their number, and an ordinary pool for the parts of one call.

Not Numba's own threads, which may abort under concurrent callers. Knows no array; starts nothing before it is needed.
If no thread can be started (the interpreter shuts down, a limit is reached), the calling thread does all parts.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()
_submitting = False  # whether a call is submitting parts to the pool, whose locks a signal handler cannot get


def allowed(tensors: bool) -> int:
    """How many threads may take part in one call: one per core that the process may use, at most OMP_NUM_THREADS.

    A call from another thread than the main one is part of the caller's own parallelism (Dask's threads, a server's),
    and so is a call in a child process of multiprocessing: it gets one thread. Tensors also follow
    `torch.set_num_threads`.
    """
    if threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process() is not None:
        return 1
    most = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1, _quota())
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is for two levels of nesting
    if wanted.isdecimal():
        most = min(most, max(1, int(wanted)))
    if tensors:
        import torch

        most = min(most, torch.get_num_threads())
    return most


@cache
def _quota(root: Path = Path("/")) -> int:
    """How many cores the control groups of this process, and their parents, allow; 2^31 if they set no limit."""
    least = float(2**31)
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or not readable
        groups = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers if controllers else root / "sys/fs/cgroup"
        inner = top / path.lstrip("/")
        # In a container the path may be the host's, which does not exist; the group itself is then mounted at the top.
        for folder in (inner, *(p for p in inner.parents if p.is_relative_to(top))):
            least = min(least, _share(folder))
    return max(1, int(least))


def _share(group: Path) -> float:
    """The number of cores that one control group (version 2 or 1) allows; infinite if it sets no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else float("inf")
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return float("inf")


def spread(threads: int, count: int, work: Callable[[int, int], None]) -> None:
    """work(i, j) over 0:count, in as many consecutive parts as threads; the calling thread does the first part."""
    global _submitting
    threads = max(1, min(threads, count))
    if threads == 1 or _submitting:
        work(0, count)
        return
    parts = list(pairwise(count * k // threads for k in range(threads + 1)))
    futures: list[Future[None]] = []
    ready, served = threading.Event(), 0

    def part(k: int) -> None:
        # A pool that could not start a thread has queued the part all the same: a thread that finds it later skips it.
        ready.wait()
        if k < served:
            work(*parts[k])

    _submitting = True
    try:
        for k in range(1, threads):
            futures.append(_executor(threads - 1).submit(part, k))
    except RuntimeError:
        pass  # no thread can be started, or the interpreter shuts down
    finally:
        _submitting = False
        served = 1 + len(futures)
        ready.set()
    try:
        for i, j in (parts[0], *parts[served:]):
            work(i, j)
    finally:
        for future in futures:
            future.result()


def _executor(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            # A pool that is replaced finishes its parts, and its threads end with it.
            _pool, _pool_size = ThreadPoolExecutor(size, thread_name_prefix="mlsm"), size
        return _pool


def _forget_pool() -> None:
    """A forked child has the pool but not its threads."""
    global _pool, _lock, _submitting
    _pool, _lock, _submitting = None, threading.Lock(), False


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_pool)
