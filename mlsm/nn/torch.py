"""PyTorch: the loss as an `nn.Module`, whose weights move, save and load with the model. No formula stands here."""

from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # an installation that is broken tells so itself
    raise ImportError(
        "`mlsm.nn.torch` needs PyTorch, which is not installed: python -m pip install 'mlsm[torch]'", name="torch"
    ) from error

from .. import _check
from .._loss import multilabel_soft_margin_loss
from .._typing import Reduction

_Weight = torch.Tensor | float | list[Any] | tuple[Any, ...]


class MultiLabelSoftMarginLoss(torch.nn.Module):
    """The loss with its options fixed, as a module: ``loss(input, target)``.

    The formula, shapes, dtypes and special values are those of `mlsm.multilabel_soft_margin_loss`.

    Parameters
    ----------
    weight, pos_weight : tensor, number or nested list, optional
        Kept as buffers: moved and cast by ``.to``, pickled, and in the ``state_dict`` only when given (so that a
        module without them loads the ``state_dict`` of `torch.nn.MultiLabelSoftMarginLoss` and the reverse). A number
        or a list becomes a tensor of the default dtype.
    reduction, label_smoothing, axis
        As for `mlsm.multilabel_soft_margin_loss`, validated here.

    Raises
    ------
    TypeError, ValueError
        As for `mlsm.multilabel_soft_margin_loss`.

    References
    ----------
    ``torch.nn.MultiLabelSoftMarginLoss``, which takes ``size_average`` and ``reduce`` as its second and third
    positional arguments; here `reduction` is the second.

    Examples
    --------
    >>> import torch
    >>> from mlsm.nn.torch import MultiLabelSoftMarginLoss
    >>> loss = MultiLabelSoftMarginLoss(torch.tensor([1.0, 2.0]), reduction="sum")
    >>> loss
    MultiLabelSoftMarginLoss(reduction='sum', weight=<torch array of shape (2,), float32>)
    >>> input = torch.zeros(1, 2, requires_grad=True)
    >>> loss(input, torch.tensor([[1, 0]])).backward()
    >>> input.grad
    tensor([[-0.2500,  0.5000]])
    """

    weight: torch.Tensor | None
    pos_weight: torch.Tensor | None

    def __init__(
        self,
        weight: _Weight | None = None,
        reduction: Reduction = "mean",
        *,
        pos_weight: _Weight | None = None,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", _tensor(weight, "weight"))
        self.register_buffer("pos_weight", _tensor(pos_weight, "pos_weight"))
        self.reduction = _check.check_reduction(reduction)
        self.label_smoothing = _check.check_label_smoothing(label_smoothing)
        self.axis = _check.check_axis(axis)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What a pickle holds, checked as the constructor checks it; what an older one lacks gets its default."""
        MultiLabelSoftMarginLoss.__init__(self)
        kept = {**state, "_buffers": {**self._buffers, **state.get("_buffers", {})}}
        super().__setstate__(kept)  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        for name in ("weight", "pos_weight"):
            _tensor(getattr(self, name), name)
        _check.check_reduction(self.reduction)
        _check.check_label_smoothing(self.label_smoothing)
        _check.check_axis(self.axis)

    def forward(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        *,
        where: torch.Tensor | None = None,
        kernel: str | None = None,
    ) -> torch.Tensor:
        """The loss; `mlsm.multilabel_soft_margin_loss` with the options of this module."""
        return multilabel_soft_margin_loss(
            input,
            target,
            self.weight,
            reduction=self.reduction,  # type: ignore[arg-type]  # a str attribute, checked on construction
            pos_weight=self.pos_weight,
            where=where,
            label_smoothing=self.label_smoothing,
            axis=self.axis,
            kernel=kernel,
        )

    def extra_repr(self) -> str:
        """The configuration: the reduction, and every other option that was set."""
        return _check.configuration(self)


def _tensor(value: Any, argument: str) -> torch.Tensor | None:
    """A weight as a buffer; a foreign array is refused as the function would refuse it."""
    _check.check_weight(value, argument)
    if value is None or isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, list | tuple) and not _check.is_number(value):
        raise TypeError(
            f"`{argument}` must be a tensor, a Python number or a (nested) list of Python numbers; "
            f"got a {type(value).__module__}.{type(value).__qualname__}: convert it with `torch.as_tensor(...)`."
        )
    return torch.tensor(value, dtype=torch.get_default_dtype())
