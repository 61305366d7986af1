"""Threads for a kernel that releases the interpreter: how many, and an ordinary pool for the parts of one call.

Not Numba's own threads, which may abort under concurrent callers. Knows no array; starts nothing before it is needed.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()


def allowed(tensors: bool) -> int:
    """How many threads may take part in one call: one a core that the process may use.

    A call from any but the main thread is part of somebody's own parallelism (Dask's threads, a server's), and so is
    one in a child process of multiprocessing: it gets one. Tensors follow `torch.set_num_threads`.
    """
    if threading.current_thread() is not threading.main_thread():
        return 1
    if tensors:
        import torch

        return torch.get_num_threads()
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def spread(threads: int, count: int, work: Callable[[int, int], None]) -> None:
    """work(i, j) over 0:count, in as many consecutive parts as threads, the first of them by the caller."""
    threads = max(1, min(threads, count))
    ends = [count * k // threads for k in range(threads + 1)]
    others = [_executor(threads - 1).submit(work, i, j) for i, j in pairwise(ends[1:])]
    try:
        work(ends[0], ends[1])
    finally:
        for future in others:
            future.result()


def _executor(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            # One that is replaced finishes what it was given, and its threads end with it.
            _pool, _pool_size = ThreadPoolExecutor(size, thread_name_prefix="mlsm"), size
        return _pool


def _forget_pool() -> None:
    """A forked child has the pool but not its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_pool)
