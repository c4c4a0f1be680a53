"""Durations, times and stream ids that options take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from saltctl.cli.option import parse_seconds, parse_stream_id, parse_time_option
from saltctl.errors import UsageError
from tests.cli.conftest import Runner

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)


def test_a_time_option_names_itself() -> None:
    """Without a value there is no time; a string that is none is a usage error that shows how times are written."""
    assert parse_time_option("--since", None, NOW) is None
    assert parse_time_option("--since", "2h30m", NOW) == NOW - timedelta(hours=2, minutes=30)
    with pytest.raises(UsageError, match=r"--since: '12H' is not a time; write .*yesterday.*2h30m"):
        parse_time_option("--since", "12H", NOW)


@pytest.mark.parametrize(
    ("text", "stream_id"),
    [
        ("1700000000000-3", "1700000000000-3"),
        ("0", "0"),
        (f"{2**64 - 1}-{2**64 - 1}", f"{2**64 - 1}-{2**64 - 1}"),
        ("2023-11-14T22:13:20Z", "1700000000000"),
        ("1900-01-01", "0"),
        ("1700000000000", "1700000000000"),
        ("2023-11-14T22:13:20.123Z", "1700000000123"),
    ],
)
def test_a_stream_id_is_an_id_or_a_time(text: str, stream_id: str) -> None:
    """A time before 1970 is the beginning of the stream."""
    assert parse_stream_id(text) == stream_id


def test_a_duration_is_a_stream_id_that_long_ago() -> None:
    """In milliseconds since the epoch."""
    assert int(parse_stream_id("1h")) == pytest.approx((datetime.now(UTC).timestamp() - 3600) * 1000, abs=60_000)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1-2-3", f"{2**64}", f"1-{2**64}", "9" * 30, "90", "20261126", "20261126120000", "-2h", "9999999d"],
)
def test_an_invalid_stream_id_is_a_usage_error(text: str) -> None:
    """The hint shows valid values."""
    with pytest.raises(UsageError, match="neither a stream id nor a time") as raised:
        parse_stream_id(text)
    assert "15m" in raised.value.hint


def test_durations_of_options() -> None:
    """A default is passed on as a number; a bad duration is a usage error that names the formats."""
    assert parse_seconds(1.5) == 1.5
    assert parse_seconds("2m") == 120
    with pytest.raises(typer.BadParameter, match=r"90s, 15m .*2h30m"):
        parse_seconds("soon")


@pytest.mark.parametrize(
    "words",
    [
        *(f"registry import - --rate {rate}" for rate in ("nan", "inf", "-inf", "1e400", "0", "-1", "1_0")),
        "stream replay --rate inf",
        *(f"service run --metrics-port {port}" for port in ("70000", "-1", "1.5", "1_0")),
        *(f"throttle {command} --threshold inf" for command in ("scan", "alarms create")),
        *(f"rebuild --max-rcu {units}" for units in ("nan", "inf", "0")),
        *(f"rebuild --segments {segments}" for segments in ("0", "1e3", "1_0", "9" * 30)),
        *(f"{command} --timeout {none}" for command in ("rebuild", "registry export") for none in ("0", "0s", "0ms")),
        "throttle scan --period 0",
        "status --watch 0",
        "stream status --window 0s",
        "service run --claim-after 0",
        "stream replay --max-age 0",
        "local load --duration 0",
    ],
)
def test_a_number_that_cannot_be_meant_is_a_usage_error(saltctl: Runner, words: str) -> None:
    """Nothing is infinite or is not a number, no port is negative, and no deadline is 0. The error names the range."""
    outcome = saltctl(*words.split())
    assert outcome.code == 2
    assert any(accepted in outcome.err for accepted in ("number from", "at least 1ms"))
