"""The commands `run`, `list`, `show` and `sabotage`, and what they are made of."""
