"""Rebuild Redis from the backup, and only then let it answer lookups again (design: rebuild).

A :class:`Rebuild` is a generator: it yields what happens as it happens, and last the :class:`RebuildReport`.
Closing it early, or the process dying between any two lines, leaves Redis unverified and every entry that
was merged in place; running it again is always safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from saltctl.errors import DeadlineExceededError, RebuildBrokenError, RedisUnavailableError, SaltctlError, UsageError
from saltctl.rebuild.checkpoint import Bound, CheckpointStore
from saltctl.rebuild.events import (
    CostEstimate,
    EntryAboveCap,
    Event,
    RebuildProgress,
    RebuildReport,
    RebuildStarted,
    StartDelayed,
)
from saltctl.rebuild.lease import Lease
from saltctl.rebuild.merge_buffer import Filling, Standing
from saltctl.rebuild.resuming import CheckpointKeeper, ResumeMode
from saltctl.stores.contracts import BackupPage, BackupStore, LeaseStore, RebuildSession, RegistryStore, TableSize

PROGRESS_EVERY = 0.2
SEND_EVERY = 1.0
"""Seconds after which entries that were read are merged, however few they are."""
HALF_DONE_KEPT = 10_000
"""Half-done raises that are kept in memory until the end; more are completed as soon as they are merged, as a raise
itself would do, so that memory stays flat even where every raise of the last hour is half done."""


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """How to rebuild. Durations in seconds; 0 means not to wait.

    ``max_rcu`` bounds the read capacity units a second, None does not. ``batch`` entries are merged at once; they are
    what memory is needed for. Where most entries are in Redis already, more of them at once cost the server less each
    (see stores/merging.py): a fifth less with four times as many.
    ``checkpoint_every``: seconds of work that a rebuild which dies may lose.
    """

    segments: int = 4
    wait_redis: float = 0.0
    lock_wait: float = 0.0
    dry_run: bool = False
    page_limit: int | None = None
    max_rcu: float | None = None
    resume: ResumeMode = ResumeMode.IF_VALID
    batch: int = 8_192
    checkpoint_every: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what DynamoDB would refuse."""
        if not 1 <= self.segments <= 1_000_000:
            raise UsageError(f"segments must be from 1 to 1,000,000, not {self.segments}", hint="--segments 4")
        if self.max_rcu is not None and not 1 <= self.max_rcu <= 1e9:
            raise UsageError(f"max-rcu must be at least 1, not {self.max_rcu:g}", hint="--max-rcu 500")


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


class RebuildableBackup(BackupStore, Protocol):
    """What a rebuild asks of the backup store beyond what lookups and raises need."""

    def identity(self) -> str:
        """What tells this table from one of the same name that is made later."""
        ...

    def size(self) -> TableSize:
        """How large the table was some hours ago."""
        ...


@dataclass
class _Run:
    """One rebuild under way. ``before`` are the entries that an earlier one had read."""

    started: float
    token: str
    began: float
    sessions: dict[str, RebuildSession] = field(default_factory=dict)
    filling: Filling = field(init=False)
    before: int = 0
    half_done: list[tuple[str, int]] = field(default_factory=list)
    committed: int = 0
    next_progress: float = 0.0
    next_send: float = 0.0
    checkpoint: CheckpointKeeper | None = None
    """None where none is to be written."""

    def save(self) -> None:
        """Write down how far it is, where anything was begun."""
        if self.checkpoint is not None and hasattr(self, "filling"):
            self.checkpoint.save(self.token, self.began, self.filling, self.half_done)

    def save_if_due(self) -> Iterator[Event]:
        """The same, every few seconds."""
        if self.checkpoint is not None:
            yield from self.checkpoint.save_if_due(self.token, self.began, self.filling, self.half_done)

    def forget(self) -> None:
        """The checkpoint is not needed any more, or does not hold any more."""
        if self.checkpoint is not None:
            self.checkpoint.forget()


