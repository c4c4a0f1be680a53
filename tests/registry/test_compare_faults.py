"""Failures and raises during a comparison: no false drift, and no false report without drift."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import ComparisonBrokenError, RedisUnavailableError
from saltctl.local.servers import LocalRedis
from saltctl.registry.compare import Comparison, result_of
from saltctl.registry.drift import ComparisonOptions, ComparisonReport
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.buckets import RedisBucketReader
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import variables_of
from tests.support import Rebuilder, put_entries
from tests.support.aws_stub import Answer, AwsStub, refusal
from tests.support.redis_servers import plain_client

ENTRIES = {f"conv_{number:02}": 2 << number % 5 for number in range(30)}
At = Callable[[str], None]


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the test's Redis, for manual changes."""
    client = plain_client(redis_server)
    yield client
    client.close()


@pytest.fixture
def aws_stub(settings: Settings) -> Iterator[AwsStub]:
    """An HTTP server in front of moto that can replace answers."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:
        yield stub


@pytest.fixture
def filled(registry: Registry, backup: BackupTable, rebuild: Rebuilder) -> Registry:
    """A verified registry that holds ENTRIES, as its backup does."""
    put_entries(backup, ENTRIES)
    rebuild()
    return registry


class WatchedReader(RedisBucketReader):
    """A reader that calls ``at`` before each read."""

    def __init__(self, settings: Settings, at: At) -> None:
        super().__init__(settings)
        self._at = at

    def replication_ids(self) -> dict[str, str]:
        """Return the replication ids."""
        self._at("identity")
        return super().replication_ids()

    def read(self, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Return the numbers in Redis."""
        self._at("held")
        return super().read(conversation_ids)

    def count_entries(self, buckets: Sequence[int]) -> list[int]:
        """Return the sizes of buckets."""
        self._at("sizes")
        return super().count_entries(buckets)


Opener = Callable[..., Comparison]


@pytest.fixture
def comparison(settings: Settings, store: RedisRegistry, backup: BackupTable, registry: Registry) -> Iterator[Opener]:
    """Create comparisons with small pages and a short grace period, without starting them."""
    readers: list[RedisBucketReader] = []

    def make(
        at: At = lambda read: None,
        *,
        repair: bool = False,
        grace: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Comparison:
        readers.append(WatchedReader(settings, at))
        options = ComparisonOptions(segments=2, page_limit=7, grace=grace)
        return Comparison(settings, readers[-1], store, backup, options, registry if repair else None, sleep=sleep)

    yield make
    for reader in readers:
        reader.close()


def all_is_well(report: ComparisonReport) -> bool:
    """Return whether a report says that Redis is verified and has no drift."""
    return report.verified and report.unrepaired == 0


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["killed, back empty", "killed, back with its AOF", "flushed", "a bucket deleted"])
def test_redis_loses_data_at_any_point(
    harm: str,
    filled: Registry,
    redis_server: LocalRedis,
    settings: Settings,
    admin: Any,
    comparison: Opener,
    rebuild: Rebuilder,
) -> None:
    """Before each request to Redis in turn: an error, or a report that is not all well."""

    def strike() -> None:
        if harm == "flushed":
            admin.flushall()
        elif harm == "a bucket deleted":
            admin.delete(f"salt:r:{bucket_of('conv_00', settings.buckets)}")
        else:
            redis_server.kill()
            if harm == "killed, back empty":
                redis_server.delete_aof()
            redis_server.start()

    for number in count():
        asked: list[str] = []

        def at(read: str, number: int = number, asked: list[str] = asked) -> None:
            if len(asked) == number:
                strike()
            asked.append(read)

        try:
            report = result_of(comparison(at, grace=0.01).run())
        except (ComparisonBrokenError, RedisUnavailableError):
            pass
        else:
            if number >= len(asked):
                assert all_is_well(report)
                break
            assert not all_is_well(report), asked
        assert rebuild(segments=1).verified
    assert {"identity", "held", "sizes"} <= set(asked)


@pytest.mark.slow
def test_redis_stays_down(filled: Registry, redis_server: LocalRedis, comparison: Opener) -> None:
    """A Redis that is gone ends the comparison with an outage, and nothing is reported as drift."""

    def kill(read: str) -> None:
        if read == "sizes":
            redis_server.kill()

    with pytest.raises(RedisUnavailableError):
        list(comparison(kill).run())


@pytest.mark.slow
def test_concurrent_raises_are_not_drift(filled: Registry, comparison: Opener) -> None:
    """Four threads raise old and new conversations meanwhile: none is reported."""
    done, busy = threading.Event(), threading.Event()
    busy.set()
    raised = count()

    def wait_out(seconds: float) -> None:
        """Wait for the grace period. Raises then meet no read of the comparison: they rest, except at its end."""
        busy.clear()
        time.sleep(max(seconds - 0.5, 0))
        busy.set()
        time.sleep(min(seconds, 0.5))

    def keep_raising(worker: int) -> None:
        names = [*list(ENTRIES)[worker::4], *(f"new_{worker}_{number}" for number in range(1000))]
        for name in names:
            if done.is_set():
                return
            for n in (64, 128):
                busy.wait()
                filled.raise_to(name, n)
                next(raised)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(keep_raising, worker) for worker in range(4)]
        try:
            before = next(raised)
            # Much longer than a raise, even on a busy machine.
            report = result_of(comparison(grace=3.0, sleep=wait_out).run())
            assert report.drift == []
            assert all_is_well(report)
            assert next(raised) > before + 1, "no raise fell into the comparison"
        finally:
            done.set()
            busy.set()
        for worker in workers:
            worker.result()


