"""The exact answers and the allowed errors, in pure Python, without any algebra of the package."""
