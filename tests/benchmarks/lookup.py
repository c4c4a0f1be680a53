"""``Registry.lookup`` compared with a bare HGET on the same server with the same redis-py client.

The rows between them show the parts of a lookup: the script with the same client, without and with its replication
check, and then saltctl's two layers, which use a faster path through the client. On a cluster, the floor is the HGET of
redis-py's client for clusters, which finds the node of each key, as a lookup does.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

from saltctl.local.servers import valkey_binary
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.contracts.registry import BackupStore
from saltctl.stores.redis.buckets import FENCE
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script_sha
from tests.benchmarks.asyncio_lookup import AsyncioResult, measure
from tests.benchmarks.entries import REGISTRY_ID, entries, n_of
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_most, times
from tests.benchmarks.servers import engines, fill, redis_server
from tests.support.clusters import LocalCluster

GOAL = 1.15
BUCKETS = 1024
COUNT = 62_500
"""Entries. There are 61 in a bucket, as with a million entries in the default layout."""
CALLS = 100
"""Consecutive calls of one contender."""
WITHOUT_REPLICATION_CHECK = """#!lua flags=allow-oom
local held = redis.call('HMGET', KEYS[1], '#fence', unpack(ARGV, 2))
if held[1] ~= ARGV[1] then
  return redis.error_reply('UNVERIFIED this bucket was not verified here')