class Rebuild:
    """A rebuild of one registry. Iterate over :meth:`run` once.

    ``half_done_kept``: see HALF_DONE_KEPT.

    Args:
        store: the registry in Redis.
        backup: what it is rebuilt from.
        lease: keeps two rebuilds from doing the same work at once.
        layout, key_prefix: what the backup table must be bound to.
        token: unique to this run.
        checkpoints: where to keep how far it is; None: nowhere.
        notes: hears when Redis was verified; for people only.
        clock: monotonic seconds.
        now: seconds since the epoch, for the lease.
        sleep: waits, for --wait-redis and --lock-wait.
    """

    half_done_kept = HALF_DONE_KEPT

    def __init__(
        self,
        store: RebuildableStore,
        backup: RebuildableBackup,
        lease: LeaseStore,
        options: RebuildOptions,
        *,
        layout: str,
        key_prefix: str,
        token: str,
        checkpoints: CheckpointStore | None = None,
        notes: VerificationNotes | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._backup = backup
        self._lease = Lease(lease, token, clock=clock, now=now, sleep=sleep)
        self._options = options
        self._layout = layout
        self._key_prefix = key_prefix
        self._token = token
        self._checkpoints = checkpoints
        self._notes = notes
        self._clock = clock
        self._now = now
        self._sleep = sleep

    def run(self) -> Generator[Event, None, None]:
        """Do it, yielding events, the report last.

        Raises:
            LeaseHeldError: another rebuild is under way, and ``lock_wait`` is over.
            RedisUnavailableError, AwsUnavailableError: a server was lost; nothing was verified by this run.
            CheckpointRefusedError: it was to be resumed, and its checkpoint does not hold.
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
        self._backup.claim_layout(self._layout, self._key_prefix)
        yield from self._lease.take(self._options.lock_wait)
        try:
            yield from self._rebuild()
        finally:
            self._lease.release()

    def _rebuild(self) -> Iterator[Event]:
        run = _Run(self._clock(), self._token, self._now())
        sessions = run.sessions
        try:
            for session in self._store.sessions():
                sessions[session.primary] = session
            yield RebuildStarted(len(sessions), all(self._store.verified().values()))
            # The tokens first, the scan second: what is lost after this line is noticed at the fence.
            yield from self._mark_or_resume(run)
            yield from self._merge_all(run)
            for session in sessions.values():
                self._lease.beat("setting the fence")
                session.set_fence(run.token)
            # Last of all, on the same connections: the process that was filled is the one that is verified.
            for session in sessions.values():
                session.load_lookup()
            run.forget()
            self._note([session.replication_id for session in sessions.values()])
        except RebuildBrokenError:
            run.forget()  # it proved that the checkpoint does not hold any more
            raise
        except BaseException:
            run.save()
            raise
        finally:
            for session in sessions.values():
                session.close()
        self._complete(run)
        yield self._report(run, len(sessions), verified=True)

    def _mark_or_resume(self, run: _Run) -> Iterator[Event]:
        """Step 3, or the proof that the marks of an earlier rebuild, and so all that it merged, still stand."""
        checkpoint, standing, restored = None, Standing(), 0
        if self._checkpoints is not None:
            options = self._options
            run.checkpoint = CheckpointKeeper(
                self._checkpoints,
                run.sessions,
                self._store.server,
                every=options.checkpoint_every,
                clock=self._clock,
                now=self._now,
            )
            bound = Bound(self._backup.identity(), self._key_prefix, self._layout, options.segments)
            checkpoint = yield from run.checkpoint.take_up(bound, options.resume)
        if checkpoint is None:
            for session in run.sessions.values():
                session.mark_buckets(run.token)
        else:
            run.token, run.began, run.before = checkpoint.token, checkpoint.began, checkpoint.entries
            run.half_done = list(checkpoint.half_done)
            standing = Standing(checkpoint.entries, checkpoint.skipped, checkpoint.consumed_rcu, dict(checkpoint.after))
            restored = checkpoint.restored
        run.filling = Filling(run.sessions, self._store.by_primary, standing, restored)

    def _note(self, replication_ids: Sequence[str]) -> None:
        if self._notes is not None:
            # For people only: Redis is verified, whether or not this can be written down.
            with suppress(SaltctlError):
                self._notes.note_verified(replication_ids, self._now())

    def _merge_all(self, run: _Run) -> Iterator[Event]:
        filling = run.filling
        for page in self._pages(filling):
            # A half-done raise is completed once all of Redis has it, never before.
            run.half_done += [(i, max_n) for i, max_n, write_n in page.entries if write_n < max_n]
            if filling.waiting >= self._options.batch or self._clock() >= run.next_send:
                filling.send()
                run.next_send = self._clock() + SEND_EVERY
            if len(run.half_done) > self.half_done_kept:
                filling.send()
                filling.settle()
                self._complete(run)
            yield from self._after_page(run, page)
            yield from run.save_if_due()
        filling.send()
        filling.settle()
        yield from run.save_if_due()

    def _complete(self, run: _Run) -> None:
        """Step 6: the last step of raises that somebody left after their first. All of them are in Redis."""
        for conversation_id, n in run.half_done:
            run.committed += self._backup.commit_write_n(conversation_id, n)
            self._lease.beat("completing raises")
        run.half_done = []

    def _compare(self) -> Iterator[Event]:
        """The dry run: which entries Redis lacks, without writing anything anywhere."""
        size = self._backup.size()
        rcu, max_rcu = -(-size.bytes // 4096), self._options.max_rcu
        cost = CostEstimate(size.items, size.bytes, rcu, None if max_rcu is None else round(rcu / max_rcu, 1))
        yield cost
        run = _Run(self._clock(), self._token, self._now())
        filling = run.filling = Filling({}, self._store.by_primary, Standing(), 0)
        for page in self._pages(filling):
            held = self._store.raw([conversation_id for conversation_id, _, _ in page.entries])
            filling.restored += sum((held[i] or 0) < max_n for i, max_n, _ in page.entries)
            yield from self._after_page(run, page)
        verified = self._store.verified()
        yield self._report(run, len(verified), verified=all(verified.values()), cost=cost)

    def _pages(self, filling: Filling) -> Iterator[BackupPage]:
        options = self._options
        after = dict(filling.read.after)
        for page in self._backup.scan(options.segments, limit=options.page_limit, after=after, max_rcu=options.max_rcu):
            filling.add(page)
            yield page

    def _after_page(self, run: _Run, page: BackupPage) -> Iterator[Event]:
        yield from page.damaged
        for conversation_id, max_n in page.above_cap:
            yield EntryAboveCap(conversation_id, max_n)
        read = run.filling.read
        if not self._options.dry_run:
            self._lease.beat(f"{read.entries} entries")
        now = self._clock()
        if now >= run.next_progress:
            run.next_progress = now + PROGRESS_EVERY
            yield RebuildProgress(read.entries, run.filling.restored, now - run.started, read.consumed_rcu)

    def _report(self, run: _Run, primaries: int, *, verified: bool, cost: CostEstimate | None = None) -> RebuildReport:
        seconds = max(self._clock() - run.started, 1e-9)
        read, restored = run.filling.read, run.filling.restored
        return RebuildReport(
            entries=read.entries,
            restored=restored,
            unchanged=read.entries - restored,
            skipped=read.skipped,
            seconds=round(seconds, 3),
            entries_per_second=round((read.entries - run.before) / seconds, 1),
            consumed_rcu=read.consumed_rcu,
            segments=self._options.segments,
            primaries=primaries,
            verified=verified,
            resumed=run.token != self._token,
            dry_run=self._options.dry_run,
            committed=run.committed,
            estimate=cost,
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
                    f"Redis is not ready after {self._options.wait_redis:g} s: {waiting.reason}",
                    hint="look at the server's log, or wait longer: saltctl rebuild --wait-redis 1h",
                )
            yield waiting
            self._sleep(min(0.5, max(deadline - self._clock(), 0.01)))

    def _redis_state(self) -> StartDelayed | None:
        """Why Redis is not ready, or None when all primaries are."""
        try:
            infos: Sequence[Mapping[str, Any]] = [self._store.server(p) for p in self._store.primaries()]
        except RedisUnavailableError as exc:
            return StartDelayed(exc.message)
        for info in infos:
            if int(info.get("loading", 0)):
                percent = float(info.get("loading_loaded_perc", 0.0))
                eta = float(info.get("loading_eta_seconds", 0.0))
                return StartDelayed("Redis is loading its data", percent, eta)
        return None
