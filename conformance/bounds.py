"""The largest error that is allowed: the documented name of `reference/bounds.py`."""

from .reference.bounds import *  # noqa: F403  # everything it exports, without a second list
