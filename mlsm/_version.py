"""The version, and nothing else: packaging reads it as text, `import mlsm` as a module of one line."""

__version__ = "0.2.0"
