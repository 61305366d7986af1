"""Multi-label soft margin loss: binary cross-entropy with logits, averaged over the labels, for every array library.

Pass logits (raw scores) and not probabilities, and labels of 0 and 1. This file holds the public names and no code.
"""

import typing as _t

from ._diagnose import diagnose
from ._dispatch import Kernel, register_kernel, unregister_kernel
from ._loss import (
    explain,
    grad,
    hessian_diag,
    multilabel_soft_margin_loss,
    sigmoid_binary_cross_entropy,
    value_and_grad,
)
from ._module import MultiLabelSoftMarginLoss
from ._on_first_use import on_first_use as _on_first_use
from ._version import __version__
from .many_classes._labels import Labels
from .many_classes._linear import linear_multilabel_soft_margin_loss, linear_value_and_grad

__all__ = [
    "Kernel",
    "Labels",
    "MultiLabelSoftMarginLoss",
    "__version__",
    "diagnose",
    "explain",
    "grad",
    "hessian_diag",
    "linear_multilabel_soft_margin_loss",
    "linear_value_and_grad",
    "multilabel_soft_margin_loss",
    "register_kernel",
    "sigmoid_binary_cross_entropy",
    "unregister_kernel",
    "value_and_grad",
]

if _t.TYPE_CHECKING:  # with `__getattr__` a type checker would accept every misspelled name
    from . import integrations as integrations
    from . import nn as nn
    from . import objectives as objectives
else:
    __getattr__, __dir__ = _on_first_use(globals(), "integrations", "nn", "objectives")
