"""What the suite can judge: mlsm itself, a foreign loss, the peers, a conforming loss of another formula, and losses
with a planted mistake."""

from .base import OPTIONS, Declined, Foreign, Mlsm, NotImportable, Subject, load, subject_of

__all__ = ["OPTIONS", "Declined", "Foreign", "Mlsm", "NotImportable", "Subject", "load", "subject_of"]
