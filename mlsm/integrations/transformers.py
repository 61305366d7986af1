"""Hugging Face: the loss for `Trainer(compute_loss_func=...)`, right under gradient accumulation."""

from importlib.util import find_spec
from typing import Any, final

if find_spec("transformers") is None:
    raise ImportError(
        "`mlsm.integrations.transformers` needs Transformers, which is not installed: "
        "python -m pip install 'mlsm[transformers]'"
    )

from .._loss import sigmoid_binary_cross_entropy
from .._typing import Weight
from ..objectives._options import Options


@final
class ComputeLoss(Options):
    r"""Binary cross-entropy of several labels for the Hugging Face Trainer, with missing labels and soft labels.

    For logits x and labels y of one forward pass, y' = y*(1-eps) + eps/2 and (1-y)' = (1-y)*(1-eps) + eps/2::

        loss = sum of weight * (pos_weight*y'*softplus(-x) + (1-y)'*softplus(x)) over the observed labels
               / the number of observed labels in all forward passes of the step

    Parameters
    ----------
    weight, pos_weight : tensor, number or nested list, optional
        Factors of each label's terms, and of their positive parts; ``(C,)`` for C labels.
    label_smoothing : float
        eps in [0, 1]: moves every label towards 1/2.
    missing : float, optional
        The label that means "not observed". The Trainer counts every label but -100, so labels of another value are
        left out of the sum but not out of its divisor.

    Raises
    ------
    ImportError
        On import of the module, if Transformers is not installed.
    TypeError, ValueError
        As for `mlsm.sigmoid_binary_cross_entropy`.

    Notes
    -----
    Models compute the mean of each forward pass themselves. The Trainer expects a loss that is divided by
    ``num_items_in_batch``, so that mean is too large by the number of accumulated passes; even divided by that number,
    it would weigh a pass with few observed labels as much as one with many. A step without an observed label has the
    loss 0.

    Half-precision logits are cast to float32, and the sum is taken there. Objects are picklable, immutable and equal
    when their options are.

    References
    ----------
    ``transformers.Trainer``: ``compute_loss_func`` and ``num_items_in_batch``.

    Examples
    --------
    >>> import torch
    >>> from mlsm.integrations.transformers import ComputeLoss
    >>> compute_loss = ComputeLoss()
    >>> logits, labels = torch.zeros(1, 3), torch.tensor([[1.0, -100.0, 0.0]])
    >>> compute_loss({"logits": logits}, labels)
    tensor(0.6931)
    >>> compute_loss({"logits": logits}, labels, num_items_in_batch=8)
    tensor(0.1733)

    With the library itself::

        Trainer(model, arguments, train_dataset=rows, compute_loss_func=ComputeLoss()).train()
    """

    __slots__ = ()

    def __init__(
        self,
        weight: Weight | None = None,
        *,
        pos_weight: Weight | None = None,
        label_smoothing: float = 0.0,
        missing: float | None = -100,
    ) -> None:
        super().__init__(weight, pos_weight, label_smoothing, missing)

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """The loss of one forward pass, as the Trainer calls it.

        Parameters
        ----------
        outputs : ModelOutput, dict or tuple
            Holds the logits as ``"logits"``, or as its first entry.
        labels : tensor, shape of the logits
            Bool, integer or floating, hard or soft.
        num_items_in_batch : int or tensor, optional
            The number of observed labels in all forward passes of the step; those of this pass by default.

        Returns
        -------
        tensor
            0-d, of float32 (float64 for logits of float64).

        Raises
        ------
        TypeError, ValueError
            As for `mlsm.sigmoid_binary_cross_entropy`.
        """
        import torch

        logits = outputs["logits"] if hasattr(outputs, "keys") else outputs[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        where = self.observed(labels)
        losses = sigmoid_binary_cross_entropy(
            logits, labels, where=where, label_smoothing=self.label_smoothing, **self.factors(logits)
        )
        if num_items_in_batch is None:
            num_items_in_batch = losses.numel() if where is None else where.sum()
        if isinstance(num_items_in_batch, torch.Tensor):
            # Under DataParallel it has one entry per device.
            count: Any = num_items_in_batch.reshape(-1)[0].to(losses.device).clamp(min=1)
        else:
            count = max(num_items_in_batch, 1)
        return losses.sum() / count
