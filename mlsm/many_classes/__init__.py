"""Targets stored as their positives only, and the linear head, whose logits are computed a block at a time."""
