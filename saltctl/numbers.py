"""The check of numbers that callers of the library pass: one that is not meant is refused, never used."""

from __future__ import annotations

from saltctl.errors import UsageError

MAX = 1_000_000_000
"""The largest number of an option that has no smaller one."""
LONGEST = 100 * 366 * 86400
"""Seconds of the longest duration, as of those that are written."""


def check_number(name: str, value: object, least: float, most: float = MAX, *, hint: str = "") -> None:
    """Refuse what is not a number from ``least`` to ``most``: also nan, infinity, a bool, or a string.

    Raises:
        UsageError: it names the range, and the value.
    """
    if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
        raise UsageError(f"{name} must be a number from {least:,} to {most:,}, not {value!r:.60}", hint=hint)


def check_whole(name: str, value: object, least: int, most: int = MAX, *, hint: str = "") -> None:
    """Refuse what is not a whole number from ``least`` to ``most``, as :func:`check_number` does; also 2.0."""
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{name} must be a whole number from {least:,} to {most:,}, not {value!r:.60}", hint=hint)
