"""Tests of `mlsm/nn/`."""
