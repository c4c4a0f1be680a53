"""The loop of one service instance, over a stream in memory: order, back-off, claims, maintenance and shutdown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from saltctl.detection import service
from saltctl.detection.detector import Detector
from saltctl.detection.events import Parts
from saltctl.detection.failures import MAX_TRIES
from saltctl.detection.read_order import CLAIM_IDLE, CLAIM_INTERVAL, LONGEST_PAUSE, PROBE_ENTRIES
from saltctl.detection.service import (
    DELETE_CONSUMERS_AFTER,
    DRAIN_SECONDS,
    HEARTBEAT_INTERVAL,
    MAINTENANCE_INTERVAL,
    RAISES_EVERY,
    DrainDeadline,
    Service,
)
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    OtherRegistryError,
    RedisUnavailableError,
    SaltctlError,
    StreamLostError,
    WrongTypeError,
)
from saltctl.registry.registry import RaiseResult
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, StreamInfo, TrimLoss
from saltctl.stores.heat.service_state import KEPT_RAISES
from tests.detection.conftest import EventLog
from tests.detection.fakes import NOW, Clock, FakeRegistry, FakeStream, RecordingSums, report_entry

if TYPE_CHECKING:
    from saltctl.detection.fence_watcher import FenceWatcher
    from saltctl.registry.registry import Registry
    from saltctl.stores.event_log import EventLog as LoggedEvents
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.service_state import ServiceState
    from saltctl.stores.heat.stream import HeatStream


class NeverRefused:
    """A fence watcher whose settings fit the registry."""

    ended_by: SaltctlError | None = None


MAINTENANCE = ["send_heartbeat", "info", "trim", "delete_idle_consumers"]


class FakeState:
    """Keeps recorded raises, or fails."""

    def __init__(self) -> None:
        self.raises: list[tuple[str, int, int, str, str]] = []
        self.fails = False
        self.late: dict[str, list[str]] = {}
        self.seen: dict[str, list[str]] = {}

    def note_instance(self, name: str, late: Sequence[str], at: float) -> None:
        """Record the late parts of an instance."""
        self.seen[name] = self.late[name] = list(late)

    def forget_instances(self, names: Sequence[str]) -> None:
        """Delete the records of instances."""
        for name in names:
            self.late.pop(name, None)

    def note_raise(self, *raised: Any) -> None:
        """Record a raise."""
        if self.fails:
            raise RedisUnavailableError("away")
        self.raises.append(raised)


class FakeLog:
    """Keeps the events that outlive Redis."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, tuple[str, ...]]] = []
        self.flushed = False

    def note(self, kind: str, detail: str = "", conversation_ids: Collection[str] = ()) -> None:
        """Record an event."""
        self.events.append((kind, detail, tuple(conversation_ids)))

    def flush(self) -> None:
        """Record that the process waits for its events."""
        self.flushed = True


