"""Redis compared with the backup, both ways, in memory that does not grow with either (design: the promise).

From the backup to Redis: a scan, whose entries are looked up in Redis as they come. From Redis to the backup:
asking the backup for every entry of Redis would cost a read unit each, some seventy times what the scan costs.
So the first pass counts, for each bucket, the entries that both sides have; a bucket that has no more than
those holds nothing that the backup lacks, and only the others are read and asked for.

Raises go on meanwhile. max_n never goes down, which settles the order of reads: what a scan saw is a lower
bound for what Redis must hold later, and what Redis held is one for what the backup must hold later. What looks
like drift is looked at once more, after a raise under way had time to finish, and only then reported.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from saltctl.errors import (
    ComparisonBrokenError,
    DamagedEntryError,
    RefusedError,
    UsageError,
)
from saltctl.registry.compare_events import ComparisonProgress, ComparisonReport, Drift, Event, Kind, Sample
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of, is_conversation_id, power_of_two_at_least
from saltctl.settings import Settings
from saltctl.stores.contracts import BackupEntry, BackupStore
from saltctl.stores.retry import retry_while_throttled

GRACE = 2.0
"""Seconds after which what looked like drift is looked at again. A raise takes milliseconds; one that takes
longer than this has been left half-way, for all that can be told."""
MAX_NAMED = 1000
"""Drift that a report names; all of it is counted, and repaired where that is asked for."""
KEYED_ABOVE = 64
"""Samples of more parts than this ask for keys instead of scanning: a unit of a scan reads some seventy
entries of 60 bytes, and one of BatchGetItem reads one (4 KB a unit: documented)."""
ENTRIES_AT_ONCE = 65_536
"""Entries that are looked up in Redis together: four for each of 16,384 buckets, so that a command is worth it."""
_SUSPECTS = 50_000
"""Suspects that wait for their second look; more than that, and the scan waits for them."""
_ASKED_AT_ONCE = 1000
_BUCKETS_AT_ONCE = 256
_PROGRESS_EVERY = 0.2
REASON = "compare --repair: Redis had more than the backup"


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """How to compare. ``grace`` is in seconds; ``page_limit`` bounds the items of a page, for tests."""

    segments: int = 4
    sample: Sample | None = None
    grace: float = GRACE
    page_limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what DynamoDB would refuse."""
        if not 1 <= self.segments <= 1_000_000:
            raise UsageError(f"segments must be from 1 to 1,000,000, not {self.segments}", hint="--segments 4")


class ComparedRedis(Protocol):
    """What is asked of Redis: ``BucketReader``."""

    def identity(self) -> Mapping[str, str]: ...  # noqa: D102
    def held(self, conversation_ids: Sequence[str]) -> Sequence[int | None]: ...  # noqa: D102
    def sizes(self, buckets: Sequence[int]) -> Sequence[int]: ...  # noqa: D102
    def entries(self, buckets: Sequence[int]) -> Iterator[tuple[str, int]]: ...  # noqa: D102


class VerifiedStore(Protocol):
    """Where it is learned whether Redis is verified: ``RedisRegistry``."""

    def verified(self) -> Mapping[str, bool]:
        """For each primary, whether every bucket of it answers lookups."""
        ...


class _Suspect(NamedTuple):
    due: float
    conversation_id: str
    max_n: int
    write_n: int


@dataclass
class _Run:
    started: float
    checked: int = 0
    consumed_rcu: float = 0.0
    damaged: int = 0
    repaired: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    named: list[Drift] = field(default_factory=list)
    suspects: deque[_Suspect] = field(default_factory=deque)
    next_progress: float = 0.0


