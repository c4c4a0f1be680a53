"""Children of a fork that run a function and send its result, so that a test sees what a pre-forked worker sees."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 60.0
"""Seconds after which a child is taken for one that waits forever."""


class Child:
    """A forked child. ``fork`` forks; by default ``os.fork``.

    The child ends without the clean-up of the interpreter, as those of multiprocessing do.
    """

    def __init__(self, work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> None:
        self._read_end, write_end = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            try:
                try:
                    result = True, work()
                except BaseException as exc:
                    result = False, "".join(traceback.format_exception(exc))
                os.write(write_end, pickle.dumps(result))
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.close(write_end)

    def result(self, seconds: float = SECONDS) -> Any:
        """Return what the function returned. Raises AssertionError if it raised, or if the child hangs."""
        content, deadline = b"", time.monotonic() + seconds
        try:
            while select.select([self._read_end], [], [], max(deadline - time.monotonic(), 0))[0]:
                part = os.read(self._read_end, 1 << 20)
                content += part
                if not part:
                    break
            else:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError("the child waits forever")
        finally:
            os.close(self._read_end)
            os.waitpid(self.pid, 0)
        done, result = pickle.loads(content)  # noqa: S301  from a child of this test
        assert done, result
        return result


def in_child(work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> Any:
    """Run a function in a forked child and return its result."""
    return Child(work, fork).result()
