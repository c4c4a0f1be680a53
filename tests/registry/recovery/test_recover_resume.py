"""Interrupted recoveries: a later one does not read again the messages that were read, or it reads all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from saltctl.errors import CheckpointRefusedError, IncompleteError
from saltctl.local.servers import LocalRedis
from saltctl.rebuild.checkpoint import ResumeMode
from saltctl.rebuild.events import CheckpointRejected
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.registry.recovery.recover import Event
from saltctl.registry.recovery.recovery_plan import RecoveryReport
from saltctl.registry.recovery.scan_checkpoint import ScanResumed
from saltctl.settings import Settings
from tests.registry import killed_recovery
from tests.registry.killed_recovery import PAGE, SEGMENTS, recovery
from tests.registry.lost_backup import World
from tests.support.aws_stub import HANG_UP, Answer, AwsStub
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow
FEW = 20
"""Messages of a conversation of which neither half proves the salts, and all of them do."""


@dataclass
class Watch:
    """Counts requests to the stub, and kills a process before one of them."""

    messages: str
    kill_at: int = 0
    pid: Future[int] = field(default_factory=Future)
    requests: int = 0
    scans: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The Scan requests for messages, by their numbers among all requests."""
    claim: int = 0
    """The number of the request that claims the table."""

    def __call__(self, operation: str, request: dict[str, Any]) -> Answer:
        """Answer a request, as a rule of the stub."""
        self.requests += 1
        if self.requests == self.kill_at:
            os.kill(self.pid.result(), signal.SIGKILL)
        if self.kill_at and self.requests >= self.kill_at:
            return HANG_UP
        if "claimed_tables = " in request.get("UpdateExpression", ""):
            self.claim = self.requests
        if operation == "Scan" and request["TableName"] == self.messages:
            self.scans[self.requests] = request
        return None


class Recoveries:
    """Runs recoveries of a world through a stub that watches them."""

    def __init__(self, world: World, stub: AwsStub) -> None:
        self.world = world
        self._stub = stub
        self.settings = stub.settings(world.settings)
        self._now = time.time()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([killed_recovery.__name__])
        self.watch = Watch(world.messages.name)

    def kill(self, at: int) -> bool:
        """Recover in a process that is killed before its ``at``-th request; return whether it was."""
        self._begin(at)
        child = self._context.Process(target=killed_recovery.recover, args=(self.settings, self._now))
        child.start()
        assert child.pid is not None
        self.watch.pid.set_result(child.pid)
        child.join(60)
        assert child.exitcode in (0, -9)
        return child.exitcode == -9

    def finish(self, settings: Settings | None = None, unproven: Any = "refuse", **options: Any) -> list[Event]:
        """Recover to the end, and return the events."""
        self._begin()
        job = recovery(settings or self.settings, self._now, **options)
        job.unproven = unproven
        try:
            return list(job.run(job.plan()))
        finally:
            job.store.close()

    def _begin(self, kill_at: int = 0) -> None:
        self._now += 2 * LEASE_EXPIRY  # the lease of a process that was killed has expired
        self._stub.rule = self.watch = Watch(self.world.messages.name, kill_at)


@pytest.fixture
def lost(
    settings: Settings, moto: Any, redis_server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Recoveries]:
    """Three salted conversations whose N only the messages show."""
    monkeypatch.setenv(killed_recovery.WARM, "1")
    world = World(settings)
    world.registry.raise_to("conv_few", 4)
    world.write("conv_few", 4, FEW)
    with AwsStub(moto.url) as stub:
        runs = Recoveries(world, stub)
        lose(runs, redis_server)
        yield runs
    world.history.close()
    world.registry.close()


def lose(runs: Recoveries, server: LocalRedis) -> None:
    """Delete the table and everything in Redis."""
    if runs.world.backup.describe() is not None:
        runs.world.delete_table()
    with closing(plain_client(server)) as client:
        client.flushall()
        client.script_flush()


def check(runs: Recoveries) -> None:
    """Check that every conversation is complete, and that no checkpoint is left."""
    assert runs.world.registry.lookup("conv_a").max_n == 4  # a client that runs follows the registry to its new id
    runs.world.check()
    assert runs.world.registry.lookup("conv_few").max_n == 4
    assert runs.world.backup.scan_checkpoint.load(0) is None


def of(kind: type, events: list[Event]) -> list[Any]:
    """Return the events of a kind."""
    return [event for event in events if isinstance(event, kind)]


# Killed, and resumed.


