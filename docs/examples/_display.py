"""Seven-segment displays: the segments of each digit, and the place of each segment in the picture.

     aaaa
    f    b
    f    b
     gggg
    e    c
    e    c
     dddd

This file contains nothing about losses, libraries or plotting.
"""

import numpy as np

SEGMENTS = "abcdefg"
LIT = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")

# The ends of each segment in a box one wide and two high, the origin at the lower left.
ENDS = {
    "a": ((0, 2), (1, 2)),
    "b": ((1, 2), (1, 1)),
    "c": ((1, 1), (1, 0)),
    "d": ((0, 0), (1, 0)),
    "e": ((0, 1), (0, 0)),
    "f": ((0, 2), (0, 1)),
    "g": ((0, 1), (1, 1)),
}


def lit(digits: np.ndarray) -> np.ndarray:
    """The targets: (N, 7) of 0 and 1 for N digits, one column a segment."""
    table = np.asarray([[segment in lit for segment in SEGMENTS] for lit in LIT], dtype=np.uint8)
    return table[digits]


def outline(segment: str, thickness: float = 0.26, gap: float = 0.05) -> np.ndarray:
    """The six corners of a segment, pointed at both ends as in real displays."""
    (x0, y0), (x1, y1) = ENDS[segment]
    start, end = np.asarray((x0, y0), dtype=float), np.asarray((x1, y1), dtype=float)
    along = (end - start) / np.linalg.norm(end - start)
    across = np.asarray((-along[1], along[0])) * thickness / 2
    start, end = start + along * gap, end - along * gap
    inset = along * thickness / 2
    near, far = start + inset, end - inset
    return np.stack([start, near + across, far + across, end, far - across, near - across])