class Comparison:
    """A comparison of one registry with its backup. Iterate over :meth:`run` once.

    Args:
        redis: what Redis holds.
        store: whether Redis is verified.
        backup: what it is compared with.
        layout, key_prefix: what the backup table must be bound to, where it is bound.
        buckets: how many the registry has.
        registry: repairs what differs; None changes nothing.
        clock: monotonic seconds.
        sleep: waits, for the second look and while AWS throttles.
    """

    def __init__(
        self,
        redis: ComparedRedis,
        store: VerifiedStore,
        backup: BackupStore,
        options: ComparisonOptions,
        *,
        layout: str,
        key_prefix: str,
        buckets: int,
        registry: Registry | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._redis = redis
        self._store = store
        self._backup = backup
        self._options = options
        self._layout = (layout, key_prefix)
        self._buckets = buckets
        self._registry = registry
        self._clock = clock
        self._sleep = sleep
        self._run = _Run(clock())

    @classmethod
    def over(
        cls,
        settings: Settings,
        redis: ComparedRedis,
        store: VerifiedStore,
        backup: BackupStore,
        options: ComparisonOptions,
        registry: Registry | None = None,
    ) -> Comparison:
        """A comparison over given stores, with everything else from the settings."""
        return cls(
            redis,
            store,
            backup,
            options,
            layout=settings.layout,
            key_prefix=settings.key_prefix,
            buckets=settings.buckets,
            registry=registry,
        )

    def run(self) -> Iterator[Event]:
        """Do it, yielding events, the report last.

        Raises:
            RedisUnavailableError, AwsUnavailableError: a server was lost. What was repaired stays so.
            ComparisonBrokenError: Redis restarted or lost entries meanwhile, and nothing is proved.
            RaiseIncompleteError: a repair stopped half-way; running it again completes it.
            ConfigurationError: the backup table is bound to another layout.
        """
        self._backup.check_layout(*self._layout)
        before = self._redis.identity()
        sample = self._options.sample
        shared = array("q", bytes(8 * self._buckets)) if sample is None or sample.parts <= KEYED_ABOVE else None
        yield from self._from_backup(shared)
        yield from self._second_looks(to_the_last=True)
        yield from self._from_redis(shared)
        if self._redis.identity() != before:
            raise _broken("restarted or failed over")
        yield self._report()

    # From the backup to Redis.

    def _from_backup(self, shared: array[int] | None) -> Iterator[Event]:
        waiting: list[tuple[str, int, int]] = []
        with closing(cast("Any", self._pages(whole=shared is not None))) as pages:
            for page in pages:
                self._run.consumed_rcu += page.consumed_rcu
                self._run.damaged += len(page.damaged)
                yield from page.damaged
                waiting += page.entries if shared is None else self._sampled(page.entries)
                if len(waiting) >= ENTRIES_AT_ONCE:
                    self._compare(waiting, shared)
                    waiting = []
                yield from self._second_looks()
                yield from self._progress()
        self._compare(waiting, shared)

    def _pages(self, *, whole: bool) -> Iterator[Any]:
        options = self._options
        if whole or options.sample is None:
            return self._backup.scan(options.segments, limit=options.page_limit)
        # DynamoDB cuts its own key space into parts, which costs a part of the scan. They are not the buckets'
        # parts, but all of them together are everything, too.
        return self._backup.scan(options.sample.parts, limit=options.page_limit, only=options.sample.part - 1)

    def _sampled(self, entries: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        sample = self._options.sample
        if sample is None:
            return entries
        return [e for e in entries if bucket_of(e[0], self._buckets) % sample.parts == sample.part - 1]

    def _compare(self, entries: Sequence[tuple[str, int, int]], shared: array[int] | None) -> None:
        """Look entries up in Redis; what does not agree becomes a suspect."""
        held = self._redis.held([conversation_id for conversation_id, _, _ in entries])
        due = self._clock() + self._options.grace
        self._run.checked += len(entries)
        for (conversation_id, max_n, write_n), n in zip(entries, held, strict=True):
            if n is not None and shared is not None:
                shared[bucket_of(conversation_id, self._buckets)] += 1
            if write_n < max_n or n != max_n:
                # Without an entry a conversation is unsalted, whose max_n is 1.
                if n is None and max_n == 1 == write_n:
                    continue
                self._run.suspects.append(_Suspect(due, conversation_id, max_n, write_n))

    def _second_looks(self, *, to_the_last: bool = False) -> Iterator[Drift]:
        suspects = self._run.suspects
        while suspects:
            wait = suspects[0].due - self._clock()
            if wait > 0:
                if not to_the_last and len(suspects) <= _SUSPECTS:
                    return
                self._sleep(wait)
            now = self._clock()
            due: list[_Suspect] = []
            while suspects and len(due) < _ASKED_AT_ONCE and (suspects[0].due <= now or not due):
                due.append(suspects.popleft())
            yield from self._look_again(due)

    def _look_again(self, suspects: Sequence[_Suspect]) -> Iterator[Drift]:
        held = self._redis.held([suspect.conversation_id for suspect in suspects])
        # Redis first, the backup second: what Redis holds under the protocol, the backup then holds as well.
        doubtful = [s.conversation_id for s, n in zip(suspects, held, strict=True) if _or_one(n) >= s.max_n]
        entries, damaged = self._ask_backup(doubtful)
        for suspect, n in zip(suspects, held, strict=True):
            if suspect.conversation_id in damaged:
                continue
            drift = _judge(suspect, n, entries.get(suspect.conversation_id))
            if drift is not None:
                yield self._found(drift)

    # From Redis to the backup.

    def _from_redis(self, shared: array[int] | None) -> Iterator[Event]:
        """Look for entries that the backup does not have; what it has was compared above."""
        sample = self._options.sample or Sample(1, 1)
        buckets = range(sample.part - 1, self._buckets, sample.parts)
        for start in range(0, len(buckets), _BUCKETS_AT_ONCE):
            yield from self._unvouched(self._larger(buckets[start : start + _BUCKETS_AT_ONCE], shared))
            yield from self._progress()

    def _larger(self, buckets: Sequence[int], shared: array[int] | None) -> Sequence[int]:
        """The buckets that hold more than what both sides were seen to have."""
        if shared is None:
            return buckets
        sizes = list(zip(buckets, self._redis.sizes(buckets), strict=True))
        if any(size < shared[bucket] for bucket, size in sizes):
            raise _broken("lost entries")
        return [bucket for bucket, size in sizes if size > shared[bucket]]

    def _unvouched(self, buckets: Sequence[int]) -> Iterator[Drift]:
        some: dict[str, int] = {}
        for conversation_id, n in self._redis.entries(buckets):
            if n == 1:
                continue  # as good as no entry
            some[conversation_id] = n
            if len(some) >= _ASKED_AT_ONCE:
                yield from self._unbacked(some)
                some = {}
        yield from self._unbacked(some)

    def _unbacked(self, held: Mapping[str, int]) -> Iterator[Drift]:
        entries, damaged = self._ask_backup([i for i in held if is_conversation_id(i)])
        for conversation_id, n in held.items():
            if conversation_id not in entries and conversation_id not in damaged:
                self._run.checked += 1
                yield self._found(Drift(conversation_id, n, None, "unbacked"))

    def _ask_backup(self, conversation_ids: Sequence[str]) -> tuple[dict[str, BackupEntry], set[str]]:
        """Strongly consistent reads; and those whose items are damaged, which scans name."""
        self._run.consumed_rcu += len(conversation_ids)
        if not conversation_ids:
            return {}, set()
        try:
            return retry_while_throttled(lambda: self._backup.get_many(conversation_ids), self._sleep), set()
        except DamagedEntryError:
            pass  # one of them is: ask one by one which
        entries, damaged = {}, set()
        for conversation_id in conversation_ids:
            try:
                entry = retry_while_throttled(partial(self._backup.get, conversation_id), self._sleep)
            except DamagedEntryError:
                damaged.add(conversation_id)
                continue
            if entry is not None:
                entries[conversation_id] = entry
        return entries, damaged

    # What was found.

    def _found(self, drift: Drift) -> Drift:
        if self._registry is not None:
            drift = self._repair(self._registry, drift)
        self._run.kinds[drift.kind] += 1
        self._run.repaired += drift.repaired
        if len(self._run.named) < MAX_NAMED:
            self._run.named.append(drift)
        return drift

    def _repair(self, registry: Registry, drift: Drift) -> Drift:
        """Upwards alone, by the protocol.

        Unbacked: lookups were answered with what Redis has, so messages may be on those salts, and the backup
        is raised to it; to the next power of two where it is none, since more is safe for readers and less is not.
        """
        conversation_id = drift.conversation_id
        try:
            if drift.kind != "unbacked":
                retry_while_throttled(lambda: registry.complete(conversation_id), self._sleep)
            elif not drift.redis_n:
                return replace(drift, problem="what Redis holds is no number, and the backup has nothing")
            else:
                n = power_of_two_at_least(drift.redis_n)
                retry_while_throttled(lambda: registry.raise_to(conversation_id, n, reason=REASON), self._sleep)
        except RefusedError as exc:
            return replace(drift, problem=exc.message)
        return replace(drift, repaired=True)

    def _progress(self) -> Iterator[ComparisonProgress]:
        run, now = self._run, self._clock()
        if now >= run.next_progress:
            run.next_progress = now + _PROGRESS_EVERY
            yield ComparisonProgress(run.checked, run.kinds.total(), now - run.started, run.consumed_rcu)

    def _report(self) -> ComparisonReport:
        run = self._run
        return ComparisonReport(
            checked=run.checked,
            in_sync=run.checked - run.kinds.total(),
            behind=run.kinds["behind"],
            missing=run.kinds["missing"],
            unbacked=run.kinds["unbacked"],
            uncommitted=run.kinds["uncommitted"],
            repaired=run.repaired,
            verified=all(self._store.verified().values()),
            drift=run.named,
            seconds=round(self._clock() - run.started, 3),
            damaged=run.damaged,
            consumed_rcu=round(run.consumed_rcu, 1),
        )


def result_of(events: Iterator[Event]) -> ComparisonReport:
    """Drain a comparison for its report alone."""
    report = None
    for event in events:
        report = event
    assert isinstance(report, ComparisonReport)
    return report


def _judge(suspect: _Suspect, n: int | None, entry: BackupEntry | None) -> Drift | None:
    """What a second look says. ``n``: Redis, read again; ``entry``: the backup, read after it, if that was needed."""
    conversation_id = suspect.conversation_id
    if _or_one(n) < suspect.max_n:
        # Redis was to hold what the scan saw when it was looked at the first time.
        kind: Kind = "missing" if n is None else "behind"
        return Drift(conversation_id, n, suspect.max_n, kind, suspect.write_n)
    if entry is None:
        # Its item was deleted since the scan.
        return Drift(conversation_id, n, None, "unbacked") if _or_one(n) > 1 else None
    if _or_one(n) > entry.max_n:
        return Drift(conversation_id, n, entry.max_n, "unbacked", entry.write_n)
    if entry.write_n < suspect.max_n:
        return Drift(conversation_id, n, entry.max_n, "uncommitted", entry.write_n)
    return None


def _or_one(n: int | None) -> int:
    return 1 if n is None else n


def _broken(how: str) -> ComparisonBrokenError:
    return ComparisonBrokenError(
        f"Redis {how} while it was compared, so nothing is proved", hint="saltctl rebuild, then saltctl compare"
    )
