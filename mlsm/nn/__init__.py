"""The loss as a module of a framework, one file per framework, each imported on first use."""

import typing as _t

from .._on_first_use import on_first_use as _on_first_use

if _t.TYPE_CHECKING:
    from . import torch as torch
else:
    __getattr__, __dir__ = _on_first_use(globals(), "torch")
