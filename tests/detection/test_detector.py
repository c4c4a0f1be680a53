"""The detector over stores in memory: raises, pending entries, dead letters and log events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from saltctl.detection.detector import BatchResult, Detector
from saltctl.detection.failures import MAX_TRIES
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    DamagedEntryError,
    RedisUnavailableError,
    WrongTypeError,
)
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.contracts.registry import Raise, RaiseOutcome
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.stream import HeatStream
from saltctl.testing import MemoryBackup, MemoryRedis
from tests.detection.conftest import EventLog
from tests.detection.fakes import NOW, RecordingSums, report_entry, shared_entry


class World:
    """A detector over stores in memory, and its log events."""

    def __init__(self, event_log: EventLog, **settings: Any) -> None:
        self.settings = Settings(redis_url="redis://nowhere", **settings)
        self.backup = MemoryBackup()
        self.store = MemoryRedis()
        self.registry = Registry.over(self.settings, self.store, self.backup)
        self.sums = RecordingSums()
        self.event_log = event_log
        self.letters: list[tuple[Entry, str]] = []
        self.acknowledged: list[str] = []
        self.stopping = False
        self.letters_fault: Exception | None = None
        self.detector = self.new_detector()

    def new_detector(self) -> Detector:
        """Return another detector over the same stores."""
        return Detector(
            self.sums,
            self.registry,
            cast("DeadLetters", self),
            self.settings,
            now=lambda: NOW,
            should_stop=lambda: self.stopping,
        )

    def handle(self, *entries: Entry) -> BatchResult:
        """Handle one batch."""
        return self.detector.handle(entries, cast("HeatStream", self))

    def add(self, letters: Sequence[tuple[Entry, str]]) -> None:
        """Add dead letters."""
        if self.letters_fault is not None:
            raise self.letters_fault
        self.letters += letters

    def acknowledge(self, ids: Sequence[str]) -> int:
        """Acknowledge entries."""
        self.acknowledged += ids
        return len(ids)

    def n(self, conversation_id: str) -> int:
        """Return max_n in the backup."""
        entry = self.backup.items.get(conversation_id)
        return 1 if entry is None else entry.max_n


@pytest.fixture
def world(event_log: EventLog) -> World:
    """With default settings: 800 write units per salt, cap 256."""
    return World(event_log)


@pytest.mark.parametrize(
    ("writes", "n"), [(10, 1), (800, 1), (801, 2), (1600, 2), (1601, 4), (6400, 8), (6401, 16), (204_800, 256)]
)
def test_n_is_the_rate_divided_by_800_as_a_power_of_two(world: World, writes: int, n: int) -> None:
    """One salt for each 800 write units a second, as a power of two."""
    world.handle(report_entry(1, "a", writes))
    assert world.n("a") == n
    assert world.acknowledged == ["1-0"]


def test_a_fleet_of_servers_each_far_below_the_limit(world: World) -> None:
    """A hundred servers with 50 writes each, a twentieth of the limit: together they need 8 salts."""
    world.handle(*[report_entry(i, "a", 50, server=f"app-{i}") for i in range(100)])
    assert world.n("a") == 8


def test_windows_are_not_added_up(world: World) -> None:
    """700 writes in each of ten seconds is a rate of 700, not of 7,000."""
    world.handle(*[report_entry(i, "a", 700, window=NOW - i) for i in range(10)])
    assert world.n("a") == 1


def test_redelivery_changes_nothing(world: World) -> None:
    """The same entries again, and again: the same N, one raise on record, everything acknowledged."""
    entries = [report_entry(i, "a", 700, server=f"app-{i}") for i in range(3)]
    for _ in range(3):
        world.handle(*entries)
    assert world.n("a") == 4
    assert len(world.backup.items["a"].raises) == 1
    assert world.detector.counters.raised == 1


def test_a_second_instance_does_not_raise_again(world: World) -> None:
    """Two instances over the same sums and registry: the second finds the raise done."""
    world.handle(report_entry(1, "a", 2000))
    done = world.new_detector().handle([report_entry(1, "a", 2000)], cast("HeatStream", world))
    assert [result.changed for result in done.raises] == [False]
    assert len(world.backup.items["a"].raises) == 1


def test_a_conversation_above_the_cap_is_clamped_and_logged_once(event_log: EventLog) -> None:
    """A conversation that needs 16 under a cap of 8 gets 8; one error is logged."""
    world = World(event_log, max_n_cap=8)
    for i in range(5):
        world.handle(report_entry(i, "a", 12_000, window=NOW - i))
    assert world.n("a") == 8
    (said,) = world.event_log.fields_of("clamped")
    assert (said["conversation_id"], said["rate"], said["n"]) == ("a", 12_000, 8)
    assert "SALTCTL_MAX_N_CAP" in said["hint"]
    assert "clamped" in world.backup.items["a"].raises[0].reason


def test_a_cap_that_is_not_a_power_of_two_is_rounded_down(event_log: EventLog) -> None:
    """Under a cap of 6 a conversation gets 4, the most that a raise may aim at."""
    world = World(event_log, max_n_cap=6)
    world.handle(report_entry(1, "a", 100_000))
    assert world.n("a") == 4


def test_throttling_raises_to_the_next_n(world: World) -> None:
    """A conversation that was throttled at 4 needs 8, even with few writes; the same report again changes nothing."""
    for _ in range(3):
        world.handle(report_entry(1, "a", 3, n=4))
    assert world.n("a") == 8
    assert "throttled" in world.backup.items["a"].raises[0].reason


@pytest.mark.parametrize(("age", "n"), [(3599, 4), (3601, 1), (7 * 86400, 1)])
def test_stale_reports_raise_nothing(world: World, age: int, n: int) -> None:
    """A report from last week is acknowledged and counted as stale; one from an outage of an hour still raises."""
    world.handle(report_entry(1, "a", 2000, window=NOW - age))
    assert world.n("a") == n
    assert world.acknowledged == ["1-0"]
    assert world.detector.counters.stale == (1 if n == 1 else 0)


def test_an_invalid_report_becomes_a_dead_letter_with_its_reason(world: World) -> None:
    """Invalid fields, another version and a window in the future become dead letters; the valid report raises."""
    hostile = Entry("2-0", [b"v", b"1", b"conversation_id", b"\x1b[2J"])
    entries = [
        report_entry(1, "a", 2000),
        hostile,
        Entry("3-0", [b"v", b"9"]),
        report_entry(4, "b", 2000, window=NOW + 3600),
        Entry("5-0", []),
    ]
    world.handle(*entries)
    assert world.n("a") == 4
    assert [letter.id for letter, _ in world.letters] == ["2-0", "3-0", "4-0", "5-0"]
    assert [reason[:12] for _, reason in world.letters] == [
        "no field ser",
        "unknown vers",
        "the window i",
        "no version",
    ]
    assert sorted(world.acknowledged) == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    assert world.detector.counters.dead == 4


def test_a_trimmed_entry_is_counted_as_lost(world: World) -> None:
    """A pending entry that was trimmed is acknowledged, counted and logged."""
    world.handle(Entry("1-0", None))
    assert world.acknowledged == ["1-0"]
    assert world.detector.counters.lost == 1
    assert world.event_log.fields_of("pending_entry_trimmed")


@pytest.mark.parametrize("method", ["check_registry", "raise_max_n", "commit_write_n"])
def test_an_entry_whose_raise_fails_stays_pending(world: World, method: str) -> None:
    """DynamoDB away at any step: that conversation's entries stay pending, others' are acknowledged."""
    world.backup.faults.before[method] = AwsUnavailableError("away")
    done = world.handle(report_entry(1, "hot", 2000), report_entry(2, "cold", 20))
    assert done.left_pending == ["1-0"]
    assert world.acknowledged == ["2-0"]
    assert done.failure is not None
    world.backup.faults.clear()
    assert world.handle(report_entry(1, "hot", 2000)).left_pending == []
    assert (world.n("hot"), world.backup.items["hot"].write_n) == (4, 4)


def test_redis_fails_between_raise_and_acknowledgement(world: World) -> None:
    """The raise stopped after the backup; the entry is kept, and handling it again completes the raise."""
    (primary,) = world.store.primaries()
    world.store.faults[primary].before["merge"] = RedisUnavailableError("away")
    assert world.handle(report_entry(1, "hot", 2000)).left_pending == ["1-0"]
    assert world.acknowledged == []
    world.store.faults[primary].clear()
    world.handle(report_entry(1, "hot", 2000))
    assert world.acknowledged == ["1-0"]
    assert world.store.held[primary]["hot"] == 4
    assert len(world.backup.items["hot"].raises) == 1


def test_after_two_outages_in_a_row_the_others_do_not_wait_for_the_same_outage(world: World) -> None:
    """With DynamoDB away two raises are tried, and all hot entries are kept."""
    world.backup.faults.before["check_registry"] = AwsUnavailableError("away")
    done = world.handle(*[report_entry(i, f"c{i}", 2000) for i in range(50)])
    assert len(done.left_pending) == 50
    assert world.backup.faults.calls == ["check_registry"] * 2
    assert isinstance(done.failure, AwsUnavailableError)


def test_sums_that_fail_acknowledge_nothing(world: World) -> None:
    """Redis lost while summing: nothing was decided, so nothing is acknowledged."""
    world.sums.fault = RedisUnavailableError("away")
    with pytest.raises(RedisUnavailableError):
        world.handle(report_entry(1, "a", 2000))
    assert world.acknowledged == []


def test_a_refused_raise_does_not_stop_the_others(world: World) -> None:
    """A damaged backup item makes dead letters of its conversation's reports; others are raised."""
    world.backup.faults.before["raise_max_n"] = DamagedEntryError("no number")
    done = world.handle(report_entry(1, "damaged", 2000))
    assert done.left_pending == []
    assert "no number" in world.letters[0][1]
    world.backup.faults.clear()
    world.handle(report_entry(2, "fine", 2000))
    assert world.n("fine") == 4


