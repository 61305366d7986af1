"""The data of the catalogue: `Tensor`, `Case` and `Hazard`, from which any backend can make its arrays.

Computes no loss (the oracle does) and contains nothing of an array library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from .formats import INTEGERS, is_floating, promote, round_to

Number: TypeAlias = float | int | bool
Nested: TypeAlias = list["Number | Nested"]

LAYOUTS = (
    "C",
    "F",
    "negative_stride",
    "broadcast",
    "read_only",
    "offset_view",
    "byte_swapped",
    "unaligned",
    "memmap",
)
"""Every layout of the catalogue. "broadcast" means stride 0 along the first axis, so its cases repeat one row."""


@dataclass(frozen=True)
class Tensor:
    """A shape, its values flat in row-major order, and a dtype by name; every value is a member of that dtype."""

    shape: tuple[int, ...]
    values: tuple[Number, ...]
    dtype: str

    def __post_init__(self) -> None:
        if len(self.values) != math.prod(self.shape):
            raise ValueError(f"shape {self.shape} holds {math.prod(self.shape)} values, not {len(self.values)}")
        if is_floating(self.dtype):
            for value in set(self.values):
                if round_to(value, self.dtype) != value and value == value:
                    raise ValueError(f"{value!r} is not a member of {self.dtype}")
        elif self.dtype == "bool":
            if not all(isinstance(value, bool) for value in self.values):
                raise ValueError("a bool tensor holds bools")
        else:
            low, high = INTEGERS[self.dtype]
            if not all(isinstance(value, int) and low <= value <= high for value in self.values):
                raise ValueError(f"a value is outside of {self.dtype}")

    @property
    def nested(self) -> Number | Nested:
        """The values as nested lists of `shape` (a bare number if the shape is empty)."""

        def build(axis: int, start: int, stop: int) -> Number | Nested:
            if axis == len(self.shape):
                return self.values[start]
            size = (stop - start) // self.shape[axis] if self.shape[axis] else 0
            return [build(axis + 1, start + i * size, start + (i + 1) * size) for i in range(self.shape[axis])]

        return build(0, 0, len(self.values))


def shape_of(argument: Tensor | Number | Nested) -> tuple[int, ...]:
    """The shape of a weight as the contract sees it: a tensor's own, () for a number, a list's nested shape."""
    if isinstance(argument, Tensor):
        return argument.shape
    if isinstance(argument, list):
        return (len(argument), *(shape_of(argument[0]) if argument else ()))
    return ()


def flat(argument: Tensor | Number | Nested) -> tuple[float, ...]:
    """The values of a weight as Python floats, row-major."""
    if isinstance(argument, Tensor):
        return tuple(float(value) for value in argument.values)
    if isinstance(argument, list):
        return tuple(value for part in argument for value in flat(part))
    return (float(argument),)


@dataclass(frozen=True, eq=False)
class Case:
    """One named call of the loss; compared and hashed by identity, so that judges can cache their answers.

    `weight` and `pos_weight` are a `Tensor`, a Python number, a (nested) list of numbers, or None; `where` is a bool
    `Tensor` or None; `layout` (one of `LAYOUTS`) is meant for `input` and `target` both; `axis` is the class axis.
    """

    name: str
    input: Tensor
    target: Tensor
    weight: Tensor | Number | Nested | None = None
    pos_weight: Tensor | Number | Nested | None = None
    where: Tensor | None = None
    label_smoothing: float = 0.0
    axis: int = -1
    layout: str = "C"
    tags: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.layout!r} is not one of {LAYOUTS}")
        if self.target.shape != self.input.shape:
            raise ValueError(f"{self.name}: target {self.target.shape} is not shaped like input {self.input.shape}")

    def __repr__(self) -> str:
        return f"<Case {self.name}: {self.input.dtype}{list(self.input.shape)}>"

    @property
    def classes(self) -> int:
        """C, the length of the class axis."""
        return self.input.shape[self.axis]

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the row losses: the input's without the class axis."""
        axis = self.axis % len(self.input.shape)
        return self.input.shape[:axis] + self.input.shape[axis + 1 :]

    @property
    def loss_dtype(self) -> str:
        """The dtype that the loss must have: the promotion of the floating arrays among the four arguments."""
        arrays = (self.input, self.target, self.weight, self.pos_weight)
        return promote(t.dtype for t in arrays if isinstance(t, Tensor) and is_floating(t.dtype))

    @property
    def compute_dtype(self) -> str:
        """The dtype of the elementwise arithmetic: the loss dtype, never narrower than float32."""
        return "float64" if self.loss_dtype == "float64" else "float32"

    def grad_dtype(self, wrt: str) -> str:
        """The dtype that d(loss)/d(wrt) must have: that argument's where it is a floating array, else the input's."""
        arguments = {"input": self.input, "target": self.target, "weight": self.weight, "pos_weight": self.pos_weight}
        argument = arguments[wrt]
        return argument.dtype if isinstance(argument, Tensor) and is_floating(argument.dtype) else self.input.dtype


@dataclass(frozen=True)
class Hazard:
    """A row of the hazard table: the trigger, the right answer, and the implementations that get it wrong.

    `expected` holds exact decimals (20 significant digits or "inf", "-inf", "nan") by quantity: "loss", "gradient",
    "hessian", "d_target" (those of the first element, with reduction "sum"), "mean" or "sum". A hazard of behaviour
    rather than of a number has no case; its right answer is in `answer`, and `constant` gives (shape, logit, target)
    if a backend has to make a large array.
    """

    name: str
    trigger: str
    expected: tuple[tuple[str, str], ...] = ()
    case: Case | None = None
    answer: str = ""
    who_fails: str = ""
    constant: tuple[tuple[int, ...], float, float] | None = None
