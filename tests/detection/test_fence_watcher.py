"""The fence watcher over fakes: which buckets it asks, when it rebuilds, its waits, and its log events."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from saltctl.detection.events import Counters, Parts
from saltctl.detection.fence_watcher import (
    BUCKETS_PER_CHECK,
    CHECK_INTERVAL,
    CHECK_SECONDS,
    DAMAGED_SECONDS,
    NOTE_CHECKS,
    REBUILD_SECONDS,
    FenceWatcher,
)
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    LeaseHeldError,
    OtherRegistryError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
    WrongTypeError,
)
from saltctl.rebuild.events import Event, RebuildProgress, RebuildReport, RebuildStarted
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

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.verified_primaries = {"a": True, "b": True}
        self.asked: list[range | None] = []
        self.fault: Exception | None = None
        self.events: list[Event | Exception] = [STARTED, REPORT]
        self.rebuilds = 0
        self.closed = 0
        self.counters = Counters()
        self.stop = stop or threading.Event()
        self.clock = Clock()
        self.watcher = FenceWatcher(
            cast("RedisRegistry", self),
            BUCKETS,
            lambda: cast("Rebuild", self),
            counters=self.counters,
            stop=self.stop,
            clock=self.clock,
            noted=self.read_note,
        )
        self.replication_ids_ = {"a1", "b1"}
        self.note: set[str] | Exception = {"a1", "b1"}

    def replication_ids(self) -> set[str]:
        """Return those of the primaries."""
        return self.replication_ids_

    def read_note(self) -> set[str]:
        """Return the primaries of the newest rebuild, or fail."""
        if isinstance(self.note, Exception):
            raise self.note
        return self.note

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
                if isinstance(event, Exception):
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


def test_an_unforeseen_exception_ends_no_check(world: World, event_log: EventLog) -> None:
    """It is logged with its type, ``verified`` is unknown, and the pause before the next check grows."""
    world.watcher.check()
    world.fault = RuntimeError("can't start new thread")
    assert [world.watcher.check() for _ in range(3)] == [False] * 3
    assert (world.watcher.verified, world.counters.unexpected) == (None, 3)
    assert [fields["error"] for fields in event_log.fields_of("fence_watcher_failed")] == ["RuntimeError"] * 3
    world.fault = None
    assert world.watcher.check()
    assert world.watcher.verified is True


def test_run_goes_on_after_unforeseen_exceptions() -> None:
    """With pauses of 2, 4, 8 … 30 seconds."""
    waits: list[float | None] = []

    class Stop(threading.Event):
        """Is set by the seventh wait."""

        def wait(self, timeout: float | None = None) -> bool:
            """Return at once."""
            waits.append(timeout)
            if len(waits) == 7:
                self.set()
            return self.is_set()

    world = World(Stop())
    world.fault = OSError("the token file is away")
    world.watcher.run()
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_rebuild_that_fails_by_an_unforeseen_exception_is_tried_again(world: World, event_log: EventLog) -> None:
    """Later, and it ends well."""
    world.verified_primaries["a"] = False
    world.events = [STARTED, RuntimeError("can't start new thread")]
    assert not world.watcher.check()
    assert (world.watcher.verified, world.closed) == (False, 1)
    world.events = [STARTED, REPORT]
    world.clock.now += 1
    assert world.watcher.check()
    assert world.watcher.verified is True


def test_a_bucket_of_another_type_is_a_failed_rebuild(world: World, event_log: EventLog) -> None:
    """Not an outage that ends by itself: the hint says what to do."""
    world.verified_primaries["a"] = False
    world.events = [STARTED, WrongTypeError("WRONGTYPE salt:r:5", hint="delete it")]
    world.watcher.check()
    assert world.watcher.verified is False
    assert event_log.fields_of("rebuild_failed")[0]["hint"] == "delete it"


def late_after(world: World, checks: int) -> list[str]:
    """Check every ten seconds, and return the late parts."""
    world.watcher.parts = Parts(world.clock)
    world.watcher.parts.progress("fence_watcher", CHECK_SECONDS)
    for _ in range(checks):
        world.clock.now += 10
        world.watcher.check()
    return world.watcher.parts.late()


@pytest.mark.parametrize(
    ("fault", "event", "late"),
    [
        (None, None, []),
        (RedisUnavailableError("away"), None, []),
        (TypeError("a defect"), None, ["fence_watcher"]),
        (AccessDeniedError("no permission"), None, ["fence_watcher"]),
        (None, LeaseHeldError("another rebuilds"), []),
        (None, AwsUnavailableError("away"), []),
        (None, RebuildBrokenError("again and again"), ["fence_watcher"]),
        (None, KeyError("a defect"), ["fence_watcher"]),
    ],
)
def test_a_watcher_that_does_not_do_its_work_is_late(
    world: World, fault: Exception | None, event: Exception | None, late: list[str]
) -> None:
    """An outage, or a rebuild by another instance, is no fault of it; everything else is."""
    if event is not None:
        world.verified_primaries["a"] = False
        world.events = [STARTED, event]
    world.fault = fault
    assert late_after(world, 20) == late


@pytest.mark.parametrize(("fault", "ends"), [(OtherRegistryError("v2"), True), (ConfigurationError("no table"), False)])
def test_a_watcher_of_another_registry_stops_its_service(world: World, fault: SaltctlError, ends: bool) -> None:
    """A table may come back, and settings of a process do not change."""
    world.verified_primaries["a"] = False
    world.events = [fault]
    world.watcher.check()
    assert (world.stop.is_set(), world.watcher.ended_by) == (ends, fault if ends else None)


@pytest.mark.parametrize(("advances", "late"), [(True, []), (False, ["fence_watcher"])])
def test_a_long_rebuild_is_judged_by_its_progress(world: World, advances: bool, late: list[str]) -> None:
    """Hours of pages are fine; a rebuild that reads no page is late, although it reports every second."""
    seen: list[list[str]] = []
    parts = world.watcher.parts = Parts(world.clock)

    def progress() -> Generator[Event, None, None]:
        yield STARTED
        for number in range(50):
            world.clock.now += REBUILD_SECONDS / 10
            seen.append(parts.late())
            yield RebuildProgress(number if advances else 0, 0, float(number), float(number) if advances else 0.0)
        yield REPORT

    world.verified_primaries["a"] = False
    world.run = progress  # type: ignore[method-assign]
    world.watcher.check()
    assert seen[-1] == late
    assert seen[0] == []


def test_verified_primaries_that_the_newest_rebuild_does_not_name_are_rebuilt(world: World) -> None:
    """It died, or went to a primary that was replaced: raises are merged nowhere else than into those it names."""
    world.note = {"a1", "b2"}
    world.events = [RebuildStarted(primaries=2, verified_before=True), REPORT]
    for _ in range(NOTE_CHECKS):
        world.watcher.check()
    assert (world.rebuilds, world.counters.rebuilds) == (1, 1)
    assert world.watcher.verified is True


def test_an_outage_of_aws_does_not_make_redis_unverified(world: World) -> None:
    """The note cannot be read, and Redis answers."""
    world.note = AwsUnavailableError("away")
    for _ in range(2 * NOTE_CHECKS):
        world.watcher.check()
    assert (world.rebuilds, world.watcher.verified) == (0, True)


def test_damaged_items_do_not_cause_one_rebuild_after_another(world: World) -> None:
    """Their buckets stay unverified. Redis is rebuilt again after some minutes, or as soon as it has restarted."""
    partly = replace(REPORT, verified=False, unverified_buckets=1, skipped=1)
    world.events = [STARTED, partly]

    def check() -> tuple[int, bool | None]:
        world.verified_primaries = {"a": True, "b": False}
        world.watcher.check()
        return world.rebuilds, world.watcher.verified

    assert check() == (1, False)
    world.clock.now += DAMAGED_SECONDS - 1
    assert check() == (1, False)
    assert world.watcher.parts.late() == []
    world.clock.now += 1
    assert check() == (2, False)
    world.replication_ids_ = {"a1", "b2"}
    assert check() == (3, False)
    world.events = [STARTED, REPORT]
    world.clock.now += DAMAGED_SECONDS
    assert check() == (4, True)