def test_a_refused_entry_is_acknowledged_and_counted_once(world: World) -> None:
    """Its dead letter, its acknowledgement and both counters."""
    world.backup.faults.before["raise_max_n"] = DamagedEntryError("no number")
    done = world.handle(report_entry(1, "damaged", 2000))
    assert (world.acknowledged, [entry.id for entry, _ in world.letters]) == (["1-0"], ["1-0"])
    counters = world.detector.counters
    assert (counters.acknowledged, counters.dead, done.given_up) == (1, 1, 1)


def fail_for(world: World, *conversations: str, exc: Exception) -> None:
    """Make the raises of these conversations fail."""
    raise_max_n = world.backup.raise_max_n

    def raise_or_fail(conversation_id: str, entry: Raise) -> RaiseOutcome:
        if conversation_id in conversations:
            raise exc
        return raise_max_n(conversation_id, entry)

    world.backup.raise_max_n = raise_or_fail  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "exc",
    [
        WrongTypeError("a string"),
        TypeError("a defect"),
        OverflowError("too large"),
        AwsUnavailableError("500", answered=True),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_a_conversation_whose_raise_never_succeeds_becomes_a_dead_letter(world: World, exc: Exception) -> None:
    """After ten tries, with the reason; the others of its batches are raised at once, those after it, too."""
    fail_for(world, "bad", exc=exc)
    bad = report_entry(1, "bad", 2000)
    for number in range(2, 2 + MAX_TRIES):
        assert world.letters == []
        done = world.handle(bad, report_entry(number, f"good{number}", 2000))
        assert done.failure is None
        assert world.n(f"good{number}") == 4
    ((entry, reason),) = world.letters
    assert (entry.id, done.left_pending, done.given_up) == ("1-0", [], 1)
    assert str(exc) in reason
    assert len(world.event_log.fields_of("raise_failed")) == 1
    assert world.acknowledged.count("1-0") == 1


def test_an_outage_before_it_makes_no_failure_final(world: World) -> None:
    """An outage of one conversation keeps an entry pending; a later failure of another one is its first."""
    fail_for(world, "away", exc=AwsUnavailableError("away"))
    for _ in range(2 * MAX_TRIES):
        world.handle(shared_entry(1, "away", "other"))
    fail_for(world, "other", exc=TypeError("a defect"))
    again = [report_entry(2, "other", 9000), report_entry(3, "good", 2000)]
    done = world.handle(shared_entry(1, "away", "other"), *again)
    assert (world.n("good"), done.left_pending, world.letters) == (4, ["1-0", "2-0"], [])
    del world.backup.__dict__["raise_max_n"]
    assert world.handle(shared_entry(1, "away", "other"), *again[:1]).left_pending == []
    assert (world.n("away"), world.n("other")) == (4, 16)


def test_all_reports_of_an_entry_are_handled(world: World) -> None:
    """Each conversation is raised by its own report, and the entry is acknowledged and counted once."""
    world.handle(shared_entry(1, "a", "b", "c"), report_entry(2, "b", 2000, server="app-2"))
    assert [world.n(name) for name in "abc"] == [4, 8, 4]
    assert world.acknowledged == ["1-0", "2-0"]
    assert world.detector.counters.reports == world.detector.counters.acknowledged == 2
    world.handle(shared_entry(1, "a", "b", "c"))
    assert [world.n(name) for name in "abc"] == [4, 8, 4], "a redelivery counts nothing twice"


def test_an_entry_of_stale_reports_is_acknowledged(world: World) -> None:
    """All of its reports have its window."""
    world.handle(shared_entry(1, "a", "b", window=NOW - 3601))
    assert (world.n("a"), world.n("b"), world.acknowledged) == (1, 1, ["1-0"])
    assert world.detector.counters.stale == 1


def test_an_entry_waits_for_all_of_its_raises(world: World) -> None:
    """One raise meets an outage: the others are done, and the entry stays pending until that one is, too."""
    fail_for(world, "b", exc=AwsUnavailableError("away"))
    done = world.handle(shared_entry(1, "a", "b", "c"), shared_entry(2, "a", "c"))
    assert [world.n(name) for name in "abc"] == [4, 1, 4]
    assert (done.left_pending, world.acknowledged, world.letters) == (["1-0"], ["2-0"], [])
    raised = world.new_detector()
    world.backup.__dict__.pop("raise_max_n")
    assert raised.handle([shared_entry(1, "a", "b", "c")], cast("HeatStream", world)).left_pending == []
    assert [world.n(name) for name in "abc"] == [4, 4, 4]
    assert world.acknowledged == ["2-0", "1-0"]


def test_an_entry_becomes_a_dead_letter_once_none_of_its_raises_can_be_tried_again(world: World) -> None:
    """It names the conversation. While another raise of the entry waits for a server, the entry does, too."""
    fail_for(world, "bad", exc=DamagedEntryError("no number"))
    world.handle(shared_entry(1, "good", "bad"))
    ((entry, reason),) = world.letters
    assert (entry.id, world.n("good"), world.acknowledged) == ("1-0", 4, ["1-0"])
    assert reason == "'bad': the raise cannot be done: no number"
    fail_for(world, "late", exc=AwsUnavailableError("away"))
    done = world.handle(shared_entry(2, "bad", "late"))
    assert (done.left_pending, done.given_up, len(world.letters)) == (["2-0"], 0, 1)


def test_a_conversation_that_failed_before_is_tried_last(world: World) -> None:
    """So that the others do not wait for its timeouts."""
    fail_for(world, "bad1", "bad2", "bad3", exc=AwsUnavailableError("away"))
    world.handle(*(report_entry(i, f"bad{i}", 2000) for i in (1, 2, 3)))
    done = world.handle(*(report_entry(i, f"bad{i}", 2000) for i in (1, 2, 3)), report_entry(4, "good", 2000))
    assert world.n("good") == 4
    assert done.failure is None
    assert done.left_pending == ["1-0", "2-0", "3-0"]


def test_a_defect_that_every_raise_meets_makes_no_dead_letters(world: World) -> None:
    """The batch fails as in an outage, however often it is tried."""
    fail_for(world, "a", "b", exc=TypeError("a defect"))
    for _ in range(3 * MAX_TRIES):
        done = world.handle(report_entry(1, "a", 2000), report_entry(2, "b", 2000))
    assert isinstance(done.failure, TypeError)
    assert (world.letters, done.left_pending) == ([], ["1-0", "2-0"])


def test_a_report_that_cannot_be_added_stops_no_other(world: World) -> None:
    """Whether its error is returned, or an unforeseen exception stops the whole batch."""
    entries = [report_entry(1, "bad", 2000), report_entry(2, "good", 2000)]
    world.sums.errors["bad"] = WrongTypeError("a string")
    assert world.handle(*entries).left_pending == ["1-0"]
    world.sums.errors["bad"] = TypeError("a defect")
    assert world.handle(*entries).left_pending == ["1-0"]
    assert world.n("good") == 4
    world.sums.errors.clear()
    assert world.handle(*entries).left_pending == []
    assert world.n("bad") == 4


def test_dead_letters_that_cannot_be_added_leave_their_entries_pending(world: World) -> None:
    """The others are raised and acknowledged."""
    world.letters_fault = WrongTypeError("a string")
    done = world.handle(Entry("1-0", []), report_entry(2, "good", 2000))
    assert (done.left_pending, world.acknowledged, world.n("good")) == (["1-0"], ["2-0"], 4)
    assert world.detector.counters.dead == 0
    assert world.event_log.fields_of("dead_letters_failed")[0]["error"] == "wrong_type"


def test_progress_is_reported_for_each_raise_and_each_outage(world: World) -> None:
    """A raise that fails for another reason is none."""
    steps: list[int] = []
    world.detector.progress = lambda: steps.append(1)
    world.handle(report_entry(1, "a", 2000), report_entry(2, "b", 2000))
    assert len(steps) == 2
    fail_for(world, "c", exc=AwsUnavailableError("away"))
    world.handle(report_entry(3, "c", 2000))
    assert len(steps) == 3
    fail_for(world, "d", exc=AccessDeniedError("expired"))
    world.handle(report_entry(4, "d", 2000))
    assert len(steps) == 3


def test_a_shutdown_leaves_entries_without_a_raise_pending(world: World) -> None:
    """When the time to drain is over no further raise begins; the entries stay for others."""
    world.stopping = True
    done = world.handle(report_entry(1, "hot", 2000), report_entry(2, "cold", 20))
    assert (done.left_pending, world.acknowledged) == (["1-0"], ["2-0"])
