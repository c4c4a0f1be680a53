"""A bound on the size of a Redis reply: time alone does not bound the memory that a fast server fills."""

from __future__ import annotations

import re
from typing import Any

MAX_REPLY_BYTES = 1 << 26
"""The longest reply. The longest ones that saltctl asks for are a bucket, which has 1.2 million ids of 50 bytes then,
and a page of 10,000 stream entries, whose ids have 2,000 bytes at most."""
MAX_LENGTH = 1 << 22
"""The longest array. hiredis allocates it when its length arrives, and the garbage collector visits each place."""
OUT_OF_STEP = "answered another command"
"""The message of the error for a reply that may belong to another command."""
FIRST_REPLY = "in the first reply"
"""The end of the message if a server does not speak the protocol of Redis from the start."""
_HEAD_BYTES = 256
_HEAD = re.compile(rb"([*~%>])?([$=!])?([^\r]*)")


class OversizedReplyError(Exception):
    """A reply is longer than any that saltctl asks for."""


class ReplyLimit:
    """Counts the bytes of one reply after the other, and checks the lengths at the beginning of what is received.

    Checking every length would cost as much as parsing the replies again.
    """

    def __init__(self) -> None:
        self._left = MAX_REPLY_BYTES
        self._head = b""

    def start_exchange(self) -> None:
        """Expect the beginning of a reply: a command is sent."""
        self._head = b""

    def start_reply(self) -> None:
        """Count from 0."""
        self._left = MAX_REPLY_BYTES

    def __call__(self, buffer: Any, size: int) -> None:
        """Take note of what was received; raises OversizedReplyError."""
        self._left -= size
        if len(self._head) < _HEAD_BYTES:
            self._head += bytes(buffer[: min(size, _HEAD_BYTES)])
            if announces_too_much(self._head):
                raise OversizedReplyError
        if self._left < 0:
            raise OversizedReplyError


def announces_too_much(head: bytes) -> bool:
    """Return whether one of the lengths in the beginning of a reply is out of bounds."""
    at = 0
    while at < len(head) and (found := _HEAD.match(head, at)) is not None:
        array, string, digits = found.groups()
        length = int(digits[:20]) if (array or string) and digits.isdigit() else 0
        if length > (MAX_LENGTH if array else MAX_REPLY_BYTES):
            return True
        at = found.end() + 2 + (length + 2 if string else 0)
    return False
