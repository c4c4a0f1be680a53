"""A recovery of the backup from a verified Redis: entries per second, and the capacity that it consumes.

The table is an HTTP stub without latency and without entries, so the time is that of the client, and of a stub in
Python that takes as much CPU.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from unittest.mock import patch

from saltctl.local.servers import dummy_credentials
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.recovery.recover import Recovery
from saltctl.registry.recovery.recovery_plan import RecoveryReport
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.benchmarks.backup_pages import PagesServer
from tests.benchmarks.contenders import REGION
from tests.benchmarks.entries import REGISTRY_ID, entries
from tests.benchmarks.report import Table, WrongResultError
from tests.benchmarks.servers import fill, redis_server

COUNT = 1_000_000


@dataclass(frozen=True, slots=True)
class RecoverResult:
    """The report of the recovery, and the CPU time of this process in seconds."""

    report: RecoveryReport
    cpu_seconds: float

    def tables(self) -> list[Table]:
        """Return one table with one row."""
        report = self.report
        row = (
            f"{report.from_redis:,} entries",
            f"{report.seconds:,.0f}",
            f"{self.cpu_seconds:,.0f}",
            f"{report.from_redis / report.seconds:,.0f}",
            f"{report.consumed_rcu:,.0f}",
            f"{report.consumed_wcu:,}",
        )
        headings = ("", "seconds", "CPU s", "entries/s", "RCU", "WCU")
        notes = ("One write unit an entry of at most 1 KB; the reads of an empty table cost nothing.",)
        return [Table("recover, from a verified Valkey into an empty table", headings, [row], notes)]


def run(*, quick: bool = False) -> RecoverResult:
    """Run the benchmark.

    Raises:
        WrongResultError: not every entry was added, or the rebuild did not verify Redis.
    """
    count, buckets = (1_000, 64) if quick else (COUNT, Settings.buckets)
    credentials = patch.dict(os.environ, dummy_credentials())
    with credentials, redis_server() as server, PagesServer(0) as pages:
        settings = Settings(
            redis_url=server.url,
            buckets=buckets,
            registry_id=REGISTRY_ID,
            aws_region=REGION,
            aws_endpoint_url=pages.url,
        )
        fill(settings, list(entries(count)))
        store, backup, messages = RedisRegistry(settings), BackupTable(settings), MessagesTable(settings)
        started = time.process_time()
        job = Recovery(settings, store, backup, messages, lambda row: None, RebuildOptions())
        report = list(job.run(job.plan()))[-1]
        cpu_seconds = time.process_time() - started
        store.close()
    if not isinstance(report, RecoveryReport) or report.from_redis != count:
        raise WrongResultError(f"not every one of {count} entries was added: {report}")
    if report.rebuild is None or not report.rebuild.verified:
        raise WrongResultError(f"Redis was not verified: {report}")
    return RecoverResult(report, cpu_seconds)
