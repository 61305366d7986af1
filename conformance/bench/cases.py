"""What the benchmark measures: cases, data, the reference value, the floor. Times nothing; names no contestant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SHAPES: tuple[tuple[int, int], ...] = ((32, 20), (512, 80), (8192, 1000), (65536, 1000), (64, 1_000_000))
DTYPES: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")
WORKS: tuple[str, ...] = ("loss", "value_and_grad", "backward")
"""The loss; loss and gradient as values; the loss and then the library's own backward pass. The last two are the
same work and run in one interleaved case, so that a hand-written gradient is compared with each library's autograd."""

PLAIN = "plain"
HEAD = "linear head"
VARIANTS: dict[str, str] = {
    "mask": "a mask of the logits' shape, by which half of the labels are observed",
    "row weights": "a weight for each row",
    "element weights": "a weight for each element",
    "Fortran order": "logits and targets with the class axis first in memory",
    "elements": "one class: each element is a row of its own",
    "for weight": "only the derivative with respect to a weight for each class",
    "labels": "five positives in each row, given to mlsm as indices and to the others as a dense array",
    HEAD: "a linear layer of 64 features and the loss, with the gradients of both",
}
"""Options that users pass, in addition to the plain call: measured in float32, up to 2^24 elements."""
LARGEST_VARIANT = 2**24
PLAIN_CALL = ", plain call"
"""Ends the name of mlsm without the option, which is measured in the same rounds."""
MANY_CLASSES = ("labels", HEAD)
"""The variants that are measured at any size, because they are meant for large ones."""
POSITIVES, FEATURES = 5, 64

ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}

FLOOR = "floor"
FLOOR_MEANING = (
    "The floor is the time of `x.sum(), y.sum()` on the same NumPy arrays in the same run. With a mask or a weight it "
    "includes the sum of that array, and with a gradient it includes `np.empty_like(x).fill(1)`. For half precisions, "
    "which NumPy sums slowly, the same bytes are summed as integers. The floor always runs on one thread, so that a "
    "result of several threads can be below 1. On a GPU, the floor is a copy of x on the device (as many bytes as "
    "reading x and y), and with a gradient also a fill."
)


@dataclass(frozen=True)
class Case:
    """One interleaved measurement."""

    shape: tuple[int, int]
    dtype: str
    gradient: bool
    threads: str
    """"1" or "all"."""
    variant: str = PLAIN

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of one input, which are also those of the gradient."""
        return self.size * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        work = "loss and gradient" if self.gradient else "loss"
        if self.variant != PLAIN:
            work = f"{work}, {self.variant}"
        threads = "1 thread" if self.threads == "1" else "all threads"
        return f"{shape_text(self.shape)} {self.dtype}, {work}, {threads}"


@dataclass(frozen=True)
class Data:
    """Logits and hard targets, both of the case's dtype, as NumPy arrays, and the exact mean loss to check against."""

    x: Any
    y: Any
    value: float
    where: Any = None
    weight: Any = None
    labels: Any = None
    """The positives of each row, (N, 5)."""
    h: Any = None
    """The factors of the logits, h (N, 64) and W (C, 64)."""
    W: Any = None


def shape_text(shape: tuple[int, int]) -> str:
    return "×".join(f"{n:,}".replace(",", " ") if n >= 10**6 else str(n) for n in shape)


def parse_shape(text: str) -> tuple[int, int]:
    """(8192, 1000) for "8192x1000"; ValueError for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise ValueError(f"a shape is written as rows x classes, such as 8192x1000; got {text!r}")
    return int(parts[0]), int(parts[1])


def numpy_dtype(name: str) -> Any:
    """The NumPy dtype of this name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def make_data(shape: tuple[int, int], dtype: str) -> Data:
    """Seeded logits of a half-trained classifier (standard deviation 3) and targets of which three in ten are 1."""
    random = np.random.default_rng([*shape, 20])
    kind = numpy_dtype(dtype)
    x, y = np.empty(shape, kind), np.empty(shape, kind)
    sums = []
    step = max(1, 2**20 // shape[1])
    # By blocks: the temporaries of a whole array would set the peak of the process, and hide what is measured.
    for start in range(0, shape[0], step):
        rows = slice(start, start + step)
        x[rows] = (3 * random.standard_normal(x[rows].shape, dtype=np.float32)).astype(kind)
        y[rows] = (random.random(y[rows].shape, dtype=np.float32) < 0.3).astype(kind)
        z = x[rows].astype(np.float64) * (1 - 2 * y[rows].astype(np.float64))
        sums.append(float(np.sum(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))))
    return Data(x, y, math.fsum(sums) / math.prod(shape))


