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
from enum import StrEnum
from typing import Any, Protocol

from saltctl.checkpoint import Bound, Checkpoint, CheckpointStore, Primary
from saltctl.errors import (
    CheckpointRefusedError,
    DeadlineExceededError,
    LeaseHeldError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
    UnavailableError,
    UsageError,
)
from saltctl.filling import Filling, Standing
from saltctl.stores.contracts import (
    BackupPage,
    BackupStore,
    DamagedEntry,
    LeaseStore,
    RebuildSession,
    RegistryStore,
    TableSize,
)

LEASE_EXPIRY = 30.0
"""Seconds without a heartbeat after which a lease may be taken over. Clocks of different machines have to
agree within this less LEASE_BEAT for two rebuilds not to overlap; safety does not depend on it."""
LEASE_BEAT = 5.0
PROGRESS_EVERY = 0.2
SEND_EVERY = 1.0
"""Seconds after which entries that were read are merged, however few they are."""
_ANEW = "saltctl rebuild --restart"
HALF_DONE_KEPT = 10_000
"""Half-done raises that are kept in memory until the end; more are completed as soon as they are merged, as a raise
itself would do, so that memory stays flat even where every raise of the last hour is half done."""


class Resume(StrEnum):
    """What to do with the checkpoint of a rebuild that ended before its time."""

    WHERE_IT_HOLDS = "where it holds"
    """Go on from it; begin anew, and say why, where it does not hold any more."""
    ALWAYS = "always"
    """Go on from it, or fail."""
    NEVER = "never"
    """Begin anew."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Redis is down or loading, or somebody holds the lease. ``percent`` and ``eta_seconds`` are INFO's."""

    why: str
    percent: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What reading the whole backup costs: items, bytes, read capacity units, and the seconds that max_rcu makes of it.

    By DescribeTable, which is about six hours old (documented). ``seconds`` is None without max_rcu.
    """

    items: int
    bytes: int
    rcu: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """An earlier rebuild is taken up again. ``written`` is its checkpoint's time, in seconds since the epoch."""

    written: float
    entries: int


@dataclass(frozen=True, slots=True)
class BeganAnew:
    """There is a checkpoint, and it cannot be gone on from."""

    why: str


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A checkpoint could not be written. The rebuild goes on; should it end, all of it has to be done again."""

    why: str


@dataclass(frozen=True, slots=True)
class AboveCap:
    """An entry above max_n_cap: somebody else's, or of a time with a larger cap. It is merged like any other."""

    conversation_id: str
    max_n: int


@dataclass(frozen=True, slots=True)
class Began:
    """The lease is taken. The buckets are about to be marked."""

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
    estimate: Cost | None = None


