"""Compare Redis with the backup, both ways, in memory that does not grow with either.

From the backup to Redis: the entries of a scan are looked up in Redis. From Redis to the backup: to read every entry
of Redis from the backup would cost about seventy times as much as the scan. So the scan counts, for each bucket, the
entries that both sides have. A bucket with no more entries than that has nothing that the backup lacks. Only the
other buckets are read, and their entries are looked up in the backup.

Raises continue during a comparison. max_n never goes down, which decides the order of reads: later, Redis must hold
at least what the scan saw, and the backup must hold at least what Redis held. Entries that look like drift are
checked again after a grace period, in which a raise in progress can finish, and only then reported.
"""

from __future__ import annotations

import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from saltctl.errors import ComparisonBrokenError
from saltctl.registry.drift import (
    ComparisonOptions,
    ComparisonProgress,
    ComparisonReport,
    Drift,
    DriftKind,
    Sample,
    Suspect,
    classify,
    looks_like_drift,
    plan_repair,
    repair,
)
from saltctl.registry.failures import read_undamaged
from saltctl.salting import bucket_of, is_conversation_id
from saltctl.stores.contracts.entries import CooledEntry, Entry, max_n_of
from saltctl.stores.contracts.registry import (
    MAX_DAMAGED_LISTED,
    BackupEntry,
    BackupPage,
    BackupStore,
    DamagedEntry,
    RegistryStore,
)
from saltctl.stores.redis.buckets import UNREADABLE
from saltctl.stores.retry import retry_while_throttled
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.registry.registry import Registry
    from saltctl.settings import Settings
    from saltctl.stores.redis.buckets import RedisBucketReader

MAX_LISTED = 1000
"""Drift that a report lists. All of it is counted, and repaired if requested."""
MAX_BUCKET_SAMPLE_PARTS = 64
"""A sample of up to this many parts scans the whole backup and picks the entries of its buckets. A smaller sample
scans one segment, and looks the entries of its buckets up by key: one read unit of a scan reads about seventy entries
of 60 bytes, one of BatchGetItem reads a single one (documented: 4 KB a unit)."""
SAMPLED_CONVERSATIONS = 300
"""How many conversations ``compare_sample`` compares, approximately: one page of the backup and a few buckets."""
_IDS_PER_READ = 1000
_BUCKETS_PER_READ = 256
_PROGRESS_SECONDS = 0.2
_MAX_NARROWED = 300
"""Entries that may be narrowed and not sealed, and are looked at for that: one read unit each."""
MAX_UNSEALED_LISTED = 5


Event = ComparisonProgress | Drift | DamagedEntry | ComparisonReport


