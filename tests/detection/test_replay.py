"""Replay over a stream in memory: its batches, rate, ranges, waiting for other consumers, and dry runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest

from saltctl.detection.detector import Detector
from saltctl.detection.read_order import BATCH_ENTRIES
from saltctl.detection.replay import POLL_SECONDS, WAIT_FOR_OTHERS, Replay, ReplayOptions, ReplayReport
from saltctl.detection.service import ALIVE_SECONDS
from saltctl.errors import AwsUnavailableError, RedisUnavailableError, StreamLostError, WrongTypeError
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, StreamInfo
from saltctl.stores.heat.window_sums import InMemorySums
from tests.detection.fakes import NOW, Clock, FakeRegistry, FakeStream, report_entry

if TYPE_CHECKING:
    from saltctl.registry.registry import Registry
    from saltctl.stores.heat.stream import HeatStream


class World:
    """A stream of reports, and replays of it."""

    def __init__(self, *entries: Entry) -> None:
        self.stream = FakeStream(entries)
        self.registry = FakeRegistry(self.stream.calls)
        self.clock = Clock()

    def new_replay(self, **options: Any) -> Replay:
        """Return a replay that has not begun."""
        settings = Settings(redis_url="redis://nowhere")
        registry = cast("Registry", self.registry)
        detector = Detector(InMemorySums(), registry, None, settings, now=lambda: NOW)
        stream = cast("HeatStream", self.stream)
        chosen = ReplayOptions("me", **options)
        return Replay(stream, detector, registry, chosen, clock=self.clock, sleep=self.clock.sleep)

    def replay(self, **options: Any) -> ReplayReport:
        """Replay to the end."""
        *_, report = self.new_replay(**options).run()
        return report


def hot(*names: str) -> Sequence[Entry]:
    """Return a report of each conversation, which needs 4 salts."""
    return [report_entry(number, name) for number, name in enumerate(names, 1)]


def test_the_backlog_is_handled_and_acknowledged() -> None:
    """Raised, acknowledged, drained; the consumer is deleted at the end."""
    world = World(*hot("a", "b"))
    report = world.replay()
    assert (report.read, report.raised, report.drained, report.next_id) == (2, 2, True, None)
    assert report.raises == [
        {"conversation_id": "a", "before": 1, "after": 4},
        {"conversation_id": "b", "before": 1, "after": 4},
    ]
    assert world.stream.held == {}
    assert world.stream.deleted_consumers == [(0.0, "me")]


def test_an_interrupted_replay_is_resumed_at_its_pending_entries() -> None:
    """They come first, page by page, then claimed ones, then unread ones."""
    world = World(*hot("a", "b", "c", "d"))
    world.stream.deliver("me", 2)
    world.stream.deliver("dead", 1, idle=ALIVE_SECONDS)
    report = world.replay()
    assert [raised["conversation_id"] for raised in report.raises] == ["a", "b", "c", "d"]
    assert (report.read, report.claimed, report.drained) == (4, 1, True)


def test_a_batch_is_bounded_and_has_at_most_the_entries_of_one_second() -> None:
    """The rate bounds the batch, so that the wait after it is at most about a second."""
    entries = hot(*(f"c{number}" for number in range(BATCH_ENTRIES + 5)))
    assert [report.read for report in _copies(World(*entries).new_replay())] == [250, 255, 255]
    assert [report.read for report in _copies(World(*entries[:7]).new_replay(rate=3.0))] == [3, 6, 7, 7]
    assert [report.read for report in _copies(World(*entries[:3]).new_replay(rate=0.5))] == [1, 2, 3, 3]


def _copies(replay: Replay) -> list[ReplayReport]:
    """Return the report as it was after each batch."""
    return [ReplayReport(read=report.read) for report in replay.run()]


def test_the_rate_is_kept() -> None:
    """10 entries at 4 a second take 2.5 seconds."""
    world = World(*hot(*(f"c{number}" for number in range(10))))
    world.replay(rate=4.0)
    assert world.clock.now == pytest.approx(2.5)


def test_max_events_ends_a_replay_early() -> None:
    """It is not drained; unread entries stay unread."""
    world = World(*hot("a", "b", "c"))
    report = world.replay(max_events=2)
    assert (report.read, report.drained) == (2, False)
    assert world.stream.delivered == 2


def test_a_range_is_read_without_taking_it() -> None:
    """It is inclusive at both ends; nothing is delivered, acknowledged or deleted."""
    world = World(*hot("a", "b", "c", "d"))
    report = world.replay(first="2-0", last="3-0")
    assert [raised["conversation_id"] for raised in report.raises] == ["b", "c"]
    assert (report.drained, report.next_id) == (True, None)
    assert set(world.stream.calls) == {"info", "range", "raise_to"}


def test_a_range_that_ended_early_names_the_id_that_resumes_it() -> None:
    """The id after the last one that was read."""
    world = World(*hot("a", "b", "c"))
    report = world.replay(first="0", max_events=2)
    assert (report.drained, report.next_id) == (False, "2-1")
    report = world.replay(first=report.next_id)
    assert ([raised["conversation_id"] for raised in report.raises], report.drained) == (["c"], True)


def test_stale_and_invalid_entries_are_counted() -> None:
    """And acknowledged."""
    world = World(
        report_entry(1, "old", window=NOW - 7 * 86400), Entry("2-0", [b"v", b"9"]), report_entry(3, "cold", 20)
    )
    report = world.replay()
    assert (report.read, report.stale, report.dead, report.raised, report.drained) == (3, 1, 1, 0, True)
    assert world.stream.held == {}


def test_entries_of_a_living_consumer_are_waited_for() -> None:
    """Once their consumer acknowledges them the replay is drained."""
    world = World(*hot("a"))
    world.stream.deliver("alive", 1)

    def sleep(seconds: float) -> None:
        world.clock.now += seconds
        if world.clock.now > 1.0:
            world.stream.held.clear()

    world.clock.sleep = sleep  # type: ignore[method-assign]
    report = world.replay()
    assert (report.drained, report.held_by_others, report.read) == (True, 0, 0)


def test_a_replay_gives_up_waiting_after_thirty_seconds() -> None:
    """The report has the number of entries that others hold."""
    world = World(*hot("a", "b"))
    world.stream.deliver("alive", 2)
    report = world.replay()
    assert (report.drained, report.held_by_others) == (False, 2)
    assert WAIT_FOR_OTHERS <= world.clock.now <= WAIT_FOR_OTHERS + 2 * POLL_SECONDS


def test_entries_of_a_consumer_that_dies_meanwhile_are_claimed() -> None:
    """Idle for 15 seconds, within the time that a replay waits."""
    world = World(*hot("a"))
    world.stream.deliver("dying", 1)

    def sleep(seconds: float) -> None:
        world.clock.now += seconds
        world.stream.idle["1-0"] = world.clock.now

    world.clock.sleep = sleep  # type: ignore[method-assign]
    report = world.replay()
    assert (report.claimed, report.raised, report.drained) == (1, 1, True)


def test_an_outage_ends_the_replay_with_a_hint() -> None:
    """The entries stay pending; the hint names the command, and the error keeps its own hint and type."""
    world = World(*hot("a", "b"))
    world.registry.failures = [AwsUnavailableError("away", hint="check the network") for _ in range(2)]
    with pytest.raises(AwsUnavailableError, match="away") as failed:
        world.replay()
    assert failed.value.hint == "nothing is lost\ncheck the network\nsaltctl stream replay"
    assert world.stream.held == {"1-0": "me", "2-0": "me"}
    assert world.replay().raised == 2


def test_an_outage_of_the_stream_is_raised() -> None:
    """Without a retry: the caller runs it again."""
    world = World(*hot("a"))
    world.stream.failures["read_new"] = [RedisUnavailableError("away")]
    with pytest.raises(RedisUnavailableError):
        world.replay()


def test_a_dry_run_reads_pending_and_unread_entries_and_changes_nothing() -> None:
    """It counts pending entries as claimed, and compares each decision with the registry."""
    world = World(*hot("pending", "unread", "already"))
    world.stream.deliver("someone", 1)
    world.registry.max_n["already"] = 4
    report = world.replay(dry_run=True)
    assert report.raises == [
        {"conversation_id": "pending", "before": 1, "after": 4},
        {"conversation_id": "unread", "before": 1, "after": 4},
    ]
    assert (report.read, report.claimed, report.unchanged, report.drained) == (3, 1, 1, True)
    assert (report.dry_run, report.next_id) == (True, None)
    assert set(world.stream.calls) <= {"pending", "get", "info", "range"}
    assert world.stream.held == {"1-0": "someone"}


def test_a_dry_run_keeps_the_largest_n_of_a_conversation() -> None:
    """Over all batches."""
    entries = [
        report_entry(number, "a", writes, window=NOW - number) for number, writes in enumerate((900, 5000, 900), 1)
    ]
    report = World(*entries).replay(dry_run=True, rate=1.0)
    assert report.raises == [{"conversation_id": "a", "before": 1, "after": 8}]


def test_a_dry_run_of_trimmed_pending_entries() -> None:
    """Their fields are gone: they are read and need nothing."""
    world = World(*hot("a"))
    world.stream.deliver("someone", 1)
    world.stream.entries = [Entry("1-0", None)]
    report = world.replay(dry_run=True)
    assert (report.read, report.raised, report.drained) == (1, 0, True)


def test_one_failing_conversation_stops_no_other_of_a_replay() -> None:
    """It is tried again, then a dead letter, and counted as failed."""
    world = World(*hot("bad", "good"), *[report_entry(9, "later")])
    raise_to = world.registry.raise_to

    def fail(conversation_id: str, n: int, **more: Any) -> Any:
        if conversation_id == "bad":
            raise WrongTypeError("a string")
        return raise_to(conversation_id, n, **more)

    world.registry.raise_to = fail  # type: ignore[method-assign]
    report = world.replay()
    assert world.registry.max_n == {"good": 4, "later": 4}
    assert (report.failed, report.dead, report.left_pending, report.drained) == (1, 1, 0, True)


def test_a_conversation_that_meets_an_outage_alone_is_left_pending() -> None:
    """It is no dead letter: another replay, or the service, tries it again."""
    world = World(*hot("bad", "good"))
    raise_to = world.registry.raise_to

    def fail(conversation_id: str, n: int, **more: Any) -> Any:
        if conversation_id == "bad":
            raise RedisUnavailableError("its primary is away")
        return raise_to(conversation_id, n, **more)

    world.registry.raise_to = fail  # type: ignore[method-assign]
    report = world.replay()
    assert (report.failed, report.dead, report.left_pending, report.drained) == (1, 0, 1, False)
    assert world.registry.max_n == {"good": 4}
    assert list(world.stream.held) == ["1-0"]


@pytest.mark.parametrize("options", [{}, {"first": "0"}, {"dry_run": True}], ids=["backlog", "range", "dry run"])
def test_a_stream_that_was_lost_and_created_again_is_not_drained(options: dict[str, Any]) -> None:
    """Redis was flushed and the service created the group again: the unread entries are gone, not handled."""
    world = World(*hot("a", "b"))
    world.stream.added = 2
    info = world.stream.info

    def lose() -> StreamInfo:
        found = info()
        world.stream.entries.clear()
        world.stream.delivered = world.stream.added = 0
        return found

    world.stream.info = lose  # type: ignore[method-assign]
    with pytest.raises(StreamLostError, match="during the replay"):
        world.replay(**options)
