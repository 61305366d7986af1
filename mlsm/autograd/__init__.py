"""A library's automatic differentiation by the kernels' derivatives, a file per library."""
