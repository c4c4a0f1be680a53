"""A raise that breaks between two of its steps: readers miss no message, and a repeated raise completes it.

Real servers; a stub in front of moto only if DynamoDB has to refuse requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import (
    ConfigurationError,
    RaiseIncompleteError,
    RaiseStep,
    RedisUnavailableError,
    SaltctlError,
    ThrottledError,
)
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import MergeOutcome, Raise, RaiseOutcome, RegistryIdentity
from saltctl.stores.redis.registry import RedisRegistry
from tests.support import Rebuilder, put_entries
from tests.support.aws_stub import AwsStub, refusal
from tests.support.redis_servers import find_engine, plain_client

pytestmark = pytest.mark.slow

STEPS = ("check", "backup", "redis", "commit", "done")
"""The points of a raise: before each of its calls, and after the last."""
At = Callable[[str], None]


on_each_engine = pytest.mark.parametrize("redis_binary", ["valkey", "redis"], indirect=True)
"""For tests that depend on the behaviour of the engine; all others run on one of them."""


@pytest.fixture
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Valkey, or the engine that the test asks for."""
    return find_engine(getattr(request, "param", "valkey"))


class WatchedBackup(BackupTable):
    """The backup, which calls ``at`` before each step of a raise."""

    at: At = staticmethod(lambda point: None)

    def check_registry(self) -> RegistryIdentity:
        """Before step 1."""
        self.at("check")
        return super().check_registry()

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Step 1."""
        self.at("backup")
        return super().raise_max_n(conversation_id, entry)

    def commit_write_n(self, conversation_id: str, entry: Entry) -> bool:
        """Step 3."""
        self.at("commit")
        changed = super().commit_write_n(conversation_id, entry)
        self.at("done")
        return changed


class WatchedRegistry(RedisRegistry):
    """The registry store, which calls ``at`` before it merges."""

    at: At = staticmethod(lambda point: None)

    def merge(self, conversation_id: str, entry: Entry, *arguments: Any, **options: Any) -> MergeOutcome:
        """Step 2."""
        self.at("redis")
        return super().merge(conversation_id, entry, *arguments, **options)


@pytest.fixture
def stub(settings: Settings) -> Iterator[AwsStub]:
    """An HTTP server in front of moto that can answer with errors."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as server:
        yield server


Raising = Callable[[At], Registry]


@pytest.fixture
def raising(settings: Settings, backup: BackupTable, stub: AwsStub, rebuild: Rebuilder) -> Iterator[Raising]:
    """Open watched registries over a verified Redis in which ``conv`` has 2 salts."""
    put_entries(backup, {"conv": 2})
    rebuild(segments=1)
    opened: list[Registry] = []

    def open_(at: At) -> Registry:
        behind = stub.settings(settings)
        store = WatchedRegistry(settings)
        table = WatchedBackup(behind, client=create_client(behind, "dynamodb", attempts=1))
        store.at = table.at = at
        opened.append(Registry.over(settings, store, table))
        return opened[-1]

    yield open_
    for registry in opened:
        registry.close()


def strike_at(point: str, strike: Callable[[], object]) -> At:
    """Return a callback that strikes once, at this point."""
    left = [strike]

    def at(reached: str) -> None:
        if reached == point and left:
            left.pop()()

    return at


def held(backup: BackupTable) -> tuple[int, int]:
    """(max_n, write_n) of ``conv`` in the backup."""
    entry = backup.get("conv")
    assert entry is not None
    return entry.max_n, entry.write_n


def assert_readers_cover(registry: Registry, backup: BackupTable) -> None:
    """Check that readers cover the salts of every writer, and at least the 2 that were acknowledged."""
    max_n, write_n = held(backup)
    lookup = registry.lookup("conv")
    assert 2 <= lookup.write_n <= lookup.max_n
    assert write_n <= lookup.max_n
    assert write_n <= max_n


# Redis dies.


@on_each_engine
@pytest.mark.parametrize(
    ("point", "step", "in_backup"),
    [
        ("check", "backup", (8, 2)),
        ("backup", "backup", (8, 2)),
        ("redis", "backup", (8, 2)),
        ("commit", None, (8, 8)),
        ("done", None, (8, 8)),
    ],
)
def test_redis_killed_between_two_steps(
    raising: Raising,
    registry: Registry,
    backup: BackupTable,
    redis_server: LocalRedis,
    rebuild: Rebuilder,
    point: str,
    step: RaiseStep | None,
    in_backup: tuple[int, int],
) -> None:
    """Killed before its merge, the raise is incomplete; killed after it, the raise is done."""
    struck = raising(strike_at(point, redis_server.kill))
    if step is not None:
        with pytest.raises(RaiseIncompleteError, match="the backup holds it and Redis does not") as stopped:
            struck.raise_to("conv", 8)
        assert stopped.value.step == step
        assert stopped.value.exit_code == 4
        assert isinstance(stopped.value.__cause__, RedisUnavailableError)
    else:
        assert struck.raise_to("conv", 8).committed
    assert held(backup) == in_backup
    assert_readers_cover(registry, backup)

    # It restarts empty: lookups are still right, and a repeated raise completes it.
    redis_server.delete_aof()
    redis_server.start()
    assert_readers_cover(registry, backup)
    assert registry.raise_to("conv", 8).committed
    assert held(backup) == (8, 8)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "backup")
    rebuild(segments=1)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")


