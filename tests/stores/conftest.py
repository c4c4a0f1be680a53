"""Fixtures of store tests: they run against every available server, Valkey always and Redis if it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saltctl.local.servers import LocalRedis
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from tests.support.redis_servers import PROMPT_REPLICATION, find_engine, plain_client, quick_starts

__all__ = ["quick_starts"]


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Each engine in turn; the tests of an engine that is not installed are skipped."""
    return find_engine(request.param)


@pytest.fixture
def redis_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis process of the test's own, which does not wait for replicas."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary, options=PROMPT_REPLICATION)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the test's Redis, for manual changes to the server."""
    client = plain_client(redis_server)
    yield client
    client.close()


@pytest.fixture
def primary(store: RedisRegistry) -> str:
    """The name of the one primary."""
    return store.primaries()[0]


@pytest.fixture
def session(store: RedisRegistry) -> Iterator[RedisRebuildSession]:
    """A rebuild's session with the one primary."""
    (session,) = store.sessions()
    yield session
    session.close()