@dataclass(eq=False)
class Comparison:
    """A comparison of one registry with its backup. Iterate over :meth:`run` once.

    Args:
        settings: the bucket count and the layout of the registry.
        redis: reads the entries in Redis.
        store: asked whether Redis is verified. None skips that check, and the report says verified.
        registry: repairs drift; None changes nothing.
        sleep: waits for the grace period, and while AWS throttles.
        now: the current time, for the age of cool-downs.
    """

    settings: Settings
    redis: RedisBucketReader
    store: RegistryStore | None
    backup: BackupStore
    options: ComparisonOptions
    registry: Registry | None = None
    _: KW_ONLY
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _report: ComparisonReport = field(default_factory=ComparisonReport, init=False)
    _suspects: deque[Suspect] = field(default_factory=deque, init=False)
    _common: array[int] | None = field(default=None, init=False)
    """How many entries of each bucket both sides have; None for a sample that looks entries up by key."""
    _narrowed: list[str] = field(default_factory=list, init=False)
    _read: int = field(default=0, init=False)
    _progress_due: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Start the clock, and choose the buckets."""
        self._started = self.clock()
        self._sample = self.options.sample or Sample(1, 1)
        self._sampled = range(self._sample.part - 1, self.settings.buckets, self._sample.parts)
        if self._sample.parts <= MAX_BUCKET_SAMPLE_PARTS:
            self._common = array("q", bytes(8 * self.settings.buckets))

    def run(self) -> Generator[Event, None, None]:
        """Compare, and yield events, the report last.

        Raises:
            RedisUnavailableError, AwsUnavailableError: a server was lost. Repairs made so far are kept.
            ComparisonBrokenError: Redis restarted or lost entries during it, so the comparison proves nothing.
            RaiseIncompleteError: a repair stopped between two steps; another run completes it.
            ConfigurationError: the backup table is of another layout, new, restored or copied.
        """
        self.backup.check_registry()
        before = self.redis.replication_ids()
        yield from self._scan_backup()
        yield from self._recheck_suspects(wait=True)
        yield from self._scan_redis()
        self._find_unsealed()
        if self.redis.replication_ids() != before:
            raise _broken("restarted or failed over")
        report = self._report
        report.in_sync = report.checked - report.differing
        report.verified = self.store is None or all(self.store.verified().values())
        report.seconds = round(self.clock() - self._started, 3)
        report.consumed_rcu = round(report.consumed_rcu, 1)
        yield report

    # From the backup to Redis.

    def _scan_backup(self) -> Iterator[Event]:
        """Look every entry of the backup up in Redis."""
        entries: list[tuple[str, Entry, int]] = []
        sampled, buckets = self._sampled, self.settings.buckets
        whole = self._common is None or len(sampled) == buckets
        with closing(self._pages()) as pages:
            for page in pages:
                self._report.consumed_rcu += page.consumed_rcu
                self._report.damaged += len(page.damaged)
                self._report.damaged_items += page.damaged[: MAX_DAMAGED_LISTED - len(self._report.damaged_items)]
                yield from page.damaged
                self._read += len(page.entries)
                entries += page.entries if whole else [e for e in page.entries if bucket_of(e[0], buckets) in sampled]
                if len(entries) >= self.options.batch_size:
                    self._compare_with_redis(entries)
                    entries = []
                yield from self._recheck_suspects(wait=False)
                yield from self._progress()
        self._compare_with_redis(entries)

    def _pages(self) -> Generator[BackupPage, None, None]:
        limit, sample = self.options.page_limit, self._sample
        if self._common is not None:
            return self.backup.scan(self.options.segments, limit=limit)
        # The segments of DynamoDB are not the buckets of the sample, but all samples together cover both sides.
        return self.backup.scan(sample.parts, limit=limit, only=sample.part - 1)

    def _compare_with_redis(self, entries: Sequence[tuple[str, Entry, int]]) -> None:
        """Look entries up in Redis; those that look like drift become suspects."""
        held = self.redis.read([conversation_id for conversation_id, _, _ in entries])
        due, common, buckets = self.clock() + self.options.grace, self._common, self.settings.buckets
        self._report.checked += len(entries)
        for (conversation_id, entry, write_n), in_redis in zip(entries, held, strict=True):
            if in_redis is not None and common is not None:
                common[bucket_of(conversation_id, buckets)] += 1
            if isinstance(entry, CooledEntry) and entry.era < entry.epoch and len(self._narrowed) < _MAX_NARROWED:
                self._narrowed.append(conversation_id)
            if looks_like_drift(in_redis, entry, write_n):
                self._suspects.append(Suspect(due, conversation_id, entry, write_n))

    def _recheck_suspects(self, *, wait: bool) -> Iterator[Drift]:
        """Check the suspects again that are due; with ``wait``, or if they are too many, wait for the others."""
        suspects = self._suspects
        while suspects:
            seconds = suspects[0].due - self.clock()
            if seconds > 0:
                if not wait and len(suspects) <= self.options.max_suspects:
                    return
                self.sleep(seconds)
            now = self.clock()
            due: list[Suspect] = []
            while suspects and len(due) < _IDS_PER_READ and (suspects[0].due <= now or not due):
                due.append(suspects.popleft())
            # Redis first, then the backup: by the protocol the backup then holds what Redis held.
            pairs = list(zip(due, self.redis.read([suspect.conversation_id for suspect in due]), strict=True))
            entries, damaged = self._read_backup([s.conversation_id for s, held in pairs if not s.is_behind(held)])
            for suspect, held in pairs:
                if suspect.conversation_id not in damaged:
                    drift = classify(suspect, held, entries.get(suspect.conversation_id))
                    if drift is not None:
                        yield self._count(drift)

    def _find_unsealed(self) -> None:
        """Count the conversations that were narrowed more than twice the wait ago, and never sealed."""
        entries, _ = self._read_backup(self._narrowed)
        oldest = self.now() - timedelta(seconds=2 * self.settings.cool_wait)
        for conversation_id, entry in entries.items():
            with suppress(ValueError):  # no time, or one that was edited by hand
                if parse_iso(entry.narrowed_since) < oldest:
                    self._report.unsealed += 1
                    self._report.unsealed_ids.append(conversation_id)
        del self._report.unsealed_ids[MAX_UNSEALED_LISTED:]

    # From Redis to the backup.

    def _scan_redis(self) -> Iterator[Event]:
        """Find the entries of Redis that the backup lacks."""
        for start in range(0, len(self._sampled), _BUCKETS_PER_READ):
            buckets = self._sampled[start : start + _BUCKETS_PER_READ]
            yield from self._scan_buckets(self._larger_than_common(buckets))
            yield from self._progress(start + len(buckets), len(self._sampled))

    def _larger_than_common(self, buckets: Sequence[int]) -> Sequence[int]:
        """Return the buckets with more entries than those that both sides have."""
        if self._common is None:
            return buckets
        sizes = list(zip(buckets, self.redis.count_entries(buckets), strict=True))
        if any(size < self._common[bucket] for bucket, size in sizes):
            raise _broken("lost entries")
        return [bucket for bucket, size in sizes if size > self._common[bucket]]

    def _scan_buckets(self, buckets: Sequence[int]) -> Iterator[Drift]:
        # An N of 1 means the same as no entry.
        entries = (
            (conversation_id, entry) for conversation_id, entry in self.redis.read_buckets(buckets) if entry != 1
        )
        while held := dict(islice(entries, _IDS_PER_READ)):
            backed, damaged = self._read_backup([i for i in held if is_conversation_id(i)])
            for conversation_id, entry in held.items():
                if conversation_id not in backed and conversation_id not in damaged:
                    self._report.checked += 1
                    unreadable = entry == UNREADABLE
                    kind: DriftKind = "unreadable" if unreadable else "unbacked"
                    yield self._count(Drift(conversation_id, None if unreadable else max_n_of(entry), None, kind))

    def _read_backup(self, conversation_ids: Sequence[str]) -> tuple[dict[str, BackupEntry], Mapping[str, str]]:
        """Return the entries, and the ids whose items are damaged, with the problem."""
        self._report.consumed_rcu += len(conversation_ids)
        return read_undamaged(self.backup, conversation_ids, lambda read: retry_while_throttled(read, self.sleep))

    # Results.

    def _count(self, drift: Drift) -> Drift:
        """Plan the repair of drift, repair it if requested, and count it."""
        drift = plan_repair(drift, adopt=self.options.adopt, cap=self.settings.max_n_cap)
        if self.registry is not None:
            drift = repair(self.registry, drift, self.sleep)
        report = self._report
        setattr(report, drift.kind, getattr(report, drift.kind) + 1)
        report.repaired += drift.repaired
        report.redis_alone += drift.in_redis_alone
        if len(report.drift) < MAX_LISTED:
            report.drift.append(drift)
        return drift

    def _progress(self, *buckets: int) -> Iterator[ComparisonProgress]:
        report, now = self._report, self.clock()
        if now >= self._progress_due:
            self._progress_due = now + _PROGRESS_SECONDS
            counts = report.checked, report.differing, now - self._started, report.consumed_rcu
            yield ComparisonProgress(*counts, self._read, *buckets)


def result_of(events: Iterator[Event]) -> ComparisonReport:
    """Run a comparison to its end and return its report."""
    (report,) = deque(events, maxlen=1)
    assert isinstance(report, ComparisonReport)
    return report


def compare_sample(
    settings: Settings, backup: BackupStore, entries: int, rng: random.Random, *, max_buckets: int = 2**20
) -> ComparisonReport:
    """Compare about 300 conversations, both ways, in a random part of the registry, for screens and quick checks.

    Does not check the fence. ``entries`` is the approximate number of entries in the registry. At most ``max_buckets``
    buckets are read in Redis, even if they hold few entries; each costs about 15 µs.

    Raises:
        RedisUnavailableError, AwsUnavailableError, AccessDeniedError: one side cannot be read.
        ConfigurationError: the backup table is of another layout, new, restored or copied.
    """
    from saltctl.stores.redis.buckets import RedisBucketReader

    parts = min(max(entries // SAMPLED_CONVERSATIONS, settings.buckets // max_buckets, 1), settings.buckets)
    options = ComparisonOptions(segments=1, sample=Sample(rng.randint(1, parts), parts))
    with closing(RedisBucketReader(settings)) as reader:
        return result_of(Comparison(settings, reader, None, backup, options).run())


def _broken(reason: str) -> ComparisonBrokenError:
    return ComparisonBrokenError(
        f"Redis {reason} during the comparison, so it proves nothing", hint="saltctl rebuild && saltctl compare"
    )
