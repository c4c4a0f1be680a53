"""Raises on a primary that was replaced and does not know it: paused past its failover, or cut off."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import RaiseIncompleteError
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.support import Rebuilder, rebuild_job
from tests.support.redis_servers import PROMPT_REPLICATION, eventually, find_engine, plain_client

pytestmark = pytest.mark.slow
OTHER = "0" * 40


def note(backup: BackupTable, *replication_ids: str) -> None:
    """Note other primaries, as a rebuild on the other side of a partition does."""
    backup.registry.note_rebuild(backup.check_registry(), f"token of {replication_ids}", replication_ids)


def test_a_verified_primary_that_is_not_noted_changes_nothing(
    registry: Registry, store: RedisRegistry, backup: BackupTable, rebuild: Rebuilder
) -> None:
    """A newer rebuild verifies another one: the raise is incomplete, and no writer here can use the N already."""
    rebuild()
    assert registry.raise_to("conv", 2).committed
    note(backup, OTHER)
    with pytest.raises(RaiseIncompleteError, match="earlier rebuild") as refused:
        registry.raise_to("conv", 8)
    assert refused.value.step == "backup"
    assert "saltctl rebuild" in refused.value.hint
    assert store.read_unverified(["conv"]) == {"conv": 2}
    entry = backup.get("conv")
    assert entry is not None
    assert (entry.max_n, entry.write_n) == (8, 2)
    rebuild()
    assert registry.lookup("conv").max_n == 8
    assert registry.raise_to("conv", 16).committed


def test_an_unverified_primary_that_is_not_noted_takes_the_raise(
    registry: Registry, store: RedisRegistry, backup: BackupTable, rebuild: Rebuilder, redis_server: LocalRedis
) -> None:
    """Redis has restarted: no lookup is answered there, and the rebuild that verifies it scans later."""
    rebuild()
    redis_server.kill()
    redis_server.start()
    assert registry.raise_to("conv", 8).committed
    assert store.read_unverified(["conv"]) == {"conv": 8}


def test_a_raise_before_the_first_rebuild(registry: Registry, backup: BackupTable) -> None:
    """There is no note yet, and no verified primary."""
    assert backup.check_registry().verifying == frozenset()
    assert registry.raise_to("conv", 8).committed


def test_the_merge_depends_on_a_note_that_is_read_after_step_1(
    settings: Settings, store: RedisRegistry, backup: BackupTable, rebuild: Rebuilder
) -> None:
    """Another rebuild notes its primaries while step 1 is on its way: the raise sees the new note."""
    rebuild()

    class Raced(BackupTable):
        def raise_max_n(self, *arguments: Any) -> Any:
            outcome = super().raise_max_n(*arguments)
            note(backup, OTHER)
            return outcome

    with pytest.raises(RaiseIncompleteError, match="earlier rebuild"):
        Registry.over(settings, store, Raced(settings)).raise_to("conv", 8)


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Each engine in turn."""
    return find_engine(request.param)


@pytest.fixture
def replica(redis_binary: Path, redis_server: LocalRedis, tmp_path: Path) -> Iterator[LocalRedis]:
    """A replica of the test's Redis."""
    options = PROMPT_REPLICATION | {"replicaof": f"127.0.0.1 {redis_server.port}"}
    server = LocalRedis(tmp_path / "replica", binary=redis_binary, options=options)
    server.start()
    yield server
    server.kill()


def test_a_primary_that_was_paused_past_its_failover(
    settings: Settings, redis_server: LocalRedis, replica: LocalRedis, backup: BackupTable
) -> None:
    """It wakes with a raise in its socket: the raise is not acknowledged, and completes on the new primary."""
    client = plain_client(replica)
    eventually(lambda: client.info("replication").get("master_link_status") == "up", "the replica is in sync")
    old, new = settings, replace(settings, redis_url=replica.url)
    with Registry.open(old) as stale, Registry.open(new) as fresh:
        for _ in rebuild_job(old, RedisRegistry(old), backup).run():
            pass
        assert stale.raise_to("warm", 2).committed  # its connection is open
        assert redis_server.pid is not None
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            client.execute_command("REPLICAOF", "NO", "ONE")
            for _ in rebuild_job(new, RedisRegistry(new), backup).run():
                pass
            outcomes: list[Any] = []

            def raise_() -> None:
                try:
                    outcomes.append(stale.raise_to("conv", 8))
                except RaiseIncompleteError as exc:
                    outcomes.append(exc)

            thread = threading.Thread(target=raise_)
            thread.start()
            eventually(lambda: backup.get("conv") is not None, "step 1")
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        thread.join()
        assert isinstance(outcomes[0], RaiseIncompleteError)
        assert fresh.raise_to("conv", 8).committed
        assert fresh.lookup("conv").max_n == 8
    client.close()
