"""Rebuild Redis from the backup, and only then let it answer lookups again (saltctl/help/protocol.txt).

A :class:`Rebuild` is a generator: it yields events while it runs, and last the :class:`RebuildReport`. If it is closed
early, or if the process dies between any two lines, Redis stays unverified and keeps every entry that was merged.
Another run is always safe.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from saltctl.errors import (
    AwsUnavailableError,
    DamagedEntryError,
    DeadlineExceededError,
    LeaseHeldError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
    UnavailableError,
)
from saltctl.rebuild import events
from saltctl.rebuild.checkpoint import CheckpointManager, CheckpointScope
from saltctl.rebuild.lease import Lease
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.rebuild.options import RebuildOptions
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry, lacks, write_n_of
from saltctl.stores.contracts.registry import MAX_DAMAGED_LISTED, BackupPage, DamagedEntry, LeaseStore, RegistryIdentity

if TYPE_CHECKING:
    from saltctl.stores.aws.backup_table import BackupTable
    from saltctl.stores.aws.rebuild_items import CheckpointItem
    from saltctl.stores.event_log import EventLog
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
    half_done: list[tuple[str, Entry]] = field(default_factory=list)
    damaged_ids: set[str] = field(default_factory=set)
    unverified_buckets: int = 0
    committed: int = 0
    resumed_entries: int = 0
    flush_due: float = 0.0


@dataclass(eq=False)
class Rebuild:
    """A rebuild of one registry. Iterate over :meth:`run` once.

    Args:
        settings: the registry's layout and key prefix, which the backup table must have.
        lease: keeps two rebuilds from doing the same work at once; the backup table's lease if omitted.
        token: marks the buckets, and owns the lease; unique to this run; a new one if omitted.
        checkpoint: keeps the checkpoint; None keeps none.
        notes: records for people when Redis was verified.
        log: records for people that Redis was not verified, and that it is, where Redis cannot lose it.
        clock: returns monotonic seconds.
        now: returns seconds since the epoch.
        sleep: waits for a number of seconds.
    """

    settings: Settings
    store: RedisRegistry
    backup: BackupTable
    options: RebuildOptions = field(default_factory=RebuildOptions)
    _: KW_ONLY
    lease: LeaseStore | None = None
    token: str = field(default_factory=partial(secrets.token_hex, 16))
    checkpoint: CheckpointItem | None = None
    notes: ServiceState | None = None
    log: EventLog | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    _started: float = field(default=0.0, init=False)
    _progress_due: float = field(default=0.0, init=False)
    _verified_before: bool = field(default=False, init=False)
    _identity: RegistryIdentity = field(default_factory=lambda: RegistryIdentity(""), init=False)
    _note_check_due: float = field(default=0.0, init=False)
    _damaged_items: list[DamagedEntry] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Prepare the lease, and acquire nothing."""
        store, every = self.lease or self.backup.lease, self.options.heartbeat_every
        self._lease = Lease(store, self.token, every, self.clock, self.now, self.sleep)

    def run(self) -> Generator[events.Event, None, None]:
        """Rebuild, yielding events and last the report.

        Raises:
            LeaseHeldError: another rebuild is in progress, also after ``lock_wait``.
            RedisUnavailableError, AwsUnavailableError: a server was lost; this run verified nothing.
            CheckpointRefusedError: the rebuild has to resume, but its checkpoint is not valid.
            RebuildBrokenError: Redis was flushed or failed over during it; nothing was verified.
            DeadlineExceededError: Redis is still not ready after ``wait_redis``.
            ConfigurationError: a table or server is not as it must be.
        """
        options = self.options
        if options.if_needed and (primaries := self._verified_primaries()):
            self._verified_before = True
            yield replace(self._report(ScanPosition(), 0, primaries=primaries, verified=True), seconds=0.0)
            return
        yield from self.wait_for_redis()
        self.store.check_server()
        # Before anything is written: a client of another registry or layout must not touch these buckets.
        self.backup.registry.read(recheck=True)
        if options.dry_run:
            self.store.check_owner()
            yield from self._dry_run()
            return
        yield from self._lease.acquire(options.lock_wait)
        try:
            # Before the primaries are asked for: a rebuild that is noted later knows primaries that are as new.
            self._identity = self.backup.registry.read()
            yield from self._rebuild()
        finally:
            self._lease.release()
            if self.log is not None:
                self.log.flush()

    def _verified_primaries(self) -> int:
        """Return the number of primaries if all are verified; 0 if one is not, or if Redis is down.

        Primaries that are not those of the newest rebuild count as not verified: if that one died, or went to a primary
        that was replaced, raises wait for the next rebuild. If AWS is down, Redis alone is asked.
        """
        try:
            verified = self.store.verified()
            primaries = self.store.replication_ids()
        except UnavailableError:
            return 0
        if not all(verified.values()):
            return 0
        with suppress(UnavailableError):
            if not primaries <= self.backup.registry.read().verifying:
                return 0
        return len(verified)

    def wait_for_redis(self) -> Iterator[events.StartDelayed]:
        """Return when every primary is ready, or at once without the option ``wait_redis``, the longest wait.

        Yields an event before each pause. Raises DeadlineExceededError: Redis is still not ready.
        """
        timeout = self.options.wait_redis
        deadline = self.clock() + timeout
        while timeout and (delay := self._delay_of_redis()) is not None:
            if self.clock() >= deadline:
                raise DeadlineExceededError(
                    f"Redis is not ready after {timeout:g} s: {delay.reason}",
                    hint="look at the server's log, or wait longer\nsaltctl rebuild --wait-redis 1h",
                )
            yield delay
            self.sleep(min(0.5, max(deadline - self.clock(), 0.01)))

    def _delay_of_redis(self) -> events.StartDelayed | None:
        """Return why Redis is not ready; None if all primaries are."""
        try:
            infos = [self.store.server(primary) for primary in self.store.primaries()]
        except RedisUnavailableError as exc:
            return events.StartDelayed(exc.message)
        for info in infos:
            if int(info.get("loading", 0)):
                percent, eta = info.get("loading_loaded_perc", 0.0), info.get("loading_eta_seconds", 0.0)
                return events.StartDelayed("Redis is loading its data", float(percent), float(eta))
        return None

    def _rebuild(self) -> Iterator[events.Event]:
        self._started = self.clock()
        sessions = {session.primary: session for session in self.store.sessions()}
        try:
            self._verified_before = all(self.store.verified().values())
            if self.log is not None and not self._verified_before:
                self.log.note("unverified", "Redis is not verified; a rebuild begins")
            yield events.RebuildStarted(len(sessions), self._verified_before)
            # The tokens first, the scan second: step 5 notices every loss after this line.
            run = yield from self._mark_or_resume(sessions)
            yield from self._merge_and_verify(run)
        finally:
            for session in sessions.values():
                session.close()
        self._log_result(run)
        self._complete_raises(run)
        yield self._report(
            run.buffer.read,
            run.buffer.restored,
            primaries=len(sessions),
            committed=run.committed,
            resumed_entries=run.resumed_entries,
            resumed=run.checkpoints.token != self.token,
            verified=run.unverified_buckets == 0,
            unverified_buckets=run.unverified_buckets,
        )

    def _mark_or_resume(self, sessions: Mapping[str, RedisRebuildSession]) -> Generator[events.Event, None, _Run]:
        """Mark the buckets (step 3), or check that the marks of an interrupted rebuild are still there."""
        settings, options, by_primary = self.settings, self.options, self.store.by_primary
        manager = CheckpointManager(
            self.checkpoint, sessions, self.store.server, self.token, options.checkpoint_every, self.clock, self.now
        )
        checkpoint = None
        if self.checkpoint is not None:
            table = f"{self._identity.registry_id} {self.backup.registry.table_identity()}"
            scope = CheckpointScope(table, settings.key_prefix, settings.layout, options.segments)
            checkpoint = yield from manager.resume(scope, options.resume, self._identity.rebuild_token)
        if checkpoint is None:
            for session in sessions.values():
                session.mark_buckets(self.token, replace_registry=options.replace_registry)
            # The note before the scan: a raise that has not read it did its first step before the scan began.
            ids = [session.replication_id for session in sessions.values()]
            self._identity = self.backup.registry.note_rebuild(self._identity, self.token, ids)
            return _Run(sessions, MergeBuffer(sessions, by_primary), manager)
        buffer = MergeBuffer(sessions, by_primary, checkpoint.merged, checkpoint.restored)
        return _Run(sessions, buffer, manager, checkpoint.raises, resumed_entries=checkpoint.merged.entries)

    def _merge_and_verify(self, run: _Run) -> Iterator[events.Event]:
        try:
            yield from self._merge_all(run)
            self._verify(run)
        except RebuildBrokenError:
            run.checkpoints.delete()  # its marks are lost
            raise
        except (AwsUnavailableError, LeaseHeldError):
            raise  # a save would fail, after a while, or overwrite that of the new holder; the last one is there
        except BaseException:
            if self._lease.acquired_here and not run.checkpoints.failed:
                run.checkpoints.save(run.buffer, run.half_done)
            raise

    def _merge_all(self, run: _Run) -> Iterator[events.Event]:
        """Scan the backup and merge every entry (step 4)."""
        buffer = run.buffer
        for page in self.pages(buffer):
            # A half-done raise is completed after all of Redis has it, never before.
            run.damaged_ids |= {damaged.conversation_id for damaged in page.damaged}
            run.half_done += [
                (conversation_id, entry)
                for conversation_id, entry, write_n in page.entries
                if write_n != entry and write_n < write_n_of(entry)  # equal numbers, which are most, make no call
            ]
            if len(buffer.pending) >= self.options.batch or self.clock() >= run.flush_due:
                # Lookups of a verified Redis see each merge at once, so it must still be the primary of this rebuild.
                if self._verified_before or self.clock() >= self._note_check_due:
                    self._check_note()
                buffer.flush()
                run.flush_due = self.clock() + FLUSH_SECONDS
            if len(run.half_done) > self.options.max_half_done:
                buffer.flush()
                buffer.wait()
                self._complete_raises(run)
            self._lease.renew(f"{buffer.read.entries} entries")
            yield from self._report_page(page, buffer.read, buffer.restored)
            yield from run.checkpoints.save_if_due(buffer, run.half_done)
        buffer.flush()
        buffer.wait()
        yield from run.checkpoints.save_if_due(buffer, run.half_done)

    def _check_note(self, *, recheck: bool = False) -> None:
        """Check that no other rebuild or recovery has begun, on primaries that may be others."""
        if self.backup.registry.read(recheck=recheck) != self._identity:
            raise RebuildBrokenError("another rebuild or recovery has begun since", hint="saltctl rebuild")
        self._note_check_due = self.clock() + FLUSH_SECONDS

    def pages(self, buffer: MergeBuffer | ScanPosition) -> Iterator[BackupPage]:
        """Yield the pages of the backup table, each after it was added to the buffer, or to a mere position."""
        options, position = self.options, buffer if isinstance(buffer, ScanPosition) else buffer.read
        for page in self.backup.scan(
            options.segments, limit=options.page_limit, after=dict(position.after), max_rcu=options.max_rcu
        ):
            buffer.add(page)
            yield page

    def _verify(self, run: _Run) -> None:
        """Load the lookup script and set the fence (step 5)."""
        self._check_note(recheck=True)
        # The script before the fences: a raise takes it from a primary that has fenced a bucket which moved away since
        # (RedisRegistry._distrust), and this rebuild must not bring it back. The fences prove what was merged.
        for session in run.sessions.values():
            session.load_lookup()
        for session in run.sessions.values():
            self._lease.renew("setting the fence")
            run.unverified_buckets += session.set_fence(run.checkpoints.token, run.damaged_ids)
        run.checkpoints.delete()
        if self.notes is not None:
            # Redis is verified even if the note cannot be written.
            with suppress(SaltctlError):
                ids = [session.replication_id for session in run.sessions.values()]
                self.notes.note_verified(ids, self.now(), self.settings.backup_table, self.backup.registry.region)

    def _log_result(self, run: _Run) -> None:
        if self.log is None:
            return
        counts = f"{run.buffer.read.entries:,} entries, {run.buffer.restored:,} restored"
        if run.unverified_buckets:  # of damaged items: they are not lost once more at the next rebuild
            self.log.note("rebuilt", f"{counts}; buckets of damaged items stay unverified: {run.unverified_buckets:,}")
        else:
            self.log.note("verified", f"{counts}, in {self.clock() - self._started:.1f} s")

    def _complete_raises(self, run: _Run) -> None:
        """Do the last step of half-done raises (step 6). All of them are in Redis."""
        for conversation_id, entry in run.half_done:
            with suppress(DamagedEntryError):  # one item must not stop the others; `compare` lists it as uncommitted
                run.committed += self.backup.commit_write_n(conversation_id, entry)
            self._lease.renew("completing raises")
        run.half_done = []

    def _dry_run(self) -> Iterator[events.Event]:
        """Count the entries that Redis lacks. Writes nothing anywhere."""
        size = self.backup.size()
        rcu, max_rcu = -(-size.bytes // 4096), self.options.max_rcu
        seconds = round(rcu / max_rcu, 1) if rcu and max_rcu is not None else None
        cost = events.CostEstimate(size.items or None, size.bytes or None, rcu or None, seconds)
        yield cost
        self._started = self.clock()
        position, missing = ScanPosition(), 0
        for page in self.pages(position):
            in_redis = self.store.read_unverified([conversation_id for conversation_id, _, _ in page.entries])
            missing += sum(lacks(in_redis[i], entry) for i, entry, _ in page.entries)
            yield from self._report_page(page, position, missing)
        verified = self.store.verified()
        self._verified_before = all(verified.values())
        yield self._report(position, missing, primaries=len(verified), verified=self._verified_before, estimate=cost)

    def _report_page(self, page: BackupPage, position: ScanPosition, restored: int) -> Iterator[events.Event]:
        self._damaged_items += page.damaged[: MAX_DAMAGED_LISTED - len(self._damaged_items)]
        yield from page.damaged
        for conversation_id, max_n in page.above_cap:
            yield events.EntryAboveCap(conversation_id, max_n)
        now = self.clock()
        if now >= self._progress_due:
            self._progress_due = now + self.options.progress_every
            yield events.RebuildProgress(position.entries, restored, now - self._started, position.consumed_rcu)

    def _report(
        self, position: ScanPosition, restored: int, *, resumed_entries: int = 0, **values: Any
    ) -> events.RebuildReport:
        elapsed = max(self.clock() - self._started, 1e-9)
        return events.RebuildReport(
            entries=position.entries,
            restored=restored,
            unchanged=position.entries - restored,
            skipped=position.skipped,
            seconds=round(elapsed, 3),
            entries_per_second=round((position.entries - resumed_entries) / elapsed, 1),
            consumed_rcu=position.consumed_rcu,
            segments=self.options.segments,
            dry_run=self.options.dry_run,
            verified_before=self._verified_before,
            damaged_items=self._damaged_items,
            **values,
        )
