"""What boosters and second-order optimisers ask for: gradient and Hessian of every element, and a file per booster.

`derivatives` is the function; `xgboost.Objective` and `lightgbm.Objective` import no peer.
"""

from importlib import import_module
from types import ModuleType

from ._derivatives import derivatives

__all__ = ["derivatives", "lightgbm", "xgboost"]


def __getattr__(name: str) -> ModuleType:
    if name in ("lightgbm", "xgboost"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
