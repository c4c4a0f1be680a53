"""Fixtures of the tests of rebuilds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from saltctl.local.servers import LocalRedis
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.contracts.registry import LeaseStore
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    ENTRIES,
    At,
    Opener,
    WatchedRegistry,
    put,
)
from tests.support.aws_stub import AwsStub
from tests.support.redis_servers import find_engine, plain_client, quick_starts

__all__ = ["quick_starts"]


@pytest.fixture
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Valkey, or the engine that the test asks for."""
    return find_engine(getattr(request, "param", "valkey"))


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the test's Redis, for changes by hand."""
    client = plain_client(redis_server)
    yield client
    client.close()


@pytest.fixture
def filled(backup: BackupTable) -> BackupTable:
    """A backup that holds ENTRIES, every raise completed."""
    put(
        backup,
        *({"conversation_id": {"S": i}, "max_n": {"N": str(n)}, "write_n": {"N": str(n)}} for i, n in ENTRIES.items()),
    )
    return backup


@pytest.fixture
def job(settings: Settings, backup: BackupTable) -> Iterator[Opener]:
    """Makes a rebuild that was not started: small pages, a heartbeat and a report of progress after each."""
    stores: list[RedisRegistry] = []

    def make(
        at: At = lambda point: None,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] | None = None,
        from_backup: BackupTable = backup,
        lease: LeaseStore | None = None,
        **options: Any,
    ) -> Rebuild:
        stores.append(WatchedRegistry(settings, at))
        ticks = count()
        return Rebuild(
            settings,
            stores[-1],
            from_backup,
            RebuildOptions(**({"segments": 1, "page_limit": 7} | options)),
            lease=lease,
            clock=clock or (lambda: 10.0 * next(ticks)),
            now=now,
            sleep=sleep,
        )

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def stub(settings: Settings) -> Iterator[AwsStub]:
    """An HTTP server in front of moto that returns errors by its rule."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as server:
        yield server


@pytest.fixture
def behind_stub(settings: Settings, filled: BackupTable, stub: AwsStub) -> BackupTable:
    """The backup as seen through the stub, one attempt a request."""
    there = stub.settings(settings)
    return BackupTable(there, client=create_client(there, "dynamodb", attempts=1))
