"""Times and stream ids that are given on the command line."""

from __future__ import annotations

import re
import time

from saltctl.cli.text import parse_duration
from saltctl.errors import UsageError
from saltctl.times import parse_iso


def parse_time(text: str, now: float) -> float:
    """Return the seconds since the epoch of an ISO 8601 time, or of a duration before ``now``.

    Raises:
        ValueError: the string is neither.
    """
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_iso(text).timestamp()
    except OverflowError as exc:
        raise ValueError(str(exc)) from exc


def parse_stream_id(text: str) -> str:
    """Return the stream id of an id, an ISO 8601 time, or a duration ago.

    Raises:
        UsageError: the string is none of them.
    """
    error = UsageError(
        f"{text!r} is neither a stream id nor a time", hint="write 1700000000000-0, 2026-01-31T12:00:00Z or 15m"
    )
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
        if any(len(part) > 20 or int(part) >= 2**64 for part in text.split("-")):
            raise error
        return text
    try:
        return str(max(int(parse_time(text, time.time()) * 1000), 0))
    except ValueError:
        raise error from None
