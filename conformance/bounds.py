"""By how much one may be off: the documented name of `reference/bounds.py`."""

from .reference.bounds import *  # noqa: F403  # all that it offers, and no second list of it
