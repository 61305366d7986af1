"""Gradient and Hessian of every element, for boosters and second-order optimisers, and one file per booster.

`derivatives` is the function; `xgboost.Objective` and `lightgbm.Objective` are imported without their boosters.
"""

from .._on_first_use import on_first_use as _on_first_use
from ._derivatives import derivatives

__all__ = ["derivatives", "lightgbm", "xgboost"]
__getattr__, __dir__ = _on_first_use(globals(), "lightgbm", "xgboost")
