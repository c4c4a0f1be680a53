"""The fence watcher over fakes: which buckets it asks, when it rebuilds, its waits, and its log events."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, cast

import pytest

from saltctl.detection.detector import Counters
from saltctl.detection.fence_watcher import BUCKETS_PER_CHECK, CHECK_INTERVAL, FenceWatcher
from saltctl.errors import LeaseHeldError, RebuildBrokenError, RedisUnavailableError, SaltctlError
from saltctl.rebuild.events import Event, RebuildReport, RebuildStarted
from saltctl.stores.contracts.registry import DamagedEntry
from tests.detection.conftest import EventLog
from tests.detection.fakes import Clock

if TYPE_CHECKING:
    from saltctl.rebuild.rebuild import Rebuild
    from saltctl.stores.redis.registry import RedisRegistry

BUCKETS = 1000
STARTED = RebuildStarted(primaries=2, verified_before=False)
REPORT = RebuildReport(13, 13, 0, 0, 0.1, 130.0, 2.0, 4, 2, verified=True, resumed=False, dry_run=False, committed=0)


class World:
    """A watcher of a Redis with two primaries. ``events`` are those of the next rebuild."""

    def __init__(self) -> None:
        self.verified_primaries = {"a": True, "b": True}
        self.asked: list[range | None] = []
        self.fault: SaltctlError | None = None
        self.events: list[Event | SaltctlError] = [STARTED, REPORT]
        self.rebuilds = 0
        self.closed = 0
        self.counters = Counters()
        self.stop = threading.Event()
        self.clock = Clock()
        self.watcher = FenceWatcher(
            cast("RedisRegistry", self),
            BUCKETS,
            lambda: cast("Rebuild", self),
            counters=self.counters,
            stop=self.stop,
            clock=self.clock,
        )

    def verified(self, buckets: range | None = None) -> Mapping[str, bool]:
        """Return whether each primary is verified, or fail."""
        self.asked.append(buckets)
        if self.fault is not None:
            raise self.fault
        return self.verified_primaries

    def run(self) -> Generator[Event, None, None]:
        """Rebuild: yield the events, and verify Redis at the end."""
        self.rebuilds += 1
        try:
            for event in self.events:
                if isinstance(event, SaltctlError):
                    raise event
                yield event
            self.verified_primaries = {"a": True, "b": True}
        finally:
            self.closed += 1


@pytest.fixture
def world() -> World:
    """With both primaries verified."""
    return World()


def test_a_verified_redis_is_asked_for_a_share_of_its_buckets_in_turn(world: World) -> None:
    """First all of them, then 256 a check, and all buckets within one round."""
    for _ in range(6):
        world.watcher.check()
    assert world.watcher.verified is True
    assert world.asked[0] is None
    shares = [share for share in world.asked[1:] if share is not None]
    assert [len(share) for share in shares[:3]] == [BUCKETS_PER_CHECK] * 3
    assert [bucket for share in shares[:4] for bucket in share] == list(range(BUCKETS))
    assert shares[4] == range(BUCKETS_PER_CHECK)
    assert world.rebuilds == 0


def test_an_unverified_primary_is_rebuilt(world: World, event_log: EventLog) -> None:
    """One of two primaries is enough; afterwards Redis counts as verified."""
    world.verified_primaries["b"] = False
    world.watcher.check()
    assert (world.watcher.verified, world.rebuilds, world.closed, world.counters.rebuilds) == (True, 1, 1, 1)
    assert event_log.names == ["rebuilding", "rebuilt"]
    assert event_log.fields_of("rebuilding") == [{"why": "Redis is not verified", "primaries": STARTED.primaries}]
    assert event_log.fields_of("rebuilt")[0]["entries"] == REPORT.entries


def test_a_damaged_backup_entry_is_logged(world: World, event_log: EventLog) -> None:
    """The rebuild continues."""
    world.verified_primaries["a"] = False
    world.events = [STARTED, DamagedEntry("conv", "max_n is a string"), REPORT]
    world.watcher.check()
    assert event_log.fields_of("damaged_backup_entry") == [{"conversation_id": "conv", "why": "max_n is a string"}]
    assert world.watcher.verified is True


def test_another_instance_that_rebuilt_before_the_lease_was_taken_is_enough(world: World, event_log: EventLog) -> None:
    """The rebuild finds Redis verified: it is closed at once and not counted."""
    world.verified_primaries["a"] = False
    world.events = [RebuildStarted(primaries=2, verified_before=True), REPORT]
    world.watcher.check()
    assert (world.watcher.verified, world.closed, world.counters.rebuilds) == (True, 1, 0)
    assert event_log.names == []


def test_a_lease_of_another_instance_is_logged_once(world: World, event_log: EventLog) -> None:
    """Every check tries again; the log has one line."""
    world.verified_primaries["a"] = False
    world.events = [LeaseHeldError("held by another host")]
    for _ in range(3):
        world.watcher.check()
    assert world.rebuilds == 3
    assert world.watcher.verified is False
    assert event_log.events == [("INFO", "rebuild_lease_held", {"why": "held by another host"})]


def test_an_outage_is_unknown_and_logged_once(world: World, event_log: EventLog) -> None:
    """``verified`` is None, nothing is rebuilt, and the next good check asks all buckets."""
    world.watcher.check()
    world.fault = RedisUnavailableError("away")
    for _ in range(3):
        world.watcher.check()
    assert (world.watcher.verified, world.rebuilds) == (None, 0)
    assert event_log.names == ["redis_unavailable"]
    world.fault = None
    world.watcher.check()
    assert world.asked[-1] is None
    assert world.watcher.verified is True


def test_a_second_outage_is_logged_again(world: World, event_log: EventLog) -> None:
    """A verified Redis in between ends the first one."""
    for fault in (RedisUnavailableError("away"), None, RedisUnavailableError("away")):
        world.fault = fault
        world.watcher.check()
    assert event_log.names == ["redis_unavailable", "redis_unavailable"]


def test_failed_rebuilds_wait_longer_each_time(world: World, event_log: EventLog) -> None:
    """1, 2, 4 … 30 seconds until the next try, while checks continue; a success resets the wait."""
    world.verified_primaries["a"] = False
    world.events = [STARTED, RebuildBrokenError("failed over", hint="saltctl rebuild")]
    waits: list[float] = []
    last = 0.0
    while len(waits) < 7:
        before = world.rebuilds
        world.watcher.check()
        if world.rebuilds > before:
            waits.append(world.clock.now - last)
            last = world.clock.now
        world.clock.now += 0.5
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert world.watcher.verified is False
    assert world.closed == world.rebuilds == 7
    assert event_log.fields_of("rebuild_failed")[0]["hint"] == "saltctl rebuild"
    world.clock.now += 30
    world.events = [STARTED, REPORT]
    world.watcher.check()
    assert world.watcher.verified is True
    world.verified_primaries["a"] = False
    world.events = [RebuildBrokenError("again")]
    world.watcher.check()
    rebuilds = world.rebuilds
    world.clock.now += CHECK_INTERVAL
    world.watcher.check()
    assert world.rebuilds == rebuilds + 1


def test_a_stop_ends_a_rebuild_and_closes_it(world: World, event_log: EventLog) -> None:
    """Closing the generator releases the lease; Redis stays unverified."""
    world.verified_primaries["a"] = False
    world.stop.set()
    world.watcher.check()
    assert (world.watcher.verified, world.closed, world.counters.rebuilds) == (False, 1, 0)
    assert event_log.names == []


def test_run_checks_until_stopped(world: World) -> None:
    """With an interval of one second between checks."""
    waits: list[float | None] = []

    class Stop(threading.Event):
        """Is set by the third wait."""

        def wait(self, timeout: float | None = None) -> bool:
            """Return at once."""
            waits.append(timeout)
            if len(waits) == 3:
                self.set()
            return self.is_set()

    watcher = FenceWatcher(
        cast("RedisRegistry", world), BUCKETS, lambda: cast("Rebuild", world), counters=world.counters, stop=Stop()
    )
    watcher.run()
    assert waits == [CHECK_INTERVAL] * 3
    assert len(world.asked) == 3
