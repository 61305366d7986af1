"""Ten losses that misbehave rather than miscalculate: none may end the suite in a traceback."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import numpy as np

from .right import numpy_loss

not_callable = 3


def raises(input: Any, target: Any, reduction: str = "mean") -> Any:
    raise RuntimeError("not today")


def raises_in_between(input: Any, target: Any, reduction: str = "mean") -> Any:
    if input.shape[-1] == 1:
        raise RuntimeError("one class is not enough")
    return numpy_loss(input, target, reduction=reduction)


def returns_nan(input: Any, target: Any, reduction: str = "mean") -> Any:
    return numpy_loss(input, target, reduction=reduction) * np.float32(np.nan)


def returns_text(input: Any, target: Any, reduction: str = "mean") -> Any:
    return "0.693"


def returns_the_wrong_shape(input: Any, target: Any, reduction: str = "mean") -> Any:
    return np.zeros((2, 3, 4), input.dtype)


def prints(input: Any, target: Any, reduction: str = "mean") -> Any:
    print("loss!")
    return numpy_loss(input, target, reduction=reduction)


def is_slow(input: Any, target: Any, reduction: str = "mean") -> Any:
    time.sleep(0.002)
    return numpy_loss(input, target, reduction=reduction)


def is_random(input: Any, target: Any, reduction: str = "mean") -> Any:
    return numpy_loss(input, target, reduction=reduction) * input.dtype.type(1 + 0.01 * random.random())


def writes_its_input(input: Any, target: Any, reduction: str = "mean") -> Any:
    input[...] = 0
    return numpy_loss(input, target, reduction=reduction)


def exits(input: Any, target: Any, reduction: str = "mean") -> Any:
    sys.exit(0)
