"""The timeline of real stores: what each source contributes, and what is left if one of them cannot be read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast
from unittest.mock import patch

import pytest

from saltctl.errors import AccessDeniedError, RedisUnavailableError, SaltctlError
from saltctl.incident import sources
from saltctl.incident.sources import IncidentReader, read_reports
from saltctl.incident.timeline import Incident, Loss
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.metrics import Contributors, MetricKey, MetricSeries, MetricsStore, TableDescription
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.event_log import EventLog, EventsItem, LoggedEvent
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.throttling.analysis import time_range
from saltctl.times import iso_utc
from tests.support import Rebuilder


class FakeMetrics:
    """CloudWatch with one throttled minute, or an error."""

    def __init__(self) -> None:
        self.throttled_at = 0
        self.keys: tuple[tuple[str, float], ...] = ()
        self.error: SaltctlError | None = None

    def describe(self, table: str) -> TableDescription:
        """Describe a table without indexes."""
        if self.error is not None:
            raise self.error
        return TableDescription(table, (), True)

    def read(self, keys: Sequence[MetricKey], start: int, end: int, period_s: int) -> list[MetricSeries]:
        """Return the minute, if it is in the range."""
        at = self.throttled_at // period_s * period_s
        points = ((at, 12.0),) if start <= at < end else ()
        return [MetricSeries(key, points if key.metric == "WriteThrottleEvents" else ()) for key in keys]

    def contributors(self, table: str, start: int, end: int) -> Contributors:
        """Return the throttled partition keys."""
        return Contributors("enabled", self.keys)


class World:
    """The sources, and a reader of them."""

    def __init__(self, settings: Settings, backup: BackupTable) -> None:
        self.settings, self.backup = settings, backup
        self.metrics = FakeMetrics()
        self.stream, self.state = HeatStream(settings), ServiceState(settings)
        self.events = EventsItem(backup)

    def read(self, since: float = 3600.0, named: Sequence[str] = ()) -> Incident:
        """Read the last ``since`` seconds."""
        now = time.time()
        reader = IncidentReader(
            self.settings,
            cast("MetricsStore", self.metrics),
            self.stream,
            self.state,
            self.backup,
            named=named,
        )
        return reader.read(now - since, now, time_range(now - since, now, None, now))

    def close(self) -> None:
        """Close the connections."""
        self.stream.close()
        self.state.close()


@pytest.fixture
def world(settings: Settings, backup: BackupTable, rebuild: Rebuilder) -> Iterator[World]:
    """A verified Redis and an empty backup."""
    rebuild()
    found = World(settings, backup)
    yield found
    found.close()


def raise_to(world: World, conversation_id: str, n: int) -> None:
    """Raise a conversation as the service does."""
    with Registry.open(world.settings) as registry:
        registry.raise_to(conversation_id, n, reason="hot")


def test_without_any_event_the_timeline_is_empty(world: World) -> None:
    """No source has data, and it says so."""
    found = world.read()
    assert found.events == ()
    assert [(source.since, source.error) for source in found.sources] == [(None, None)] * 3


def test_raises_are_those_of_the_conversations_that_the_sources_name(world: World) -> None:
    """Events, the latest raises in Redis, heat reports and throttled keys; others are not searched for."""
    for name in ("logged", "latest", "heated", "throttled", "given", "unknown"):
        raise_to(world, name, 4)
    EventsItem(world.backup).append(LoggedEvent(time.time(), "raise", "by worker-1", ("logged", "not\x00an id#1"), 7))
    world.state.note_raise("latest", 1, 4, "2026-01-01T00:00:00.000Z", "worker-1")
    world.stream.append_reports([HeatReport("heated", "app-1", int(time.time()) - 5, 5_000)])
    world.metrics.throttled_at, world.metrics.keys = int(time.time()) - 120, (("throttled#3", 5.0),)
    raised = {
        event.conversation_id: event.detail for event in world.read(named=["given"]).events if event.kind == "raise"
    }
    assert set(raised) == {"logged", "latest", "heated", "throttled", "given", None}
    assert raised[None] == "7 more conversations by worker-1"
    assert raised["logged"] == f"to 4 by {world.settings.actor}: hot"


def test_only_the_range_is_shown(world: World) -> None:
    """A raise and an event before it are left out."""
    now = time.time()
    for age, kind in ((600, "service-started"), (1, "service-stopped")):
        world.events.append(LoggedEvent(now - age, kind, "worker-1"))
    assert [event.kind for event in world.read(60).events] == ["service-stopped"]


def test_about_as_many_reports_are_read_as_asked_for(world: World) -> None:
    """Counted as reports, however many of them share an entry; entries that are none count, too."""
    at = int(time.time())
    world.stream.append({"v": 9})
    world.stream.append_reports([HeatReport(f"conv_{number}", "app", at, 5) for number in range(200)])
    with patch.object(sources, "_PAGE", 2):
        read = list(read_reports(world.stream, at - 60, None, 70, at))
    assert [report.conversation_id for report in read] == [f"conv_{number}" for number in range(80)]


def test_heat_is_an_event_of_the_first_window_above_a_salt(world: World) -> None:
    """Summed over all servers; a later report of a server replaces its earlier one. Throttled writes are heat, too."""
    at = int(time.time()) - 60
    limit = world.settings.wps_per_salt
    reports = [HeatReport("hot", server, at + 10, limit // 2 + 1) for server in ("app-1", "app-2")]
    reports += [HeatReport("hot", "app-1", at + 12, 5 * limit)]
    reports += [HeatReport("warm", "app-1", at + 10, writes) for writes in (limit, limit - 1)]
    reports += [HeatReport("slow", "app-1", at + 20, 3, 4)]
    world.stream.append_reports(reports)
    world.stream.append({"v": 9})
    heat = [event for event in world.read().events if event.kind == "heat"]
    assert [(event.conversation_id, event.at) for event in heat] == [("hot", at + 10), ("slow", at + 20)]
    assert heat[0].detail == f"up to {5 * limit:,} write units a second; a salt takes {limit:,}"


def test_an_incident_is_detected_and_cured(world: World, rebuild: Rebuilder) -> None:
    """The raise after the first throttled minute; a minute that nothing follows is not over yet."""
    minute = int(time.time()) // 60 * 60
    world.metrics.throttled_at = minute
    raise_to(world, "hot", 4)
    log = EventLog(world.events)
    log.note("raise", "by worker-1", ["hot"])
    log.flush(30)
    found = world.read()
    assert (found.measured, found.cured_s, found.detected_s, found.detected) == ("throttling", None, None, None)
    assert found.losses == (Loss("throttling", 1, None, False),)
    world.metrics.keys = (("hot#3", 5.0),)
    found = world.read()
    raised = next(event for event in found.events if event.kind == "raise")
    assert found.detected_s == pytest.approx(raised.at - minute, abs=0.001)
    world.metrics.keys = ()
    world.stream.append_reports([HeatReport("hot", "app-1", minute, 5_000)])
    assert world.read().detected is True


def test_a_cool_down_is_no_raise(world: World) -> None:
    """It detects nothing: N of new messages came down."""
    raise_to(world, "hot", 4)
    held = world.backup.get("hot")
    assert held is not None
    cooled = held.narrowed(Raise(1, iso_utc(time.time()), "me", "quiet again", cooled=True))
    assert world.backup.replace(held, cooled)
    events = world.read(named=["hot"]).events
    assert [(event.kind, event.detail) for event in events][1:] == [("cooled", "to 1 by me: quiet again")]


def test_the_raises_of_a_recovery_are_one_event(world: World) -> None:
    """Few of them would be found by their conversations. Without its event they are shown, and detect nothing."""
    entry = Raise(4, iso_utc(time.time()), "me", "recovered from the messages")
    assert world.backup.restore("hot", 4, entry, commit=True)
    (raised,) = world.read(named=["hot"]).events
    assert (raised.kind, raised.repair) == ("raise", True)
    world.events.append(LoggedEvent(time.time(), "recovered", "the backup table: 12 conversations raised"))
    assert [event.kind for event in world.read(named=["hot"]).events] == ["recovered"]


def test_a_damaged_item_hides_no_other_raise(world: World) -> None:
    """It is left out."""
    raise_to(world, "good", 4)
    item = {"conversation_id": {"S": "bad"}, "max_n": {"S": "many"}}
    world.backup.client.put_item(TableName=world.backup.name, Item=item)
    assert [event.conversation_id for event in world.read(named=["bad", "good"]).events] == ["good"]


def test_a_source_that_fails_leaves_the_others(world: World) -> None:
    """Its error is kept; without any source the first error is raised, and names what else is away."""
    world.events.append(LoggedEvent(time.time(), "service-started", "worker-1"))
    world.metrics.error = AccessDeniedError("not allowed")
    found = world.read()
    assert [event.kind for event in found.events] == ["service-started"]
    assert [source.name for source in found.sources if source.error is not None] == ["throttling"]
    world.stream.close()
    away = replace(world.settings, redis_url="redis://127.0.0.1:1/0")
    world.stream, world.state = HeatStream(away), ServiceState(away)
    errors = [source.error for source in world.read().sources]
    assert isinstance(errors[1], RedisUnavailableError)
    world.backup = BackupTable(replace(world.settings, backup_table="no-such-table"))
    with pytest.raises(
        AccessDeniedError, match=r"not allowed; Redis at .* cannot be reached.*; .*no-such-table"
    ) as caught:
        world.read()
    assert {*caught.value.hint.split("\n")} >= {"saltctl doctor --only redis"}
