"""What is right, and by how much one may be off: in pure Python, and without any algebra of the package's."""
