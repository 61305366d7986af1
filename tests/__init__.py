"""Is mlsm well built? (Whether a backend is right is the conformance suite's question.) A file per topic."""
