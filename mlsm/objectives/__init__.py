"""What boosters and second-order optimisers ask for: gradient and Hessian of every element, and a file per booster.

`derivatives` is the function; `xgboost.Objective` and `lightgbm.Objective` import no peer.
"""

from .._on_first_use import on_first_use as _on_first_use
from ._derivatives import derivatives

__all__ = ["derivatives", "lightgbm", "xgboost"]
__getattr__, __dir__ = _on_first_use(globals(), "lightgbm", "xgboost")
