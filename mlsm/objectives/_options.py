"""The common part of the boosters' objectives: options that are checked once and compared, masks, weights, the metric.

Computes no derivative (`derivatives` does) and knows no booster.
"""

import math
from typing import Any

from array_api_compat import array_namespace, device

from .. import _check
from .._loss import sigmoid_binary_cross_entropy
from .._typing import Weight


class Options:
    """The options of an objective: immutable, picklable, compared and hashed by their values."""

    __slots__ = ("label_smoothing", "missing", "pos_weight", "weight")

    weight: Weight | None
    pos_weight: Weight | None
    label_smoothing: float
    missing: float | None

    def __init__(
        self, weight: Weight | None, pos_weight: Weight | None, label_smoothing: float, missing: float | None
    ) -> None:
        _check.check_weight(weight, "weight")
        _check.check_weight(pos_weight, "pos_weight")
        value: Any = missing
        if value is not None and (isinstance(value, bool) or not _check.is_number(value)):
            raise TypeError(f"`missing` must be None or the number that marks a label as not observed; got {value!r}.")
        self._set(
            weight=weight,
            pos_weight=pos_weight,
            label_smoothing=_check.check_label_smoothing(label_smoothing),
            missing=missing,
        )

    def observed(self, labels: Any) -> Any:
        """True where a label was observed; None if no label can be missing."""
        if self.missing is None:
            return None
        return labels == labels if math.isnan(self.missing) else labels != self.missing

    def factors(self, margins: Any) -> dict[str, Any]:
        """`weight` and `pos_weight`, arrays in the margins' library and dtype, so that they widen no arithmetic."""
        return {name: _like(getattr(self, name), margins) for name in ("weight", "pos_weight")}

    def logloss(self, margins: Any, labels: Any, sample_weight: Any) -> float:
        """The mean of -log(probability of the label) over the observed labels, weighted."""
        where = self.observed(labels)
        xp = array_namespace(margins)
        losses = sigmoid_binary_cross_entropy(margins, labels, where=where)
        scale = xp.ones_like(losses) if where is None else xp.astype(where, losses.dtype)
        if self.weight is not None:
            scale = scale * xp.asarray(self.weight, dtype=losses.dtype)
        if sample_weight is not None:
            scale = scale * (sample_weight if losses.ndim < 2 else sample_weight[:, None])
        total, count = (float(xp.sum(v, dtype=xp.float64)) for v in (losses * scale, scale))
        return total / count if count else 0.0

    def _key(self) -> tuple[Any, ...]:
        return tuple(_comparable(getattr(self, name)) for name in Options.__slots__)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"`{name}` cannot be set: an {type(self).__name__} is immutable; make a new one.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Options.__slots__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**state)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, default in (("weight", None), ("pos_weight", None), ("label_smoothing", 0.0), ("missing", None))
            if getattr(self, name) is not default and not _same(getattr(self, name), default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    return _check.is_number(value) and value == default


def _like(value: Any, margins: Any) -> Any:
    """An array of weights in the library and dtype of the margins; None, a number and a list unchanged."""
    if value is None or _check.is_number(value) or isinstance(value, list | tuple):
        return value
    return array_namespace(margins).asarray(value, dtype=margins.dtype, device=device(margins))


def _comparable(value: Any) -> Any:
    """A value that can be compared and hashed, and that is equal for equal numbers."""
    if value is None or _check.is_number(value):
        return "nan" if value is not None and value != value else value
    if isinstance(value, list | tuple):
        return tuple(_comparable(v) for v in value)
    return (tuple(value.shape), tuple(float(v) for v in value.reshape(-1)))
