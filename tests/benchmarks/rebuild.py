"""The complete rebuild compared with scripts that do the same task, from the same pages into a Redis with its AOF on.

Every run of a contender is a separate process with a new server; a rebuild runs once more, over a Redis that has every
entry already. Afterwards the entries in Redis are compared with the backup.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from saltctl.local.servers import LocalRedis
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from tests.benchmarks.backup_pages import PagesServer
from tests.benchmarks.contenders import CONTENDERS, Finished
from tests.benchmarks.entries import REGISTRY_ID, differences
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_least, at_most, times
from tests.benchmarks.servers import child_environment, redis_server

COUNT = 300_000
NAIVE_COUNT = 30_000
MEMORY_COUNTS = (100_000, 500_000, 2_000_000)
GOAL_NAIVE, GOAL_CAREFUL, GOAL_DRAINED, GOAL_AGAIN = 20.0, 4.0, 350_000.0, 0.8
GOAL_PEAK, GOAL_GROWTH = 70, 1.1
"""MiB, and the peak with the most items divided by that with the fewest."""
AGAIN = "again"
LABELS = {
    "rebuild": "saltctl rebuild",
    AGAIN: "saltctl rebuild, once more",
    "careful": "client scan, pipelined HSET",
    "naive": "resource scan, SET each",
    "scan": "drain: saltctl's scan",
    "drain_client": "drain: boto3 client",
    "drain_resource": "drain: boto3 resource",
    "floor": "drain: HTTP and JSON parser",
}
FILLING = ("rebuild", "careful", "naive")


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """Items per second in each round, by contender, and the peak memory of a rebuild in bytes, by items.

    ``compared`` is the number of rebuilt entries that were compared with the backup; none differed.
    """

    items: int
    naive_items: int
    rates: dict[str, list[float]]
    peaks: dict[int, int]
    compared: int

    def tables(self) -> list[Table]:
        """Return a table of the rates and a table of the memory."""
        return [self._rates(), self._memory()]

    def _rates(self) -> Table:
        rebuilt = self.rates["rebuild"]
        naive, careful = (median_ratio(rebuilt, self.rates[peer]) for peer in ("naive", "careful"))
        drained = median(self.rates["scan"])
        again = median_ratio(self.rates[AGAIN], rebuilt)
        goals = {
            AGAIN: at_least(again, GOAL_AGAIN),
            "careful": at_least(careful, GOAL_CAREFUL),
            "naive": at_least(naive, GOAL_NAIVE),
            "scan": at_least(drained, GOAL_DRAINED),
        }
        rows = []
        for name, label in LABELS.items():
            against = self.rates["scan" if name in ("drain_client", "drain_resource", "floor") else "rebuild"]
            ratio = "" if name in ("rebuild", "scan") else f"{median_ratio(against, self.rates[name]):.2f}"
            ratio = f"{again:.2f}" if name == AGAIN else ratio
            rows.append((label, f"{median(self.rates[name]):,.0f}", ratio, goals.get(name, "")))
        return Table(
            f"rebuild, {self.items:,} items, Valkey with its AOF on",
            ("", "items/s", "saltctl x", "goal"),
            rows,
            (
                f"{times(len(rebuilt), 'round')} in turn; pages of 1 MB of JSON over HTTP; resource and SET on "
                f"{self.naive_items:,} items. "
                "saltctl x: the rate of saltctl divided by the rate of the row; of a rebuild once more, over what is "
                "there, to that of the first.",
                f"{self.compared:,} rebuilt entries compared with the backup: none differs.",
            ),
        )

    def _memory(self) -> Table:
        first = next(iter(self.peaks.values()))
        last = list(self.peaks)[-1]
        rows = [
            (
                f"{items:,} items",
                f"{peak / 2**20:.0f}",
                at_most(peak / 2**20, GOAL_PEAK),
                f"{peak / first:.2f}",
                at_most(peak / first, GOAL_GROWTH) if items == last else "",
            )
            for items, peak in self.peaks.items()
        ]
        return Table("rebuild, memory of its process", ("", "peak MiB", "goal", "x first", "goal"), rows)


def run(*, quick: bool = False) -> RebuildResult:
    """Run the benchmark.

    Raises:
        WrongResultError: a contender failed, or the entries in Redis differ from the backup.
    """
    count, naive_count, rounds = (2_000, 200, 1) if quick else (COUNT, NAIVE_COUNT, 3)
    buckets = 64 if quick else Settings.buckets
    memory_counts = (2_000, 8_000) if quick else MEMORY_COUNTS
    compared = 0
    again: list[float] = []

    def contender(name: str, pages: PagesServer, items: int) -> Callable[[], float]:
        def once() -> float:
            nonlocal compared
            with redis_server() as server:
                rate = run_contender(name, pages, items, buckets, server).rate
                if name == "rebuild":
                    again.append(run_contender(name, pages, items, buckets, server).rate)
                    compared += 2 * items
            return rate

        return once

    with PagesServer(count) as pages:
        rates = interleave(
            {name: contender(name, pages, naive_count if name == "naive" else count) for name in CONTENDERS}, rounds
        )
    peaks = {}
    for items in memory_counts:
        with PagesServer(items) as pages, redis_server() as server:
            peaks[items] = run_contender("rebuild", pages, items, buckets, server).peak_bytes
            compared += items
    return RebuildResult(count, naive_count, rates | {AGAIN: again}, peaks, compared)


def run_contender(name: str, pages: PagesServer, items: int, buckets: int, server: LocalRedis) -> Finished:
    """Run a contender in a process of its own, and check its work.

    Raises:
        WrongResultError: it failed, or the entries in Redis differ from the backup.
    """
    settings = Settings(redis_url=server.url, buckets=buckets, registry_id=REGISTRY_ID)
    command = [sys.executable, "-m", "tests.benchmarks.contenders", name, str(items), str(buckets)]
    command += [server.url, pages.url]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrongResultError(f"{name} failed: {done.stderr}")
    finished = Finished(**json.loads(done.stdout))
    wrong = _wrong(name, settings, items) if name in FILLING else 0
    if wrong or finished.items != items:
        raise WrongResultError(f"{name}: {finished.items} of {items} items handled, {wrong} entries wrong")
    return finished


def _wrong(name: str, settings: Settings, items: int) -> int:
    """Return how many entries in Redis differ from the backup; all, if a rebuild did not verify Redis."""
    if name == "naive":
        connections = Connections(settings, timeout=settings.redis_timeout, retries=0)
        try:
            kept: int = connections.client(connections.primaries()[0]).dbsize()
            return items - kept
        finally:
            connections.close()
    store = RedisRegistry(settings)
    try:
        if name == "rebuild" and not all(store.verified().values()):
            return items
        return differences(store.entries(), items)
    finally:
        store.close()
