"""The command `bench`: speed and memory beside the peers that are installed."""
