"""The losses that the suite can judge: mlsm itself, a foreign loss, the peers, a conforming loss by another formula,
and losses with a planted mistake."""

from .base import (
    OPTIONS,
    Declined,
    Foreign,
    Loaded,
    Mlsm,
    NotImportable,
    Subject,
    load,
    load_kernel,
    subject_of,
)

__all__ = [
    "OPTIONS",
    "Declined",
    "Foreign",
    "Loaded",
    "Mlsm",
    "NotImportable",
    "Subject",
    "load",
    "load_kernel",
    "subject_of",
]
