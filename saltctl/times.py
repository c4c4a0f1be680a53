"""ISO 8601 times in UTC: one formatter and one parser for the whole package."""

from __future__ import annotations

from datetime import UTC, datetime


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