Event = Waiting | Cost | Began | Resumed | BeganAnew | Unsaved | Progress | Damaged | AboveCap | RebuildReport


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
    resume: Resume = Resume.WHERE_IT_HOLDS
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
    next_beat: float = 0.0
    next_progress: float = 0.0
    next_send: float = 0.0
    next_save: float = 0.0
    bound: Bound | None = None
    """None where no checkpoint is to be written."""
    told_unsaved: bool = False


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
        self._lease = lease
        self._options = options
        self._layout = layout
        self._key_prefix = key_prefix
        self._token = token
        self._checkpoints = checkpoints
        self._notes = notes
        self._clock = clock
        self._now = now
        self._sleep = sleep

    def run(self) -> Iterator[Event]:
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
        yield from self._take_lease()
        try:
            yield from self._rebuild()
        finally:
            # On every way out. A release that fails costs the next one a wait until the lease expires, and
            # must not hide why this rebuild ended.
            with suppress(SaltctlError):
                self._lease.release(self._token)

    def _rebuild(self) -> Iterator[Event]:
        run = _Run(self._clock(), self._token, self._now())
        sessions = run.sessions
        try:
            for session in self._store.sessions():
                sessions[session.primary] = session
            yield Began(len(sessions), all(self._store.verified().values()))
            # The tokens first, the scan second: what is lost after this line is noticed at the fence.
            yield from self._mark_or_resume(run)
            yield from self._merge_all(run)
            for session in sessions.values():
                self._beat(run, "setting the fence")
                session.finish(run.token)
            # Last of all, on the same connections: the process that was filled is the one that is verified.
            for session in sessions.values():
                session.load_lookup()
            self._forget(run)
            self._note([session.replication_id for session in sessions.values()])
        except RebuildBrokenError:
            self._forget(run)  # it proved that the checkpoint does not hold any more
            raise
        except BaseException:
            self._save(run)
            raise
        finally:
            for session in sessions.values():
                session.close()
        self._complete(run)
        yield self._report(run, len(sessions), verified=True)

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
            if self._clock() >= run.next_save:
                yield from self._save_and_tell(run)
        filling.send()
        filling.settle()
        if self._clock() >= run.next_save:
            yield from self._save_and_tell(run)

    def _complete(self, run: _Run) -> None:
        """Step 6: the last step of raises that somebody left after their first. All of them are in Redis."""
        for conversation_id, n in run.half_done:
            run.committed += self._backup.commit_write_n(conversation_id, n)
            self._beat(run, "completing raises")
        run.half_done = []

    def _compare(self) -> Iterator[Event]:
        """The dry run: which entries Redis lacks, without writing anything anywhere."""
        size = self._backup.size()
        rcu, max_rcu = -(-size.bytes // 4096), self._options.max_rcu
        cost = Cost(size.items, size.bytes, rcu, None if max_rcu is None else round(rcu / max_rcu, 1))
        yield cost
        run = _Run(self._clock(), self._token, self._now())
        filling = run.filling = Filling({}, self._store.by_primary, Standing(), 0)
        for page in self._pages(filling):
            held = self._store.raw([conversation_id for conversation_id, _, _ in page.entries])
            filling.raised += sum((held[i] or 0) < max_n for i, max_n, _ in page.entries)
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
        for entry in page.damaged:
            yield Damaged(entry)
        for conversation_id, max_n in page.above_cap:
            yield AboveCap(conversation_id, max_n)
        read = run.filling.read
        if not self._options.dry_run:
            self._beat(run, f"{read.entries} entries")
        now = self._clock()
        if now >= run.next_progress:
            run.next_progress = now + PROGRESS_EVERY
            yield Progress(read.entries, run.filling.raised, now - run.started, read.consumed_rcu)

    def _report(self, run: _Run, nodes: int, *, verified: bool, cost: Cost | None = None) -> RebuildReport:
        seconds = max(self._clock() - run.started, 1e-9)
        read, raised = run.filling.read, run.filling.raised
        return RebuildReport(
            entries=read.entries,
            raised=raised,
            unchanged=read.entries - raised,
            skipped=read.skipped,
            seconds=round(seconds, 3),
            entries_per_second=round((read.entries - run.before) / seconds, 1),
            consumed_rcu=read.consumed_rcu,
            segments=self._options.segments,
            nodes=nodes,
            verified=verified,
            resumed=run.token != self._token,
            dry_run=self._options.dry_run,
            committed=run.committed,
            estimate=cost,
        )

    # The checkpoint.

    def _mark_or_resume(self, run: _Run) -> Iterator[Event]:
        """Step 3, or the proof that the marks of an earlier rebuild, and so all that it merged, still stand.

        Marking once more would claim that nothing was lost since then, which nobody knows: a rebuild that is
        taken up again keeps the token, and the replication ids, of the one that marked.
        """
        checkpoint = None
        if self._checkpoints is not None:
            run.bound = Bound(self._backup.identity(), self._key_prefix, self._layout, self._options.segments)
            try:
                checkpoint = self._checkpoint_that_holds(run.bound, run.sessions, self._checkpoints)
            except CheckpointRefusedError as exc:
                if self._options.resume is Resume.ALWAYS:
                    run.bound = None  # the refused one stays where it is
                    raise
                yield BeganAnew(exc.message)
        if checkpoint is None:
            if self._checkpoints is not None:
                with suppress(OSError):  # whatever is there is void with the first mark
                    self._checkpoints.remove()
            for session in run.sessions.values():
                session.mark(run.token)
            standing, raised = Standing(), 0
        else:
            yield Resumed(checkpoint.written, checkpoint.entries)
            run.token, run.began, run.before = checkpoint.token, checkpoint.began, checkpoint.entries
            run.half_done = list(checkpoint.half_done)
            standing = Standing(checkpoint.entries, checkpoint.skipped, checkpoint.consumed_rcu, dict(checkpoint.after))
            raised = checkpoint.raised
        run.filling = Filling(run.sessions, self._store.by_primary, standing, raised)
        run.next_save = self._clock() + self._options.checkpoint_every

    def _checkpoint_that_holds(
        self, bound: Bound, sessions: Mapping[str, RebuildSession], checkpoints: CheckpointStore
    ) -> Checkpoint | None:
        """The checkpoint where it holds; raises CheckpointRefusedError, with the reason, where it does not."""
        if self._options.resume is Resume.NEVER:
            return None
        checkpoint = checkpoints.load()
        if checkpoint is None:
            if self._options.resume is Resume.ALWAYS:
                raise CheckpointRefusedError("there is no checkpoint of a broken rebuild", hint=_ANEW)
            return None
        problem = _other_binding(checkpoint.bound, bound)
        if not problem and set(checkpoint.primaries) != set(sessions):
            problem = "the Redis primaries are others now"
        for name, primary in checkpoint.primaries.items():
            if problem:
                break
            if str(self._store.server(name).get("run_id", "")) != primary.run_id:
                problem = f"Redis at {name} was restarted since"
            elif why := sessions[name].recognise(checkpoint.token, primary.replication_id):
                problem = f"at {name} {why}"
        if problem:
            raise CheckpointRefusedError(f"the checkpoint does not hold any more: {problem}", hint=_ANEW)
        return checkpoint

    def _save_and_tell(self, run: _Run) -> Iterator[Event]:
        why = self._save(run)
        run.next_save = self._clock() + self._options.checkpoint_every
        if why and not run.told_unsaved:
            run.told_unsaved = True
            yield Unsaved(why)

    def _save(self, run: _Run) -> str:
        """Write down what is in Redis for sure; why that could not be done, or an empty text."""
        if self._checkpoints is None or run.bound is None or not hasattr(run, "filling"):
            return ""
        merged = run.filling.merged
        if not merged.after:
            return ""
        try:
            self._checkpoints.save(
                Checkpoint(
                    bound=run.bound,
                    token=run.token,
                    primaries={
                        name: Primary(str(self._store.server(name).get("run_id", "")), session.replication_id)
                        for name, session in run.sessions.items()
                    },
                    after=merged.after,
                    half_done=tuple(run.half_done),
                    entries=merged.entries,
                    raised=run.filling.raised,
                    skipped=merged.skipped,
                    consumed_rcu=merged.consumed_rcu,
                    began=run.began,
                    written=self._now(),
                )
            )
        except OSError as exc:
            return exc.strerror or str(exc)
        except SaltctlError as exc:
            return exc.message
        return ""

    def _forget(self, run: _Run) -> None:
        """The checkpoint has served its purpose, or cannot serve it any more."""
        if self._checkpoints is not None and run.bound is not None:
            run.bound = None
            with suppress(OSError):  # whoever takes it up finds that its token is gone
                self._checkpoints.remove()

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


def _other_binding(theirs: Bound, ours: Bound) -> str:
    """What a checkpoint is bound to and this rebuild is not, or an empty text."""
    if theirs.table != ours.table:
        return "it is of another backup table, or of one that was made anew"
    if (theirs.layout, theirs.key_prefix) != (ours.layout, ours.key_prefix):
        return f"it is of the layout {theirs.layout} under {theirs.key_prefix!r}"
    if theirs.segments != ours.segments:
        return f"it has {theirs.segments} segments (--segments {theirs.segments})"
    return ""