def test_messages_that_were_read_are_not_read_again(lost: Recoveries, redis_server: LocalRedis) -> None:
    """The second run begins behind the first one, which neither read enough of ``conv_few`` nor all salts."""
    lost.finish()
    numbers = list(lost.watch.scans)
    lose(lost, redis_server)
    assert lost.kill(numbers[len(numbers) // 2])
    first, total = len(lost.watch.scans), len(numbers)
    assert 4 < first < total - 4
    events = lost.finish()
    (resumed,) = of(ScanResumed, events)
    assert 0 < resumed.items <= PAGE * first
    assert all("ExclusiveStartKey" in scan for scan in [*lost.watch.scans.values()][:SEGMENTS])
    # A page whose checkpoint was not saved is read twice; one a segment is in progress.
    assert first + len(lost.watch.scans) <= total + 2 * SEGMENTS
    (report,) = of(RecoveryReport, events)
    assert report.from_messages == 3
    check(lost)


def test_a_recovery_killed_after_its_claim_reads_nothing_again(lost: Recoveries, redis_server: LocalRedis) -> None:
    """The table has the new id, and the fences of the restarted Redis the former one: they are of this registry."""
    lost.finish()
    lost.world.delete_table()
    with closing(plain_client(redis_server)) as client:
        client.script_flush()  # as a restart: it is not verified any more
    lost.finish()
    claim = lost.watch.claim
    lost.world.delete_table()
    with closing(plain_client(redis_server)) as client:
        client.script_flush()
    assert lost.kill(claim + 1)
    events = lost.finish()
    (report,) = of(RecoveryReport, events)
    assert (report.plan.table, report.plan.use_redis) == ("intact", True)
    assert of(ScanResumed, events)
    assert not lost.watch.scans
    check(lost)


@pytest.fixture
def interrupted(lost: Recoveries) -> Recoveries:
    """A recovery that was killed while it read the messages."""
    assert lost.kill(40)
    assert len(lost.watch.scans) > 4
    return lost


def rejection(events: list[Event]) -> str:
    """Return why the events' recovery has read all messages again."""
    (rejected,) = of(CheckpointRejected, events)
    assert not of(ScanResumed, events)
    return str(rejected.reason)


@pytest.mark.parametrize("loss", ["restart", "bucket"])
def test_a_redis_that_lost_anything_since_resumes_nothing(
    interrupted: Recoveries, redis_server: LocalRedis, loss: str
) -> None:
    """What it has lost may have been in use: only the messages, all of them, show it."""
    if loss == "restart":
        redis_server.kill()
        redis_server.start()
    else:
        with closing(plain_client(redis_server)) as client:
            client.delete("salt:r:7")
    with pytest.raises(CheckpointRefusedError, match="not valid any more: "):
        interrupted.finish(resume=ResumeMode.ALWAYS)
    reason = rejection(interrupted.finish())
    assert {"restart": "restarted", "bucket": "token is gone from salt:r:7"}[loss] in reason
    check(interrupted)


def test_another_number_of_segments_resumes_nothing(interrupted: Recoveries) -> None:
    """Positions are those of as many segments; the reason names the option that resumes."""
    assert "(--segments 2)" in rejection(interrupted.finish(segments=3))
    check(interrupted)


def test_a_checkpoint_in_a_copy_of_the_table_is_not_used(interrupted: Recoveries) -> None:
    """The table was lost again, and restored from a copy that has the checkpoint: it may lack newer items."""
    interrupted.world.restore(interrupted.world.items())
    assert "of another backup table" in rejection(interrupted.finish())
    check(interrupted)


def test_a_checkpoint_of_other_messages_is_not_used(interrupted: Recoveries) -> None:
    """The messages table was restored, too: positions in it are others."""
    messages = interrupted.world.messages
    rows = list(messages.client.scan(TableName=messages.name)["Items"])
    messages.client.delete_table(TableName=messages.name)
    messages.create()
    messages.load(rows)
    assert "of another messages table" in rejection(interrupted.finish())
    check(interrupted)


def test_restart_and_resume(interrupted: Recoveries) -> None:
    """--restart reads everything. --resume without a checkpoint is refused, and changes nothing."""
    events = interrupted.finish(resume=ResumeMode.NEVER)
    assert not of(ScanResumed, events) + of(CheckpointRejected, events)
    check(interrupted)
    with pytest.raises(CheckpointRefusedError, match="there is no checkpoint"):
        interrupted.finish(resume=ResumeMode.ALWAYS)


def test_a_damaged_checkpoint_is_not_used(interrupted: Recoveries) -> None:
    """Someone edited it: nothing of it is used."""
    items = interrupted.world.backup.scan_checkpoint
    items.save(0, b"edited")
    with pytest.raises(CheckpointRefusedError, match="damaged"):
        interrupted.finish(resume=ResumeMode.ALWAYS)
    assert "damaged" in rejection(interrupted.finish())
    check(interrupted)


def test_a_decision_about_unproven_conversations_reads_nothing_again(lost: Recoveries) -> None:
    """The refusal keeps the complete scan, which a dry run knows, too: the run with the decision reads no message."""
    for number in range(3):
        lost.world.messages.put("CONV#1", f"2026-01-01T00:00:{number:02d}Z#m{number}", {})
    with pytest.raises(IncompleteError, match="too few messages"):
        lost.finish()
    dry = lost.finish(dry_run=True)
    assert not lost.watch.scans
    assert of(ScanResumed, dry)
    assert [(report.unproven, report.from_messages) for report in of(RecoveryReport, dry)] == [(1, 3)]
    events = lost.finish(unproven="raise")
    assert not lost.watch.scans
    assert of(ScanResumed, events)
    check(lost)
    assert lost.world.registry.lookup("CONV").max_n == 2


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", [1, 5])
def test_a_recovery_killed_before_a_request_is_resumed(lost: Recoveries, redis_server: LocalRedis, first: int) -> None:
    """SIGKILL before every fourth request, such as between two saves of the position: the next run completes it."""
    lost.finish()
    resumed = 0
    for number in range(first, lost.watch.requests, 8):
        lose(lost, redis_server)
        assert lost.kill(number)
        resumed += len(of(ScanResumed, lost.finish()))
        check(lost)
    assert resumed
