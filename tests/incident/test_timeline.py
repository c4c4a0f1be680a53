"""Throttling by the minute, and the times to detect and to cure an incident."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from saltctl.errors import AwsUnavailableError
from saltctl.incident.timeline import (
    QUIET_SECONDS,
    Event,
    Incident,
    Source,
    Throttling,
    find_throttling,
    measure,
    throttling_events,
)
from saltctl.stores.contracts.metrics import MetricKey, MetricSeries
from saltctl.throttling.analysis import TimeRange, analyse

START = 1_800_000_000
QUIET = int(QUIET_SECONDS) // 60


def throttling(events: Mapping[int, float], *, minutes: int = 60, now: float | None = None) -> list[Throttling]:
    """Return the throttling of a range with so many events in each of these minutes; ``now`` is its end."""
    points = tuple((START + 60 * minute, count) for minute, count in sorted(events.items()))
    metrics = ("WriteThrottleEvents", "WriteKeyRangeThroughputThrottleEvents")
    series = [MetricSeries(MetricKey(metric, "messages"), points) for metric in metrics]
    over = TimeRange(START, START + 60 * minutes, 60)
    return find_throttling(analyse(series, over, 1.0), over.end if now is None else now)


def test_minutes_without_a_quiet_time_between_them_are_one_throttling() -> None:
    """Nine quiet minutes do not end it, ten do."""
    one, other = throttling({2: 10, 3: 20, 3 + QUIET: 5, 4 + 2 * QUIET: 1})
    assert (one.start - START, one.end - START) == (120, 60 * (4 + QUIET))
    assert (one.total, one.causes, one.ended) == (35, {"key_range": 35}, True)
    assert other.start - START == 60 * (4 + 2 * QUIET)


@pytest.mark.parametrize(("quiet", "ended"), [(QUIET - 1, False), (QUIET, True)])
def test_it_has_ended_after_a_quiet_time(quiet: int, ended: bool) -> None:
    """CloudWatch may lack the newest minutes, so that the last throttled minute alone says nothing."""
    (found,) = throttling({5: 7}, now=START + 60 * (6 + quiet))
    assert found.ended is ended
    assert [event.kind for event in throttling_events([found])] == ["throttling", "throttling-ended"][: 1 + ended]


def test_without_throttling_there_is_none() -> None:
    """A range without events."""
    assert throttling({}) == []


def test_detection_is_the_first_raise_from_the_first_throttled_minute_on() -> None:
    """A raise before it belongs to something else; the cure is the end of the last throttled minute."""
    found = throttling({10: 5, 15: 5})
    at = found[0].start
    events = [Event(at - 1, "raise", "early"), Event(at + 39.5, "raise", "hot"), Event(at + 50, "unverified")]
    assert measure(events, found) == ("throttling", 39.5, 360.0)


def test_an_event_of_the_fence_detects_too_and_others_do_not() -> None:
    """Neither heat, which nobody has acted upon, nor the service."""
    found = throttling({10: 5})
    at = found[0].start
    others = [Event(at + 1, "heat", "hot"), Event(at + 2, "service-started"), Event(at + 3, "recovered")]
    assert measure(others, found)[1] is None
    assert measure([*others, Event(at + 9, "unverified")], found)[1] == 9.0


def test_a_raise_after_the_quiet_time_detects_nothing() -> None:
    """It belongs to another incident."""
    found = throttling({10: 5})
    assert measure([Event(found[0].end + QUIET_SECONDS, "raise", "hot")], found) == ("throttling", None, 60.0)


def test_what_is_not_over_has_no_time_to_cure() -> None:
    """It may be throttled in the next minute again."""
    found = throttling({10: 5}, now=START + 60 * 12)
    assert measure([Event(found[0].start + 70, "raise", "hot")], found) == ("throttling", 70.0, None)


def test_an_unverified_redis_is_cured_by_the_next_rebuild() -> None:
    """When it was lost is not known. A rebuild that left buckets unverified does not count."""
    events = [
        Event(START, "verified"),
        Event(START + 10, "unverified"),
        Event(START + 11, "rebuilt"),
        Event(START + 12.25, "verified"),
    ]
    assert measure(events, []) == ("unverified", None, 2.25)
    assert measure(events[:3], []) == ("unverified", None, None)
    assert measure(events[:1], []) == (None, None, None)


def test_a_lost_backup_is_cured_by_its_recovery() -> None:
    """Its rebuild verifies a Redis that belonged to the lost table: that is a part of it."""
    kinds = ("backup-lost", "unverified", "verified", "recovered")
    events = [Event(START + at, kind) for at, kind in enumerate(kinds)]
    assert measure(events, []) == ("backup-lost", None, 3.0)
    assert measure(events[:3], []) == ("backup-lost", None, None)


def test_a_record_has_every_key() -> None:
    """Null where something is unknown, and the error of a source that could not be read."""
    sources = (Source("throttling", float(START)), Source("heat", None, AwsUnavailableError("away")))
    incident = Incident(START, START + 60, 60, (Event(START + 1.5, "verified"),), sources)
    assert incident.as_record() == {
        "detected_s": None,
        "cured_s": None,
        "events": [{"at": "2027-01-15T08:00:01.500Z", "kind": "verified", "conversation_id": None, "detail": None}],
        "measured": None,
        "resolution_s": 60,
        "since": "2027-01-15T08:00:00.000Z",
        "until": "2027-01-15T08:01:00.000Z",
        "sources": [
            {"name": "throttling", "since": "2027-01-15T08:00:00.000Z", "error": None},
            {"name": "heat", "since": None, "error": "away"},
        ],
    }
