"""ISO 8601 times in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from saltctl.times import iso_utc, parse_iso

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "timespec", "formatted"),
    [
        (0.0, "milliseconds", "1970-01-01T00:00:00.000Z"),
        (1.9999, "milliseconds", "1970-01-01T00:00:01.999Z"),
        (1.9999, "seconds", "1970-01-01T00:00:01Z"),
        (1, "auto", "1970-01-01T00:00:01Z"),
        (1.5, "auto", "1970-01-01T00:00:01.500000Z"),
        (NOON, "milliseconds", "2026-01-31T12:00:00.000Z"),
        (NOON.astimezone(timezone(timedelta(hours=2))), "seconds", "2026-01-31T12:00:00Z"),
    ],
    ids=str,
)
def test_iso_utc_truncates_to_its_unit(at: float | datetime, timespec: str, formatted: str) -> None:
    """Seconds and datetimes of any zone are printed in UTC; smaller units are cut off."""
    assert iso_utc(at, timespec) == formatted


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31 12:00", "2026-01-31T14:00:00+02:00"]
)
def test_parse_iso_assumes_utc(text: str) -> None:
    """A time without a zone is in UTC; a zone is kept."""
    assert parse_iso(text) == NOON
    assert parse_iso(text).tzinfo is not None


def test_parse_iso_rejects_other_strings() -> None:
    """A string that is not a time raises ValueError."""
    with pytest.raises(ValueError, match="15m"):
        parse_iso("15m")
