"""Throttling by the minute, and the times to detect and to cure an incident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from saltctl.errors import AwsUnavailableError
from saltctl.incident.timeline import (
    QUIET_SECONDS,
    Event,
    Heat,
    Incident,
    Loss,
    Source,
    Throttling,
    find_losses,
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


HOT = Heat({"hot": (START, START + 3600.0)}, since=float(START), raises_since=float(START))
"""One conversation was hot all the time, and nothing is unknown."""


def test_detection_is_the_first_raise_from_the_first_throttled_minute_on() -> None:
    """A raise before it belongs to something else; the cure is the end of the last throttled minute."""
    found = throttling({10: 5, 15: 5})
    at = found[0].start
    events = [Event(at - 1, "raise", "hot"), Event(at + 39.5, "raise", "hot"), Event(at + 50, "raise", "hot")]
    assert measure(events, found, HOT) == ("throttling", 39.5, 360.0, True)


@pytest.mark.parametrize(
    "other",
    [
        Event(1, "heat", "hot"),
        Event(1, "unverified"),
        Event(1, "verified"),
        Event(1, "service-started"),
        Event(1, "raise", "cold"),
        Event(1, "raise", None, "7 more conversations"),
        Event(1, "raise", "hot", repair=True),
    ],
    ids=lambda event: f"{event.kind}-{event.conversation_id}-{event.repair}",
)
def test_nothing_but_a_raise_of_what_was_hot_detects(other: Event) -> None:
    """Neither a rebuild nor the raise of another conversation, nor a repair of this one."""
    found = throttling({10: 5})
    at = found[0].start
    events = [replace(other, at=at + 1.0)]
    assert measure(events, found, HOT) == ("throttling", None, 60.0, False)
    assert measure([*events, Event(at + 9, "raise", "hot")], found, HOT)[1] == 9.0


def test_a_conversation_was_hot_if_its_keys_were_throttled_or_its_heat_was_reported_in_time() -> None:
    """A report after the raise, or before throttling began, is about something else."""
    found = throttling({10: 5})
    at = found[0].start
    raised = [Event(at + 20, "raise", "hot")]

    def detected(heat: Heat) -> bool | None:
        return measure(raised, found, replace(heat, since=at))[3]

    assert detected(Heat(throttled={"hot"})) is True
    assert detected(Heat({"hot": (at + 20, at + 20)})) is True
    assert detected(Heat({"hot": (at + 21, at + 21)}, raises_since=at)) is False
    assert detected(Heat({"hot": (at - 9, at - 1)}, raises_since=at)) is False


@pytest.mark.parametrize("unknown", [None, "raise", "heat", "raises", "log", "recovered"])
def test_whether_it_was_detected_may_be_unknown(unknown: str | None) -> None:
    """Without the heat of what was raised, and without the raises of what was hot."""
    found = throttling({10: 5})
    at = found[0].start
    heat, raised = Heat(raises_since=at), [Event(at + 5, "raise", "other")]
    heat, events = {
        None: (heat, []),
        "raise": (heat, raised),
        "heat": (replace(heat, since=at + 1), raised),
        "raises": (Heat(throttled={"hot"}, raises_since=float("inf")), []),
        "log": (Heat(raises_since=at + 1), []),
        "recovered": (Heat(throttled={"hot"}, raises_since=at), [Event(at + 90, "recovered")]),
    }[unknown]
    assert measure(events, found, heat) == ("throttling", None, 60.0, None if unknown else False)


def test_a_raise_after_the_quiet_time_detects_nothing() -> None:
    """It belongs to another incident."""
    found = throttling({10: 5})
    raised = [Event(found[0].end + QUIET_SECONDS, "raise", "hot")]
    assert measure(raised, found, HOT) == ("throttling", None, 60.0, False)


def test_what_is_not_over_has_no_time_to_cure() -> None:
    """It may be throttled in the next minute again."""
    found = throttling({10: 5}, now=START + 60 * 12)
    raised = [Event(found[0].start + 70, "raise", "hot")]
    assert measure(raised, found, HOT) == ("throttling", 70.0, None, True)


def test_each_kind_of_loss_is_summed_up() -> None:
    """How often, the longest that is over, and whether all are. One from before the range counts until its end."""
    kinds = "unverified verified unverified verified unverified rebuilt backup-lost unverified"
    events = [Event(float(at * at), kind) for at, kind in enumerate(kinds.split())]
    found = throttling({2: 10, 3: 20, 20: 5}, now=START + 60 * 22)
    assert list(find_losses(events, found, 2.0)) == [
        Loss("throttling", 2, 120.0, False),
        Loss("unverified", 2, 5.0, False),
        Loss("backup-lost", 1, None, False),
    ]
    assert list(find_losses(events[:4], [], 9.5)) == []


def test_an_unverified_redis_is_cured_by_the_next_rebuild() -> None:
    """When it was lost is not known. A rebuild that left buckets unverified does not count."""
    events = [
        Event(START, "verified"),
        Event(START + 10, "unverified"),
        Event(START + 11, "rebuilt"),
        Event(START + 12.25, "verified"),
    ]
    assert measure(events, [], HOT)[:3] == ("unverified", None, 2.25)
    assert measure(events[:3], [], HOT)[:3] == ("unverified", None, None)
    assert measure(events[:1], [], HOT) == (None, None, None, None)


def test_a_lost_backup_is_cured_by_its_recovery() -> None:
    """Its rebuild verifies a Redis that belonged to the lost table: that is a part of it."""
    kinds = ("backup-lost", "unverified", "verified", "recovered")
    events = [Event(START + at, kind) for at, kind in enumerate(kinds)]
    assert measure(events, [], HOT)[:3] == ("backup-lost", None, 3.0)
    assert measure(events[:3], [], HOT)[:3] == ("backup-lost", None, None)


def test_a_record_has_every_key() -> None:
    """Null where something is unknown, and the error of a source that could not be read."""
    sources = (Source("throttling", float(START)), Source("heat", None, AwsUnavailableError("away")))
    incident = Incident(START, START + 60, 60, (Event(START + 1.5, "verified"),), sources)
    assert incident.as_record() == {
        "detected_s": None,
        "cured_s": None,
        "events": [{"at": "2027-01-15T08:00:01.500Z", "kind": "verified", "conversation_id": None, "detail": None}],
        "measured": None,
        "detected": None,
        "losses": [],
        "resolution_s": 60,
        "since": "2027-01-15T08:00:00.000Z",
        "until": "2027-01-15T08:01:00.000Z",
        "sources": [
            {"name": "throttling", "since": "2027-01-15T08:00:00.000Z", "error": None},
            {"name": "heat", "since": None, "error": "away"},
        ],
    }
    unread = replace(incident, events=())
    assert unread.as_record()["events"] is None
    assert replace(unread, sources=sources[:1]).as_record()["events"] == []