@on_each_engine
@pytest.mark.parametrize("point", ["check", "backup", "redis"])
def test_redis_restarted_between_two_steps(
    raising: Raising,
    registry: Registry,
    backup: BackupTable,
    redis_server: LocalRedis,
    rebuild: Rebuilder,
    point: str,
) -> None:
    """A new, unverified process takes the merge, and the raise is complete: its rebuild finds the entry."""

    def restart() -> None:
        redis_server.kill()
        redis_server.delete_aof()
        redis_server.start()

    assert raising(strike_at(point, restart)).raise_to("conv", 8).step == "commit"
    assert held(backup) == (8, 8)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "backup")
    assert rebuild(segments=1).restored == 0
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")


def test_a_rebuild_completes_an_interrupted_raise(
    raising: Raising, registry: Registry, backup: BackupTable, redis_server: LocalRedis, rebuild: Rebuilder
) -> None:
    """The service instance died during the raise: the next rebuild merges and commits it."""
    with pytest.raises(RaiseIncompleteError):
        raising(strike_at("redis", redis_server.kill)).raise_to("conv", 8)
    redis_server.start()
    assert rebuild(segments=1).committed == 1
    assert held(backup) == (8, 8)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")


def test_a_flushed_redis_between_merge_and_commit(
    raising: Raising, registry: Registry, backup: BackupTable, redis_server: LocalRedis
) -> None:
    """The merge is lost together with the fence, and the backup answers."""

    def flush() -> None:
        client = plain_client(redis_server)
        client.execute_command("FLUSHALL")
        client.close()

    assert raising(strike_at("commit", flush)).raise_to("conv", 8).committed
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "backup")


# The backup fails.


def throttle(stub: AwsStub) -> None:
    """Throttle every write from now on."""
    stub.answer_always("UpdateItem", refusal("ProvisionedThroughputExceededException"))


@pytest.mark.parametrize("point", ["check", "backup"])
def test_throttled_before_the_first_step(
    raising: Raising, stub: AwsStub, registry: Registry, backup: BackupTable, store: RedisRegistry, point: str
) -> None:
    """Nothing was changed on either side, and the error is a throttling error."""
    struck = raising(strike_at(point, lambda: throttle(stub)))
    with pytest.raises(ThrottledError):
        struck.raise_to("conv", 8)
    assert held(backup) == (2, 2)
    assert registry.lookup("conv")[:4] == ("conv", 2, 2, "redis")
    stub.rule = lambda operation, request: None
    assert struck.raise_to("conv", 8).changed
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")


@pytest.mark.parametrize("point", ["redis", "commit"])
def test_throttled_before_the_commit(
    raising: Raising, stub: AwsStub, registry: Registry, backup: BackupTable, redis_server: LocalRedis, point: str
) -> None:
    """Readers already cover 8; writers that fall back to the backup stay on 2 until the raise is completed."""
    struck = raising(strike_at(point, lambda: throttle(stub)))
    with pytest.raises(RaiseIncompleteError, match="its last step is not confirmed") as stopped:
        struck.raise_to("conv", 8)
    assert stopped.value.step == "redis"
    assert isinstance(stopped.value.__cause__, ThrottledError)
    assert held(backup) == (8, 2)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")
    redis_server.kill()
    assert registry.lookup("conv")[:4] == ("conv", 8, 2, "backup")
    redis_server.start()
    stub.rule = lambda operation, request: None
    assert struck.raise_to("conv", 8).committed
    assert held(backup) == (8, 8)


