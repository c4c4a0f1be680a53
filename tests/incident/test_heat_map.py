"""The picture of heat: sums by minute, salt counts by time, and what is left if a source cannot be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import pytest

from saltctl.errors import AccessDeniedError, DamagedEntryError
from saltctl.incident.heat_map import HeatMap, MinuteSums, SaltCounts, salt_counts
from saltctl.incident.heat_reader import HeatReader
from saltctl.stores.contracts import raise_reasons
from saltctl.stores.contracts.metrics import MetricsStore
from saltctl.stores.contracts.registry import MAX_RAISES_KEPT, BackupEntry, Raise
from saltctl.stores.event_log import LoggedEvent
from saltctl.stores.heat.report import HeatReport
from saltctl.throttling.analysis import time_range
from saltctl.times import iso_utc
from tests.incident.test_sources import World, raise_to, world

__all__ = ["world"]
NOON = 1_780_056_000
"""A whole minute, in seconds since the epoch."""


def report(conversation_id: str, at: int, writes: int, server: str = "app-1", throttled_n: int = 0) -> HeatReport:
    """Return a report of a window ``at`` seconds after noon."""
    return HeatReport(conversation_id, server, NOON + at, writes, throttled_n)


def test_a_minute_has_the_sum_of_all_servers_and_its_highest_second() -> None:
    """A later report of a server for the same window replaces its earlier one; other ranges are left out."""
    sums = MinuteSums(NOON, NOON + 120)
    sums.add(
        [
            report("a", 0, 100),
            report("a", 0, 50, "app-2"),
            report("a", 1, 20),
            report("a", 0, 110),  # instead of 100
            report("a", 61, 7, throttled_n=4),
            report("b", 5, 1),
            report("a", -1, 999),
            report("a", 120, 999),
        ]
    )
    assert {one: dict(minutes) for one, minutes in sums.writes.items()} == {
        "a": {NOON: 180, NOON + 60: 7},
        "b": {NOON: 1},
    }
    assert sums.peaks["a"] == {NOON: (160, NOON), NOON + 60: (7, NOON + 61)}
    assert (dict(sums.throttled), sums.reports) == ({"a": {NOON + 60: 4}}, 6)


def test_only_the_windows_of_five_minutes_are_in_memory() -> None:
    """Older ones are added up; a report that comes after that still counts."""
    sums, sizes = MinuteSums(NOON, NOON + 3600), []

    def reports() -> Iterator[HeatReport]:
        for second in (*range(1000), 5):
            yield report("a", second, 1)
            sizes.append(len(sums.windows))

    sums.add(reports())
    assert max(sizes) == 302
    assert (sums.windows, sum(sums.writes["a"].values())) == ({}, 1001)


def at(seconds: int) -> str:
    """Return the time so many seconds after noon."""
    return iso_utc(NOON + seconds)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        # max_n before noon, after 10 s, after 20 s
        (None, [1, 1, 1]),
        (BackupEntry("c", 4, 4), [4, 4, 4]),
        (BackupEntry("c", 4, 4, (Raise(2, at(5), "x", "hot"), Raise(4, at(15), "x", "hot"))), [1, 2, 4]),
        (BackupEntry("c", 4, 2, (Raise(4, at(5), "x", "hot"), Raise(2, at(15), "x", "", cooled=True))), [1, 4, 4]),
        (BackupEntry("c", 4, 4, (Raise(4, at(5), "x", raise_reasons.recovered("from Redis")),)), [None, 4, 4]),
        (BackupEntry("c", 8, 2, (Raise(2, at(5), "x", "", cooled=True),)), [None, 8, 8]),
        (BackupEntry("c", 4, 4, (Raise(4, at(5), "x", "hot"),) * MAX_RAISES_KEPT), [None, 4, 4]),
        (BackupEntry("c", 4, 4, (Raise(4, "yesterday", "x", "hot"),)), [None, None, None]),
    ],
)
def test_the_salt_count_of_a_time(entry: BackupEntry | None, expected: list[int | None]) -> None:
    """What was before a repair, a recovery or the oldest raise that is kept is not known."""
    counts = salt_counts(entry)
    assert [counts.max_n(NOON + after) for after in (0, 10, 20)] == expected


def test_writers_use_fewer_salts_after_a_cool_down() -> None:
    """Readers still read all."""
    cooled = BackupEntry("c", 4, 2, (Raise(4, at(5), "x", "hot"), Raise(2, at(15), "x", "", cooled=True)))
    assert [salt_counts(cooled).write_n(NOON + after) for after in (0, 10, 20)] == [1, 4, 2]


def read(world: World, since: float = 600.0, count: int = 10) -> HeatMap:
    """Read the last ``since`` seconds."""
    now = time.time()
    reader = HeatReader(world.settings, cast("MetricsStore", world.metrics), world.stream, world.backup)
    return reader.read(now - since, now, time_range(now - since, now, None, now), count)


def test_reports_raises_and_throttling_are_in_one_picture(world: World) -> None:
    """The hottest conversation is first; one that was raised without a report is there, too; so is the whole table."""
    window = int(time.time()) - 30
    world.stream.append_reports(
        [
            HeatReport("hot", "app-1", window, 5_000),
            HeatReport("warm", "app-1", window, 10, 2),
            HeatReport("calm", "app-1", window, 700),
        ]
    )
    raise_to(world, "hot", 4)
    raise_to(world, "raised", 2)
    world.stream.append({"v": 9})
    world.events.append(LoggedEvent(time.time(), "raise", "by worker-1", ("raised", "not\x00an id#1")))
    world.metrics.throttled_at = window - 60
    found = read(world)
    assert [one.conversation_id for one in found.conversations] == [None, "hot", "warm", "raised", "calm"]
    records = found.as_records()
    of = {name: [one for one in records if one["conversation_id"] == name] for name in (None, "hot", "warm", "raised")}
    assert sum(one["writes"] for one in of["hot"]) == 5_000 == max(one["peak"] for one in of["hot"])
    assert of["hot"][-1]["max_n"] == 4
    assert [event["kind"] for one in of["hot"] for event in one["events"]] == ["raise"]
    assert [event["kind"] for one in of["warm"] for event in one["events"]] == ["throttled"]
    assert {one["max_n"] for one in of["warm"]} == {1}
    assert [(one["writes"], one["max_n"]) for one in of["raised"]] == [(0, 2)]
    assert [(one["writes"], one["max_n"], one["events"][0]["kind"]) for one in of[None]] == [(None, None, "throttled")]
    assert (found.more, found.reports) == (0, 3)


def test_others_are_counted(world: World) -> None:
    """With a limit, the hottest stay."""
    window = int(time.time()) - 30
    world.stream.append_reports([HeatReport(f"c{n}", "app-1", window, n) for n in range(1, 6)])
    found = read(world, count=2)
    assert ([one.conversation_id for one in found.conversations], found.more) == (["c5", "c4"], 3)


def test_a_source_that_cannot_be_read_leaves_n_unknown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for 1, neither is that of a damaged item; the reports are there all the same."""
    world.stream.append_reports([HeatReport(name, "app-1", int(time.time()) - 5, 9) for name in ("a", "b")])

    def damaged(ids: list[str]) -> dict[str, BackupEntry]:
        if "a" in ids:
            raise DamagedEntryError("the item is damaged")
        return {}

    with monkeypatch.context() as patched:
        patched.setattr(world.backup, "get_many", damaged)
        counts = {one.conversation_id: one.counts for one in read(world).conversations}
    assert counts == {"a": SaltCounts((), None), "b": SaltCounts()}
    world.metrics.error = AccessDeniedError("no rights")

    def denied(ids: list[str]) -> dict[str, BackupEntry]:
        raise AccessDeniedError("no rights")

    monkeypatch.setattr(world.backup, "get_many", denied)
    found = read(world)
    assert [(source.name, source.error is None) for source in found.sources] == [
        ("heat", True),
        ("events", False),
        ("throttling", False),
    ]
    assert {(one["conversation_id"], one["max_n"]) for one in found.as_records()} == {("a", None), ("b", None)}
