"""Durations, times and stream ids that options take."""

from __future__ import annotations

import time

import pytest
import typer

from saltctl.cli.option import parse_duration, parse_seconds, parse_stream_id, parse_time
from saltctl.errors import UsageError

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("500ms", 0.5), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are a number with an optional unit."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1 h 5", "h", "1y", "nan", "inf", "1e3", "٣"])
def test_no_durations(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15m", NOW - 900),
        ("1.5h", NOW - 5400),
        ("90", NOW - 90),
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000),
        ("2023-11-14", 1_699_920_000),
    ],
)
def test_a_time_is_a_duration_ago_or_iso_8601(text: str, seconds: float) -> None:
    """A time without a zone is in UTC."""
    assert parse_time(text, NOW) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "-1", "15 minutes", "2026-13-01", "2026-01-01T25:00:00"])
def test_other_strings_are_refused(text: str) -> None:
    """With a ValueError, which the command turns into a usage error."""
    with pytest.raises(ValueError, match=r"."):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    ("text", "stream_id"),
    [
        ("1700000000000-3", "1700000000000-3"),
        ("0", "0"),
        (f"{2**64 - 1}-{2**64 - 1}", f"{2**64 - 1}-{2**64 - 1}"),
        ("2023-11-14T22:13:20Z", "1700000000000"),
        ("1900-01-01", "0"),
    ],
)
def test_a_stream_id_is_an_id_or_a_time(text: str, stream_id: str) -> None:
    """A time before 1970 is the beginning of the stream."""
    assert parse_stream_id(text) == stream_id


def test_a_duration_is_a_stream_id_that_long_ago() -> None:
    """In milliseconds since the epoch."""
    assert int(parse_stream_id("1h")) == pytest.approx((time.time() - 3600) * 1000, abs=60_000)


@pytest.mark.parametrize("text", ["", "x", "1-2-3", f"{2**64}", f"1-{2**64}", "9" * 30])
def test_an_invalid_stream_id_is_a_usage_error(text: str) -> None:
    """The hint shows valid values."""
    with pytest.raises(UsageError, match="neither a stream id nor a time") as raised:
        parse_stream_id(text)
    assert "15m" in raised.value.hint


def test_durations_of_options() -> None:
    """A default is passed on as a number; a bad duration is a usage error that names the formats."""
    assert parse_seconds(1.5) == 1.5
    assert parse_seconds("2m") == 120
    with pytest.raises(typer.BadParameter, match="90s, 15m or 2h"):
        parse_seconds("soon")
