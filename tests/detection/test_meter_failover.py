"""A write meter during a failover of real servers, which the sentinels or the cluster decide by their own timeout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from saltctl.detection.write_meter import WriteMeter
from saltctl.local.servers import valkey_binary
from saltctl.settings import Settings
from saltctl.stores.heat.report import parse
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from tests.support.clusters import SERVICE, LocalCluster, LocalSentinels, Node
from tests.support.redis_servers import eventually

TIMEOUT = "2000"
"""Milliseconds after which a server that does not answer is replaced."""
ELECTED_SECONDS = 90.0
"""On a busy machine an election may fail, and is held again some multiples of the timeout later."""
Group = Callable[[Path], AbstractContextManager[tuple[str, Node, Node]]]


@contextmanager
def a_pair(directory: Path) -> Iterator[tuple[str, Node, Node]]:
    """A primary and its replica, watched by sentinels: the URL and both."""
    options = {f"sentinel {name} {SERVICE}": TIMEOUT for name in ("down-after-milliseconds", "failover-timeout")}
    sentinels = LocalSentinels(directory, valkey_binary(), sentinel_options=options)
    try:
        sentinels.start()
        yield sentinels.url, sentinels.primary, sentinels.replica
    finally:
        sentinels.stop()


@contextmanager
def a_cluster(directory: Path) -> Iterator[tuple[str, Node, Node]]:
    """A cluster: its URL, the primary of the stream, and its replica."""
    options = {"cluster-node-timeout": TIMEOUT, "cluster-replica-validity-factor": "0"}
    cluster = LocalCluster(directory, valkey_binary(), options=options)
    try:
        cluster.start()
        primary = cluster.owner_of("salt:heat")
        yield cluster.url, primary, cluster.replica_of(primary)
    finally:
        cluster.stop()


@pytest.mark.long
@pytest.mark.parametrize("group", [a_pair, a_cluster])
def test_a_meter_loses_no_batch_at_a_failover(group: Group, tmp_path: Path) -> None:
    """Every window is on the stream of the promoted replica, with its count, and counts once.

    The replica has what was acknowledged before the kill: Redis replicates asynchronously, so the rest may be lost.
    """
    with group(tmp_path / "servers") as (url, primary, replica):
        settings = Settings(redis_url=url, lookup_timeout=1.0, breaker_seconds=0.1)
        with closing(HeatStream(settings)) as stream, closing(WindowSums(settings)) as sums:
            stream.create_group()
            written: dict[int, int] = {}

            def clock() -> float:
                """Return a time in the window after the newest one."""
                return 1_800_000_000.5 + len(written)

            meter = WriteMeter(stream, clock=clock, thread=False)

            def write_a_window() -> bool:
                count = 20 + len(written)
                for _ in range(count):
                    meter.record("conv")
                written[int(clock())] = count
                meter.flush()
                return meter.stats.waiting == 0

            eventually(write_a_window, "the meter reaches the primary")
            primary.await_replica()
            primary.server.kill()
            assert not write_a_window()
            eventually(write_a_window, "the meter sends everything", seconds=ELECTED_SECONDS)
            assert replica.has_role("master")
            entries = stream.range("-", "+", 10_000)
            reports = [report for entry in entries for report in parse(entry.fields or [], clock())]
            assert {report.window: report.writes for report in reports} == written
            counted = [report.writes for report in reports + reports]
            eventually(lambda: sums.add(reports + reports) == counted, "the sums follow the failover, too")
            assert (meter.stats.sent, meter.stats.dropped, meter.stats.windows_lost) == (len(written), 0, 0)
