"""Rebuild Redis from the backup, and only then let it answer lookups again (design: rebuild).

:func:`rebuild` is a generator: it yields what happens as it happens, and last the :class:`RebuildReport`.
Closing it early, or the process dying between any two lines, leaves Redis unverified and every entry that
was merged in place; running it again is always safe.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from saltctl.errors import (
    DeadlineExceededError,
    LeaseHeldError,
    RedisUnavailableError,
    SaltctlError,
    UnavailableError,
    UsageError,
)
from saltctl.stores.contracts import BackupPage, BackupStore, DamagedEntry, LeaseStore, RebuildSession, RegistryStore

LEASE_EXPIRY = 30.0
"""Seconds without a heartbeat after which a lease may be taken over. Clocks of different machines have to
agree within this less LEASE_BEAT for two rebuilds not to overlap; safety does not depend on it."""
LEASE_BEAT = 5.0
PROGRESS_EVERY = 0.2


@dataclass(frozen=True, slots=True)
class Waiting:
    """Redis is down or loading, or somebody holds the lease. ``percent`` and ``eta_seconds`` are INFO's."""

    why: str
    percent: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Began:
    """The lease is taken and every bucket is marked."""

    nodes: int
    verified_before: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """So far. ``consumed_rcu`` is in read capacity units."""

    entries: int
    raised: int
    seconds: float
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class Damaged:
    """An item that cannot be used. It is skipped, and the report counts it."""

    entry: DamagedEntry


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did, with the keys of the command line's contract.

    ``entries`` were read from the backup; ``raised`` of them increased what Redis held, ``unchanged`` did
    not, and ``skipped`` were damaged. ``committed`` half-done raises were completed.
    """

    entries: int
    raised: int
    unchanged: int
    skipped: int
    seconds: float
    entries_per_second: float
    consumed_rcu: float
    segments: int
    nodes: int
    verified: bool
    resumed: bool
    dry_run: bool
    committed: int


Event = Waiting | Began | Progress | Damaged | RebuildReport


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """How to rebuild. Durations in seconds; 0 means not to wait."""

    segments: int = 4
    wait_redis: float = 0.0
    lock_wait: float = 0.0
    dry_run: bool = False
    page_limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what DynamoDB would refuse."""
        if not 1 <= self.segments <= 1_000_000:
            raise UsageError(f"segments must be from 1 to 1,000,000, not {self.segments}", hint="--segments 4")


class VerificationNotes(Protocol):
    """Where it is noted for people when Redis was verified: ``ServiceState``."""

    def note_verified(self, replication_ids: Sequence[str], at: float) -> None:
        """Remember that the primaries of these replication ids were verified, in seconds since the epoch."""
        ...


class RebuildableStore(RegistryStore, Protocol):
    """What a rebuild asks of the registry store beyond what lookups and raises need."""

    def check_server(self) -> None:
        """Raise ConfigurationError where the server cannot keep the promise."""
        ...

    def server(self, primary: str) -> Mapping[str, Any]:
        """INFO of a primary."""
        ...


@dataclass
class _Run:
    """The counters of one rebuild."""

    started: float
    entries: int = 0
    raised: int = 0
    skipped: int = 0
    consumed_rcu: float = 0.0
    half_done: list[tuple[str, int]] = field(default_factory=list)
    next_beat: float = 0.0
    next_progress: float = 0.0