class World:
    """One instance named ``me`` over fakes that record their calls in one list."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.stream = FakeStream(entries)
        self.calls = self.stream.calls
        self.registry = FakeRegistry(self.calls)
        self.sums = RecordingSums(self.calls)
        self.letters: list[tuple[Entry, str]] = []
        self.state = FakeState()
        self.log = FakeLog()
        self.clock = Clock(100.0)
        self.stop = threading.Event()
        self.service = self.new_service()

    def add(self, letters: Sequence[tuple[Entry, str]]) -> None:
        """Add dead letters."""
        self.calls.append("add_dead_letters")
        self.letters += letters

    def new_service(self, fence_watcher: object = None, should_stop: Callable[[], bool] = lambda: False) -> Service:
        """Return an instance over these fakes."""
        settings = Settings(redis_url="redis://nowhere", heat_retention=60.0)
        detector = Detector(
            self.sums,
            cast("Registry", self.registry),
            cast("DeadLetters", self),
            settings,
            now=lambda: NOW,
            should_stop=should_stop,
        )
        return Service(
            cast("HeatStream", self.stream),
            detector,
            consumer="me",
            settings=settings,
            stop=self.stop,
            fence_watcher=cast("FenceWatcher | None", fence_watcher),
            state=cast("ServiceState", self.state),
            log=cast("LoggedEvents", self.log),
            clock=self.clock,
            now=lambda: NOW,
            block=0.25,
        )

    def step(self) -> list[str]:
        """Run one step and return the calls that it made."""
        self.calls.clear()
        self.service.step()
        return list(self.calls)


def test_a_step_reads_sums_raises_and_acknowledges_in_this_order() -> None:
    """The acknowledgement comes last, after a dead letter was added for an invalid entry."""
    world = World([report_entry(1, "hot"), Entry("2-0", [b"v", b"9"])])
    read = ["read_own", "claim", "read_new"]
    assert world.step() == [*MAINTENANCE, *read, "add", "raise_to", "add_dead_letters", "acknowledge"]
    assert world.stream.held == {}
    assert world.registry.max_n == {"hot": 4}
    assert [letter.id for letter, _ in world.letters] == ["2-0"]


def test_an_idle_step_only_reads_and_blocks() -> None:
    """After the first step nothing but a blocking read is left to do."""
    world = World()
    world.step()
    assert world.step() == ["read_new"]
    assert world.stream.blocked_for[-1] == 0.25
    assert world.service.back_off == 0.0


def test_pending_entries_of_the_own_name_come_before_new_ones() -> None:
    """A restarted instance first handles the entries that were delivered to its name, and counts them."""
    world = World([report_entry(1, "old"), report_entry(2, "new")])
    world.stream.deliver("me", 1)
    world.step()
    assert world.registry.max_n == {"old": 4}
    assert world.service.counters.redelivered == 1
    world.step()
    assert world.registry.max_n == {"old": 4, "new": 4}


def test_a_failed_raise_leaves_the_entry_pending_and_is_retried_before_new_entries() -> None:
    """The entry is not acknowledged; the next step reads it again instead of a new one."""
    world = World([report_entry(1, "hot")])
    world.registry.failures = [AwsUnavailableError("away")]
    assert "acknowledge" not in world.step()
    assert world.stream.held == {"1-0": "me"}
    assert world.service.back_off == 0.1
    world.stream.entries.append(report_entry(2, "next"))
    calls = world.step()
    assert calls[0] == "read_own"
    assert "read_new" not in calls
    assert world.stream.held == {}
    assert world.service.back_off == 0.0


def test_entries_that_were_left_without_a_failure_are_read_again() -> None:
    """The detector was told to stop before the raise. Nothing else would deliver the entry to this instance again."""
    world = World([report_entry(1, "hot")])
    stopping = [True]
    world.service = world.new_service(should_stop=lambda: stopping[0])
    assert "acknowledge" not in world.step()
    stopping[0] = False
    world.clock.now += LONGEST_PAUSE
    assert "read_own" in world.step()
    assert world.registry.max_n == {"hot": 4}
    assert world.stream.held == {}


def test_raises_need_no_record() -> None:
    """An instance without a state for operators raises and acknowledges."""
    world = World([report_entry(1, "hot")])
    world.service.state = None
    world.step()
    assert (world.registry.max_n, world.stream.held) == ({"hot": 4}, {})


def test_the_back_off_doubles_up_to_five_seconds_and_ends_with_a_success(event_log: EventLog) -> None:
    """0.1, 0.2, 0.4 … 5 seconds, each logged with its error; the first good step resets it."""
    world = World()
    world.stream.failures["read_new"] = [RedisUnavailableError("away", hint="start Redis") for _ in range(8)]
    waits = []
    for _ in range(8):
        world.service.step()
        waits.append(world.service.back_off)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert [fields["seconds"] for fields in event_log.fields_of("backing_off")] == waits
    assert event_log.fields_of("backing_off")[0] == {
        "seconds": 0.1,
        "error": "redis_unavailable",
        "why": "away",
        "hint": "start Redis",
    }
    assert world.service.counters.failures == 8
    world.service.step()
    assert world.service.back_off == 0.0


@pytest.mark.parametrize("method", ["read_new", "claim", "acknowledge", "send_heartbeat"])
def test_after_any_failure_own_pending_entries_are_read_first(method: str) -> None:
    """A read whose reply was lost may have delivered entries."""
    world = World([report_entry(1, "hot")])
    world.step()
    world.clock.now += 3600
    world.stream.entries.append(report_entry(2, "hot too"))
    world.stream.failures[method] = [RedisUnavailableError("away")]
    world.step()
    assert world.service.back_off > 0
    assert "read_own" in world.step()
    world.step()
    assert world.registry.max_n == {"hot": 4, "hot too": 4}
    assert world.stream.held == {}


def test_sums_that_fail_acknowledge_nothing_and_raise_nothing() -> None:
    """The batch stays pending as a whole."""
    world = World([report_entry(1, "hot"), Entry("2-0", [])])
    world.sums.fault = RedisUnavailableError("away")
    world.step()
    assert set(world.stream.held) == {"1-0", "2-0"}
    assert (world.registry.max_n, world.letters) == ({}, [])


def test_entries_of_a_dead_consumer_are_claimed(event_log: EventLog) -> None:
    """An entry that is idle for 30 seconds is handled; one that is idle for less stays with its consumer."""
    world = World([report_entry(1, "abandoned"), report_entry(2, "in progress")])
    world.stream.deliver("dead", 1, idle=CLAIM_IDLE)
    world.stream.deliver("slow", 1, idle=CLAIM_IDLE - 1)
    world.step()
    assert world.registry.max_n == {"abandoned": 4}
    assert world.stream.held == {"2-0": "slow"}
    assert world.service.counters.claimed == 1
    assert event_log.fields_of("claimed") == [{"count": 1, "first": "1-0"}]


def test_claims_are_made_every_five_seconds() -> None:
    """Between them a step does not ask."""
    world = World()
    assert "claim" in world.step()
    world.clock.now += CLAIM_INTERVAL - 0.1
    assert "claim" not in world.step()
    world.clock.now += 0.1
    assert "claim" in world.step()


def test_trimmed_entries_that_a_claim_finds_are_counted_and_logged(event_log: EventLog) -> None:
    """Only their ids are left, so they are lost."""
    world = World()
    world.stream.deleted_ids = ["1-0", "2-0", "3-0"]
    world.step()
    assert world.service.counters.lost == 3
    assert event_log.fields_of("pending_entries_trimmed") == [{"count": 3, "first": "1-0", "last": "3-0"}]


def test_a_lost_stream_is_created_again(event_log: EventLog) -> None:
    """The group is created, the heartbeat is sent at once, and there is no back-off."""
    world = World()
    world.step()
    world.stream.failures["read_new"] = [StreamLostError("gone")]
    assert world.step() == ["read_new", "create_group"]
    assert world.service.back_off == 0.0
    assert event_log.fields_of("group_created") == [{"why": "gone"}]
    assert world.step() == ["send_heartbeat", "read_own", "read_new"]


def test_a_stream_that_cannot_be_created_again_backs_off(event_log: EventLog) -> None:
    """Redis lost the stream and is now unavailable."""
    world = World()
    world.stream.failures = {"read_new": [StreamLostError("gone")], "create_group": [RedisUnavailableError("away")]}
    world.step()
    assert world.service.back_off == 0.1
    assert event_log.names == ["backing_off"]


def test_a_stream_without_the_group_loses_nothing() -> None:
    """The group was deleted by hand: maintenance goes without its loss, and the read finds the rest out."""
    world = World()
    world.stream.info = lambda: StreamInfo(0, None, None, ())  # type: ignore[method-assign]
    world.stream.failures = {"read_new": [StreamLostError("no group")]}
    assert world.step()[-1] == "create_group"
    assert world.service.back_off == 0.0


def test_ids_ahead_of_the_clock_are_logged_and_trimmed(event_log: EventLog) -> None:
    """Their times mean nothing: acknowledged entries do not stay. Logged once, and once when it is over."""
    world = World()
    info = world.stream.info
    for newest in (NOW + 299.0, NOW + 9e9, NOW + 9e9, float(NOW)):
        world.stream.info = lambda newest=newest: replace(info(), newest=newest)  # type: ignore[method-assign,misc]
        world.step()
        world.clock.now += MAINTENANCE_INTERVAL
    assert world.stream.trimmed_before == [NOW - 60.0, NOW + 9e9 + 1, NOW + 9e9 + 1, NOW - 60.0]
    assert [fields["seconds"] for fields in event_log.fields_of("stream_ids_ahead")] == [9_000_000_000, 0]


def test_maintenance_has_its_intervals() -> None:
    """A heartbeat every 2 seconds; trimming and the deletion of idle consumers every 10."""
    world = World()
    assert world.step()[:4] == MAINTENANCE
    world.clock.now += HEARTBEAT_INTERVAL
    assert world.step()[0] == "send_heartbeat"
    world.clock.now += MAINTENANCE_INTERVAL - HEARTBEAT_INTERVAL
    assert world.step()[:4] == MAINTENANCE
    assert world.stream.trimmed_before == [NOW - 60.0] * 2
    assert world.stream.deleted_consumers == [(DELETE_CONSUMERS_AFTER, None)] * 2


def test_unread_entries_that_were_trimmed_are_logged_once(event_log: EventLog) -> None:
    """The same loss is visible in every reading, and counted and logged in the first alone."""
    world = World()
    world.stream.loss = TrimLoss(7, "1-0", "9-0")
    for _ in range(3):
        world.step()
        world.clock.now += MAINTENANCE_INTERVAL
    (fields,) = event_log.fields_of("unread_entries_trimmed")
    assert (fields["count"], fields["after"], fields["before"]) == (7, "1-0", "9-0")
    assert world.service.counters.lost == 7


def test_the_latest_raises_of_a_batch_are_recorded() -> None:
    """As many as status shows, and only those that changed max_n."""
    world = World([report_entry(number, f"c{number}") for number in range(1, 12)])
    world.registry.max_n["c11"] = 64
    world.step()
    names = [name for name, *_ in world.state.raises]
    assert names == [f"c{number}" for number in range(11 - KEPT_RAISES, 11)]
    assert world.state.raises[0][1:] == (1, 4, "2027-01-15T08:00:00.000Z", "me")


def test_a_raise_that_cannot_be_recorded_is_done_all_the_same() -> None:
    """The record is for operators only."""
    world = World([report_entry(1, "hot")])
    world.state.fails = True
    world.step()
    assert (world.registry.max_n, world.stream.held, world.service.back_off) == ({"hot": 4}, {}, 0.0)


def test_stop_ends_the_loop_after_the_current_batch(event_log: EventLog) -> None:
    """A stop during a batch: the batch is acknowledged, no more is read, and the consumer is deleted."""
    world = World([report_entry(1, "hot")])
    raise_to = world.registry.raise_to

    def stop_and_raise(*args: Any, **kwargs: Any) -> Any:
        world.stop.set()
        return raise_to(*args, **kwargs)

    world.registry.raise_to = stop_and_raise  # type: ignore[method-assign]
    steps: list[int] = []
    world.service.run(after_step=lambda: steps.append(1))
    assert len(steps) == 1
    assert world.calls[-2:] == ["acknowledge", "delete_idle_consumers"]
    assert world.stream.deleted_consumers[-1] == (0.0, "me")
    assert world.stream.held == {}
    assert [event_log.names[0], event_log.names[-1]] == ["started", "stopped"]


def test_the_loop_waits_for_its_back_off_and_a_stop_ends_the_wait() -> None:
    """The wait is one on the stop event, so that SIGTERM does not wait for the back-off."""
    waits: list[float | None] = []

    class Stop(threading.Event):
        """Is set by the third wait."""

        def wait(self, timeout: float | None = None) -> bool:
            """Return at once."""
            waits.append(timeout)
            if len(waits) == 3:
                self.set()
            return self.is_set()

    world = World()
    world.stop = Stop()
    world.service = world.new_service()
    world.stream.failures["read_new"] = [RedisUnavailableError("away") for _ in range(3)]
    world.service.run()
    assert waits == [0.1, 0.2, 0.4]


def test_a_consumer_that_cannot_be_deleted_is_logged(event_log: EventLog) -> None:
    """Shutdown during an outage ends all the same."""
    world = World()
    world.stop.set()
    world.stream.failures["delete_idle_consumers"] = [RedisUnavailableError("away")]
    world.service.run()
    assert event_log.names == ["started", "consumer_not_deleted", "stopped"]


def test_the_fence_watcher_runs_in_a_thread_and_ends_with_the_loop() -> None:
    """Whatever ends the loop ends the watcher, too."""

    class Watcher(NeverRefused):
        """Waits for the stop."""

        parts = Parts()

        def __init__(self) -> None:
            self.thread = ""
            self.began, self.ended = threading.Event(), threading.Event()

        def run(self) -> None:
            """Run until stopped."""
            self.thread = threading.current_thread().name
            self.began.set()
            world.stop.wait(30)
            self.ended.set()

    def fail() -> None:
        assert watcher.began.wait(30)
        raise KeyboardInterrupt

    world, watcher = World(), Watcher()
    with pytest.raises(KeyboardInterrupt):
        world.new_service(watcher).run(after_step=fail)
    assert watcher.ended.is_set()
    assert watcher.thread == "saltctl-fence-watcher"


def test_a_service_with_settings_of_another_registry_ends() -> None:
    """A retry cannot help, and its supervisor shows a process that ends."""

    class Watcher(NeverRefused):
        """Stops the service."""

        def run(self) -> None:
            """Find that the settings do not fit."""
            self.ended_by = OtherRegistryError("laid out as v2:16")
            world.stop.set()

    world = World()
    with pytest.raises(OtherRegistryError):
        world.new_service(Watcher()).run()
    assert "delete_idle_consumers" in world.calls


def test_a_fence_watcher_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request has no answer yet: the loop waits for it for a while, and the process does not at all."""
    monkeypatch.setattr(service, "DRAIN_SECONDS", 0.05)
    began, answered = threading.Event(), threading.Event()
    daemons: list[bool] = []

    class Watcher(NeverRefused):
        """Waits for longer than the stop."""

        def run(self) -> None:
            """Run until the answer comes."""
            daemons.append(threading.current_thread().daemon)
            began.set()
            answered.wait(30)

    def stop() -> None:
        assert began.wait(30)
        world.stop.set()

    world = World()
    world.new_service(Watcher()).run(after_step=stop)
    assert not answered.is_set()
    assert daemons == [True]
    answered.set()


