"""The calls that are judged: the hand-picked catalogue, the hazards, and dense calls for each theme."""
