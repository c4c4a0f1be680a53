"""Redis loses data or changes its role during a rebuild, between any two of its steps."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from saltctl.errors import (
    RebuildBrokenError,
    UnverifiedError,
)
from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    ENTRIES,
    FakeLeaseStore,
    Fault,
    Opener,
    assert_never_wrong,
    assert_unverified,
    assert_verified,
    drive,
    on_each_engine,
)
from tests.support import Rebuilder


@pytest.mark.slow
@on_each_engine
@pytest.mark.parametrize("lost", ["everything", "one bucket"])
def test_redis_loses_data_at_any_point(
    filled: BackupTable,
    store: RedisRegistry,
    registry: Registry,
    admin: Any,
    job: Opener,
    lost: str,
) -> None:
    """FLUSHALL, DEL or eviction after a bucket was marked break the rebuild; after it was fenced, the fence is gone."""

    def lose() -> None:
        admin.execute_command("FLUSHALL") if lost == "everything" else admin.delete(store.key_of("conv_00"))

    lease = FakeLeaseStore()  # of its own: it is no subject here, and in the backup it would cost most of the time
    for number in count():
        fault = Fault(number, lose)
        try:
            drive(job(fault, lease=lease), fault)
        except RebuildBrokenError:
            assert fault.struck_between("mark_buckets", "set_fence"), fault.points
        else:
            assert fault.struck_at is None or not fault.struck_between("mark_buckets", "set_fence"), fault.points
            if fault.struck_at is None:
                break
        assert_never_wrong(store, registry)
        if fault.number > 1:
            with pytest.raises(UnverifiedError):
                store.lookup(store.primaries()[0], ["conv_00"])
        drive(job(lease=lease, page_limit=None))
        assert_verified(store)
        admin.execute_command("FLUSHALL")
        admin.execute_command("SCRIPT", "FLUSH")


@pytest.mark.slow
def test_merges_before_a_failure_are_kept(
    filled: BackupTable, admin: Any, store: RedisRegistry, job: Opener, rebuild: Rebuilder
) -> None:
    """After the loss of one bucket, the next rebuild restores only that bucket."""
    bucket = store.key_of("conv_00")
    lost = sum(store.key_of(i) == bucket for i in ENTRIES)
    with pytest.raises(RebuildBrokenError, match=bucket) as broken:
        drive(job(lambda point: admin.delete(bucket) if point == "set_fence" else None))
    assert broken.value.exit_code == 4
    assert rebuild().restored == lost
    assert_verified(store)


@pytest.mark.slow
@on_each_engine
def test_a_failover_breaks_the_rebuild(
    filled: BackupTable, admin: Any, store: RedisRegistry, registry: Registry, job: Opener, rebuild: Rebuilder
) -> None:
    """Demoted and promoted again between two steps: connection and tokens survive it, and nothing is verified."""

    def demote_and_promote() -> None:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        admin.execute_command("REPLICAOF", "NO", "ONE")

    fault = Fault(4, demote_and_promote)
    with pytest.raises(RebuildBrokenError, match="replication id"):
        drive(job(fault), fault)
    assert_unverified(store, registry)
    rebuild()
    assert_verified(store)
