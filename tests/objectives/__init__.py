"""Tests of `mlsm/objectives/`."""