def test_after_the_drain_deadline_no_raise_begins() -> None:
    """Entries that need a raise stay pending for other instances; the others are acknowledged."""
    world = World([report_entry(1, "hot"), report_entry(2, "cold", 20)])
    world.service = world.new_service(should_stop=lambda: True)
    world.step()
    assert world.registry.max_n == {}
    assert world.stream.held == {"1-0": "me"}
    assert world.service.back_off == 0.0


def test_the_drain_deadline_begins_with_the_stop() -> None:
    """It runs from the first question after the stop, and not before."""
    stop, clock = threading.Event(), Clock()
    deadline = DrainDeadline(stop, clock=clock)
    for _ in range(2):
        assert not deadline()
        clock.now += 3600
    stop.set()
    assert not deadline()
    clock.now += DRAIN_SECONDS - 0.1
    assert not deadline()
    clock.now += 0.1
    assert deadline()


class Refusing(FakeRegistry):
    """Fails the raises of some conversations, each with its error."""

    def __init__(self, calls: list[str], errors: dict[str, Exception]) -> None:
        super().__init__(calls)
        self.errors = errors

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Raise, or fail."""
        if conversation_id in self.errors:
            raise self.errors[conversation_id]
        return super().raise_to(conversation_id, n, reason=reason, actor=actor)


@pytest.mark.parametrize("exc", [TypeError("a defect"), WrongTypeError("a string")], ids=["defect", "wrong type"])
def test_a_conversation_that_always_fails_delays_no_other(exc: Exception) -> None:
    """New entries are read in the next step; it is tried again after pauses, and then a dead letter."""
    world = World([report_entry(1, "bad"), report_entry(2, "good")])
    world.registry = Refusing(world.calls, {"bad": exc})
    world.service = world.new_service()
    world.step()
    assert world.registry.max_n == {"good": 4}
    world.stream.entries.append(report_entry(3, "next"))
    assert "read_own" not in world.step()
    assert world.registry.max_n == {"good": 4, "next": 4}
    tried = 0
    while world.stream.held:
        world.clock.now += 5.0
        tried += "read_own" in world.step()
        assert tried < 2 * MAX_TRIES
    assert [(entry.id, str(exc) in reason) for entry, reason in world.letters] == [("1-0", True)]
    assert (world.service.back_off, world.service.counters.acknowledged) == (0.0, 3)


def test_during_an_outage_pending_and_a_few_new_entries_take_turns() -> None:
    """A partial outage stops no other conversation, and an instance that cannot raise takes few entries."""
    errors: dict[str, Exception] = {"bad": RedisUnavailableError("one primary is away")}
    world = World([report_entry(1, "bad")])
    world.registry = Refusing(world.calls, errors)
    world.service = world.new_service()
    world.step()
    world.stream.entries += [report_entry(2 + i, "bad") for i in range(2 * PROBE_ENTRIES)]
    world.stream.entries.append(report_entry(100, "good"))
    turns = []
    while "good" not in world.registry.max_n:
        calls = world.step()
        turns.append("own" if "read_own" in calls else "new")
        assert len(world.stream.held) <= 1 + 2 * PROBE_ENTRIES
        assert len(turns) < 10
    assert turns == ["own", "new"] * 3
    assert world.letters == []
    errors.clear()
    while world.stream.held:
        world.clock.now += 5.0
        world.step()
    assert world.registry.max_n == {"good": 4, "bad": 4}


def test_an_unforeseen_exception_ends_no_step(event_log: EventLog) -> None:
    """It is logged with its type and counted, and the next step reads again."""
    world = World([report_entry(1, "hot")])
    world.stream.failures["read_new"] = [cast("SaltctlError", ZeroDivisionError("a defect"))]
    world.step()
    assert (event_log.fields_of("backing_off")[0]["error"], world.service.counters.unexpected) == (
        "ZeroDivisionError",
        1,
    )
    world.step()
    assert world.registry.max_n == {"hot": 4}


def test_maintenance_that_fails_stops_no_reading(event_log: EventLog) -> None:
    """Detection does not depend on trimming."""
    world = World([report_entry(1, "hot")])
    world.stream.failures["trim"] = [cast("SaltctlError", KeyError("entries-added"))]
    world.step()
    assert world.registry.max_n == {"hot": 4}
    assert event_log.fields_of("maintenance_failed")[0]["error"] == "KeyError"


def run_steps(world: World, steps: int, clock_step: float, watcher: object = None) -> int:
    """Run so many steps of the loop, between which time passes. Return how often the health file was touched."""
    touched: list[int] = []
    service = world.new_service(watcher)
    work = service.step

    def step() -> None:
        nonlocal steps
        work()
        service.back_off = 0.0  # without waiting
        world.clock.now += clock_step
        steps -= 1
        if not steps:
            world.stop.set()

    service.step = step  # type: ignore[method-assign]
    service.parts.clock = world.clock
    service.run(after_step=lambda: touched.append(1))
    return len(touched)


def test_a_watcher_without_progress_is_late(event_log: EventLog) -> None:
    """The health file is not touched any more, the log and the record of the instance name the part."""

    class Watcher(NeverRefused):
        """Hangs."""

        parts = Parts()

        def run(self) -> None:
            """Record progress once."""
            self.parts.progress("fence_watcher", 90.0)
            world.stop.wait(30)

    world, watcher = World(), Watcher()
    assert run_steps(world, 20, 10.0, watcher) <= 10
    assert event_log.fields_of("parts_late")[0]["parts"] == ["fence_watcher"]
    assert world.state.seen["me"] == ["fence_watcher"]
    assert ("service-late", "me: fence_watcher", ()) in world.log.events


def test_a_watcher_whose_thread_ended_is_started_again(event_log: EventLog) -> None:
    """Even SystemExit, which no handler catches, ends it only for a moment."""

    class Watcher(NeverRefused):
        """Ends at once, the first time."""

        parts = Parts()
        runs = 0

        def run(self) -> None:
            """End the thread, or wait."""
            self.runs += 1
            self.parts.progress("fence_watcher", 90.0)
            if self.runs > 1:
                world.stop.wait(30)

    world, watcher = World(), Watcher()
    service = world.new_service(watcher)
    service.run(after_step=lambda: world.stop.set() if watcher.runs == 2 else None)
    assert watcher.runs == 2
    assert event_log.names.count("fence_watcher_ended") == 1


def test_a_service_starts_without_a_thread_for_its_watcher(
    monkeypatch: pytest.MonkeyPatch, event_log: EventLog
) -> None:
    """It counts as late until the system has one."""

    class Watcher(NeverRefused):
        """Waits for the stop."""

        parts = Parts()

        def run(self) -> None:
            """Run until stopped."""
            self.parts.progress("fence_watcher", 90.0)
            world.stop.wait(30)

    start, refused = threading.Thread.start, [1, 2]

    def start_or_refuse(thread: threading.Thread) -> None:
        if refused:
            refused.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    world = World([report_entry(1, "hot")])
    world.new_service(Watcher()).run(after_step=world.stop.set)
    assert world.registry.max_n == {"hot": 4}
    assert [fields["error"] for fields in event_log.fields_of("fence_watcher_not_started")] == ["RuntimeError"] * 2


def test_a_loop_that_cannot_do_its_work_is_late() -> None:
    """Credentials without permission for hours; an outage of the same length is no fault of the instance."""
    for exc, late in ((AccessDeniedError("expired"), True), (RedisUnavailableError("away"), False)):
        world = World()
        world.stream.failures["read_new"] = [exc for _ in range(100)]
        touched = run_steps(world, 40, 10.0)
        assert (touched < 40) is late
        assert ("loop" in world.state.seen["me"]) is late


def test_an_after_step_that_fails_ends_nothing(event_log: EventLog) -> None:
    """Such as a health file whose path is invalid."""
    world = World([report_entry(1, "hot")])

    def fail() -> None:
        world.stop.set()
        raise ValueError("embedded null byte")

    world.service.run(after_step=fail)
    assert event_log.fields_of("after_step_failed")[0]["error"] == "ValueError"
    assert event_log.names[-1] == "stopped"


def test_a_long_batch_touches_the_health_file() -> None:
    """A raise that takes seconds is progress. The instance shows that it is alive meanwhile, if Redis answers."""
    world = World([report_entry(number, f"c{number}") for number in range(1, 21)])
    raise_to = world.registry.raise_to
    errors: list[SaltctlError] = []
    send_heartbeat = world.stream.send_heartbeat

    def hang_and_fail(consumer: str) -> None:
        world.clock.now += 5.0 * bool(errors)
        send_heartbeat(consumer)

    world.stream.send_heartbeat = hang_and_fail  # type: ignore[method-assign]

    def slow(*args: Any, **kwargs: Any) -> Any:
        world.clock.now += 5.0
        world.stream.failures["send_heartbeat"] = errors.copy()
        return raise_to(*args, **kwargs)

    world.registry.raise_to = slow  # type: ignore[method-assign]
    assert run_steps(world, 1, 0.0) == 21
    assert "loop" not in world.state.seen["me"]
    assert world.calls.count("send_heartbeat") == 21
    world.stream.entries += [report_entry(number, f"c{number}") for number in range(21, 31)]
    errors.append(RedisUnavailableError("away"))
    world.stop.clear()
    world.calls.clear()
    run_steps(world, 1, 0.0)
    assert world.calls.count("send_heartbeat") <= 6, "ten raises of 5 s do not all wait for a server that hangs"
    assert world.registry.max_n["c30"] == 4
    assert world.stream.held == {}


def test_raises_are_named_in_one_event_a_minute() -> None:
    """The first one at once, and the later ones together: not a write for each raise."""
    world = World([report_entry(1, "first")])
    world.step()
    assert world.log.events == [("raise", "by me", ("first",))]
    for number in (2, 3):
        world.stream.entries.append(report_entry(number, f"later-{number}"))
        world.step()
    assert len(world.log.events) == 1
    world.clock.now += RAISES_EVERY
    world.step()
    assert world.log.events[1:] == [("raise", "by me", ("later-2", "later-3"))]
    world.clock.now += RAISES_EVERY
    world.step()
    assert len(world.log.events) == 2


def test_start_stop_and_the_last_raises_are_noted() -> None:
    """A stop names the raises that no event has named, and waits for its events."""
    world = World([report_entry(1, "first"), report_entry(2, "second")])

    def after_step() -> None:
        """Stop once both are raised, the second one less than a minute after the first."""
        if len(world.registry.max_n) == 2:
            world.stop.set()

    world.service.run(after_step)
    kinds = [kind for kind, _, _ in world.log.events]
    assert (kinds[0], kinds[-1]) == ("service-started", "service-stopped")
    assert [name for _, _, names in world.log.events for name in names] == ["first", "second"]
    assert world.log.flushed