def varied(data: Data, variant: str) -> Data:
    """The same data with the arguments of a variant, and the loss that they give."""
    x, y = data.x, data.y
    if variant == PLAIN:
        return data
    if variant == "Fortran order":
        return dataclasses.replace(data, x=np.asfortranarray(x), y=np.asfortranarray(y))
    if variant == "elements":
        return dataclasses.replace(data, x=x.reshape(-1, 1), y=y.reshape(-1, 1))
    if variant == "for weight":
        return dataclasses.replace(data, weight=np.ones(x.shape[1], x.dtype))
    random = np.random.default_rng([*x.shape, 21])
    if variant in MANY_CLASSES:
        return _many_classes(data, variant, random)
    where = random.random(x.shape, dtype=np.float32) < 0.5 if variant == "mask" else None
    shape = (x.shape[0], 1) if variant == "row weights" else x.shape
    weight = None if variant == "mask" else (random.random(shape, dtype=np.float32) + 0.5).astype(x.dtype)
    sums, observed = [], 0
    for i in range(len(x)):
        z = x[i].astype(np.float64) * (1 - 2 * y[i].astype(np.float64))
        losses = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        if where is not None:
            sums.append(float(losses[where[i]].sum()) / max(1, int(where[i].sum())))
            observed += bool(where[i].any())
        elif weight is not None:
            sums.append(float((losses * weight[i]).mean()))
            observed += 1
    return dataclasses.replace(data, value=math.fsum(sums) / max(1, observed), where=where, weight=weight)


def _many_classes(data: Data, variant: str, random: np.random.Generator) -> Data:
    """Five positives per row; for the head, logits that are a product."""
    x, h, W = data.x, None, None
    rows, classes = x.shape
    if variant == HEAD:
        h = random.standard_normal((rows, FEATURES), dtype=np.float32)
        W = random.standard_normal((classes, FEATURES), dtype=np.float32)
        W *= np.float32(3 / FEATURES**0.5)
        x = h @ W.T
    labels = np.stack([random.choice(classes, min(POSITIVES, classes), replace=False) for _ in range(rows)])
    y = np.zeros_like(x)
    np.put_along_axis(y, labels, 1, axis=1)
    sums = []
    for i in range(rows):
        z = x[i].astype(np.float64) * (1 - 2 * y[i].astype(np.float64))
        sums.append(float(np.mean(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))))
    return Data(x, y, math.fsum(sums) / rows, labels=labels, h=h, W=W)


def floor(case: Case, data: Data) -> Callable[[], None]:
    """The least work on the host: read both inputs, and write the gradient if there is one."""
    x, y = (data.x, data.y) if data.W is None else (data.W, data.h)
    # NumPy widens half precisions one by one; code that reads them directly is as fast as the memory.
    a, b = (v.view(np.uint64) if case.dtype in {"float16", "bfloat16"} else v for v in (x, y))
    # Likewise a mask, byte by byte; NumPy sums eight of them at a time as one integer.
    more = [data.where.reshape(-1)[: data.where.size // 8 * 8].view(np.uint64)] if data.where is not None else []
    more += [data.weight] if data.weight is not None else []

    def read() -> None:
        for array in (a, b, *more):
            array.sum()

    def read_and_write() -> None:
        read()
        np.empty_like(x).fill(1)

    return read_and_write if case.gradient and case.variant != "for weight" else read


def copy_scaling(threads: int, array: Any, clock: Callable[[], float], rounds: int = 7) -> float:
    """How many times faster `threads` threads copy this array than one does: the gain of the machine itself."""
    from concurrent.futures import ThreadPoolExecutor

    out = np.empty_like(array)
    parts = list(zip(np.array_split(out, threads), np.array_split(array, threads), strict=True))

    def one(pair: tuple[Any, Any]) -> None:
        np.copyto(*pair)

    single, several = [], []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = clock()
            np.copyto(out, array)
            middle = clock()
            list(pool.map(one, parts))
            single.append(middle - start)
            several.append(clock() - middle)
    return float(np.median(single) / np.median(several))
