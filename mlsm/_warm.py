"""`python -m mlsm warm`: compile the numba kernel and keep the code on disk, so that no first call waits.

Calls the public functions on arrays of a few elements, and says what was compiled. Knows no formula.
"""

import importlib.util
import logging
import time
from collections.abc import Callable

import numpy as np

from . import explain, hessian_diag, value_and_grad
from .objectives import derivatives


def warm(say: Callable[[str], None]) -> int:
    """Compile for float32 and float64. Returns 1, after saying why, if the kernel is not available here, else 0."""
    x = np.zeros((2, 3), np.float32)
    reason = None if importlib.util.find_spec("numba") else "no module named 'numba'"
    if reason is None and explain(x, x).chosen != "numba":
        reason = dict(explain(x, x).reasons).get("numba", "mlsm/kernels/numba.py is deleted")
    if reason is not None:
        say(f"nothing to compile: {reason}")
        return 1
    logger, handler = logging.getLogger("mlsm"), _Said(say)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    started = time.perf_counter()
    try:
        for dtype in (np.float32, np.float64):
            x = np.zeros((2, 3), dtype)
            value_and_grad(x, x, kernel="numba")
            hessian_diag(x, x, kernel="numba")
            derivatives(x, x, kernel="numba")
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
    say(f"the numba kernel is ready, after {time.perf_counter() - started:.1f} s")
    return 0


class _Said(logging.Handler):
    """Passes each log record to `say` as a line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
