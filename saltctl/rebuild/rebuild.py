"""Rebuild Redis from the backup, and only then let it answer lookups again (saltctl/help/protocol.txt).

A :class:`Rebuild` is a generator: it yields events while it runs, and last the :class:`RebuildReport`. If it is closed
early, or if the process dies between any two lines, Redis stays unverified and keeps every entry that was merged.
Another run is always safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from saltctl.errors import AwsUnavailableError, LeaseHeldError, RebuildBrokenError, SaltctlError, UnavailableError
from saltctl.rebuild.checkpoint import CheckpointManager, CheckpointScope
from saltctl.rebuild.events import (
    CostEstimate,
    EntryAboveCap,
    Event,
    RebuildProgress,
    RebuildReport,
    RebuildStarted,
)
from saltctl.rebuild.lease import Lease
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.redis_wait import wait_for_redis
from saltctl.settings import Settings
from saltctl.stores.contracts import BackupPage, LeaseStore

if TYPE_CHECKING:
    from saltctl.stores.aws.backup_table import BackupTable
    from saltctl.stores.aws.rebuild_items import CheckpointItem
    from saltctl.stores.heat.service_state import ServiceState
    from saltctl.stores.redis.rebuild_session import RedisRebuildSession
    from saltctl.stores.redis.registry import RedisRegistry

FLUSH_SECONDS = 1.0
"""Seconds after which buffered entries are merged, even if they do not fill a batch."""


@dataclass
class _Run:
    """State of a rebuild that has marked its buckets, or resumed. ``resumed_entries`` were read before it resumed."""

    sessions: Mapping[str, RedisRebuildSession]
    buffer: MergeBuffer
    checkpoints: CheckpointManager
    half_done: list[tuple[str, int]] = field(default_factory=list)
    committed: int = 0
    resumed_entries: int = 0
    flush_due: float = 0.0


class Rebuild:
    """A rebuild of one registry. Iterate over :meth:`run` once.

    Args:
        settings: the registry's layout and key prefix, which the backup table must be bound to.
        store: the registry in Redis.
        backup: the backup table.
        options: see :class:`RebuildOptions`.
        lease: keeps two rebuilds from doing the same work at once; the backup table's lease if omitted.
        token: marks the buckets, and owns the lease; unique to this run; a new one if omitted.
        checkpoint: keeps the checkpoint; None keeps none.
        notes: records for people when Redis was verified.
        clock: returns monotonic seconds.
        now: returns seconds since the epoch.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: RedisRegistry,
        backup: BackupTable,
        options: RebuildOptions | None = None,
        *,
        lease: LeaseStore | None = None,
        token: str | None = None,
        checkpoint: CheckpointItem | None = None,
        notes: ServiceState | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from saltctl.stores.redis.rebuild_session import new_token

        self._store = store
        self._backup = backup
        self._options = options or RebuildOptions()
        self._token = token or new_token()
        self._lease = Lease(
            lease or backup.lease,
            self._token,
            heartbeat_every=self._options.heartbeat_every,
            clock=clock,
            now=now,
            sleep=sleep,
        )
        self._layout = settings.layout
        self._key_prefix = settings.key_prefix
        self._checkpoint = checkpoint
        self._notes = notes
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._started = 0.0
        self._progress_due = 0.0
        self._verified_before = False

    def run(self) -> Generator[Event, None, None]:
        """Rebuild, yielding events and last the report.

        Raises:
            LeaseHeldError: another rebuild is in progress, also after ``lock_wait``.
            RedisUnavailableError, AwsUnavailableError: a server was lost; this run verified nothing.
            CheckpointRefusedError: the rebuild has to resume, but its checkpoint is not valid.
            RebuildBrokenError: Redis was flushed or failed over during it; nothing was verified.
            ConfigurationError: a table or server is not as it must be.
        """
        if self._options.if_needed and (primaries := self._verified_primaries()):
            self._verified_before = True
            yield self._report(ScanPosition(), 0, primaries=primaries, verified=True, seconds=0.0)
            return
        if self._options.wait_redis:
            yield from wait_for_redis(self._store, self._options.wait_redis, clock=self._clock, sleep=self._sleep)
        self._store.check_server()
        if self._options.dry_run:
            yield from self._dry_run()
            return
        # Before anything is written: a client of another layout must not touch these buckets.
        self._backup.claim_layout(self._layout, self._key_prefix)
        yield from self._lease.acquire(self._options.lock_wait)
        try:
            yield from self._rebuild()
        finally:
            self._lease.release()

    def _verified_primaries(self) -> int:
        """Return the number of primaries if all are verified; 0 if one is not, or if Redis is down."""
        try:
            verified = self._store.verified()
        except UnavailableError:
            return 0
        return len(verified) if all(verified.values()) else 0

    def _rebuild(self) -> Iterator[Event]:
        self._started = self._clock()
        sessions = {session.primary: session for session in self._store.sessions()}
        try:
            self._verified_before = all(self._store.verified().values())
            yield RebuildStarted(len(sessions), self._verified_before)
            # The tokens first, the scan second: step 5 notices every loss after this line.
            run = yield from self._mark_or_resume(sessions)
            yield from self._merge_and_verify(run)
        finally:
            for session in sessions.values():
                session.close()
        self._complete_raises(run)
        yield self._report(
            run.buffer.read,
            run.buffer.restored,
            primaries=len(sessions),
            verified=True,
            resumed_entries=run.resumed_entries,
            resumed=run.checkpoints.token != self._token,
            committed=run.committed,
        )

    def _mark_or_resume(self, sessions: Mapping[str, RedisRebuildSession]) -> Generator[Event, None, _Run]:
        """Mark the buckets (step 3), or check that the marks of an interrupted rebuild are still there."""
        options = self._options
        manager = CheckpointManager(
            self._checkpoint,
            sessions,
            self._store.server,
            self._token,
            every=options.checkpoint_every,
            clock=self._clock,
            now=self._now,
        )
        checkpoint = None
        if self._checkpoint is not None:
            scope = CheckpointScope(self._backup.identity(), self._key_prefix, self._layout, options.segments)
            checkpoint = yield from manager.resume(scope, options.resume)
        if checkpoint is None:
            for session in sessions.values():
                session.mark_buckets(self._token)
            return _Run(sessions, MergeBuffer(sessions, self._store.by_primary, ScanPosition(), 0), manager)
        position = ScanPosition(checkpoint.entries, checkpoint.skipped, checkpoint.consumed_rcu, dict(checkpoint.after))
        buffer = MergeBuffer(sessions, self._store.by_primary, position, checkpoint.restored)
        return _Run(sessions, buffer, manager, half_done=list(checkpoint.half_done), resumed_entries=checkpoint.entries)

    def _merge_and_verify(self, run: _Run) -> Iterator[Event]:
        try:
            yield from self._merge_all(run)
            self._verify(run)
        except RebuildBrokenError:
            run.checkpoints.delete()  # its marks are lost
            raise
        except (AwsUnavailableError, LeaseHeldError):
            raise  # a save would fail, after a while, or overwrite that of the new holder; the last one is there
        except BaseException:
            if not run.checkpoints.failed:
                run.checkpoints.save(run.buffer, run.half_done)
            raise

    def _merge_all(self, run: _Run) -> Iterator[Event]:
        """Scan the backup and merge every entry (step 4)."""
        buffer = run.buffer
        for page in self.pages(buffer):
            # A half-done raise is completed after all of Redis has it, never before.
            run.half_done += [(i, max_n) for i, max_n, write_n in page.entries if write_n < max_n]
            if buffer.pending >= self._options.batch or self._clock() >= run.flush_due:
                buffer.flush()
                run.flush_due = self._clock() + FLUSH_SECONDS
            if len(run.half_done) > self._options.max_half_done:
                buffer.flush()
                buffer.wait()
                self._complete_raises(run)
            yield from self._report_page(page)
            self._lease.renew(f"{buffer.read.entries} entries")
            yield from self._progress(buffer.read, buffer.restored)
            yield from run.checkpoints.save_if_due(buffer, run.half_done)
        buffer.flush()
        buffer.wait()
        yield from run.checkpoints.save_if_due(buffer, run.half_done)

    def pages(self, buffer: MergeBuffer) -> Iterator[BackupPage]:
        """Yield the pages of the backup table, each after it was added to the buffer."""
        for page in self._scan(buffer.read.after):
            buffer.add(page)
            yield page

    def _scan(self, after: Mapping[int, str | None]) -> Iterator[BackupPage]:
        options = self._options
        return self._backup.scan(options.segments, limit=options.page_limit, after=dict(after), max_rcu=options.max_rcu)

    def _verify(self, run: _Run) -> None:
        """Set the fence and load the lookup script (step 5)."""
        for session in run.sessions.values():
            self._lease.renew("setting the fence")
            session.set_fence(run.checkpoints.token)
        # Last of all, on the same connections: the process that was merged into is the one that is verified.
        for session in run.sessions.values():
            session.load_lookup()
        run.checkpoints.delete()
        if self._notes is not None:
            # Redis is verified even if the note cannot be written.
            with suppress(SaltctlError):
                ids = [session.replication_id for session in run.sessions.values()]
                self._notes.note_verified(ids, self._now())

    def _complete_raises(self, run: _Run) -> None:
        """Do the last step of half-done raises (step 6). All of them are in Redis."""
        for conversation_id, n in run.half_done:
            run.committed += self._backup.commit_write_n(conversation_id, n)
            self._lease.renew("completing raises")
        run.half_done = []

    def _dry_run(self) -> Iterator[Event]:
        """Count the entries that Redis lacks. Writes nothing anywhere."""
        size = self._backup.size()
        rcu, max_rcu = -(-size.bytes // 4096), self._options.max_rcu
        cost = CostEstimate(size.items, size.bytes, rcu, None if max_rcu is None else round(rcu / max_rcu, 1))
        yield cost
        self._started = self._clock()
        position, missing = ScanPosition(), 0
        for page in self._scan({}):
            position.add(page)
            in_redis = self._store.read_unverified([conversation_id for conversation_id, _, _ in page.entries])
            missing += sum((in_redis[i] or 0) < max_n for i, max_n, _ in page.entries)
            yield from self._report_page(page)
            yield from self._progress(position, missing)
        verified = self._store.verified()
        self._verified_before = all(verified.values())
        yield self._report(position, missing, primaries=len(verified), verified=self._verified_before, estimate=cost)

    def _report_page(self, page: BackupPage) -> Iterator[Event]:
        yield from page.damaged
        for conversation_id, max_n in page.above_cap:
            yield EntryAboveCap(conversation_id, max_n)

    def _progress(self, position: ScanPosition, restored: int) -> Iterator[Event]:
        now = self._clock()
        if now >= self._progress_due:
            self._progress_due = now + self._options.progress_every
            yield RebuildProgress(position.entries, restored, now - self._started, position.consumed_rcu)

    def _report(
        self,
        position: ScanPosition,
        restored: int,
        *,
        resumed_entries: int = 0,
        seconds: float | None = None,
        **values: Any,
    ) -> RebuildReport:
        elapsed = max(self._clock() - self._started, 1e-9) if seconds is None else seconds
        return RebuildReport(
            entries=position.entries,
            restored=restored,
            unchanged=position.entries - restored,
            skipped=position.skipped,
            seconds=round(elapsed, 3),
            entries_per_second=round((position.entries - resumed_entries) / elapsed, 1) if elapsed else 0.0,
            consumed_rcu=position.consumed_rcu,
            segments=self._options.segments,
            dry_run=self._options.dry_run,
            verified_before=self._verified_before,
            **values,
        )
