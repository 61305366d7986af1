"""Kernels in a library's automatic differentiation, one file per library."""
