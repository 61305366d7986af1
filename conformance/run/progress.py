"""The progress of a run: one line that is redrawn on a terminal, elsewhere a plain line at intervals."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TextIO

WIDTH = 28
OFTEN = 0.05
"""Seconds between two drawings on a terminal, short enough to look continuous."""
SELDOM = 15.0
"""Seconds between two lines elsewhere: a log shows that the run goes on, and stays short."""


class Progress:
    """Counts steps out of `total`. Writes to `out` only (standard output by default).

    Without a terminal there is a line every `seldom` seconds, whether or not a step was done, so that a step of minutes
    is shown by its name.
    """

    def __init__(self, total: int, out: TextIO | None = None, seldom: float = SELDOM) -> None:
        self._out = sys.stdout if out is None else out
        self._live = self._out.isatty()
        self._total = max(total, 1)
        self._done = 0
        self._shown = time.monotonic() if not self._live else 0.0
        self._title = ""
        self._what = ""
        self._seldom = seldom
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        if not self._live:
            threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self._ended.wait(self._seldom):
            with self._lock:
                if time.monotonic() - self._shown >= self._seldom * 0.9:
                    self._tell()

    def _tell(self) -> None:
        self._shown = time.monotonic()
        text = " ".join(f"{self._title} {self._what}".split())
        print(f"[{self._done}/{self._total}, {self._shown - self._began:.0f} s] {text}", file=self._out, flush=True)

    def title(self, text: str) -> None:
        """What the next steps belong to."""
        with self._lock:
            self._title, self._what = text.partition(" (")[0], ""
            if not self._live:
                self._shown = time.monotonic()
                print(text, file=self._out, flush=True)

    def step(self, what: str, count: int = 1) -> None:
        """`count` more steps are done; `what` is the latest."""
        with self._lock:
            self._done += count
            self._what = what
            now = time.monotonic()
            # The last one is always drawn.
            if self._live and (now - self._shown > OFTEN or self._done >= self._total):
                self._shown = now
                full = WIDTH * min(self._done, self._total) // self._total
                bar = "█" * full + "░" * (WIDTH - full)
                text = f"{bar} {self._done}/{self._total} {self._title} {what}"
                print(f"\r\x1b[2K{text[: self._columns() - 1]}", end="", file=self._out, flush=True)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._out.fileno()).columns
        except OSError:  # a terminal without a size
            return 110

    def line(self, text: str) -> None:
        """Show a line permanently, above the bar."""
        with self._lock:
            if self._live:
                print("\r\x1b[2K", end="", file=self._out)
            self._shown = time.monotonic()
            print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        self._ended.set()
        with self._lock:
            if self._live:
                print("\r\x1b[2K", end="", file=self._out, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
