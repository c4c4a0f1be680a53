"""A pseudo-terminal for a command that runs in this process."""

from __future__ import annotations

import os
import pty
import sys
import threading
from contextlib import ExitStack
from unittest.mock import patch

from saltctl.cli.main import run


def run_on_a_terminal(
    *args: str, typed: str = "", prompt: bytes = b"Continue?", streams: tuple[str, ...] = ("stdin", "stdout", "stderr")
) -> tuple[int, str]:
    """Run in this process with streams that are a pseudo-terminal; the exit code, and everything that it was sent.

    ``typed`` is typed when the prompt is shown. The other streams stay as they are.
    """
    leader, follower = pty.openpty()
    shown = bytearray()

    def sit_in_front() -> None:
        """Read the screen until the other end is closed, and answer the question once."""
        answer = typed
        while True:
            try:
                shown.extend(os.read(leader, 65536))
            except OSError:
                return
            if answer and prompt in shown:
                os.write(leader, answer.encode())
                answer = ""

    person = threading.Thread(target=sit_in_front)
    person.start()
    try:
        with ExitStack() as stack:
            for name in streams:
                mode = "r" if name == "stdin" else "w"
                stream = stack.enter_context(open(os.dup(follower), mode, encoding="utf-8"))  # noqa: PTH123  no file
                stack.enter_context(patch.object(sys, name, stream))
            code = run(args)
    finally:
        os.close(follower)
        person.join()
        os.close(leader)
    return code, shown.decode()