@pytest.mark.slow
def test_two_repairs_at_once(
    filled: Registry, backup: BackupTable, admin: Any, settings: Settings, comparison: Opener
) -> None:
    """Two processes repair the same drift: both succeed, nothing is lowered, and no drift is left."""
    drift_away(admin, settings)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: result_of(comparison(repair=True).run()), range(2)))
    assert [report.unrepaired for report in reports] == [0, 0]
    assert all_is_well(result_of(comparison().run()))
    assert_nothing_was_lowered(backup)


def drift_away(admin: Any, settings: Settings) -> None:
    """Delete every second entry of Redis, and raise every fifth above the backup."""
    for number, (conversation_id, n) in enumerate(ENTRIES.items()):
        key = f"salt:r:{bucket_of(conversation_id, settings.buckets)}"
        if number % 2:
            admin.hdel(key, conversation_id)
        elif number % 5 == 0:
            admin.hset(key, conversation_id, 2 * n)


def assert_nothing_was_lowered(backup: BackupTable) -> None:
    """Check that the backup still holds at least ENTRIES."""
    held = backup.get_many(list(ENTRIES))
    assert all(held[conversation_id].max_n >= n for conversation_id, n in ENTRIES.items())


@pytest.mark.slow
def test_throttling_at_every_kind_of_request(
    filled: Registry,
    backup: BackupTable,
    admin: Any,
    settings: Settings,
    store: RedisRegistry,
    aws_stub: AwsStub,
) -> None:
    """A table that throttles scans, reads and writes for a while slows a repair down, and does not end it."""
    drift_away(admin, settings)
    left = {"Scan": 4, "BatchGetItem": 3, "UpdateItem": 3}
    lock = threading.Lock()

    def rule(operation: str, request: dict[str, Any]) -> Answer | None:
        with lock:
            if left.get(operation, 0) == 0:
                return None
            left[operation] -= 1
            return refusal("ProvisionedThroughputExceededException")

    aws_stub.rule = rule
    behind = aws_stub.settings(settings)
    throttled = BackupTable(behind, client=create_client(behind, "dynamodb", attempts=1))
    registry = Registry.over(behind, store, throttled)
    reader = RedisBucketReader(settings)
    options = ComparisonOptions(segments=2, page_limit=7, grace=0.01)
    report = result_of(Comparison(behind, reader, store, throttled, options, registry).run())
    reader.close()
    assert (report.unrepaired, sum(left.values())) == (0, 0)
    assert_nothing_was_lowered(backup)


# As a process.


Stalled = tuple[dict[str, str], threading.Event]


@pytest.fixture
def stalled(settings: Settings, filled: Registry, aws_stub: AwsStub) -> Iterator[Stalled]:
    """The environment of a process whose scan gets no answer, and an event that is set when it waits for one."""
    scanned, released = threading.Event(), threading.Event()

    def rule(operation: str, request: dict[str, Any]) -> Answer | None:
        if operation == "Scan":
            scanned.set()
            released.wait(30)
        return None

    aws_stub.rule = rule
    # A short deadline: a process that is ended waits for its request in progress.
    yield os.environ | variables_of(aws_stub.settings(settings)) | {"SALTCTL_AWS_TIMEOUT": "3"}, scanned
    released.set()


def start(environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    """Start ``saltctl compare`` as a process."""
    command = [sys.executable, "-m", "saltctl", "compare", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_cleanly(signum: signal.Signals, code: int, stalled: Stalled, tmp_path: Path) -> None:
    """It ends at once with the exit code of the signal, one log line and its metrics."""
    environment, scanned = stalled
    file = tmp_path / "compare.prom"
    process = start(environment, "--cron", "--metrics-file", str(file))
    assert scanned.wait(60)
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    (line,) = map(json.loads, err.splitlines())
    assert (line["event"], line["exit_code"]) == ("compare", code)
    assert re.search(rf"^saltctl_job_exit_code{{.*}} {code}\.0$", file.read_text(), flags=re.MULTILINE)


@pytest.mark.slow
def test_a_timeout_ends_it(stalled: Stalled) -> None:
    """``--timeout`` works while AWS does not answer: exit 124, with a hint."""
    environment, _ = stalled
    # Longer than --timeout, or else the request to AWS would end first.
    process = start(environment | {"SALTCTL_AWS_TIMEOUT": "3"}, "--timeout", "2s", "-o", "json")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 124
    assert "run it again" in json.loads(err)["error"]["hint"]


@pytest.mark.slow
def test_repairs_that_are_killed_at_any_point(
    filled: Registry,
    backup: BackupTable,
    admin: Any,
    settings: Settings,
    aws_stub: AwsStub,
    comparison: Opener,
) -> None:
    """SIGKILL after the first and the eighth update of a repair: the next repair completes it, nothing is lowered."""
    environment = os.environ | variables_of(aws_stub.settings(settings))
    for kill_after in (1, 8):
        drift_away(admin, settings)
        aws_stub.seen.clear()
        process = start(environment, "--repair", "--yes")
        try:
            while process.poll() is None and sum(map(aws_stub.seen.count, ("GetItem", "UpdateItem"))) < kill_after:
                time.sleep(0.002)
        finally:
            process.kill()
            process.communicate()
        assert_nothing_was_lowered(backup)
    assert result_of(comparison(repair=True).run()).unrepaired == 0
    assert all_is_well(result_of(comparison().run()))
    assert_nothing_was_lowered(backup)
