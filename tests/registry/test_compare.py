"""The comparison of Redis with the backup: the kinds of drift, and their repair."""

from __future__ import annotations

from binascii import crc32
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, cast

import pytest

from saltctl.errors import ComparisonBrokenError, ConfigurationError, DamagedEntryError, ThrottledError, UsageError
from saltctl.registry.compare import MAX_BUCKET_SAMPLE_PARTS, MAX_LISTED, Comparison, result_of
from saltctl.registry.drift import ComparisonOptions, ComparisonReport, Drift, Sample
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import BackupEntry, BackupPage, DamagedEntry
from saltctl.stores.redis.buckets import RedisBucketReader
from saltctl.testing import MemoryBackup, MemoryRedis

BUCKETS = 16


class Buckets:
    """A ``RedisBucketReader`` over a MemoryRedis; ``at`` is called before each read."""

    def __init__(self, registry: MemoryRedis) -> None:
        (self._held,) = registry.held.values()
        self.replication_id = "a"
        self.at: Callable[[str], None] = lambda read: None
        self.asked: list[str] = []

    def replication_ids(self) -> Mapping[str, str]:
        """Return the replication id of the primary."""
        return {"redis-0:6379": self.replication_id}

    def read(self, conversation_ids: Sequence[str]) -> Sequence[Entry | None]:
        """Return the numbers in Redis."""
        self.at("held")
        self.asked += conversation_ids
        return [self._held.get(i) for i in conversation_ids]

    def count_entries(self, buckets: Sequence[int]) -> Sequence[int]:
        """Return the sizes of buckets."""
        self.at("sizes")
        return [sum(_bucket(i) == bucket for i in self._held) for bucket in buckets]

    def read_buckets(self, buckets: Sequence[int]) -> Iterator[tuple[str, Entry]]:
        """Yield the entries of buckets."""
        self.at("entries")
        yield from [(i, n) for i, n in self._held.items() if _bucket(i) in buckets]


def _bucket(conversation_id: str) -> int:
    return crc32(conversation_id.encode("utf-8", "surrogateescape")) % BUCKETS


