"""Which calls AWS throttles at this moment: a job that makes no progress for minutes can say why.

And how many responses said so in this process, also those after which botocore sends the request again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_waiting: dict[int, tuple[float, str]] = {}
"""Since when AWS throttles the call of a thread, in monotonic seconds, and the message, by thread."""


@contextmanager
def throttling_noted() -> Iterator[Callable[[str], None]]:
    """Yield a function that notes a message, for :func:`throttled_call` until the block ends: AWS throttles it."""
    thread = threading.get_ident()

    def note(message: str) -> None:
        """Note the first message and its time."""
        _waiting.setdefault(thread, (time.monotonic(), message))

    try:
        yield note
    finally:
        _waiting.pop(thread, None)


def throttled_call(seconds: float = 0.0) -> str:
    """Return the message of a call in progress that is throttled for that long; empty if there is none."""
    since = time.monotonic() - seconds
    return next((message for began, message in list(_waiting.values()) if began <= since), "")


_responses = 0


def note_throttle() -> None:
    """Count a response by which AWS throttles."""
    global _responses  # noqa: PLW0603  a counter of this module
    _responses += 1  # of two threads at once, one may be lost: the number changes all the same


def throttles() -> int:
    """Return a number that has changed if AWS has throttled since."""
    return _responses
