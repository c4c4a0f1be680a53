"""Shared by the tests of rebuilds: entries, sessions that report each step, faults that strike between two steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from saltctl.errors import SaltctlError, UnverifiedError
from saltctl.rebuild.events import Event
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import LeaseHolder
from saltctl.stores.redis.merge_commands import Merge
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry

ENTRIES = {f"conv_{number:02}": 2 << number % 5 for number in range(18)}

At = Callable[[str], None]
"""Called with the name of each step and of each event."""
Opener = Callable[..., Rebuild]

on_each_engine = pytest.mark.parametrize("redis_binary", ["valkey", "redis"], indirect=True)
"""For tests that depend on the engine's own behaviour; all others run on one engine."""


def put(backup: BackupTable, *items: dict[str, Any]) -> None:
    """Write items by hand, past everything that saltctl checks."""
    requests = [{"PutRequest": {"Item": item}} for item in items]
    backup.client.batch_write_item(RequestItems={backup.name: requests})


@dataclass
class FakeLeaseStore:
    """Keeps one lease. ``failure`` is raised by every call while it is set."""

    current: LeaseHolder | None = None
    failure: SaltctlError | None = None
    calls: list[str] = field(default_factory=list)

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease if it is free, expired or the owner's own."""
        self._call("acquire")
        held = self.current
        if held is not None and held.owner != owner and now - held.heartbeat <= expiry:
            return held
        self.current = LeaseHolder(owner, host, pid, now, now, "starting")
        return None

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Note the heartbeat if the owner still has the lease."""
        self._call(f"renew {progress}")
        return self.current is not None and self.current.owner == owner

    def release(self, owner: str) -> None:
        """Free the lease if the owner has it."""
        self._call("release")
        if self.current is not None and self.current.owner == owner:
            self.current = None

    def holder(self) -> LeaseHolder | None:
        """Return the current holder."""
        return self.current

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failure is not None:
            raise self.failure


class WatchedSession(RedisRebuildSession):
    """A session that calls ``at`` before each of its steps."""

    def __init__(self, inner: RedisRebuildSession, at: At) -> None:
        self._inner = inner
        self._at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def mark_buckets(self, token: str, *, replace_registry: bool = False) -> None:
        """Step 3."""
        self._at("mark_buckets")
        self._inner.mark_buckets(token, replace_registry=replace_registry)

    def check_marks(self, token: str, replication_id: str) -> str:
        """Step 3 of a rebuild that is taken up again."""
        self._at("check_marks")
        return self._inner.check_marks(token, replication_id)

    def begin_merge(self, entries: Sequence[Merge]) -> None:
        """Step 4."""
        self._at("merge")
        self._inner.begin_merge(entries)

    def end_merge(self) -> int:
        """The end of step 4."""
        return self._inner.end_merge()

    def set_fence(self, token: str, damaged_ids: Collection[str] = ()) -> int:
        """The second half of step 5."""
        self._at("set_fence")
        return self._inner.set_fence(token, damaged_ids)

    def load_lookup(self) -> None:
        """The first half of step 5."""
        self._at("load_lookup")
        self._inner.load_lookup()

    def close(self) -> None:
        """Give the connection up."""
        self._inner.close()
        self._at("closed")


class WatchedRegistry(RedisRegistry):
    """The registry store, with sessions that are watched."""

    def __init__(self, settings: Settings, at: At) -> None:
        super().__init__(settings)
        self._at = at

    def sessions(self) -> list[Any]:
        """One new session for each primary."""
        return [WatchedSession(session, self._at) for session in super().sessions()]


def drive(rebuild: Rebuild, at: At = lambda point: None) -> list[Event]:
    """Run it to its end, calling ``at`` after each event, too."""
    events = []
    for event in rebuild.run():
        events.append(event)
        at(type(event).__name__)
    return events


class Fault:
    """Strikes once, at the ``number``-th point of a rebuild. ``points`` are those that came up, in order."""

    def __init__(self, number: int, strike: Callable[[], None]) -> None:
        self.number = number
        self.points: list[str] = []
        self._strike = strike

    def __call__(self, point: str) -> None:
        """Note the point, and strike at the right one."""
        if len(self.points) == self.number:
            self._strike()
        self.points.append(point)

    @property
    def struck_at(self) -> str | None:
        """Point at which it struck; None if the rebuild has fewer points."""
        return self.points[self.number] if self.number < len(self.points) else None

    def struck_between(self, after: str, until: str) -> bool:
        """Whether it struck after one step was done and before another was."""
        first, last = self.points.index(after), self.points.index(until) if until in self.points else 10**9
        return first < self.number <= last


def assert_never_wrong(store: RedisRegistry, registry: Registry) -> None:
    """Each lookup in Redis is right or refused, and each lookup of a client is right."""
    (primary,) = store.primaries()
    for conversation_id, n in ENTRIES.items():
        try:
            assert store.lookup(primary, [conversation_id]) == [n]
        except UnverifiedError:
            continue
    assert {i: lookup.max_n for i, lookup in registry.lookup_many(ENTRIES).items()} == ENTRIES


def assert_unverified(store: RedisRegistry, registry: Registry) -> None:
    """No lookup is answered by Redis, and each is answered rightly."""
    assert set(store.verified().values()) == {False}
    (primary,) = store.primaries()
    for conversation_id in ENTRIES:
        with pytest.raises(UnverifiedError):
            store.lookup(primary, [conversation_id])
    found = registry.lookup_many(ENTRIES)
    assert {i: (lookup.max_n, lookup.source) for i, lookup in found.items()} == {
        i: (n, "backup") for i, n in ENTRIES.items()
    }


def assert_verified(store: RedisRegistry) -> None:
    """Redis answers every lookup, and rightly."""
    assert set(store.verified().values()) == {True}
    assert store.lookup(store.primaries()[0], list(ENTRIES)) == list(ENTRIES.values())
