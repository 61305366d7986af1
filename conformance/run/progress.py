"""A progress bar of a few lines: one line that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

WIDTH = 28


class Progress:
    """Counts steps out of `total`. Writes to `out` only (standard output by default)."""

    def __init__(self, total: int, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._live = self._out.isatty()
        self._total = max(total, 1)
        self._done = 0
        self._shown = 0.0
        self._title = ""

    def title(self, text: str) -> None:
        """What the next steps belong to."""
        self._title = text.partition(" ")[0]
        if not self._live:
            print(text, file=self._out, flush=True)

    def step(self, what: str, count: int = 1) -> None:
        """`count` more steps are done; `what` is the latest."""
        self._done += count
        now = time.monotonic()
        # Twenty times a second is as often as an eye can follow; the last one is always drawn.
        if self._live and (now - self._shown > 0.05 or self._done >= self._total):
            self._shown = now
            full = WIDTH * min(self._done, self._total) // self._total
            bar = "█" * full + "░" * (WIDTH - full)
            text = f"{bar} {self._done}/{self._total} {self._title} {what}"
            print(f"\r\x1b[2K{text[:110]}", end="", file=self._out, flush=True)

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._live:
            print("\r\x1b[2K", end="", file=self._out)
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """The bar goes."""
        if self._live:
            print("\r\x1b[2K", end="", file=self._out, flush=True)
