"""The class `MultiLabelSoftMarginLoss`: it holds the options and calls the functions. No arithmetic, no own check."""

from typing import Any, NoReturn, final

from . import _check
from ._loss import grad, hessian_diag, multilabel_soft_margin_loss, value_and_grad
from ._typing import Array, ArrayT, Number, Reduction, Weight, Wrt

_OPTIONS = ("weight", "reduction", "pos_weight", "label_smoothing", "axis")


@final
class MultiLabelSoftMarginLoss:
    """The loss with its options fixed: ``loss(input, target)``.

    The formula, shapes, dtypes and special values are those of `multilabel_soft_margin_loss`. An object is immutable,
    picklable and hashed by identity; the arrays it holds are the caller's own and are not copied.

    Parameters
    ----------
    weight, reduction, pos_weight, label_smoothing, axis
        As for `multilabel_soft_margin_loss`; readable as attributes. They are validated here, as far as they can be
        without an input.

    Raises
    ------
    TypeError, ValueError
        As for `multilabel_soft_margin_loss`, on construction.
    AttributeError
        On any assignment.

    References
    ----------
    ``torch.nn.MultiLabelSoftMarginLoss``; `mlsm.nn.torch` has the same loss as an ``nn.Module``.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> loss = mlsm.MultiLabelSoftMarginLoss(reduction="sum")
    >>> loss
    MultiLabelSoftMarginLoss(reduction='sum')
    >>> print(f"{loss(np.zeros((4, 2)), np.ones((4, 2))):.6f}")
    2.772589
    """

    __slots__ = ("__weakref__", "axis", "label_smoothing", "pos_weight", "reduction", "weight")

    weight: Weight | None
    reduction: Reduction
    pos_weight: Weight | None
    label_smoothing: float
    axis: int

    def __init__(
        self,
        weight: Weight | None = None,
        reduction: Reduction = "mean",
        *,
        pos_weight: Weight | None = None,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        _check.check_weight(weight, "weight")
        _check.check_weight(pos_weight, "pos_weight")
        for name, value in (
            ("weight", weight),
            ("reduction", _check.check_reduction(reduction)),
            ("pos_weight", pos_weight),
            ("label_smoothing", _check.check_label_smoothing(label_smoothing)),
            ("axis", _check.check_axis(axis)),
        ):
            object.__setattr__(self, name, value)

    def __call__(
        self, input: ArrayT, target: Array, *, where: Array | None = None, kernel: str | None = None
    ) -> ArrayT:
        """The loss; `multilabel_soft_margin_loss` with the options of this object."""
        return multilabel_soft_margin_loss(input, target, where=where, kernel=kernel, **self._options())

    forward = __call__

    def grad(
        self,
        input: ArrayT,
        target: Array,
        *,
        grad_output: Array | Number | None = None,
        wrt: Wrt = "input",
        where: Array | None = None,
        kernel: str | None = None,
    ) -> ArrayT:
        """The gradient; `mlsm.grad` with the options of this object."""
        return grad(input, target, grad_output=grad_output, wrt=wrt, where=where, kernel=kernel, **self._options())

    def backward(
        self,
        input: ArrayT,
        target: Array,
        grad_output: Array | Number | None = None,
        *,
        wrt: Wrt = "input",
        where: Array | None = None,
        kernel: str | None = None,
    ) -> ArrayT:
        """The same as `grad`; `grad_output` may also be given by position."""
        return self.grad(input, target, grad_output=grad_output, wrt=wrt, where=where, kernel=kernel)

    def value_and_grad(
        self,
        input: ArrayT,
        target: Array,
        *,
        grad_output: Array | Number | None = None,
        where: Array | None = None,
        kernel: str | None = None,
    ) -> tuple[ArrayT, ArrayT]:
        """The loss and its gradient; `mlsm.value_and_grad` with the options of this object."""
        return value_and_grad(input, target, grad_output=grad_output, where=where, kernel=kernel, **self._options())

    def hessian_diag(
        self,
        input: ArrayT,
        target: Array,
        *,
        grad_output: Array | Number | None = None,
        where: Array | None = None,
        kernel: str | None = None,
    ) -> ArrayT:
        """The diagonal of the Hessian; `mlsm.hessian_diag` with the options of this object."""
        return hessian_diag(input, target, grad_output=grad_output, where=where, kernel=kernel, **self._options())

    def extra_repr(self) -> str:
        """The configuration, as `repr` shows it: the reduction, and every other option that was set."""
        return _check.configuration(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OPTIONS}

    def __getstate__(self) -> dict[str, Any]:
        return self._options()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle: check its options like the constructor, and give options that it lacks their defaults."""
        unknown = [name for name in state if name not in _OPTIONS]
        if unknown:
            raise TypeError(
                f"a pickled {type(self).__name__} holds {', '.join(_OPTIONS)}; got {', '.join(map(repr, unknown))}: "
                "it was made by another version of mlsm."
            )
        MultiLabelSoftMarginLoss.__init__(self, **state)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"`{name}` cannot be set: a {type(self).__name__} is immutable; make a new one.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"`{name}` cannot be deleted: a {type(self).__name__} is immutable; make a new one.")

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("MultiLabelSoftMarginLoss is final: keep an instance as an attribute, or write a function.")
