"""Other libraries' losses, for `--impl`: the documented name of `subjects/peers.py`."""

from .subjects.peers import *  # noqa: F403  # all that it offers, and no second list of it
