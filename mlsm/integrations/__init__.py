"""The loss where other libraries train: a file per library, each resolved on first use and importing its own peer.

`transformers.ComputeLoss` for the Hugging Face Trainer, `sklearn.MultiLabelLogisticRegression` for scikit-learn.
"""

from importlib import import_module
from types import ModuleType

__all__ = ["sklearn", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
