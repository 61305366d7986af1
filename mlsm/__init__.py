"""Multi-label soft margin loss for every array library at once: the public names, and nothing else."""

from ._dispatch import Kernel, register_kernel, unregister_kernel
from ._loss import explain, grad, hessian_diag, multilabel_soft_margin_loss, value_and_grad
from ._module import MultiLabelSoftMarginLoss
from ._version import __version__

__all__ = [
    "Kernel",
    "MultiLabelSoftMarginLoss",
    "__version__",
    "explain",
    "grad",
    "hessian_diag",
    "multilabel_soft_margin_loss",
    "register_kernel",
    "unregister_kernel",
    "value_and_grad",
]
