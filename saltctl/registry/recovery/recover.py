"""Recover a registry whose backup table was deleted, restored or replaced.

The recovery makes the union of everything that shows an N: the table, Redis, and the messages themselves. Whatever
Redis holds was raised once, whether or not it is verified. The messages are read unless Redis was verified from the
lost table, and still is: then it holds at least what that table held. Only a complete union makes the table the backup
of the registry; until then no lookup and no rebuild uses it. Every step can be repeated.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, cast

from saltctl.errors import AwsUnavailableError, LeaseHeldError, SaltctlError
from saltctl.rebuild import events
from saltctl.rebuild.checkpoint import ResumeMode
from saltctl.rebuild.lease import Lease
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.discover import Discovered, Salts, judge, scan_salts
from saltctl.registry.recovery.recovery_plan import (
    RecoveryPlan,
    RecoveryProgress,
    RecoveryReport,
    Unproven,
    has_messages,
    is_verified,
    plan_recovery,
    registry_in_redis,
)
from saltctl.registry.recovery.scan_checkpoint import ScanCheckpoint, ScanResumed, ScanScope
from saltctl.salting import is_conversation_id
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.entries import CooledEntry, Entry, lacks, max_n_of, merge, without_boundary
from saltctl.stores.contracts.messages import Item
from saltctl.stores.contracts.raise_reasons import recovered
from saltctl.stores.contracts.registry import BackupEntry, BackupStore, DamagedEntry, Raise
from saltctl.stores.heat.service_state import Verification
from saltctl.stores.redis.buckets import UNREADABLE, RedisBucketReader
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.retry import retry_while_throttled
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.stores.event_log import EventLog

WORKERS = 16
BATCH = 1000
_PROGRESS_SECONDS = 0.2


Event = RecoveryProgress | RecoveryReport | DamagedEntry | Discovered | ScanResumed | events.Event


@dataclass(eq=False)
class Recovery:
    """A recovery. Call :meth:`plan`, which writes nothing, and iterate over :meth:`run` once.

    Args:
        message_id: returns the message id of a row.
        options: of the scans and the rebuild.
        verification: returns the latest rebuild of this Redis, if it is recorded.
        take_over: the id of another registry that Redis is to be taken over from.
        unproven: what becomes of conversations that may be salted, if their messages do not prove it.
        new_rebuild: makes the rebuild that follows.
        log: records for people that the table was lost, as soon as there is one to record it in.
    """

    settings: Settings
    store: RedisRegistry
    backup: BackupTable
    messages: MessagesTable
    message_id: Callable[[Item], str | None]
    options: RebuildOptions
    _: KW_ONLY
    verification: Callable[[], Verification | None] = lambda: None
    take_over: str = ""
    unproven: Unproven = "refuse"
    new_rebuild: Callable[..., Rebuild] = Rebuild
    log: EventLog | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    _progress_due: float = field(default=0.0, init=False)

    def run(self, plan: RecoveryPlan) -> Generator[Event, None, None]:
        """Recover as planned, yielding events and last the report.

        Raises:
            ConfigurationError: Redis may belong to another table, and is not to be taken over.
            LeaseHeldError: a rebuild or another recovery is in progress.
            UnavailableError, AccessDeniedError: a server was lost; entries added so far are kept, and another run
                continues. The table is not claimed.
            CheckpointRefusedError: the recovery has to resume, but there is no valid checkpoint.
            IncompleteError: messages do not prove which conversations are salted. The table is not claimed.
        """
        if not self.options.dry_run:
            plan.check(self.take_over)
        started = self.clock()
        known = self.backup.registry.id() if plan.table == "intact" else ""
        report = RecoveryReport(plan, known, dry_run=self.options.dry_run)
        with closing(RedisBucketReader(self.settings)) as reader:
            if not self.options.dry_run:
                yield from self._recover(report, reader)
            elif plan.table != "missing":
                yield from self._count_missing(report, reader)
            else:
                report.entries = report.from_redis = plan.redis_entries
        report.seconds = round(self.clock() - started, 3)
        yield report

    def plan(self) -> RecoveryPlan:
        """Return the state of the table and of Redis, and the cost. Reads no message and writes nothing.

        Raises:
            ConfigurationError: Redis holds a registry of another layout, or cannot keep one; or the messages have to be
                read, and their table does not exist.
            UnavailableError, AccessDeniedError: a server does not answer.
        """
        self.store.check_server()
        with closing(RedisBucketReader(self.settings)) as reader:
            return plan_recovery(self.settings, self.backup, self.messages, reader, self.verification())

    # The union.

    def _count_missing(self, report: RecoveryReport, reader: RedisBucketReader) -> Iterator[Event]:
        """Count the entries of Redis that the backup lacks. Writes nothing."""
        held = yield from self._read_backup(report)
        if report.plan.use_redis:
            found = {i: e for i, e in self._redis_entries(reader, report) if lacks(held.get(i, 1), e)}
            report.from_redis, held = len(found), held | found
        if report.plan.messages is not None and self.options.resume is not ResumeMode.NEVER:
            checkpoint = self._checkpoint(self.backup.registry.table_identity())
            with self._sessions(report.plan, reader) as sessions:
                resumes = checkpoint.peek(sessions)
            if resumes:
                yield from self._count_read(held, report, checkpoint)
        report.entries = len(held)

    def _count_read(
        self, held: dict[str, Entry], report: RecoveryReport, checkpoint: ScanCheckpoint
    ) -> Iterator[Event]:
        """Count what an interrupted recovery has found in the messages, if it had read all of them."""
        salts = Salts(self.messages.keys.partition_key, self.message_id)
        yield from checkpoint.restore(salts)
        if len(salts.after) == self.options.segments and not any(salts.after.values()):
            discovered = yield from self._judge(salts, held, report)
            behind = {found.conversation_id: found.needed_n for found in discovered if found.state == "behind"}
            report.from_messages = len(behind)
            held |= behind

    def _recover(self, report: RecoveryReport, reader: RedisBucketReader) -> Iterator[Event]:
        plan = report.plan
        if plan.table == "missing":
            self.backup.create_table()
        # The table that is claimed in the end: one that takes its place meanwhile is not.
        table = self.backup.registry.table_identity()
        checkpoint = self._checkpoint(table)
        every, wait_command = self.options.heartbeat_every, "saltctl recover --lock-wait 15m"
        lease = Lease(self.backup.lease, checkpoint.token, every, self.clock, self.now, self.sleep, wait_command)
        yield from lease.acquire(self.options.lock_wait)
        if self.log is not None and plan.table != "intact":
            self.log.note("backup-lost", f"the backup table is {plan.table}; a recovery begins")
        try:
            yield from self._mark_or_resume(plan, checkpoint, reader)
            before = reader.replication_ids()
            held = yield from self._read_backup(report, lease)
            if plan.use_redis:
                found = ((i, e) for i, e in self._redis_entries(reader, report) if lacks(held.get(i, 1), e))
                for step in self._add(found, held, "from Redis", report, lease):
                    report.from_redis += step.done
                    yield RecoveryProgress("from Redis", report.from_redis)
            verified = plan.suffices and is_verified(self.settings, plan.redis_registry)
            unchanged = verified and reader.replication_ids() == before
            if not unchanged and has_messages(self.messages, plan.table):
                yield from self._add_from_messages(held, report, lease, checkpoint)
            if not unchanged and plan.table != "intact":
                # A raise that widened the recent salts may be lost with the table, and only Redis could show it.
                cooled = ((i, without_boundary(e)) for i, e in list(held.items()) if isinstance(e, CooledEntry))
                for step in self._add(cooled, held, "boundaries taken back", report, lease):
                    report.uncooled += step.done
                    yield step
            cooled_any = any(isinstance(entry, CooledEntry) for entry in held.values())
            if plan.table != "intact":
                replaced = registry_in_redis(reader, self.settings.layout)
                report.registry_id = self.backup.registry.claim(table, replaces=replaced, cooled=cooled_any)
            elif cooled_any:
                self.backup.allow_cooling()
        finally:
            lease.release()
        yield RecoveryProgress("rebuilding", 0, len(held))
        yield from self._rebuild(report)
        if plan.use_redis:
            # A raise that did its first step in the lost table may have reached Redis after it was read above. From the
            # rebuild's marks on, none does. The lease has been released: to renew it would fail.
            again = self._redis_entries(reader, RecoveryReport(plan))
            late = ((i, e) for i, e in again if lacks(held.get(i, 1), e))
            for step in self._add(late, held, "from Redis", report, None):
                report.from_redis += step.done
        checkpoint.delete()
        report.entries = len(held)

    def _checkpoint(self, table: str) -> ScanCheckpoint:
        region, settings = self.backup.registry.region, self.settings
        messages = f"{region} {self.messages.identity()}" if self.messages.describe() is not None else ""
        scope = ScanScope(
            f"{region} {table}",
            messages,
            settings.layout,
            settings.key_prefix,
            settings.message_id_from,
            self.options.segments,
        )
        every, items, token = self.options.checkpoint_every, self.backup.scan_checkpoint, secrets.token_hex(16)
        return ScanCheckpoint(items, scope, token, self.store.server, every, self.clock, self.now, self.sleep)

    def _mark_or_resume(
        self, plan: RecoveryPlan, checkpoint: ScanCheckpoint, reader: RedisBucketReader
    ) -> Iterator[Event]:
        """Mark every bucket, or find the marks of an interrupted recovery. Fences stay, and with them lookups."""
        with self._sessions(plan, reader) as sessions:
            yield from checkpoint.resume_or_mark(self.options.resume, sessions)

    @contextmanager
    def _sessions(self, plan: RecoveryPlan, reader: RedisBucketReader) -> Iterator[dict[str, RedisRebuildSession]]:
        # Not the registry of the plan: another recovery may have ended while this one waited for the lease.
        registry_id, sessions = registry_in_redis(reader, self.settings.layout) or "0" * 16, {}
        with closing(RedisRegistry(self.settings, registry_id=lambda: registry_id)) as store:
            try:
                if plan.use_redis:
                    sessions = {session.primary: session for session in store.sessions()}
                yield sessions
            finally:
                for session in sessions.values():
                    session.close()

    def _read_backup(
        self, report: RecoveryReport, lease: Lease | None = None
    ) -> Generator[Event, None, dict[str, Entry]]:
        """Return the entry of every item of the table."""
        held: dict[str, Entry] = {}
        with closing(self.backup.scan(self.options.segments, max_rcu=self.options.max_rcu)) as pages:
            for page in pages:
                held.update((conversation_id, entry) for conversation_id, entry, _ in page.entries)
                yield from page.damaged
                report.skipped += len(page.damaged)
                report.consumed_rcu += page.consumed_rcu
                yield from self._progress("reading the backup", len(held), lease, report.plan.backup_items)
        report.from_backup = len(held)
        return held

    def _redis_entries(self, reader: RedisBucketReader, report: RecoveryReport) -> Iterator[tuple[str, Entry]]:
        for conversation_id, entry in reader.read_buckets(range(self.settings.buckets)):
            if entry == UNREADABLE or not is_conversation_id(conversation_id):
                report.skipped += 1
            else:
                yield conversation_id, entry

    def _add_from_messages(
        self, held: dict[str, Entry], report: RecoveryReport, lease: Lease, checkpoint: ScanCheckpoint
    ) -> Iterator[Event]:
        cost = report.plan.messages
        salts = yield from self._scan_messages(lease, checkpoint, None if cost is None else cost.items)
        report.consumed_rcu += salts.consumed_rcu
        discovered = yield from self._judge(salts, held, report)
        report.check_unproven(self.unproven)
        report.skipped += sum(found.state not in ("held", "behind") for found in discovered)
        behind = ((found.conversation_id, found.needed_n) for found in discovered if found.state == "behind")
        for step in self._add(behind, held, "from the messages", report, lease):
            report.from_messages += step.done
            yield RecoveryProgress("from the messages", report.from_messages)

    def _judge(
        self, salts: Salts, held: dict[str, Entry], report: RecoveryReport
    ) -> Generator[Event, None, list[Discovered]]:
        """Yield the conversations that are not proved to be salted, count them, and return all salted ones."""
        backup, any_salting = cast(BackupStore, _Held(held)), self.unproven == "raise"
        seen, candidates = salts.seen(), salts.candidates()
        discovered = judge(seen, candidates, backup, cap=self.settings.max_n_cap, any_salting=any_salting)
        unproven = [found for found in discovered if found.state == "unproven"]
        report.unproven = len(unproven)
        yield from unproven
        return discovered

    def _scan_messages(
        self, lease: Lease, checkpoint: ScanCheckpoint, total: int | None
    ) -> Generator[Event, None, Salts]:
        """Read the messages, from the checkpoint on if there is one."""
        salts = Salts(self.messages.keys.partition_key, self.message_id, unsaved=defaultdict(list))
        yield from checkpoint.restore(salts)
        scan = scan_salts(
            self.messages,
            salts,
            attribute=self.settings.message_id_from.partition("attribute:")[2] or None,
            segments=self.options.segments,
            max_rcu=self.options.max_rcu,
        )
        try:
            with closing(scan):
                for event in scan:
                    yield from self._progress("reading the messages", event.items, lease, total)
                    checkpoint.save_if_due(salts)
        except (AwsUnavailableError, LeaseHeldError):
            raise  # a save would fail, after a while, or overwrite that of the new holder
        except BaseException:
            with suppress(SaltctlError):  # the last one is there
                checkpoint.save(salts)
            raise
        checkpoint.save(salts)
        return salts

    def _add(
        self,
        entries: Iterator[tuple[str, Entry]],
        held: dict[str, Entry],
        reason: str,
        report: RecoveryReport,
        lease: Lease | None,
    ) -> Iterator[RecoveryProgress]:
        """Raise entries in the backup, in batches; yield the number of each batch.

        In a table that is not claimed, writers may use the N at once: no reader can see less. Redis holds it or is
        not verified, and lookups refuse the table. In an intact one, the rebuild completes the raise.
        """
        commit = report.plan.table != "intact"
        by = Raise(1, iso_utc(datetime.fromtimestamp(self.now(), UTC)), self.settings.actor, recovered(reason))

        def add(found: tuple[str, Entry]) -> int:
            """Add one entry; return whether the table lacked it."""
            call = partial(self.backup.restore, *found, by, commit=commit)
            return retry_while_throttled(call, self.sleep)

        with ThreadPoolExecutor(WORKERS) as pool:
            while batch := list(islice(entries, BATCH)):
                added = sum(pool.map(add, batch))
                report.consumed_wcu += len(batch)
                held.update((i, merge(held.get(i, 1), entry)) for i, entry in batch)
                if lease is not None:
                    lease.renew(f"recovering, {len(held)} entries")
                yield RecoveryProgress(reason, added)

    def _rebuild(self, report: RecoveryReport) -> Iterator[Event]:
        options = RebuildOptions(
            segments=self.options.segments,
            max_rcu=self.options.max_rcu,
            lock_wait=self.options.lock_wait,
            replace_registry=True,
        )
        for event in self.new_rebuild(self.settings, self.store, self.backup, options).run():
            if isinstance(event, events.RebuildReport):
                report.rebuild = event
                report.consumed_rcu = round(report.consumed_rcu + event.consumed_rcu, 1)
            else:
                yield event

    def _progress(self, step: str, done: int, lease: Lease | None, total: int | None) -> Iterator[RecoveryProgress]:
        if lease is not None:
            lease.renew(f"{step}, {done}")
        if (now := self.clock()) >= self._progress_due:
            self._progress_due = now + _PROGRESS_SECONDS
            yield RecoveryProgress(step, done, total or None)


class _Held:
    """The entries that the backup held when the recovery began, and those that it has added."""

    def __init__(self, held: Mapping[str, Entry]) -> None:
        self._held = held

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Return the entries of these ids."""
        held = self._held
        return {i: BackupEntry(i, n, n) for i in conversation_ids if (n := max_n_of(held.get(i, 0)))}
