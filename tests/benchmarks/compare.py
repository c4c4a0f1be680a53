"""A complete comparison of Redis with the backup: entries per second, and memory, which must not grow with them.

``python -m tests.benchmarks.compare BUCKETS REDIS_URL ENDPOINT`` is the measured process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace

from saltctl.registry.compare import Comparison, result_of
from saltctl.registry.drift import ComparisonOptions
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.buckets import RedisBucketReader
from saltctl.stores.redis.registry import RedisRegistry
from tests.benchmarks.backup_pages import PagesServer
from tests.benchmarks.contenders import REGION, peak_bytes
from tests.benchmarks.entries import REGISTRY_ID, entries
from tests.benchmarks.report import Table, WrongResultError, at_most
from tests.benchmarks.servers import child_environment, fill, redis_server

COUNTS = (200_000, 2_000_000)
GOAL_MEMORY = 1.1
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class ComparisonRun:
    """One comparison: its elapsed time and its CPU time in seconds, and its peak memory in bytes."""

    checked: int
    in_sync: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The comparisons, the smallest registry first. All entries were in sync."""

    compared: list[ComparisonRun]

    def tables(self) -> list[Table]:
        """Return one table with a row for each size."""
        first = self.compared[0].peak_bytes
        rows = [
            (
                f"{run.checked:,} entries",
                f"{run.seconds:.1f}",
                f"{run.cpu_seconds:.1f}",
                f"{run.checked / run.seconds:,.0f}",
                f"{run.peak_bytes / _MIB:.0f}",
                f"{run.peak_bytes / first:.2f}",
                "" if run is self.compared[0] else at_most(run.peak_bytes / first, GOAL_MEMORY),
            )
            for run in self.compared
        ]
        headings = ("", "seconds", "CPU s", "entries/s", "peak MiB", "x first", "goal")
        return [Table("compare, all in sync, Valkey with its AOF on", headings, rows)]


def run(*, quick: bool = False) -> CompareResult:
    """Run the benchmark.

    Raises:
        WrongResultError: the comparison failed, or did not find all entries in sync.
    """
    counts, buckets = ((2_000, 4_000), 64) if quick else (COUNTS, Settings.buckets)
    return CompareResult([_run(count, buckets) for count in counts])


def _run(count: int, buckets: int) -> ComparisonRun:
    with redis_server() as server, PagesServer(count) as pages:
        fill(Settings(redis_url=server.url, buckets=buckets, registry_id=REGISTRY_ID), list(entries(count)))
        command = [sys.executable, "-m", "tests.benchmarks.compare", str(buckets), server.url, pages.url]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrongResultError(f"compare failed: {done.stderr}")
    compared = ComparisonRun(**json.loads(done.stdout))
    if (compared.checked, compared.in_sync) != (count, count):
        raise WrongResultError(f"compare found {compared.in_sync} of {compared.checked} in sync; {count} are")
    return compared


def main() -> None:
    """Compare once and print the measurement."""
    buckets, redis_url, endpoint = sys.argv[1:]
    servers = Settings(redis_url=redis_url, aws_region=REGION, aws_endpoint_url=endpoint)
    settings = replace(servers, buckets=int(buckets), registry_id=REGISTRY_ID)
    backup = BackupTable(settings)
    backup.registry.create()
    job = Comparison(settings, RedisBucketReader(settings), RedisRegistry(settings), backup, ComparisonOptions())
    started, cpu = time.perf_counter(), time.process_time()
    report = result_of(job.run())
    figures = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    counted = {"checked": report.checked, "in_sync": report.in_sync, "peak_bytes": peak_bytes()}
    sys.stdout.write(json.dumps(counted | figures) + "\n")


if __name__ == "__main__":
    main()
