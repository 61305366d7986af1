"""Targets as their positives only, and the linear head, whose logits are made a block at a time."""
