"""Tests of mlsm, one file per topic. (The conformance suite judges whether the results of a backend are right.)"""
