"""Times and durations: one formatter, and one parser each for what people write.

Whatever is not understood exactly is refused with ValueError.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

DURATIONS = "90s, 15m (or 15min), 2h, 2h30m, 1d, 1w or 500ms"
"""How durations are written, for errors."""
TIMES = f"2026-01-31T12:00:00Z (UTC if it has no zone), today, yesterday or now; or how long ago: {DURATIONS}"
"""How times are written, for errors."""
_MILLISECOND = Decimal("0.001")
_UNITS = {"w": Decimal(604800), "d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1)}
_UNITS |= {"ms": _MILLISECOND, "": Decimal(1)}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_LARGEST = 100 * 366 * 86400
"""Seconds of the longest duration. What is longer is a slip, and timers would overflow."""
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}(?::?[0-9]{2}){1,2}(?:[.,]([0-9]+))?(?:Z|[+-][0-9:]{2,6})?)?"
    r"|[0-9]{8}T[0-9]{4,6}(?:[.,]([0-9]+))?(?:Z|[+-][0-9:]{2,6})?"
)


def iso_utc(at: float | datetime, timespec: str = "milliseconds") -> str:
    """Format a time as ISO 8601 UTC with a final ``Z``.

    ``at`` is seconds since the epoch, or a datetime with a zone. ``timespec`` is the smallest unit to print, as in
    ``datetime.isoformat``. Raises ValueError, OverflowError or OSError if the year is not one of 1 to 9999.
    """
    moment = at.astimezone(UTC) if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def parse_iso(text: str) -> datetime:
    """Parse an ISO 8601 time; a time without a zone is in UTC. Raises ValueError if it is not ISO 8601."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parse_duration(text: str, *, bare: bool = True) -> float:
    """Return the seconds of a duration such as ``90s``, ``15m``, ``2h30m``, ``1w``, ``500ms`` or, if ``bare``, ``90``.

    Raises:
        ValueError: it is anything else, negative, longer than a hundred years, or below a millisecond and not zero.
    """
    parts = re.findall(rf"({_NUMBER})(ms|min|[wdhms]|(?![a-z]))", text.strip())
    units = [unit.removesuffix("in") for _, unit in parts]
    in_order = units == sorted(set(units), key=list(_UNITS).index)
    alone = len(parts) == 1 and (bare or units != [""])
    several = len(parts) > 1 and "" not in units and "." not in text
    if "".join(map("".join, parts)) != text.strip() or not in_order or not (alone or several):
        raise ValueError(f"{text!r:.60} is not a duration; write it as {DURATIONS}")
    seconds = sum(Decimal(number) * _UNITS[unit] for (number, _), unit in zip(parts, units, strict=True))
    if seconds > _LARGEST:
        raise ValueError(f"{text!r:.60} is longer than 100 years")
    if 0 < seconds < _MILLISECOND:
        raise ValueError(f"{text!r:.60} is shorter than a millisecond")
    return float(seconds)


def parse_time(text: str, now: datetime) -> datetime:
    """Return the time in UTC of an ISO 8601 time, ``now``, ``today``, ``yesterday``, or a duration ago such as ``2h``.

    A time without a zone is in UTC, and so are days.

    Raises:
        ValueError: it is anything else, before the year 1, or has more digits than microseconds.
    """
    now = now.astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in days:
        return days[text]
    iso = _ISO.fullmatch(text)
    try:
        at = parse_iso(text) if iso else now - timedelta(seconds=parse_duration(text, bare=False))
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r:.60} is not a time; write {TIMES}") from None
    if iso and (iso[1] or iso[2] or "")[6:].strip("0"):
        raise ValueError(f"{text!r:.60} is finer than a microsecond; give at most six digits")
    return at


def parse_seconds(value: Any, minimum: float, maximum: float) -> float:
    """Return the seconds of a setting: a number, or a duration as a string. Raises ValueError outside of the range."""
    error = f"must be a number of seconds from {minimum:g} to {maximum:g}, or a duration such as 500ms or 2h"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(error)
    try:
        number = parse_duration(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        raise ValueError(error) from None
    if not minimum <= number <= maximum:
        raise ValueError(f"must be from {minimum:g} to {maximum:g} seconds")
    return number
