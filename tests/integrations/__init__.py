"""Tests of `mlsm/integrations/`."""
