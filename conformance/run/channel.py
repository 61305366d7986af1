"""The one way to a process of our own: a task goes in as one line of JSON, messages come back as lines of JSON.

`Channel` is the parent's end and `Wire` the child's. Not `multiprocessing`, in whose children the kernels use one
thread: what is judged or measured must not depend on how many processes do it. Imports the standard library only,
because a child may have to settle its processors before anything else is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any


class Channel:
    """A running `python -m module`, to which `task` has been given."""

    def __init__(
        self,
        module: str,
        task: Any,
        environment: Mapping[str, str] | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            encoding="utf-8",
        )
        self.say(task)

    def say(self, value: Any) -> None:
        """One line to the child; nothing where it has ended, which `messages` will show."""
        assert self._child.stdin is not None
        try:
            print(json.dumps(value), file=self._child.stdin, flush=True)
        except BrokenPipeError:
            return

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What the child says, (kind, value) by (kind, value), until it ends."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            kind, value = json.loads(line)
            yield kind, value

    def code(self) -> int:
        """The child's exit code, once it has ended."""
        return self._child.wait()

    def kill(self) -> None:
        """End the child."""
        self._child.kill()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # what stood in the pipe to a child that has ended
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()


class Wire:
    """The child's end: reads its task, then says messages. It is a `Listener`, too: it passes on what it hears."""

    def __init__(self) -> None:
        # The messages get a way of their own: whatever a library prints goes to standard error.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def hear(self) -> Iterator[Any]:
        """What the parent says, line by line."""
        return map(json.loads, sys.stdin)

    def say(self, kind: str, value: Any = None) -> None:
        """One message."""
        print(json.dumps((kind, value)), file=self._out, flush=True)

    def title(self, text: str) -> None:
        """What the next steps belong to."""
        self.say("title", text)

    def step(self, what: str, count: int = 1) -> None:
        """`count` more steps are done; `what` is the latest."""
        self.say("step", (what, count))

    def line(self, text: str) -> None:
        """A line that stays."""
        self.say("line", text)
