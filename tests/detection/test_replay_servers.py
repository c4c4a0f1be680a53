"""Replay on real servers: the backlog, a range, a dry run, and being broken off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from saltctl.detection.detector import Detector
from saltctl.detection.replay import Replay, ReplayOptions, ReplayReport
from saltctl.errors import AwsUnavailableError
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import InMemorySums, WindowSums
from tests.support import Rebuilder

pytestmark = pytest.mark.slow

Replayer = Callable[..., ReplayReport]


@pytest.fixture
def stream(settings: Settings) -> Iterator[HeatStream]:
    """The stream, with its group."""
    heat = HeatStream(settings)
    heat.create_group()
    yield heat
    heat.close()


@pytest.fixture
def replay(settings: Settings, stream: HeatStream, registry: Registry, rebuild: Rebuilder) -> Replayer:
    """Replays to its end: ``replay(dry_run=True)``."""
    rebuild()

    def run(max_age: float | None = None, clock: Callable[[], float] = time.monotonic, **options: Any) -> ReplayReport:
        chosen = ReplayOptions("replay-test", **options)
        detector = Detector(
            InMemorySums() if chosen.dry_run else WindowSums(settings),
            registry,
            None if chosen.dry_run or chosen.is_range else DeadLetters(settings),
            settings,
            max_age=max_age,
        )
        *_, report = Replay(stream, detector, registry, chosen, clock=clock, sleep=lambda seconds: None).run()
        return report

    return run


def hot(stream: HeatStream, *names: str, age: int = 0, writes: int = 2000) -> None:
    """Reports that need 4 salts each, each in an entry."""
    window = int(time.time()) - age
    for name in names:
        stream.append_reports([HeatReport(name, "app", window, writes)])


def test_the_backlog_is_handled(stream: HeatStream, replay: Replayer, backup: BackupTable) -> None:
    """Without any service: raised, acknowledged, drained, and no consumer is left behind."""
    hot(stream, "a", "b")
    stream.append({"v": "9"})
    report = replay()
    assert (report.read, report.raised, report.dead, report.drained) == (3, 2, 1, True)
    assert report.raises == [
        {"conversation_id": "a", "before": 1, "after": 4},
        {"conversation_id": "b", "before": 1, "after": 4},
    ]
    (group,) = stream.info().groups
    assert (group.lag, group.pending, group.consumers) == (0, 0, ())
    assert replay().read == 0


def test_a_dry_run_previews_and_changes_nothing(
    stream: HeatStream, replay: Replayer, registry: Registry, backup: BackupTable
) -> None:
    """It names the raises that then come of it, pending entries of others included, and takes nothing."""
    registry.raise_to("already", 4)
    hot(stream, "a", "b", "already")
    stream.read_new("somebody", 1)
    before = stream.info()
    preview = replay(dry_run=True)
    after = stream.info()
    assert preview.raises == [
        {"conversation_id": "a", "before": 1, "after": 4},
        {"conversation_id": "b", "before": 1, "after": 4},
    ]
    assert preview.unchanged == 1
    assert backup.get("a") is None
    assert [(g.lag, g.pending, g.last_delivered_id) for g in after.groups] == [
        (g.lag, g.pending, g.last_delivered_id) for g in before.groups
    ]


def test_a_range_is_handled_again(stream: HeatStream, replay: Replayer, backup: BackupTable) -> None:
    """Acknowledged entries between two ids are summed and raised again; a repetition changes nothing."""
    hot(stream, "a", "b", "c")
    entries = stream.read_new("somebody", 10)
    stream.acknowledge([entry.id for entry in entries])
    for changed in (1, 0):
        report = replay(first=entries[1].id, last=entries[1].id)
        assert (report.read, report.raised, report.drained) == (1, changed, True)
    assert backup.get("a") is None
    entry = backup.get("b")
    assert entry is not None
    assert [r.n for r in entry.raises] == [4]


def test_stale_reports_raise_nothing(stream: HeatStream, replay: Replayer, backup: BackupTable) -> None:
    """Reports older than --max-age are acknowledged and counted as stale."""
    hot(stream, "old", age=120)
    hot(stream, "new")
    report = replay(max_age=60.0)
    assert (report.stale, report.raised) == (1, 1)
    assert backup.get("old") is None


def test_a_replay_is_resumed(stream: HeatStream, replay: Replayer, backup: BackupTable) -> None:
    """--max-events ends it early, not drained. The next replay handles the rest; a range has the id that resumes it."""
    hot(stream, *(f"c{number}" for number in range(5)))
    first = replay(max_events=2)
    assert (first.read, first.drained) == (2, False)
    part = replay(first="0", max_events=3)
    assert (part.read, part.drained) == (3, False)
    assert part.next_id is not None
    ending = replay(first=part.next_id)
    assert (ending.read, ending.drained) == (2, True)
    rest = replay()
    assert (rest.read, rest.drained) == (3, True)
    assert all(backup.get(f"c{number}") for number in range(5))


def test_a_replay_that_failed_is_run_again(
    stream: HeatStream, replay: Replayer, backup: BackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DynamoDB fails during a raise: the error names the command that resumes it, and then each raise is done once."""
    hot(stream, "a", "b")

    def away(*args: object) -> None:
        raise AwsUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "commit_write_n", away)
        with pytest.raises(Exception, match="incomplete") as failed:
            replay()
    assert "saltctl stream replay" in failed.value.hint  # type: ignore[attr-defined]
    assert replay().drained
    for name in ("a", "b"):
        entry = backup.get(name)
        assert entry is not None
        assert ([r.n for r in entry.raises], entry.write_n) == ([4], 4)


def test_entries_of_a_living_consumer_are_not_claimed(stream: HeatStream, replay: Replayer) -> None:
    """Replay waits for entries of a living instance for a while, and then reports how many are left."""
    hot(stream, "a")
    stream.read_new("alive", 1)
    ticks = iter(range(0, 10_000, 5))
    report = replay(clock=lambda: float(next(ticks)))
    assert (report.drained, report.held_by_others, report.claimed) == (False, 1, 0)


@pytest.mark.parametrize("holder", ["replay-test", "dead"])
def test_entries_that_were_trimmed_while_pending_are_counted(
    stream: HeatStream, replay: Replayer, settings: Settings, holder: str
) -> None:
    """Its own from an interrupted replay, and those of another consumer; a dry run counts them and keeps them."""
    from redis import Redis

    hot(stream, "a", "b", "c")
    stream.read_new(holder, 2)
    with closing(Redis.from_url(settings.require_redis_url())) as admin:
        admin.xtrim(stream.key, maxlen=1, approximate=False)
    assert replay(dry_run=True).trimmed_pending == 2
    report = replay()
    assert (report.trimmed_pending, report.read, report.drained) == (2, 3 if holder == "replay-test" else 1, True)
    assert replay().trimmed_pending == 0
