"""The command `bench`: speed and memory compared with the peers that are installed."""
