"""Helpers for tests with real Redis servers: the available engines, plain clients, and waiting for a condition."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from saltctl.local import servers
from saltctl.local.servers import LocalRedis, valkey_binary
from saltctl.stores.redis.rebuild_session import RedisRebuildSession

PROMPT_REPLICATION = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0", "repl-ping-replica-period": "1"}
"""Options of a server that does not wait before it synchronizes replicas, or before it stops."""


def find_engine(name: str) -> Path:
    """Return the server binary of an engine; skip the test if the engine is not installed."""
    if name == "valkey":
        return valkey_binary()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return Path(found)


@cache
def _setpriv_binds() -> bool:
    bind = ["setpriv", "--pdeathsig", "KILL", "true"]
    return shutil.which(bind[0]) is not None and subprocess.run(bind, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bind servers to this process by ``setpriv``, where it can: Python takes ten times as long as Redis to start."""
    if _setpriv_binds():
        bind = ["setpriv", "--pdeathsig", "KILL"]
        monkeypatch.setattr(servers, "command_bound_to_parent", lambda command: [*bind, *command])


def plain_client(server: LocalRedis) -> Any:
    """Return redis-py's own client without its retries, which would delay the tests."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))


def eventually(condition: Callable[[], bool], event: str, *, seconds: float = 30.0) -> None:
    """Wait until the condition holds; fail with ``event`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {event}"
        time.sleep(0.01)


def merge(session: RedisRebuildSession, entries: Sequence[tuple[str, int]]) -> int:
    """Merge entries over a rebuild's session and wait for it; return how many were raised."""
    session.begin_merge(entries)
    return session.end_merge()
