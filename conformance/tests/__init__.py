"""The tests of the suite itself; they are not installed with it."""
