"""Tests of `mlsm/libraries/`."""
