"""The commands `run`, `list`, `show` and `sabotage`, and their parts."""
