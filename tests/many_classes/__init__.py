"""Tests of `mlsm/many_classes/`."""
