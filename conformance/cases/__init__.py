"""The calls that are judged: the hand-picked catalogue, the hazards, and dense ones for each theme."""
