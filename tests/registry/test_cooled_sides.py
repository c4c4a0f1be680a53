"""Cooled entries on both sides: how they can differ, what a repair does, and exports and imports of them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from saltctl.registry.compare import Comparison, result_of
from saltctl.registry.drift import ComparisonOptions, ComparisonReport
from saltctl.registry.transfer import Import, ImportOptions, sort_entries
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import CooledEntry, Entry
from saltctl.stores.contracts.registry import BackupEntry, Cooling, Raise
from saltctl.testing import MemoryServers
from tests.registry.test_compare import BUCKETS, Buckets

SEALED = CooledEntry(64, 1, 2, 2, 1, "k")
"""What both sides hold of ``conv``."""
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture
def servers() -> Iterator[MemoryServers]:
    """Both sides in memory."""
    created = MemoryServers()
    yield created
    created.close()


def item(conversation_id: str, entry: CooledEntry, narrowed_at: str = "") -> BackupEntry:
    """Return the item of the backup for an entry."""
    cooling = Cooling(
        entry.epoch, entry.write_n, entry.write_n, entry.era, entry.recent_n, entry.boundary, narrowed_at=narrowed_at
    )
    return BackupEntry(conversation_id, entry.max_n, entry.write_n, (Raise(1, "", "me", "", cooled=True),), cooling)


def compare(servers: MemoryServers, *, repair: bool = False) -> ComparisonReport:
    """Compare both sides now."""
    settings = Settings(buckets=BUCKETS, cool_wait=600.0)
    job = Comparison(
        settings,
        Buckets(servers.redis),  # type: ignore[arg-type]
        servers.redis,
        servers.backup,
        ComparisonOptions(grace=0.0),
        servers.registry if repair else None,
        now=lambda: NOW,
    )
    return result_of(job.run())


def held(servers: MemoryServers) -> dict[str, Entry]:
    """Return what Redis holds."""
    (entries,) = servers.redis.held.values()
    return entries


@pytest.mark.parametrize(
    ("in_redis", "kind", "detail"),
    [
        (64, "behind", "Redis lacks the newest cool-down"),
        (SEALED._replace(epoch=1, era=1, boundary="a"), "behind", "Redis lacks the newest cool-down"),
        (SEALED._replace(era=1, boundary="a"), "behind", "Redis lacks the boundary of the newest cool-down"),
        (SEALED._replace(max_n=32), "behind", None),
        (SEALED._replace(epoch=3, write_n=4), "unbacked", "the backup lacks the newest cool-down"),
        (SEALED._replace(epoch=3, era=3, boundary="z"), "unbacked", "the backup lacks the newest cool-down"),
        (SEALED._replace(write_n=8, recent_n=8), "unbacked", "the backup lacks the newest raise, to 8"),
        (SEALED._replace(max_n=128), "unbacked", None),
    ],
)
def test_a_difference_is_explained_and_repaired(
    in_redis: Entry, kind: str, detail: str | None, servers: MemoryServers
) -> None:
    """Two equal numbers would say nothing. Afterwards both sides hold the same, and no salt is lost."""
    servers.backup.items["conv"] = item("conv", SEALED)
    held(servers)["conv"] = in_redis
    (found,) = compare(servers).drift
    assert (found.kind, found.detail, found.repaired) == (kind, detail, False)
    (found,) = compare(servers, repair=True).drift
    assert (found.kind, found.repaired) == (kind, True)
    again = compare(servers)
    assert (again.drift, again.in_sync) == ([], 1)
    assert servers.backup.items["conv"].entry == held(servers)["conv"]
    lookup = servers.registry.lookup("conv")
    assert lookup.max_n == max(64, in_redis if isinstance(in_redis, int) else in_redis.max_n)
    if detail == "the backup lacks the newest cool-down":  # writers that fell back did not know of its boundary
        assert (lookup.recent_n, lookup.boundary) == (64, None)


def test_two_boundaries_of_one_cool_down_are_both_taken_back(servers: MemoryServers) -> None:
    """Somebody edited one of them: the first repair drops that of Redis, the second one that of the backup."""
    servers.backup.items["conv"] = item("conv", SEALED)
    held(servers)["conv"] = SEALED._replace(boundary="z")
    kinds = [(drift.kind, drift.detail) for _ in range(2) for drift in compare(servers, repair=True).drift]
    assert kinds == [("behind", "Redis has another boundary"), ("unbacked", "the backup has another boundary")]
    assert compare(servers).in_sync == 1
    assert servers.registry.lookup("conv").boundary is None


def test_a_cool_down_that_redis_alone_has_is_adopted_without_its_boundary(servers: MemoryServers) -> None:
    """If it is wanted."""
    held(servers)["conv"] = SEALED
    servers.registry.raise_to("other", 2)
    assert compare(servers, repair=True).redis_alone == 1
    job = Comparison(
        Settings(buckets=BUCKETS),
        Buckets(servers.redis),  # type: ignore[arg-type]
        servers.redis,
        servers.backup,
        ComparisonOptions(grace=0.0, adopt=True),
        servers.registry,
    )
    assert result_of(job.run()).repaired == 1
    assert compare(servers).in_sync == 2
    assert servers.registry.lookup("conv")[1:] == (64, 1, "redis", 64, None)


def test_what_was_narrowed_long_ago_and_never_sealed_is_counted(servers: MemoryServers) -> None:
    """Twice the wait is long ago. What waits, was raised since, or is sealed is left out, and so is an edited time."""
    narrowed = CooledEntry(64, 1, 1)
    ages = {"old": "2026-11-27T11:39:00Z", "new": "2026-11-27T11:41:00Z", "edited": "long ago", "dateless": ""}
    items = {name: item(name, narrowed, at) for name, at in ages.items()}
    began = replace(items["old"], raises=(Raise(1, "2026-11-27T11:00:00Z", "me", "", cooled=True),))
    items["stuck"] = replace(began, conversation_id="stuck", cooling=replace(narrowed_of(began), narrowed_at=""))
    raised = replace(narrowed_of(items["old"]), target=8)
    items["raised"] = replace(items["old"], conversation_id="raised", write_n=8, cooling=raised)
    items["sealed"] = item("sealed", SEALED, ages["old"])
    servers.backup.items.update(items)
    servers.rebuild()
    report = compare(servers)
    assert (report.unsealed, sorted(report.unsealed_ids), report.differing) == (2, ["old", "stuck"], 0)


def narrowed_of(entry: BackupEntry) -> Cooling:
    """Return its cooling."""
    assert entry.cooling is not None
    return entry.cooling


ENTRIES: list[tuple[str, Entry]] = [
    ("a", 4),
    ("b", CooledEntry(64, 1, 1)),
    ("c", CooledEntry(64, 1, 1, 1, 1, "2026#\n\u202e\x1b 'x'")),
    ("d", CooledEntry(64, 1, 2, 1, 1, Decimal("12345678901234567890123456789.12345678"))),
    ("e", CooledEntry(64, 1, 3, 3, 64)),
    ("é", 2),
]


@pytest.mark.parametrize("max_in_memory", [1, 2, 100])
def test_sorting_through_files_changes_no_entry(max_in_memory: int) -> None:
    """Whatever the boundary is."""
    shuffled = random.Random(1).sample(ENTRIES, len(ENTRIES))
    assert list(sort_entries(shuffled, max_in_memory)) == ENTRIES


@pytest.mark.parametrize("max_n", [1, 32, 64])
def test_an_import_widens_no_cooled_conversation(max_n: int, servers: MemoryServers) -> None:
    """A line of an export from before, or from after the cool-down, has no more salts than readers ask."""
    for name, entry in ENTRIES[1:3]:
        assert isinstance(entry, CooledEntry)
        servers.backup.items[name] = item(name, entry)
    servers.rebuild()
    before = dict(servers.backup.items), dict(held(servers))
    lines = "".join(
        json.dumps({"conversation_id": name, "max_n": max_n, "write_n": max_n, "recent_n": max_n}) + "\n"
        for name in ("b", "c")
    )
    job = Import(io.BytesIO(lines.encode()), servers.registry, servers.backup, ImportOptions(cap=256, rate=None))
    (*_, report) = job.run()
    assert (report.read, report.raised, report.unchanged, report.completed) == (2, 0, 2, 0)
    assert (servers.backup.items, held(servers)) == before