class Rebuild:
    """A rebuild of one registry. Iterate over :meth:`run` once.

    Args:
        store: the registry in Redis.
        backup: what it is rebuilt from.
        lease: keeps two rebuilds from doing the same work at once.
        layout, key_prefix: what the backup table must be bound to.
        token: unique to this run.
        notes: hears when Redis was verified; for people only.
        clock: monotonic seconds.
        now: seconds since the epoch, for the lease.
        sleep: waits, for --wait-redis and --lock-wait.
    """

    def __init__(
        self,
        store: RebuildableStore,
        backup: BackupStore,
        lease: LeaseStore,
        options: RebuildOptions,
        *,
        layout: str,
        key_prefix: str,
        token: str,
        notes: VerificationNotes | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._backup = backup
        self._lease = lease
        self._options = options
        self._layout = (layout, key_prefix)
        self._token = token
        self._notes = notes
        self._clock = clock
        self._now = now
        self._sleep = sleep

    def run(self) -> Iterator[Event]:
        """Do it, yielding events, the report last.

        Raises:
            LeaseHeldError: another rebuild is under way, and ``lock_wait`` is over.
            RedisUnavailableError, AwsUnavailableError: a server was lost; nothing was verified by this run.
            RebuildBrokenError: Redis was flushed or failed over meanwhile; nothing was verified.
            ConfigurationError: a table or server is not as it must be.
        """
        if self._options.wait_redis:
            yield from self._wait_for_redis()
        self._store.check_server()
        if self._options.dry_run:
            yield from self._compare()
            return
        # Before anything is written: a client of another layout must not touch these buckets.
        self._backup.claim_layout(*self._layout)
        yield from self._take_lease()
        try:
            yield from self._rebuild()
        finally:
            # On every way out. A release that fails costs the next one a wait until the lease expires, and
            # must not hide why this rebuild ended.
            with suppress(SaltctlError):
                self._lease.release(self._token)

    def _rebuild(self) -> Iterator[Event]:
        run = _Run(self._clock())
        sessions: dict[str, RebuildSession] = {}
        try:
            for session in self._store.sessions():
                sessions[session.primary] = session
            yield Began(len(sessions), all(self._store.verified().values()))
            # The tokens first, the scan second: what is lost after this line is noticed at the fence.
            for session in sessions.values():
                session.mark(self._token)
            yield from self._merge_all(run, sessions)
            for session in sessions.values():
                self._beat(run, "setting the fence")
                session.finish(self._token)
            # Last of all, on the same connections: the process that was filled is the one that is verified.
            for session in sessions.values():
                session.load_lookup()
            self._note([session.replication_id for session in sessions.values()])
        finally:
            for session in sessions.values():
                session.close()
        committed = 0
        for conversation_id, n in run.half_done:
            committed += self._backup.commit_write_n(conversation_id, n)
            self._beat(run, "completing raises")
        yield self._report(run, len(sessions), verified=True, committed=committed)

    def _note(self, replication_ids: Sequence[str]) -> None:
        if self._notes is not None:
            # For people only: Redis is verified, whether or not this can be written down.
            with suppress(SaltctlError):
                self._notes.note_verified(replication_ids, self._now())

    def _merge_all(self, run: _Run, sessions: Mapping[str, RebuildSession]) -> Iterator[Event]:
        for page in self._pages(run):
            groups = self._store.by_primary([conversation_id for conversation_id, _, _ in page.entries])
            entries = {conversation_id: max_n for conversation_id, max_n, _ in page.entries}
            for primary, ids in groups.items():
                run.raised += sessions[primary].merge([(i, entries[i]) for i in ids])
            # A half-done raise is completed once all of Redis has it, never before.
            run.half_done += [(i, max_n) for i, max_n, write_n in page.entries if write_n < max_n]
            yield from self._after_page(run, page)

    def _compare(self) -> Iterator[Event]:
        """The dry run: which entries Redis lacks, without writing anything anywhere."""
        run = _Run(self._clock())
        for page in self._pages(run):
            held = self._store.raw([conversation_id for conversation_id, _, _ in page.entries])
            run.raised += sum((held[i] or 0) < max_n for i, max_n, _ in page.entries)
            run.half_done += [(i, max_n) for i, max_n, write_n in page.entries if write_n < max_n]
            yield from self._after_page(run, page)
        verified = self._store.verified()
        yield self._report(run, len(verified), verified=all(verified.values()), committed=0)

    def _pages(self, run: _Run) -> Iterator[BackupPage]:
        pages = self._backup.scan(self._options.segments, limit=self._options.page_limit)
        for page in pages:
            run.entries += len(page.entries)
            run.skipped += len(page.damaged)
            run.consumed_rcu += page.consumed_rcu
            yield page

    def _after_page(self, run: _Run, page: BackupPage) -> Iterator[Event]:
        for entry in page.damaged:
            yield Damaged(entry)
        if not self._options.dry_run:
            self._beat(run, f"{run.entries} entries")
        now = self._clock()
        if now >= run.next_progress:
            run.next_progress = now + PROGRESS_EVERY
            yield Progress(run.entries, run.raised, now - run.started, run.consumed_rcu)

    def _report(self, run: _Run, nodes: int, *, verified: bool, committed: int) -> RebuildReport:
        seconds = max(self._clock() - run.started, 1e-9)
        return RebuildReport(
            entries=run.entries,
            raised=run.raised,
            unchanged=run.entries - run.raised,
            skipped=run.skipped,
            seconds=round(seconds, 3),
            entries_per_second=round(run.entries / seconds, 1),
            consumed_rcu=run.consumed_rcu,
            segments=self._options.segments,
            nodes=nodes,
            verified=verified,
            resumed=False,
            dry_run=self._options.dry_run,
            committed=committed,
        )

    # The lease.

    def _take_lease(self) -> Iterator[Event]:
        deadline = self._clock() + self._options.lock_wait
        while True:
            holder = self._lease.take(
                self._token, self._now(), host=socket.gethostname(), pid=os.getpid(), expiry=LEASE_EXPIRY
            )
            if holder is None:
                return
            who = f"process {holder.pid} on {holder.host}"
            if self._clock() >= deadline:
                age = max(self._now() - holder.heartbeat, 0.0)
                raise LeaseHeldError(
                    f"{who} is rebuilding already ({holder.progress}; heartbeat {age:.0f} s ago)",
                    hint=f"wait for it with --lock-wait 15m; if it died, its lease ends {LEASE_EXPIRY:.0f} s after "
                    "its last heartbeat",
                )
            yield Waiting(f"{who} holds the lease")
            self._sleep(min(1.0, max(deadline - self._clock(), 0.01)))

    def _beat(self, run: _Run, progress: str) -> None:
        now = self._clock()
        if now < run.next_beat:
            return
        run.next_beat = now + LEASE_BEAT
        try:
            still_ours = self._lease.beat(self._token, self._now(), progress)
        except UnavailableError:
            # Safety does not hang on the lease, and a recovery must outlast a throttled minute.
            return
        if not still_ours:
            raise LeaseHeldError(
                "the lease was taken over by another rebuild", hint="let that one finish; nothing was lost"
            )

    # Waiting for Redis.

    def _wait_for_redis(self) -> Iterator[Event]:
        deadline = self._clock() + self._options.wait_redis
        while True:
            waiting = self._redis_state()
            if waiting is None:
                return
            if self._clock() >= deadline:
                raise DeadlineExceededError(
                    f"Redis is not ready after {self._options.wait_redis:g} s: {waiting.why}",
                    hint="look at the server's log, or wait longer: saltctl rebuild --wait-redis 1h",
                )
            yield waiting
            self._sleep(min(0.5, max(deadline - self._clock(), 0.01)))

    def _redis_state(self) -> Waiting | None:
        """Why Redis is not ready, or None when all primaries are."""
        try:
            infos: Sequence[Mapping[str, Any]] = [self._store.server(p) for p in self._store.primaries()]
        except RedisUnavailableError as exc:
            return Waiting(exc.message)
        for info in infos:
            if int(info.get("loading", 0)):
                percent = float(info.get("loading_loaded_perc", 0.0))
                eta = float(info.get("loading_eta_seconds", 0.0))
                return Waiting("Redis is loading its data", percent, eta)
        return None
