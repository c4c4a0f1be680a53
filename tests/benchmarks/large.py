"""One rebuild of very many entries, and the same once more: rates, memory of both processes, and the AOF.

The canned pages of 20 million entries take 2 GB of memory, and the AOF while it is rewritten 3 GB of disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saltctl.local.servers import LocalRedis
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from tests.benchmarks.backup_pages import PagesServer
from tests.benchmarks.contenders import Finished
from tests.benchmarks.rebuild import GOAL_AGAIN, GOAL_PEAK, run_contender
from tests.benchmarks.report import Table, at_least, at_most
from tests.benchmarks.servers import redis_server

COUNT = 20_000_000
MOST_IN_A_BUCKET = 128
"""Entries in a bucket on average, at most: buckets stay small listpacks, as those of a million entries by default."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuild, and what Redis uses after it, in bytes: for its data, of the system, and of the disk for its AOF."""

    finished: Finished
    used: int
    resident: int
    aof: int


@dataclass(frozen=True, slots=True)
class LargeResult:
    """The rebuild of an empty Redis, and that of the same Redis once more."""

    items: int
    buckets: int
    first: Rebuilt
    again: Rebuilt

    def tables(self) -> list[Table]:
        """Return one table, with a column for each of the rebuilds."""
        return [
            Table(
                f"large, {self.items:,} entries in {self.buckets:,} buckets, Valkey with its AOF on",
                ("", "first", "once more", "goal"),
                list(self._rows()),
                (f"Pages of JSON over HTTP. All {self.items:,} entries in Redis were compared twice: none differs.",),
            )
        ]

    def _rows(self) -> Iterator[tuple[str, ...]]:
        both = (self.first, self.again)
        rates = [rebuilt.finished.rate for rebuilt in both]
        peaks = [rebuilt.finished.peak_bytes / MIB for rebuilt in both]
        yield "seconds", *(f"{rebuilt.finished.seconds:,.1f}" for rebuilt in both), ""
        yield "entries/s", *(f"{rate:,.0f}" for rate in rates), ""
        yield "entries/s, x first", "", f"{rates[1] / rates[0]:.2f}", at_least(rates[1] / rates[0], GOAL_AGAIN)
        yield "peak of the rebuild, MiB", *(f"{peak:.0f}" for peak in peaks), at_most(max(peaks), GOAL_PEAK)
        yield "Redis, B an entry", *(f"{rebuilt.used / self.items:.1f}" for rebuilt in both), ""
        yield "Redis, used, MiB", *(f"{rebuilt.used / MIB:,.0f}" for rebuilt in both), ""
        yield "Redis, resident, MiB", *(f"{rebuilt.resident / MIB:,.0f}" for rebuilt in both), ""
        yield "AOF, MiB", *(f"{rebuilt.aof / MIB:,.0f}" for rebuilt in both), ""


def run(*, quick: bool = False, entries: int = COUNT) -> LargeResult:
    """Run the benchmark.

    Raises:
        WrongResultError: a rebuild failed, or an entry in Redis differs from the backup.
    """
    count, buckets = (5_000, 64) if quick else (entries, Settings.buckets)
    while buckets * MOST_IN_A_BUCKET < count:
        buckets *= 2
    with PagesServer(count) as pages, redis_server() as server:
        empty = _memory(server)["used_memory"]

        def rebuild() -> Rebuilt:
            finished = run_contender("rebuild", pages, count, buckets, server)
            memory = _memory(server)
            aof = sum(file.stat().st_size for file in server.aof_directory.iterdir())
            return Rebuilt(finished, memory["used_memory"] - empty, memory["used_memory_rss"], aof)

        return LargeResult(count, buckets, rebuild(), rebuild())


def _memory(server: LocalRedis) -> Mapping[str, Any]:
    connections = Connections(Settings(redis_url=server.url), timeout=60.0, retries=0)
    try:
        return connections.info(connections.primaries()[0], "memory")
    finally:
        connections.close()
