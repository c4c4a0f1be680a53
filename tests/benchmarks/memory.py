"""Bytes for an entry in Redis: the registry with several bucket counts, compared with two simpler layouts.

The real merge fills the registry and sets the fences, so they are included. The AOF is off, because its buffer is
not memory of the registry.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from tests.benchmarks.entries import REGISTRY_ID, conversation_id, differences, entries
from tests.benchmarks.report import Table, at_most
from tests.benchmarks.servers import BATCH, engines, fill, redis_server

GOAL = 30.0
COUNT = 1_000_000
BUCKETS = (4096, 8192, 16384, 32768, 65536)
QUICK = 256
"""Quick sizes are the full sizes divided by this, so that the buckets have the same number of entries."""
SAMPLE = 500
ONE_KEY_EACH, ONE_HASH = "a key per conversation", "one hash"
_SERVER_OPTIONS = {"appendonly": "no"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One layout: the bytes for an entry, the encodings of a sample of keys, and the number of wrong entries."""

    name: str
    bytes_an_entry: float
    encodings: dict[str, int]
    differences: int
    default: bool = False

    def row(self) -> tuple[str, ...]:
        """Return the row of the table."""
        total = sum(self.encodings.values())
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in sorted(self.encodings.items()))
        goal = at_most(self.bytes_an_entry, GOAL) if self.default else ""
        return (self.name, f"{self.bytes_an_entry:.1f}", shares, goal)


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """The measurements of every server, and the largest number of fields of a hash in a listpack."""

    entries: int
    engines: dict[str, list[Figure]]
    limits: dict[str, str]

    def tables(self) -> list[Table]:
        """Return one table for each server."""
        return [
            Table(
                f"memory, {engine}, {self.entries:,} entries",
                ("", "B an entry", "encoding", "goal"),
                [figure.row() for figure in figures],
                (
                    f"used_memory before and after; ids of {len(conversation_id(0))} characters; encodings of "
                    f"{SAMPLE} keys at most; hash-max-listpack-entries is {self.limits[engine]}; "
                    f"{sum(figure.differences for figure in figures)} entries wrong",
                ),
            )
            for engine, figures in self.engines.items()
        ]


def run(*, quick: bool = False) -> MemoryResult:
    """Run the benchmark on every installed server."""
    shrink = QUICK if quick else 1
    count = COUNT // shrink
    held = list(entries(count))
    binaries = engines()
    return MemoryResult(
        count,
        {name: list(_measure(binary, held, shrink)) for name, binary in binaries.items()},
        {name: _limit(binary) for name, binary in binaries.items()},
    )


def _measure(binary: Path, held: list[tuple[str, int]], shrink: int) -> Iterator[Figure]:
    yield _figure(binary, held, ONE_KEY_EACH, _fill_keys)
    yield _figure(binary, held, ONE_HASH, _fill_one_hash)
    for full in BUCKETS:
        yield _registry(binary, held, full // shrink, default=full == Settings.buckets)


def _figure(
    binary: Path, held: list[tuple[str, int]], name: str, fill_with: Callable[[Any, list[tuple[str, int]]], None]
) -> Figure:
    with redis_server(binary, _SERVER_OPTIONS) as server, _Client(Settings(redis_url=server.url)) as client:
        before = _used(client)
        fill_with(client, held)
        used = _used(client) - before
        encodings = _encodings(client, [f"salt:{conversation}" for conversation, _ in held], ONE_HASH)
        kept = client.dbsize() if name == ONE_KEY_EACH else client.hlen(ONE_HASH)
        return Figure(name, used / len(held), encodings, len(held) - kept)


def _registry(binary: Path, held: list[tuple[str, int]], buckets: int, *, default: bool) -> Figure:
    with redis_server(binary, _SERVER_OPTIONS) as server:
        settings = Settings(redis_url=server.url, buckets=buckets, registry_id=REGISTRY_ID)
        with _Client(settings) as client:
            before = _used(client)
            fill(settings, held)
            used = _used(client) - before
            encodings = _encodings(client, [f"salt:r:{bucket}" for bucket in range(buckets)])
        store = RedisRegistry(settings)
        try:
            wrong = differences(store.entries(), len(held))
        finally:
            store.close()
        name = f"{buckets:,} buckets{' (default)' if default else ''}"
        return Figure(name, used / len(held), encodings, wrong, default)


def _fill_keys(client: Any, held: list[tuple[str, int]]) -> None:
    for start in range(0, len(held), BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for conversation, n in held[start : start + BATCH]:
                pipeline.set(f"salt:{conversation}", n)
            pipeline.execute()


def _fill_one_hash(client: Any, held: list[tuple[str, int]]) -> None:
    for start in range(0, len(held), BATCH):
        client.hset(ONE_HASH, mapping=dict(held[start : start + BATCH]))


def _limit(binary: Path) -> str:
    with redis_server(binary, _SERVER_OPTIONS) as server, _Client(Settings(redis_url=server.url)) as client:
        return str(client.config_get("hash-max-listpack-entries")["hash-max-listpack-entries"])


class _Client:
    """A client with a long timeout, as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._connections = Connections(settings, timeout=60.0, retries=0)

    def __enter__(self) -> Any:
        return self._connections.client(self._connections.primaries()[0])

    def __exit__(self, *_: object) -> None:
        self._connections.close()


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def _encodings(client: Any, keys: list[str], *others: str) -> dict[str, int]:
    """Return the counts of OBJECT ENCODING for a sample of keys."""
    sample = [*random.Random(1).sample(keys, min(SAMPLE, len(keys))), *others]
    with client.pipeline(transaction=False) as pipeline:
        for key in sample:
            pipeline.object("encoding", key)
        found = Counter(encoding.decode() for encoding in pipeline.execute(raise_on_error=False) if _exists(encoding))
    return dict(found)


def _exists(encoding: object) -> bool:
    # For a missing key, one server answers nil and the other an error.
    return isinstance(encoding, bytes)
