"""ISO 8601 times in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from saltctl.times import iso_utc, parse_duration, parse_iso, parse_time

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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("90min", 5400),
        ("2h", 7200),
        ("1.5h", 5400),
        ("2h30m", 9000),
        ("1d12h", 129_600),
        ("1w", 604_800),
        ("500ms", 0.5),
        ("1.1h", 3960),
        (".25", 0.25),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number with an optional unit, or several with units from the largest to the smallest."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *[
            "-1",
            "-2h",
            "h",
            "1y",
            "12hr",
            "12H",
            "2h30",
            "30m2h",
            "2h2h",
            "1.5h30m",
            "nan",
            "inf",
            "1e3",
            "1_0",
            "9999999d",
            "0.1ms",
            "1min30min",
            "PT2H",
            "2h-30m",
            "1.h",
        ],
        *("", "1 h 5", "\u0663", "9" * 400),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_no_durations(text: str) -> None:
    """Anything else is refused, and so is a duration that no timer can hold."""
    with pytest.raises(ValueError, match=r"is not a duration; write|longer than 100 years|shorter than a millisecond"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("now", "2026-11-26T12:30:07Z"),
        ("today", "2026-11-26T00:00:00Z"),
        ("yesterday", "2026-11-25T00:00:00Z"),
        ("90min", "2026-11-26T11:00:07Z"),
        ("1w", "2026-11-19T12:30:07Z"),
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20Z"),
        ("2023-11-14 22:13", "2023-11-14T22:13:00Z"),
        ("2023-11-14", "2023-11-14T00:00:00Z"),
        ("20231114T221320Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14T22:13:20.5Z", "2023-11-14T22:13:20.500000Z"),
        ("2023-11-14T22:13:20.500000000Z", "2023-11-14T22:13:20.500000Z"),
    ],
)
def test_times(text: str, iso: str) -> None:
    """Times without a zone, and days, are in UTC, whatever the zone of now."""
    now = datetime(2026, 11, 26, 14, 30, 7, tzinfo=timezone(timedelta(hours=2)))
    assert iso_utc(parse_time(text, now), "auto") == iso


@pytest.mark.parametrize(
    "text",
    [
        *[
            "90",
            "-2h",
            "12H",
            "12hr",
            "9999999d",
            "20261126",
            "2026",
            "11/26/2026",
            "26.11.2026",
            "tomorrow",
            "Today",
            "2026-13-01",
            "2026-02-30",
        ],
        *["2026-W48-4", "2026-01-01T25:00:00", "2026-01-01x12:00", "1795689600", "0001-01-01T00:00+14:00"],
        *["9999-12-31T23:59-10:00", "2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00+99:00"],
        *("", "15 minutes"),
    ],
)
def test_other_strings_are_no_times(text: str) -> None:
    """They are refused, with the strings that are accepted; none is cut or guessed."""
    with pytest.raises(ValueError, match=r"is not a time; write .*yesterday|finer than a microsecond"):
        parse_time(text, NOON)
