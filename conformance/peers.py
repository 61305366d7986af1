"""Other libraries' losses, for `--impl`: the documented name of `subjects/peers.py`."""

from .subjects.peers import *  # noqa: F403  # everything it exports, without a second list
