"""The loss for other libraries' trainers: one file per library, imported on first use, which imports that library.

`transformers.ComputeLoss` for the Hugging Face Trainer, `sklearn.MultiLabelLogisticRegression` for scikit-learn.
"""

from .._on_first_use import on_first_use as _on_first_use

__all__ = ["sklearn", "transformers"]
__getattr__, __dir__ = _on_first_use(globals(), *__all__)