@pytest.mark.parametrize("lost", ["raise_max_n", "commit_write_n"])
def test_a_lost_response(
    raising: Raising, stub: AwsStub, registry: Registry, backup: BackupTable, settings: Settings, lost: str
) -> None:
    """DynamoDB made the change and its response is lost: the raise fails, and a repetition finds the change."""
    expression = {"raise_max_n": "max_n = :n", "commit_write_n": "write_n = :n"}[lost]
    direct = BackupTable(settings)

    def do_and_lose(operation: str, request: dict[str, Any]) -> Any:
        if operation != "UpdateItem" or expression not in request["UpdateExpression"]:
            return None
        direct.client.update_item(**request)
        return refusal("InternalServerError", 500)

    struck = raising(lambda point: None)
    stub.rule = do_and_lose
    with pytest.raises(SaltctlError) as failed:
        struck.raise_to("conv", 8)
    assert failed.value.exit_code in (4, 69)
    assert_readers_cover(registry, backup)
    stub.rule = lambda operation, request: None
    assert struck.raise_to("conv", 8).committed
    assert held(backup) == (8, 8)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")


@pytest.mark.parametrize(
    ("point", "step"), [("check", None), ("backup", None), ("redis", "redis"), ("commit", "redis")]
)
def test_the_table_is_deleted_between_two_steps(
    raising: Raising,
    backup: BackupTable,
    registry: Registry,
    rebuild: Rebuilder,
    settings: Settings,
    point: str,
    step: RaiseStep | None,
) -> None:
    """The error names the table; with a new, empty table and a rebuild from it the same raise is complete."""

    def delete() -> None:
        backup.client.update_table(TableName=settings.backup_table, DeletionProtectionEnabled=False)
        backup.client.delete_table(TableName=settings.backup_table)

    struck = raising(strike_at(point, delete))
    with pytest.raises(SaltctlError, match=f"no DynamoDB table '{settings.backup_table}'") as failed:
        struck.raise_to("conv", 8)
    if step is None:
        assert isinstance(failed.value, ConfigurationError)
    else:
        assert isinstance(failed.value, RaiseIncompleteError)
        assert failed.value.step == step
        assert isinstance(failed.value.__cause__, ConfigurationError)
    assert registry.lookup("conv").max_n == (2 if step is None else 8)
    backup.create()
    rebuild(segments=1)
    assert struck.raise_to("conv", 8).committed
    assert held(backup) == (8, 8)
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")


# The process that raises dies.


class KilledError(BaseException):
    """Stands for SIGKILL: the process does nothing after it."""


@pytest.mark.parametrize("n", [4, 8, 16])
@pytest.mark.parametrize("point", STEPS)
def test_another_instance_completes_the_raise_of_a_dead_one(
    raising: Raising, registry: Registry, backup: BackupTable, rebuild: Rebuilder, point: str, n: int
) -> None:
    """Dead before or after any step: after the next raise, to any N, both sides hold the larger N, committed."""

    def die() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        raising(strike_at(point, die)).raise_to("conv", 8)
    assert_readers_cover(registry, backup)
    result = registry.raise_to("conv", n)
    began = point in ("redis", "commit", "done")
    assert result.after == (max(n, 8) if began else n)
    assert held(backup) == (result.after, result.after)
    assert registry.lookup("conv")[:4] == ("conv", result.after, result.after, "redis")


def test_the_backup_is_ahead_of_redis_in_the_middle_of_a_raise(
    raising: Raising, registry: Registry, settings: Settings, backup: BackupTable
) -> None:
    """A client without Redis covers 8 already, while a later lookup in Redis returns 2: max_n can seem to go back.

    No writer uses 8: write_n is 2 on both sides. So readers cover too many salts for a while, never too few.
    """

    def die() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        raising(strike_at("redis", die)).raise_to("conv", 8)
    nowhere = replace(settings, redis_url="redis://127.0.0.1:1/0")
    with Registry.over(nowhere, RedisRegistry(nowhere), backup) as cut_off:
        assert cut_off.lookup("conv")[:4] == ("conv", 8, 2, "backup")
        assert registry.lookup("conv")[:4] == ("conv", 2, 2, "redis")
        assert registry.raise_to("conv", 8).committed
        assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")
        assert cut_off.lookup("conv")[:4] == ("conv", 8, 8, "backup")


def test_concurrent_raises(settings: Settings, backup: BackupTable, registry: Registry, rebuild: Rebuilder) -> None:
    """Eight instances raise to different N at once: both sides end with the largest."""
    rebuild()
    barrier = threading.Barrier(8)

    def instance(number: int) -> list[int]:
        mine = replace(settings, actor=f"instance-{number}")
        with Registry.over(mine, RedisRegistry(mine), BackupTable(mine)) as one:
            barrier.wait()
            return [n for n in (2, 4, 8, 16, 32) if one.raise_to("conv", n).changed]

    with ThreadPoolExecutor(8) as pool:
        changed = sorted(n for changes in pool.map(instance, range(8)) for n in changes)
    entry = backup.get("conv")
    assert entry is not None
    assert [made.n for made in entry.raises] == changed
    assert held(backup) == (32, 32)
    assert registry.lookup("conv")[:4] == ("conv", 32, 32, "redis")
