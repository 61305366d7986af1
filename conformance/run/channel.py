"""Communication with a child process: the task is sent as one line of JSON, messages come back as lines of JSON.

`Channel` is the parent's end and `Wire` the child's. `multiprocessing` is not used, because kernels use one thread in
its children, and a result must not depend on the number of processes. Imports the standard library only, because a
child may have to choose its processors before anything else is imported.
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
        """Send one line to the child. If the child has ended, do nothing: `messages` shows that."""
        assert self._child.stdin is not None
        try:
            print(json.dumps(value), file=self._child.stdin, flush=True)
        except BrokenPipeError:
            return

    def messages(self) -> Iterator[tuple[str, Any]]:
        """The child's messages, as pairs (kind, value), until it ends."""
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
        with contextlib.suppress(BrokenPipeError):  # unread input of a child that has ended
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()


class Wire:
    """The child's end: reads the task, then sends messages. It is also a `Listener`, which sends what it receives."""

    def __init__(self) -> None:
        # The messages get their own file descriptor: the output of libraries goes to standard error.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def hear(self) -> Iterator[Any]:
        """The parent's messages, line by line."""
        return map(json.loads, sys.stdin)

    def say(self, kind: str, value: Any = None) -> None:
        """One message."""
        print(json.dumps((kind, value)), file=self._out, flush=True)

    def title(self, text: str) -> None:
        """Set the title of the next steps."""
        self.say("title", text)

    def step(self, what: str, count: int = 1) -> None:
        """`count` more steps are done; `what` is the latest."""
        self.say("step", (what, count))

    def line(self, text: str) -> None:
        """Show a line permanently."""
        self.say("line", text)
