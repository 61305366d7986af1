"""What is right, in pure Python: the documented name of `reference/oracle.py`."""

from .reference.oracle import *  # noqa: F403  # all that it offers, and no second list of it
