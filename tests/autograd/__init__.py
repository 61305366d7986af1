"""Tests of `mlsm/autograd/`."""