end
table.remove(held, 1)
return held
"""
HGET, PLAIN, SCRIPT, STORE, LOOKUP = (
    "HGET, bare",
    "EVALSHA, no replication check",
    "EVALSHA, lookup script",
    "RedisRegistry.lookup",
    "Registry.lookup",
)
CLUSTER = "valkey, a cluster of three primaries"
CLUSTER_HGET, NODE_HGET = "HGET, RedisCluster", "HGET, bare, the node known"
Contender = Callable[[Sequence[str]], list[Any]]


class _UnusedBackup:
    """A backup that fails on every call: a lookup that falls back must not be measured."""

    def close(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        raise WrongResultError(f"a lookup called the backup ({name}) although Redis is verified")


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The measurements of one server, or of a cluster.

    They are seconds per call in each round, by contender, the floor first; and the lookups that Redis answered.
    """

    engine: str
    seconds: dict[str, list[float]]
    lookups: int
    on_loop: AsyncioResult

    @property
    def ratio(self) -> float:
        """The ratio of Registry.lookup to HGET."""
        return median_ratio(self.seconds[LOOKUP], self.floor)

    @property
    def floor(self) -> list[float]:
        """The measurements of HGET."""
        return next(iter(self.seconds.values()))

    def table(self) -> Table:
        """Return the table."""
        rows = []
        for name, figures in self.seconds.items():
            ratio = median_ratio(figures, self.floor)
            rows.append(
                (
                    name,
                    f"{median(figures) * 1e6:.1f}",
                    f"{min(figures) * 1e6:.1f}",
                    f"{ratio:.2f}",
                    at_most(ratio, GOAL) if name == LOOKUP else "",
                )
            )
        return Table(
            f"lookup, {self.engine}",
            ("", "median µs", "best µs", "x HGET", "goal"),
            rows,
            (
                f"{times(len(self.floor), 'round')} of {CALLS} calls in turn; Redis answered all "
                f"{self.lookups:,} lookups, all correctly",
            ),
        )


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The measurements, by server."""

    engines: tuple[EngineResult, ...]

    def tables(self) -> list[Table]:
        """Return two tables for each server: of threads and of an event loop."""
        return [table for engine in self.engines for table in (engine.table(), engine.on_loop.table())]


def run(*, quick: bool = False) -> LookupResult:
    """Run the benchmark on every installed server, and on a cluster.

    Raises:
        WrongResultError: an answer was wrong, or Redis did not answer a lookup.
    """
    count, buckets, rounds = (2_000, 32, 3) if quick else (COUNT, BUCKETS, 200)
    alone = [_measure(name, binary, count, buckets, rounds) for name, binary in engines().items()]
    return LookupResult((*alone, _measure_cluster(count, buckets, rounds)))


def _settings(url: str, buckets: int) -> Settings:
    # A long timeout, so that no lookup falls back on a busy machine.
    return Settings(redis_url=url, buckets=buckets, registry_id=REGISTRY_ID, lookup_timeout=10.0)


def _measure(name: str, binary: Path, count: int, buckets: int, rounds: int) -> EngineResult:
    import redis.asyncio

    with redis_server(binary) as server:
        settings = _settings(server.url, buckets)
        held = list(entries(count))
        fill(settings, held)
        store = RedisRegistry(settings)
        connections = Connections(settings, timeout=settings.lookup_timeout, retries=0)
        try:
            client = connections.client(connections.primaries()[0])
            ids = [conversation for conversation, _ in held]
            seconds, found = _interleaved(contenders(settings, store, client, ids), ids, rounds)
            registry, peer = _registry(settings, RedisRegistry(settings)), redis.asyncio.Redis.from_url(server.url)
            return EngineResult(name, seconds, found, measure(name, settings, peer, registry, ids, rounds))
        finally:
            connections.close()
            store.close()


def _measure_cluster(count: int, buckets: int, rounds: int) -> EngineResult:
    import redis.asyncio

    with tempfile.TemporaryDirectory(prefix="saltctl-benchmark-") as directory:
        cluster = LocalCluster(Path(directory), valkey_binary(), replicas=False)
        try:
            cluster.start()
            settings = _settings(cluster.url, buckets)
            held = list(entries(count))
            fill(settings, held)
            ids = [conversation for conversation, _ in held]
            url = cluster.nodes[0].server.url
            with closing(RedisRegistry(settings)) as store, closing(redis.RedisCluster.from_url(url)) as client:
                seconds, found = _interleaved(cluster_contenders(settings, store, client, ids), ids, rounds)
            registry, peer = _registry(settings, RedisRegistry(settings)), redis.asyncio.RedisCluster.from_url(url)
            return EngineResult(CLUSTER, seconds, found, measure(CLUSTER, settings, peer, registry, ids, rounds))
        finally:
            cluster.stop()


def _registry(settings: Settings, store: RedisRegistry) -> Registry:
    return Registry.over(settings, store, cast(BackupStore, _UnusedBackup()))


def _interleaved(
    contenders: Mapping[str, Contender], ids: list[str], rounds: int
) -> tuple[dict[str, list[float]], int]:
    chance = random.Random(1)
    found: list[Lookup] = []
    wrong = 0

    def timed(contender: Contender) -> Callable[[], float]:
        def once() -> float:
            nonlocal wrong
            sample = chance.sample(ids, CALLS)
            started = time.perf_counter()
            answers = contender(sample)
            seconds = time.perf_counter() - started
            for conversation, answer in zip(sample, answers, strict=True):
                if isinstance(answer, Lookup):
                    found.append(answer)
                    answer = answer.max_n  # noqa: PLW2901  so that all answers are compared in the same way
                wrong += int(answer[0] if isinstance(answer, list) else answer) != n_of(conversation)
            return seconds / CALLS

        return once

    seconds = interleave({label: timed(contender) for label, contender in contenders.items()}, rounds)
    from_redis = sum(lookup.source == "redis" for lookup in found)
    if wrong or from_redis != len(found):
        raise WrongResultError(f"{wrong} answers are wrong; Redis answered {from_redis} of {len(found)} lookups")
    return seconds, from_redis


def contenders(settings: Settings, store: RedisRegistry, client: Any, ids: list[str]) -> dict[str, Contender]:
    """Return the contenders by row: each looks up a sample of ids with the store or with the client."""
    keys = _keys(settings, ids)
    layout = store.layout
    primary = store.primaries()[0]
    registry = _registry(settings, store)
    fence = client.execute_command("HGET", keys[ids[0]], FENCE)
    plain = client.execute_command("SCRIPT LOAD", WITHOUT_REPLICATION_CHECK)
    lookup = script_sha("lookup")
    return {
        HGET: lambda sample: [client.hget(keys[i], i) for i in sample],
        PLAIN: lambda sample: [client.execute_command("EVALSHA", plain, 1, keys[i], fence, i) for i in sample],
        SCRIPT: lambda sample: [client.execute_command("EVALSHA", lookup, 1, keys[i], layout, i) for i in sample],
        STORE: lambda sample: [store.lookup(primary, (i,)) for i in sample],
        LOOKUP: lambda sample: [registry.lookup(i) for i in sample],
    }


def cluster_contenders(settings: Settings, store: RedisRegistry, client: Any, ids: list[str]) -> dict[str, Contender]:
    """Return the contenders on a cluster by row; the client is redis-py's for clusters."""
    keys = _keys(settings, ids)
    primaries = {conversation: next(iter(store.by_primary((conversation,)))) for conversation in ids}
    nodes = {conversation: client.get_node_from_key(key).redis_connection for conversation, key in keys.items()}
    registry = _registry(settings, store)
    return {
        CLUSTER_HGET: lambda sample: [client.hget(keys[i], i) for i in sample],
        NODE_HGET: lambda sample: [nodes[i].hget(keys[i], i) for i in sample],
        STORE: lambda sample: [store.lookup(primaries[i], (i,)) for i in sample],
        LOOKUP: lambda sample: [registry.lookup(i) for i in sample],
    }


def _keys(settings: Settings, ids: list[str]) -> dict[str, str]:
    """Return the keys: the alternatives get them computed; a lookup of saltctl also computes the bucket."""
    return {conversation: f"salt:r:{bucket_of(conversation, settings.buckets)}" for conversation in ids}
