"""Reports of rebuilds and dry runs, and the data that they leave in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from saltctl.errors import UnverifiedBucketError
from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import DamagedEntry, Raise
from saltctl.stores.redis.buckets import FENCE, REBUILD
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script_sha
from tests.rebuild.harness import (
    ENTRIES,
    Opener,
    drive,
    put,
)
from tests.support import Rebuilder


@pytest.fixture
def dump(admin: Any, filled: BackupTable, settings: Settings) -> Callable[[], Any]:
    """Everything that is in Redis and in the backup table now, and which scripts of a rebuild Redis knows."""
    scripts = [script_sha(name) for name in ("lookup", "merge", "mark_buckets", "check_marks", "set_fence")]

    def take() -> Any:
        hashes = {key: admin.hgetall(key) for key in sorted(admin.scan_iter())}
        items = filled.client.scan(TableName=settings.backup_table)["Items"]
        return hashes, sorted(map(repr, items)), admin.script_exists(*scripts)

    return take


def test_damaged_items_are_skipped_and_reported(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """Damaged items are reported one by one; the other entries are restored, and the other buckets verified."""
    put(
        filled,
        {"conversation_id": {"S": "missing"}},
        {"conversation_id": {"S": "text"}, "max_n": {"S": "4"}},
        {"conversation_id": {"S": "negative"}, "max_n": {"N": "-4"}},
        {"conversation_id": {"S": "fraction"}, "max_n": {"N": "2.5"}},
        {"conversation_id": {"S": "zero"}, "max_n": {"N": "0"}},
        {"conversation_id": {"S": "#own"}, "max_n": {"S": "not a conversation"}},
    )
    events = drive(job())
    named = {event.conversation_id: event.problem for event in events if isinstance(event, DamagedEntry)}
    assert named == {
        "missing": "it has no max_n",
        "text": "its max_n is not a number",
        "negative": "its max_n is -4, not a positive whole number",
        "fraction": "its max_n is 2.5, not a positive whole number",
        "zero": "its max_n is 0, not a positive whole number",
    }
    report = events[-1]
    assert isinstance(report, RebuildReport)
    assert (report.entries, report.skipped, report.verified) == (len(ENTRIES), 5, False)
    damaged_buckets = {store.key_of(conversation_id) for conversation_id in named}
    assert report.unverified_buckets == len(damaged_buckets)
    primary = store.primaries()[0]
    for conversation_id in named:  # an error, where a default would hide messages
        with pytest.raises(UnverifiedBucketError):
            store.lookup(primary, [conversation_id])
    others = [conversation_id for conversation_id in ENTRIES if store.key_of(conversation_id) not in damaged_buckets]
    assert others
    assert store.lookup(primary, others) == [ENTRIES[conversation_id] for conversation_id in others]
    assert {item.conversation_id for item in report.damaged_items} == set(named)


def test_an_item_that_is_damaged_later_leaves_redis_verified(
    filled: BackupTable, store: RedisRegistry, job: Opener
) -> None:
    """Its bucket keeps the fence that it has, so every lookup is answered: that is what the report says."""
    drive(job())
    put(filled, {"conversation_id": {"S": "late"}, "max_n": {"S": "4"}})
    report = drive(job())[-1]
    assert isinstance(report, RebuildReport)
    assert (report.skipped, report.verified, report.unverified_buckets) == (1, True, 0)
    assert all(store.verified().values())


@pytest.mark.slow
@pytest.mark.parametrize("before", ["empty", "verified", "flushed", "somebody holds the lease"])
def test_a_dry_run_changes_nothing(
    filled: BackupTable,
    store: RedisRegistry,
    admin: Any,
    job: Opener,
    rebuild: Rebuilder,
    dump: Callable[[], Any],
    before: str,
) -> None:
    """It counts entries to restore and to skip, and writes no entry, fence, script, lease or layout."""
    missing = len(ENTRIES)
    if before != "empty":
        rebuild()
        missing = 0
    if before == "flushed":
        admin.execute_command("FLUSHALL")
        missing = len(ENTRIES)
    if before == "somebody holds the lease":
        filled.lease.acquire("other", time.time(), host="elsewhere", pid=77, expiry=LEASE_EXPIRY)
    put(filled, {"conversation_id": {"S": "bad"}, "max_n": {"S": "four"}})
    filled.raise_max_n("half", Raise(4, "2024-05-01T12:00:00Z", "somebody", ""))
    state = dump()
    events = drive(job(dry_run=True))
    assert dump() == state
    report = events[-1]
    assert isinstance(report, RebuildReport)
    assert (report.entries, report.restored, report.skipped) == (len(ENTRIES) + 1, missing + 1, 1)
    assert report.dry_run
    assert report.committed == 0
    assert report.verified is (before in ("verified", "somebody holds the lease"))


@pytest.mark.slow
def test_a_rebuild_removes_its_marks(filled: BackupTable, admin: Any, job: Opener, settings: Settings) -> None:
    """Fences and entries, and nothing of the rebuild itself; one fence for every bucket."""
    drive(job())
    hashes = {key: admin.hgetall(key) for key in admin.scan_iter()}
    assert len(hashes) == settings.buckets
    assert not any(REBUILD.encode() in held for held in hashes.values())
    assert all(FENCE.encode() in held for held in hashes.values())
    assert sum(len(held) for held in hashes.values()) == len(ENTRIES) + settings.buckets


def test_a_rebuild_never_lowers_an_entry(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """An entry that is larger in Redis than in the backup stays, for example after the table was restored."""
    store.merge("conv_00", 128)
    drive(job())
    assert registry.lookup("conv_00").max_n == 128


@pytest.mark.slow
def test_an_empty_backup_verifies_an_empty_registry(
    backup: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """On the first day nothing is salted, and that is an answer."""
    report = drive(job())[-1]
    assert isinstance(report, RebuildReport)
    assert (report.entries, report.verified) == (0, True)
    assert registry.lookup("conv").source == "redis"