class World:
    """Both sides in memory, a clock that sleeping advances, and their comparison."""

    def __init__(self) -> None:
        self.backup = MemoryBackup()
        self.store = MemoryRedis()
        (self.redis,) = self.store.held.values()
        self.reader = Buckets(self.store)
        self.registry = Registry(self.store, self.backup, cap=256)
        self.now = 0.0
        self.at_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Advance the clock, and let other processes act."""
        self.now += seconds
        self.at_sleep()

    def put(self, conversation_id: str, n: int, write_n: int | None = None) -> None:
        """Put an item into the backup."""
        self.backup.items[conversation_id] = BackupEntry(conversation_id, n, n if write_n is None else write_n)

    def comparison(self, *, repair: bool = False, **options: Any) -> Comparison:
        """Create a comparison without starting it."""
        return Comparison(
            Settings(buckets=BUCKETS),
            cast(RedisBucketReader, self.reader),
            self.store,
            self.backup,
            ComparisonOptions(**options),
            self.registry if repair else None,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def report(self, **options: Any) -> ComparisonReport:
        """Run a comparison, and return its report."""
        return result_of(self.comparison(**options).run())


@pytest.fixture
def world() -> World:
    """Twenty conversations on which both sides agree."""
    made = World()
    for number in range(20):
        made.put(f"conv_{number}", 4)
        made.redis[f"conv_{number}"] = 4
    return made


def kinds(report: ComparisonReport) -> dict[str, str]:
    """Return the kind of each drift, by conversation."""
    return {drift.conversation_id: drift.kind for drift in report.drift}


def test_no_drift(world: World) -> None:
    """No drift is found, no grace period is waited for, and no single entry is read from the backup."""
    report = world.report()
    assert (report.checked, report.in_sync, report.unrepaired, report.drift) == (20, 20, 0, [])
    assert report.verified
    assert world.now == 0
    assert "get_many" not in world.backup.faults.calls


def test_every_kind_of_drift(world: World) -> None:
    """Each kind of drift is recognized, counted, and listed with the numbers of both sides."""
    world.redis["conv_0"] = 2
    del world.redis["conv_1"]
    world.redis["conv_2"] = 8
    world.redis["stranger"] = 16
    world.put("conv_3", 4, write_n=2)
    report = world.report()
    assert kinds(report) == {
        "conv_0": "behind",
        "conv_1": "missing",
        "conv_2": "unbacked",
        "stranger": "unbacked",
        "conv_3": "uncommitted",
    }
    assert (report.behind, report.missing, report.unbacked, report.uncommitted) == (1, 1, 2, 1)
    assert (report.checked, report.in_sync, report.unrepaired) == (21, 16, 5)
    found = {drift.conversation_id: (drift.redis_n, drift.backup_n) for drift in report.drift}
    assert found["conv_0"] == (2, 4)
    assert found["conv_1"] == (None, 4)
    assert found["conv_2"] == (8, 4)
    assert found["stranger"] == (16, None)


def test_an_n_of_1_equals_no_entry(world: World) -> None:
    """An N of 1 means the same as no entry, on either side."""
    world.put("in_backup", 1)
    world.redis["in_redis"] = 1
    assert world.report().drift == []


def test_a_value_in_redis_that_is_not_a_number(world: World) -> None:
    """It is unreadable, and replaced if the backup has an entry: its N is neither 0 nor absent."""
    world.redis["conv_0"] = 0
    world.redis["stranger"] = 0
    report = world.report(repair=True)
    assert kinds(report) == {"conv_0": "unreadable", "stranger": "unreadable"}
    assert (report.unreadable, report.behind, report.redis_alone, report.unrepaired) == (2, 0, 0, 1)
    assert {drift.redis_n for drift in report.drift} == {None}
    assert world.redis["conv_0"] == 4
    (left,) = [drift for drift in report.drift if not drift.repaired]
    assert left.conversation_id == "stranger"
    assert left.problem is not None


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_raise_that_finishes_meanwhile_is_not_drift(world: World, steps: int) -> None:
    """A raise that is in any of its steps at the first check, and done at the second, is not reported."""

    def raise_up_to(step: int) -> None:
        if step >= 1:
            world.backup.items["conv_0"] = replace(world.backup.items["conv_0"], max_n=8)
        if step >= 2:
            world.redis["conv_0"] = 8
        if step >= 3:
            world.backup.items["conv_0"] = replace(world.backup.items["conv_0"], write_n=8)

    raise_up_to(steps - 1)
    world.at_sleep = lambda: raise_up_to(3)
    assert world.report().drift == []


def test_a_raise_between_the_scan_and_the_lookup_is_not_drift(world: World) -> None:
    """If Redis is above what the scan saw, the backup is read again."""

    def a_raise(read: str) -> None:
        world.reader.at = lambda read: None
        world.registry.raise_to("conv_0", 8)
        world.registry.raise_to("new", 2)

    world.reader.at = a_raise
    report = world.report()
    assert report.drift == []
    assert report.in_sync == report.checked


def test_successive_raises_are_not_drift(world: World) -> None:
    """A conversation with a raise in progress at every check is not reported as uncommitted."""
    targets = iter([8, 16, 32, 64])

    def half_a_raise() -> None:
        entry = world.backup.items["conv_0"]
        world.redis["conv_0"] = entry.max_n
        world.backup.items["conv_0"] = replace(entry, write_n=entry.max_n, max_n=next(targets))

    half_a_raise()
    world.at_sleep = half_a_raise
    assert world.report().drift == []


def test_an_interrupted_raise_is_drift(world: World) -> None:
    """A raise without progress in the grace period was interrupted."""
    world.put("conv_0", 8, write_n=4)
    assert kinds(world.report()) == {"conv_0": "behind"}
    world.redis["conv_0"] = 8
    assert kinds(world.report()) == {"conv_0": "uncommitted"}


def test_repair_brings_both_sides_to_the_larger_n(world: World) -> None:
    """Every kind is repaired upwards and committed, and a second comparison finds nothing."""
    world.redis["conv_0"] = 2
    del world.redis["conv_1"]
    world.redis["conv_2"] = 8
    world.redis["stranger"] = 16
    world.put("conv_3", 4, write_n=2)
    report = world.report(repair=True)
    assert (report.repaired, report.unrepaired, report.redis_alone) == (4, 1, 1)
    report = world.report(repair=True, adopt=True)
    assert (report.repaired, report.unrepaired) == (1, 0)
    assert [world.redis[f"conv_{i}"] for i in range(4)] == [4, 4, 8, 4]
    assert [(e.max_n, e.write_n) for e in (world.backup.items[i] for i in ("conv_2", "stranger", "conv_3"))] == [
        (8, 8),
        (16, 16),
        (4, 4),
    ]
    assert "compare --repair" in world.backup.items["stranger"].raises[-1].reason
    assert world.report().drift == []


def test_repair_rounds_up_to_a_power_of_two(world: World) -> None:
    """Redis holds an unbacked 5: the backup is raised to 8, since a lower N would hide messages."""
    world.redis["conv_0"] = 5
    world.report(repair=True)
    assert (world.redis["conv_0"], world.backup.items["conv_0"].max_n) == (8, 8)


def test_repair_takes_any_n_of_the_backup(world: World) -> None:
    """An N of the backup that is not a power of two, or above the cap, is served, and so it is merged unchanged."""
    world.put("odd", 5)
    world.put("large", 512)
    assert world.report(repair=True).unrepaired == 0
    assert (world.redis["odd"], world.redis["large"]) == (5, 512)


@pytest.mark.parametrize(("conversation_id", "n"), [("stranger", 512), ("a#3", 4), ("odd\udcff", 4)])
def test_refused_repairs_are_reported_with_a_reason(world: World, conversation_id: str, n: int) -> None:
    """An N above the cap and an invalid id are reported and not changed; the rest is repaired."""
    world.redis[conversation_id] = n
    world.redis["conv_2"] = 8
    report = world.report(repair=True)
    assert (report.unbacked, report.repaired, report.unrepaired) == (2, 1, 1)
    (left,) = [drift for drift in report.drift if not drift.repaired]
    assert left.problem
    assert world.redis[conversation_id] == n
    assert conversation_id not in world.backup.items


def test_damaged_items_are_counted_and_are_not_drift(world: World) -> None:
    """A damaged item cannot be compared, and its entry in Redis is not reported as unbacked."""
    world.redis["broken"] = 4
    world.redis["conv_2"] = 8
    normal = world.backup

    class Damaging(MemoryBackup):
        def scan(
            self, segments: int, *, limit: int | None = None, only: int | None = None, **_: object
        ) -> Generator[BackupPage, None, None]:
            yield from super().scan(segments, limit=limit, only=only)
            yield BackupPage([], [DamagedEntry("broken", "it has no max_n")], 0.0, 0)

        def get(self, conversation_id: str) -> BackupEntry | None:
            if conversation_id == "broken":
                raise DamagedEntryError("broken")
            return super().get(conversation_id)

        def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
            return {i: e for i in conversation_ids if (e := self.get(i)) is not None}

    world.backup = Damaging()
    world.backup.items = normal.items
    events = list(world.comparison().run())
    assert [event.conversation_id for event in events if isinstance(event, DamagedEntry)] == ["broken"]
    report = events[-1]
    assert isinstance(report, ComparisonReport)
    assert (kinds(report), report.damaged) == ({"conv_2": "unbacked"}, 1)


def test_entries_lost_meanwhile_break_the_comparison(world: World) -> None:
    """A FLUSHALL after entries were seen is an error, not a report without drift."""
    world.reader.at = lambda read: world.redis.clear() if read == "sizes" else None
    with pytest.raises(ComparisonBrokenError, match="lost entries"):
        world.report()


def test_another_primary_meanwhile_breaks_the_comparison(world: World) -> None:
    """After a restart or a failover, earlier reads prove nothing about the current server."""

    def restart(read: str) -> None:
        world.reader.replication_id = "b"

    world.reader.at = restart
    with pytest.raises(ComparisonBrokenError, match="restarted"):
        world.report()


def test_a_table_of_another_layout_is_refused(world: World) -> None:
    """With another bucket count every entry would seem to be missing."""
    world.backup.faults.before["check_registry"] = ConfigurationError("laid out as v2:64")
    with pytest.raises(ConfigurationError):
        world.report()


def test_unverified_is_reported(world: World) -> None:
    """The report says whether Redis is verified; an unverified Redis alone is not drift."""
    world.store.verified_primaries.clear()
    report = world.report()
    assert (report.verified, report.unrepaired) == (False, 0)


def test_throttled_requests_are_retried(world: World) -> None:
    """Second checks and repairs retry while the backup throttles."""
    world.redis["conv_2"] = 8
    world.backup.faults.before["get_many"] = ThrottledError("slow down")
    waits = count()

    def relax() -> None:
        if next(waits) == 5:
            world.backup.faults.clear()

    world.at_sleep = relax
    assert world.report(repair=True).repaired == 1


@pytest.mark.parametrize("parts", [1, 3, 7, BUCKETS, MAX_BUCKET_SAMPLE_PARTS, MAX_BUCKET_SAMPLE_PARTS + 1])
def test_samples_cover_everything_together(world: World, parts: int) -> None:
    """Each drift is found by one of the samples; if samples are of buckets, by exactly one."""
    world.redis["conv_0"] = 2
    del world.redis["conv_1"]
    world.redis["conv_2"] = 8
    world.redis["stranger"] = 16
    world.put("conv_3", 4, write_n=2)
    reports = [world.report(sample=Sample(k + 1, parts)) for k in range(parts)]
    assert sorted(drift.conversation_id for report in reports for drift in report.drift) == [
        "conv_0",
        "conv_1",
        "conv_2",
        "conv_3",
        "stranger",
    ]
    assert sum(report.checked for report in reports) == 21


def test_a_sample_reads_only_its_buckets(world: World) -> None:
    """Entries that are not in the sample are not looked up."""
    world.report(sample=Sample(2, 4))
    assert world.reader.asked
    assert {bucket_of(i, BUCKETS) % 4 for i in world.reader.asked} == {1}


def test_a_small_sample_scans_one_segment(world: World) -> None:
    """Samples of many parts read one segment of the table, and cost accordingly."""
    reports = [world.report(sample=Sample(k + 1, 100)) for k in range(100)]
    assert sum(report.consumed_rcu for report in reports) == 20 + 20  # the items, and a look-up for each entry of Redis


@pytest.mark.parametrize(("part", "parts"), [(0, 4), (5, 4), (1, 0), (1, 1_000_001)])
def test_invalid_samples_are_refused(part: int, parts: int) -> None:
    """The part must be one of the parts, and their number is bounded."""
    with pytest.raises(UsageError, match=f"--sample {part}/{parts}: [KN] must be between 1 and"):
        Sample(part, parts)


def test_all_drift_is_counted_and_the_first_is_listed(world: World) -> None:
    """Redis is empty: every entry is counted and is an event; the report lists the first."""
    for number in range(MAX_LISTED + 500):
        world.put(f"more_{number}", 2)
    events = list(world.comparison(page_limit=100).run())
    report = events[-1]
    assert isinstance(report, ComparisonReport)
    assert (report.missing, len(report.drift)) == (MAX_LISTED + 500, MAX_LISTED)
    assert sum(isinstance(event, Drift) for event in events) == MAX_LISTED + 500


def test_suspects_that_wait_are_bounded(world: World) -> None:
    """With more suspects than the option allows, the scan waits for their second check: memory is bounded."""
    for number in range(1000):
        world.put(f"more_{number}", 2)
    comparison = world.comparison(page_limit=50, batch_size=50, max_suspects=100)
    most = 0

    def count_waiting(read: str) -> None:
        """Count the ids that were looked up once: the second look-up of an id is its second check."""
        nonlocal most
        looked_up = Counter(i for i in world.reader.asked if i.startswith("more_"))
        most = max(most, sum(times == 1 for times in looked_up.values()))

    world.reader.at = count_waiting
    assert result_of(comparison.run()).missing == 1000
    assert 100 <= most <= 150
