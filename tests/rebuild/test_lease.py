"""The lease of a rebuild, on a store in memory and a clock that stands still unless it is moved."""

from __future__ import annotations

import os
import socket

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, LeaseHeldError
from saltctl.rebuild.events import StartDelayed
from saltctl.rebuild.lease import HEARTBEAT_SECONDS, LEASE_EXPIRY, Lease
from saltctl.stores.contracts.registry import LeaseHolder
from tests.rebuild.harness import FakeLeaseStore


class Time:
    """A clock that only ``sleep`` moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.seconds += seconds


@pytest.fixture
def store() -> FakeLeaseStore:
    """A store without a holder."""
    return FakeLeaseStore()


@pytest.fixture
def time() -> Time:
    """The clock of a test."""
    return Time()


def lease_of(owner: str, store: FakeLeaseStore, time: Time) -> Lease:
    """Return the lease of an owner, all times from one clock."""
    return Lease(store, owner, clock=time, now=time, sleep=time.sleep)


def test_a_free_lease_is_acquired_at_once(store: FakeLeaseStore, time: Time) -> None:
    """The holder has the name of this host and the id of this process."""
    assert list(lease_of("me", store, time).acquire(0.0)) == []
    assert store.current == LeaseHolder("me", socket.gethostname(), os.getpid(), 1000.0, 1000.0, "starting")


def test_a_held_lease_is_refused_with_its_holder(store: FakeLeaseStore, time: Time) -> None:
    """The message has host, process, progress and the age of the heartbeat."""
    store.current = LeaseHolder("other", "app-17", 4242, 900.0, 988.0, "70 entries")
    with pytest.raises(LeaseHeldError, match=r"process 4242 on app-17 .*70 entries; heartbeat 12 s ago"):
        list(lease_of("me", store, time).acquire(0.0))


def test_waiting_for_a_lease_ends_with_its_release(store: FakeLeaseStore, time: Time) -> None:
    """Each pause is preceded by an event; the first attempt after the release succeeds."""
    store.current = LeaseHolder("other", "app-17", 4242, 900.0, 1000.0, "")
    waiting = lease_of("me", store, time).acquire(60.0)
    assert next(waiting) == StartDelayed("process 4242 on app-17 holds the lease")
    assert isinstance(next(waiting), StartDelayed)
    store.current = None
    assert list(waiting) == []
    assert time.seconds == 1002.0


def test_waiting_for_a_lease_times_out(store: FakeLeaseStore, time: Time) -> None:
    """The last pause ends with the timeout."""
    store.current = LeaseHolder("other", "app-17", 4242, 900.0, 1000.0, "")
    with pytest.raises(LeaseHeldError):
        list(lease_of("me", store, time).acquire(2.5))
    assert time.seconds == pytest.approx(1002.5)


def test_an_expired_lease_is_taken_over(store: FakeLeaseStore, time: Time) -> None:
    """The holder counts as alive until its heartbeat is older than the expiry."""
    store.current = LeaseHolder("dead", "app-17", 4242, 900.0, 1000.0 - LEASE_EXPIRY, "")
    with pytest.raises(LeaseHeldError):
        list(lease_of("me", store, time).acquire(0.0))
    time.sleep(0.1)
    assert list(lease_of("me", store, time).acquire(0.0)) == []


def test_a_heartbeat_is_written_only_when_due(store: FakeLeaseStore, time: Time) -> None:
    """Callers renew after every page, the store sees a heartbeat every few seconds."""
    lease = lease_of("me", store, time)
    list(lease.acquire(0.0))
    for entries in range(4):
        lease.renew(f"{entries} entries")
        time.sleep(HEARTBEAT_SECONDS / 2)
    assert store.calls == ["acquire", "renew 0 entries", "renew 2 entries"]


def test_a_lost_lease_is_an_error(store: FakeLeaseStore, time: Time) -> None:
    """Another process took it over while this one was silent."""
    lease = lease_of("me", store, time)
    list(lease.acquire(0.0))
    store.current = LeaseHolder("other", "app-17", 4242, 1000.0, 1000.0, "")
    with pytest.raises(LeaseHeldError, match="taken over"):
        lease.renew("70 entries")
    lease.release()
    assert store.current.owner == "other"


def test_an_outage_does_not_stop_the_heartbeats(store: FakeLeaseStore, time: Time) -> None:
    """Safety does not depend on the lease; the next heartbeat is tried after the usual time."""
    lease = lease_of("me", store, time)
    list(lease.acquire(0.0))
    store.failure = AwsUnavailableError("no answer")
    lease.renew("1 entries")
    store.failure = None
    lease.renew("2 entries")
    time.sleep(HEARTBEAT_SECONDS)
    lease.renew("3 entries")
    assert store.calls == ["acquire", "renew 1 entries", "renew 3 entries"]


def test_a_missing_permission_stops_the_rebuild(store: FakeLeaseStore, time: Time) -> None:
    """It does not heal by itself, unlike an outage."""
    lease = lease_of("me", store, time)
    list(lease.acquire(0.0))
    store.failure = AccessDeniedError("UpdateItem is not allowed")
    with pytest.raises(AccessDeniedError):
        lease.renew("1 entries")


def test_a_failed_release_hides_no_other_error(store: FakeLeaseStore, time: Time) -> None:
    """The lease expires instead."""
    lease = lease_of("me", store, time)
    list(lease.acquire(0.0))
    store.failure = AwsUnavailableError("no answer")
    lease.release()
    assert store.calls[-1] == "release"
