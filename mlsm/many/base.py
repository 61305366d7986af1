"""Any library of the standard: blocks of the target are NumPy's and are converted, results are put together at the end.

Says what each other file may say better.
"""

from typing import Any


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

        made = Scratch(np, labels.mapped(np.from_dlpack), "cpu")
        return lambda rows, classes: xp.asarray(made(rows, classes), device=device, copy=True)

    def whole(self, xp: Any, labels: Any, device: Any, traced: bool) -> Any:
        """The dense target, in memory of its own."""
        return self.blocks(xp, labels, device)((slice(None),) * (labels.ndim - 1), slice(None))

    def logits(self, xp: Any, input: Any, weight: Any, bias: Any) -> Any:
        """``input @ weight.T + bias``, as the library multiplies."""
        found = input @ xp.matrix_transpose(weight)
        return found if bias is None else found + bias[(*(None,) * (found.ndim - 1), ...)]
