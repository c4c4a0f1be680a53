"""Two rebuilds, or one that is interrupted: the lease, and safety without it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from saltctl.errors import (
    LeaseHeldError,
    RebuildBrokenError,
)
from saltctl.rebuild.events import RebuildProgress, RebuildReport, RebuildStarted, StartDelayed
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    Opener,
    assert_unverified,
    assert_verified,
    drive,
)
from tests.support import Rebuilder


@pytest.mark.slow
def test_a_second_rebuild_is_refused(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """The error names the running process; the first rebuild completes."""
    first = job().run()
    assert isinstance(next(first), RebuildStarted)
    with pytest.raises(LeaseHeldError) as refused:
        drive(job())
    assert f"process {os.getpid()} on {socket.gethostname()}" in refused.value.message
    assert refused.value.exit_code == 75
    assert isinstance(list(first)[-1], RebuildReport)
    assert_verified(store)


@pytest.mark.slow
def test_a_second_rebuild_waits_for_the_first(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """With --lock-wait it says for whom it waits, and then does its own work."""
    first = job().run()
    next(first)
    second = job(lock_wait=60.0, sleep=lambda seconds: list(first).clear(), clock=time.monotonic)
    events = drive(second)
    assert isinstance(events[0], StartDelayed)
    assert str(os.getpid()) in events[0].reason
    assert isinstance(events[-1], RebuildReport)
    assert events[-1].restored == 0


def test_waiting_for_the_lease_times_out(filled: BackupTable, job: Opener) -> None:
    """After --lock-wait the refusal comes all the same."""
    filled.lease.acquire("other", 1000.0, host="elsewhere", pid=77, expiry=LEASE_EXPIRY)
    seconds = [0.0]
    waiting = job(
        lock_wait=3.0,
        now=lambda: 1001.0,
        clock=lambda: seconds[0],
        sleep=lambda pause: seconds.__setitem__(0, seconds[0] + pause),
    )
    with pytest.raises(LeaseHeldError, match="process 77 on elsewhere"):
        drive(waiting)
    assert seconds[0] == pytest.approx(3.0, abs=0.02)


@pytest.mark.slow
def test_the_lease_of_a_dead_holder_is_taken_over(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """Its heartbeat has to be older than the expiry; until then the holder counts as alive."""
    filled.lease.acquire("dead", 1000.0, host="elsewhere", pid=77, expiry=LEASE_EXPIRY)
    with pytest.raises(LeaseHeldError, match=r"process 77 on elsewhere .*heartbeat 29 s ago"):
        drive(job(now=lambda: 1000.0 + LEASE_EXPIRY - 1))
    drive(job(now=lambda: 1000.0 + LEASE_EXPIRY + 1))
    assert_verified(store)
    assert filled.lease.holder() is None


@pytest.mark.slow
def test_a_rebuild_that_loses_its_lease_stops(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """Another process took over after late heartbeats: it stops at its next heartbeat, and keeps the other lease."""

    def take_over(point: str) -> None:
        if point == "RebuildProgress":
            filled.lease.acquire("other", time.time() + 2 * LEASE_EXPIRY, host="elsewhere", pid=77, expiry=LEASE_EXPIRY)

    with pytest.raises(LeaseHeldError, match="taken over"):
        drive(job(take_over), take_over)
    assert_unverified(store, registry)
    holder = filled.lease.holder()
    assert holder is not None
    assert holder.owner == "other"


@pytest.mark.slow
@pytest.mark.parametrize("other_gets_to", ["the end", "the middle"])
def test_two_rebuilds_at_once_are_safe(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener, other_gets_to: str
) -> None:
    """Safety does not hang on the lease: the one that marked first cannot fence, the other one can."""
    other = job(now=lambda: time.time() + 2 * LEASE_EXPIRY).run()

    def at(point: str) -> None:
        if point == "set_fence":
            while not isinstance(event := next(other), RebuildReport):
                if other_gets_to == "the middle" and isinstance(event, RebuildProgress):
                    break

    # A clock that stands still: this one sends no heartbeat, and does not learn that it lost its lease.
    with pytest.raises(RebuildBrokenError, match="token"):
        drive(job(at, clock=lambda: 0.0))
    if other_gets_to == "the middle":
        assert_unverified(store, registry)
    rest = list(other)
    assert [type(event) for event in rest][-1:] == ([RebuildReport] if other_gets_to == "the middle" else [])
    assert_verified(store)


@pytest.mark.slow
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_rebuild_releases_its_lease(
    filled: BackupTable,
    store: RedisRegistry,
    registry: Registry,
    job: Opener,
    rebuild: Rebuilder,
    interruption: type[BaseException],
) -> None:
    """^C or SIGTERM in the middle: the lease is free at once, nothing was verified, and the next one succeeds."""
    running = job().run()
    assert isinstance(running, Iterator)
    assert [type(next(running)) for _ in range(2)] == [RebuildStarted, RebuildProgress]
    assert filled.lease.holder() is not None
    with pytest.raises(interruption):
        running.throw(interruption())
    assert filled.lease.holder() is None
    assert_unverified(store, registry)
    rebuild()
    assert_verified(store)


@pytest.mark.slow
def test_an_abandoned_rebuild_releases_its_lease(filled: BackupTable, job: Opener) -> None:
    """Closing the generator releases the lease."""
    running = job().run()
    next(running)
    running.close()
    assert filled.lease.holder() is None
