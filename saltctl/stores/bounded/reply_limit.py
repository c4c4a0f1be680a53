"""A bound on the size of a Redis reply: time alone does not bound the memory that a fast server fills."""

from __future__ import annotations

import re
from typing import Any

MAX_REPLY_BYTES = 1 << 26
"""The longest reply. The longest ones that saltctl asks for are a bucket, which has 1.2 million ids of 50 bytes then,
and a page of 10,000 stream entries, whose ids have 2,000 bytes at most."""
OUT_OF_STEP = "answered another command"
"""The message of the error for a reply that may belong to another command."""
FIRST_REPLY = "in the first reply"
"""The end of the message if a server does not speak the protocol of Redis from the start."""
_TOO_LONG = re.compile(rb"\r\n(?:[*~%>|][0-9]{8}|[$=!][0-9]{9})")
"""An array of 10 million elements: hiredis allocates it when its length arrives, and the garbage collector visits each
place. Or a string of 100 MB."""
_LONGEST_MATCH = 12
_CLASSES = bytes.maketrans(b"123456789*~%>|=!", b"000000000$$$$$$$")
"""Makes one byte of all digits, and one of all types that have a length."""
_STRING = re.compile(rb"\$([0-9]{1,8})\r\n")
_BYTES_BEFORE = 4096
"""Conversation ids, up to 2,000 bytes, are the only strings in replies that may contain what looks like a length."""


class OversizedReplyError(Exception):
    """A reply is longer than any that saltctl asks for."""


class ReplyLimit:
    """Counts the bytes of one reply after the other, and looks for lengths that are out of bounds."""

    def __init__(self) -> None:
        self._left = MAX_REPLY_BYTES
        self.start_exchange()

    def start_exchange(self) -> None:
        """Expect the beginning of a reply: a command is sent."""
        self._before = b"\r\n"

    def start_reply(self) -> None:
        """Count from 0."""
        self._left = MAX_REPLY_BYTES

    def __call__(self, buffer: Any, size: int) -> None:
        """Take note of what was received; raises OversizedReplyError."""
        self._left -= size
        received = self._before + bytes(buffer[:size])
        if self._left < 0 or announces_too_much(received, len(self._before) - _LONGEST_MATCH):
            raise OversizedReplyError
        self._before = received[-_BYTES_BEFORE:]


def announces_too_much(received: bytes, start: int = 0) -> bool:
    """Return whether a length after ``start`` is out of bounds. A line break precedes each length."""
    # Almost no reply has such a length. To find that out takes the expression 2.8 times as long (measured).
    classes = received.translate(_CLASSES)
    if b"\r\n$00000000" not in classes:
        return False
    return any(not _is_in_string(received, found.start()) for found in _TOO_LONG.finditer(received, max(start, 0)))


def _is_in_string(received: bytes, at: int) -> bool:
    lengths = _STRING.finditer(received, max(at - _BYTES_BEFORE, 0), at + 2)
    return any(found.end() + int(found[1]) > at + 2 for found in lengths)
