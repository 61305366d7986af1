"""PyTorch: the loss as an `nn.Module`, whose weights move, save and load with the model. No formula is here."""

import math
from typing import Any, NamedTuple

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # a broken installation has an error of its own
    raise ImportError(
        "`mlsm.nn.torch` needs PyTorch, which is not installed: python -m pip install 'mlsm[torch]'", name="torch"
    ) from error

from .. import _check
from .._loss import multilabel_soft_margin_loss
from .._typing import Reduction
from ..many_classes._labels import Labels
from ..many_classes._linear import ELEMENTS, linear_multilabel_soft_margin_loss

_Weight = torch.Tensor | float | list[Any] | tuple[Any, ...]


class MultiLabelSoftMarginLoss(torch.nn.Module):
    """The loss with its options fixed, as a module: ``loss(input, target)``.

    The formula, shapes, dtypes and special values are those of `mlsm.multilabel_soft_margin_loss`.

    Parameters
    ----------
    weight, pos_weight : tensor, number or nested list, optional
        Kept as buffers: moved and cast by ``.to``, pickled, and in the ``state_dict`` only when given, so that a
        module without them loads the ``state_dict`` of `torch.nn.MultiLabelSoftMarginLoss` and the reverse. A number
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
        """Restore a pickle: check its options like the constructor, and give options that it lacks their defaults."""
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
        target: torch.Tensor | Labels,
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


class TopK(NamedTuple):
    """The largest logits of each row, in descending order, and their classes; both of shape ``(*batch, k)``."""

    values: torch.Tensor
    indices: torch.Tensor


class LinearMultiLabelSoftMarginLoss(torch.nn.Module):
    """A linear layer and the loss of its logits, which are never stored as a whole: ``head(hidden, labels)``.

    The formula, shapes, dtypes and special values are those of `mlsm.linear_multilabel_soft_margin_loss`.

    Parameters
    ----------
    in_features, num_classes : int
        D, the length of a row of the input, and C.
    bias : bool
        Whether there is a `linear_bias`.
    device, dtype
        Of the parameters `linear_weight`, shape ``(C, D)``, and `linear_bias`, shape ``(C,)``, which are initialised as
        in ``torch.nn.Linear``.
    weight, pos_weight : tensor, number or nested list, optional
        Weights of the loss; kept as buffers, as in `MultiLabelSoftMarginLoss`.
    reduction, label_smoothing
        As for `mlsm.linear_multilabel_soft_margin_loss`, validated here.

    Raises
    ------
    TypeError, ValueError
        As for `mlsm.linear_multilabel_soft_margin_loss`.

    References
    ----------
    ``torch.nn.AdaptiveLogSoftmaxWithLoss``, which also holds the parameters of its classes, for the softmax.

    Examples
    --------
    >>> import torch
    >>> import mlsm
    >>> from mlsm.nn.torch import LinearMultiLabelSoftMarginLoss
    >>> head = LinearMultiLabelSoftMarginLoss(4, 1000, bias=False)
    >>> head
    LinearMultiLabelSoftMarginLoss(in_features=4, num_classes=1000, bias=False, reduction='mean')
    >>> labels = mlsm.Labels(torch.tensor([[3, 14], [159, -1]]), num_classes=1000)
    >>> head(torch.ones(2, 4), labels).backward()
    >>> head.linear_weight.grad.shape
    torch.Size([1000, 4])
    >>> head.topk(torch.ones(2, 4), 3).indices.shape
    torch.Size([2, 3])
    """

    weight: torch.Tensor | None
    pos_weight: torch.Tensor | None
    axis = -1

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        weight: _Weight | None = None,
        reduction: Reduction = "mean",
        pos_weight: _Weight | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features = _check.check_count(in_features, "in_features")
        self.num_classes = _check.check_count(num_classes, "num_classes")
        made = {"device": device, "dtype": dtype}
        self.linear_weight = torch.nn.Parameter(torch.empty((self.num_classes, self.in_features), **made))
        self.linear_bias = torch.nn.Parameter(torch.empty(self.num_classes, **made)) if bias else None
        self.register_buffer("weight", _on(_tensor(weight, "weight"), device))
        self.register_buffer("pos_weight", _on(_tensor(pos_weight, "pos_weight"), device))
        self.reduction = _check.check_reduction(reduction)
        self.label_smoothing = _check.check_label_smoothing(label_smoothing)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the parameters again, as ``torch.nn.Linear`` does."""
        torch.nn.init.kaiming_uniform_(self.linear_weight, a=math.sqrt(5))
        if self.linear_bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            torch.nn.init.uniform_(self.linear_bias, -bound, bound)

    def forward(
        self,
        input: torch.Tensor,
        target: torch.Tensor | Labels,
        *,
        where: torch.Tensor | None = None,
        kernel: str | None = None,
    ) -> torch.Tensor:
        """The loss; `mlsm.linear_multilabel_soft_margin_loss` with the parameters and options of this module."""
        return linear_multilabel_soft_margin_loss(
            input,
            self.linear_weight,
            target,
            self.weight,
            linear_bias=self.linear_bias,
            reduction=self.reduction,  # type: ignore[arg-type]  # a str attribute, checked on construction
            pos_weight=self.pos_weight,
            where=where,
            label_smoothing=self.label_smoothing,
            kernel=kernel,
        )

    def logits(self, input: torch.Tensor) -> torch.Tensor:
        """All logits, of shape ``(*batch, C)``: for few rows, or few classes."""
        return torch.nn.functional.linear(input, self.linear_weight, self.linear_bias)

    def topk(self, input: torch.Tensor, k: int) -> TopK:
        """The k largest logits of each row and their classes, by blocks of classes, without storing all logits."""
        if not 0 < _check.check_count(k, "k") <= self.num_classes:
            raise ValueError(f"`k` must be in [1, {self.num_classes}], the number of classes; got {k}.")
        width = max(k, ELEMENTS // max(1, input[..., 0].numel()))
        best: TopK | None = None
        for first in range(0, self.num_classes, width):
            here = slice(first, first + width)
            bias = None if self.linear_bias is None else self.linear_bias[here]
            logits = torch.nn.functional.linear(input, self.linear_weight[here], bias)
            values, indices = torch.topk(logits, min(k, logits.shape[-1]))
            indices = indices + first
            if best is not None:
                values, own = torch.topk(torch.cat([best.values, values], -1), k)
                indices = torch.cat([best.indices, indices], -1).gather(-1, own)
            best = TopK(values, indices)
        assert best is not None  # there is a class
        return best

    def extra_repr(self) -> str:
        """The sizes, the reduction, and every other option that was set."""
        bias = "" if self.linear_bias is not None else "bias=False, "
        sizes = f"in_features={self.in_features}, num_classes={self.num_classes}, {bias}"
        return sizes + _check.configuration(self)


def _on(value: torch.Tensor | None, device: Any) -> torch.Tensor | None:
    return value if value is None or device is None else value.to(device)


def _tensor(value: Any, argument: str) -> torch.Tensor | None:
    """A weight as a buffer; an array of another library is refused, as by the function."""
    _check.check_weight(value, argument)
    if value is None or isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, list | tuple) and not _check.is_number(value):
        raise TypeError(
            f"`{argument}` must be a tensor, a Python number or a (nested) list of Python numbers; "
            f"got a {type(value).__module__}.{type(value).__qualname__}: convert it with `torch.as_tensor(...)`."
        )
    return torch.tensor(value, dtype=torch.get_default_dtype())
