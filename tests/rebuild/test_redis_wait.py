"""A rebuild waits for a Redis that is down or loading."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import (
    DeadlineExceededError,
    RedisUnavailableError,
)
from saltctl.local.servers import LocalRedis
from saltctl.rebuild.events import RebuildReport, StartDelayed
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    Opener,
    assert_verified,
    drive,
    on_each_engine,
)


@pytest.mark.slow
def test_waiting_for_a_redis_that_is_down(
    filled: BackupTable, redis_server: LocalRedis, store: RedisRegistry, job: Opener
) -> None:
    """With --wait-redis it says that it waits, and begins when Redis is there."""
    redis_server.kill()
    redis_server.delete_aof()
    events = drive(job(wait_redis=60.0, clock=time.monotonic, sleep=lambda seconds: redis_server.start()))
    assert isinstance(events[0], StartDelayed)
    assert "cannot be reached" in events[0].reason
    assert events[0].percent is None
    assert isinstance(events[-1], RebuildReport)
    assert_verified(store)


@pytest.mark.slow
def test_without_waiting_a_redis_that_is_down_is_an_error(
    filled: BackupTable, redis_server: LocalRedis, job: Opener
) -> None:
    """At once, and before the lease was taken."""
    redis_server.kill()
    with pytest.raises(RedisUnavailableError, match="cannot be reached"):
        drive(job())
    assert filled.lease.holder() is None


@pytest.mark.slow
def test_waiting_for_redis_times_out(filled: BackupTable, redis_server: LocalRedis, job: Opener) -> None:
    """After --wait-redis the rebuild fails, and the error has the state of Redis."""
    redis_server.kill()
    seconds = [0.0]
    with pytest.raises(DeadlineExceededError, match=r"not ready after 1 s: .* cannot be reached") as late:
        drive(
            job(
                wait_redis=1.0,
                clock=lambda: seconds[0],
                sleep=lambda pause: seconds.__setitem__(0, seconds[0] + pause),
            )
        )
    assert late.value.exit_code == 124


@pytest.mark.slow
@on_each_engine
def test_waiting_for_a_redis_that_is_loading(
    filled: BackupTable, redis_server: LocalRedis, admin: Any, store: RedisRegistry, job: Opener, redis_binary: Path
) -> None:
    """While an AOF is read, the waiting is told with the percentage and the time that INFO expects."""
    with admin.pipeline(transaction=False) as pipeline:
        for number in range(30_000):
            pipeline.hset("salt:other", str(number), "1")
        pipeline.execute()
    redis_server.kill()
    slow = LocalRedis(redis_server.directory, binary=redis_binary, options={"key-load-delay": "100"})
    slow.port = redis_server.port
    seen: list[StartDelayed] = []

    def sleep(seconds: float) -> None:
        if seen and seen[-1].percent is not None:
            admin.config_set("key-load-delay", 0)
        time.sleep(0.01)

    try:
        slow.start(wait=False)
        for event in job(wait_redis=60.0, clock=time.monotonic, sleep=sleep).run():
            if isinstance(event, StartDelayed):
                seen.append(event)
        assert_verified(store)
    finally:
        slow.kill()
    loading = [event for event in seen if event.percent is not None]
    assert loading
    assert all("loading" in event.reason and 0 <= (event.percent or 0) <= 100 for event in loading)
    assert all((event.eta_seconds or 0) >= 0 for event in loading)
