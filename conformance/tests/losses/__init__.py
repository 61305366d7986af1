"""Losses that nobody would ship, and some that one should: what `--impl` is tried on."""
