"""The loss where other libraries train: a file per library, each resolved on first use and importing its own peer.

`transformers.ComputeLoss` for the Hugging Face Trainer, `sklearn.MultiLabelLogisticRegression` for scikit-learn.
"""

from .._on_first_use import on_first_use as _on_first_use

__all__ = ["sklearn", "transformers"]
__getattr__, __dir__ = _on_first_use(globals(), *__all__)
