"""Redis is killed during a rebuild, between any two of its steps."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from saltctl.errors import (
    RedisUnavailableError,
)
from saltctl.local.servers import LocalRedis
from saltctl.rebuild.events import RebuildReport
from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    ENTRIES,
    FakeLeaseStore,
    Fault,
    Opener,
    assert_unverified,
    assert_verified,
    drive,
    on_each_engine,
)


@pytest.mark.slow
@on_each_engine
@pytest.mark.parametrize("comes_back", ["empty", "with its AOF"])
def test_redis_is_killed_at_any_point(
    filled: BackupTable,
    redis_server: LocalRedis,
    store: RedisRegistry,
    registry: Registry,
    job: Opener,
    admin: Any,
    comes_back: str,
) -> None:
    """SIGKILL between any two steps, and a new process at once on the same port: the rebuild does not verify it."""

    def kill() -> None:
        redis_server.kill()
        if comes_back == "empty":
            redis_server.delete_aof()
        redis_server.start()

    lease = FakeLeaseStore()  # of its own: it is no subject here, and in the backup it would cost most of the time
    for number in count():
        fault = Fault(number, kill)
        try:
            drive(job(fault, lease=lease), fault)
        except RedisUnavailableError:
            assert fault.struck_between("RebuildStarted", "set_fence") or fault.struck_at == "RebuildStarted", (
                fault.points
            )
        else:
            if fault.struck_at is None:
                break
            assert "set_fence" in fault.points[:number], fault.points
        assert_unverified(store, registry)
        report = drive(job(lease=lease, page_limit=None))[-1]
        assert isinstance(report, RebuildReport)
        assert report.verified
        assert_verified(store)
        admin.execute_command("FLUSHALL")
        admin.execute_command("SCRIPT", "FLUSH")
    assert fault.points == [
        "RebuildStarted",
        "mark_buckets",
        *["merge", "RebuildProgress"] * 3,
        "load_lookup",
        "set_fence",
        "closed",
        "RebuildReport",
    ]


@pytest.mark.slow
def test_redis_dies_and_stays_down(
    filled: BackupTable, redis_server: LocalRedis, registry: Registry, job: Opener
) -> None:
    """Redis dies and does not restart: the rebuild fails, lookups continue, and the lease is released."""
    fault = Fault(4, redis_server.kill)
    with pytest.raises(RedisUnavailableError, match="cannot be reached"):
        drive(job(fault), fault)
    assert registry.lookup("conv_00").max_n == ENTRIES["conv_00"]
    assert filled.lease.holder() is None
