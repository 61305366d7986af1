"""Any library of the standard: blocks of the target are NumPy's and are converted, results are put together at the end.

Says what each other file may say better.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .._policy import promoted


class Base:
    """The answers of a library that nobody prepared for, and the questions that are asked of all."""

    mutable = False  # whether its arrays may be written to, in place and by index, at no cost but the writing

    def arrived(self, labels: Any) -> None:
        """The first labels of this library are there: make them known to whatever of it asks for that."""

    def traced(self, *arrays: Any) -> bool:
        """Whether something looks through the arithmetic, so that nothing may be written to and no value read."""
        return False

    def readable(self, *arrays: Any) -> tuple[Any, ...] | None:
        """The arrays as NumPy's where that costs nothing and is a wait for nobody; else None."""
        return None

    def blocks(self, xp: Any, labels: Any, device: Any) -> Any:
        """What makes blocks of the dense target: ``blocks(rows, classes)``, slices of the batch axes and a slice."""
        import array_api_compat.numpy as np

        from .numpy import Scratch

        host: Any = np  # a type checker finds its modules empty
        made = Scratch(host, labels.mapped(host.from_dlpack), "cpu")
        return lambda rows, classes: xp.asarray(made(rows, classes), device=device, copy=True)

    def whole(self, xp: Any, labels: Any, device: Any, traced: bool) -> Any:
        """The dense target, in memory of its own."""
        return self.blocks(xp, labels, device)((slice(None),) * (labels.ndim - 1), slice(None))

    def logits(self, xp: Any, input: Any, weight: Any, bias: Any) -> Any:
        """``input @ weight.T + bias`` of arrays of one dtype, as the library multiplies."""
        found = input @ xp.matrix_transpose(weight)
        return found if bias is None else found + bias[(*(None,) * (found.ndim - 1), ...)]

    def logits_dtype(self, xp: Any, input: Any, weight: Any, bias: Any) -> Any:
        """The dtype of the logits of these arrays; raises what the library raises if it does not multiply them."""
        return promoted(xp, [v.dtype for v in (input, weight, bias) if v is not None])[0]

    def undisturbed(self, device: Any) -> AbstractContextManager[Any]:
        """A context in which products have the dtype of their factors."""
        return nullcontext()

    def run(self, by_blocks: Any, head: Any, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
        """What ``by_blocks(head, scale, wanted)`` finds."""
        found: dict[str, Any] = by_blocks(head, scale, wanted)
        return found

    def parts(self, xp: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> "Parts":
        """What collects the parts of a result, first to last along its first axis."""
        return Parts(xp)


class Parts:
    """Parts of an array, put together when all are there."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.found: list[Any] = []

    def add(self, first: int, part: Any) -> None:
        self.found.append(part)

    def whole(self) -> Any:
        return self.found[0] if len(self.found) == 1 else self.xp.concat(self.found)
