"""Twins of the loss in the module systems of frameworks, a file per framework, each imported explicitly."""
