"""Bridges between a library's automatic differentiation and the kernels, a file per library."""
