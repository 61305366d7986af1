"""Tests of `mlsm/kernels/`."""
