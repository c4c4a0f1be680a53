"""Proves that readers see all of a conversation, or lists the messages that they miss.

If a raise is lost from Redis and the backup alike (by hand, or by a restored table), messages stay on salts beyond
max_n, which readers do not query. The audit queries these salts up to the cap, or up to twice max_n if that is more,
for one row each. Then it reads the keys of the whole conversation once, in order, and counts them.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from saltctl.errors import UnavailableError
from saltctl.history.attributes import fingerprint, plain
from saltctl.history.cursor import BASE, Position
from saltctl.salting import partition_key, power_of_two_at_least
from saltctl.stores.contracts import Item, PartitionAnswer, PartitionQuery

if TYPE_CHECKING:
    from saltctl.history.history import History

MAX_ORPHANS_LISTED = 1000
"""Orphans that an audit lists; it counts all of them."""
_ROWS = 500
"""Keys that one request asks for, which bounds the memory of an audit: two requests for each partition."""
_PROBES = 16
"""Probes in progress at once. An audit is not urgent, and others read at the same time."""
_ROWS_BETWEEN_PROGRESS = 1000
KeyRow = tuple[Position, Item]
"""The keys of a row, and its position in the history."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A message beyond max_n. ``message_id`` is None if its row has none."""

    partition_key: str
    sort_key: str
    message_id: str | None


@dataclass(frozen=True, slots=True)
class PartitionCount:
    """The number of rows of a partition."""

    partition_key: str
    messages: int


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """Rows counted so far."""

    messages: int


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of an audit, with the keys of the command's JSON.

    ``orphans`` are the messages beyond max_n, up to 1,000 of them; ``orphaned`` is their number. ``needed_n`` is the N
    at which readers see all messages, and ``complete`` is True if they see all of them now. ``duplicates`` are rows
    that equal another one except for their partition; reads return them once. ``skew`` is the row count of the largest
    salt divided by the average: 1 is even, and None if there are no rows. Older salts have more rows.
    """

    conversation_id: str
    max_n: int
    orphans: list[Orphan]
    orphaned: int
    needed_n: int
    duplicates: int
    skew: float | None
    partitions: list[PartitionCount]
    probed: int
    complete: bool
    consumed_rcu: float
    seconds: float


@dataclass
class _Totals:
    """The counts of an audit in progress: rows by salt, the salts beyond max_n that have rows, and their messages."""

    rows: Counter[int]
    orphan_salts: list[int]
    orphans: list[Orphan] = field(default_factory=list)
    duplicates: int = 0

    @property
    def skew(self) -> float | None:
        """The row count of the largest salt that readers see, divided by the average."""
        counts = [count for salt, count in self.rows.items() if salt != BASE and salt not in self.orphan_salts]
        total = sum(counts)
        return round(max(counts) * len(counts) / total, 3) if total else None


class Auditor:
    """The audit of one conversation. Iterate over :meth:`run` once.

    Args:
        history: the history to read from.
        conversation_id: the conversation.
        cap: the largest N that a raise can set.
    """

    def __init__(self, history: History, conversation_id: str, *, cap: int) -> None:
        self._history = history
        self._conversation_id = conversation_id
        self._cap = cap
        self._lock = threading.Lock()
        self._consumed_rcu = 0.0

    def run(self) -> Generator[AuditProgress | Audit, None, None]:
        """Run the audit; yield its progress, and its result last.

        Raises:
            UnavailableError: a partition cannot be read, so the audit proves nothing.
            InvalidConversationIdError, AccessDeniedError, ConfigurationError: as ``History.page``.
        """
        started = self._history.clock()
        max_n = self._history.registry.lookup(self._conversation_id).max_n
        salts = range(max_n if max_n > 1 else 0)
        beyond = range(len(salts), max(self._cap, 2 * max_n))
        orphan_salts = self._salts_with_rows(beyond)
        totals = _Totals(Counter(dict.fromkeys([BASE, *salts, *orphan_salts], 0)), orphan_salts)
        yield from self._count_rows(totals)
        yield Audit(
            conversation_id=self._conversation_id,
            max_n=max_n,
            orphans=totals.orphans,
            orphaned=sum(totals.rows[salt] for salt in orphan_salts),
            needed_n=max(power_of_two_at_least(max(orphan_salts) + 1), 2) if orphan_salts else max_n,
            duplicates=totals.duplicates,
            skew=totals.skew,
            partitions=[PartitionCount(self._key(salt), count) for salt, count in totals.rows.items()],
            probed=len(beyond),
            complete=not orphan_salts,
            consumed_rcu=self._consumed_rcu,
            seconds=round(self._history.clock() - started, 3),
        )

    def _key(self, salt: int) -> str:
        return partition_key(self._conversation_id, None if salt == BASE else salt)

    def _salts_with_rows(self, salts: range) -> list[int]:
        """Return which of these salts have a row. All are asked: a few messages leave gaps among many salts."""
        found: list[int] = []
        for start in range(0, len(salts), _PROBES):
            batch = salts[start : start + _PROBES]
            answers = [self._history.pool.submit(self._has_rows, PartitionQuery(self._key(s), limit=1)) for s in batch]
            try:
                found += [salt for salt, answer in zip(batch, answers, strict=True) if answer.result()]
            finally:
                for answer in answers:
                    answer.cancel()
        return found

    def _has_rows(self, request: PartitionQuery) -> bool:
        while True:
            answer = self._query(request)
            if answer.items or answer.next is None:
                return bool(answer.items)
            request = replace(request, start=answer.next)

    def _count_rows(self, totals: _Totals) -> Iterator[AuditProgress]:
        """Count the rows of all partitions, in the order of the history: rows of one sort key come together."""
        merged = heapq.merge(*self._streams(list(totals.rows)), key=lambda row: row[0])
        seen = 0
        for _, group in groupby(merged, key=lambda row: row[0].sort_key):
            rows = list(group)
            for position, item in rows:
                totals.rows[position.salt] += 1
                if position.salt in totals.orphan_salts and len(totals.orphans) < MAX_ORPHANS_LISTED:
                    totals.orphans.append(self._orphan(position, item))
                seen += 1
                if seen % _ROWS_BETWEEN_PROGRESS == 0:
                    yield AuditProgress(seen)
            totals.duplicates += self._duplicates(rows)

    def _streams(self, salts: list[int]) -> list[Iterator[KeyRow]]:
        # All first requests are in progress before the merge waits for any of them.
        requests = [PartitionQuery(self._key(salt), descending=False, limit=_ROWS, keys_only=True) for salt in salts]
        first = [self._history.pool.submit(self._query, request) for request in requests]
        return [self._stream(*stream) for stream in zip(salts, requests, first, strict=True)]

    def _stream(self, salt: int, request: PartitionQuery, pending: Future[PartitionAnswer]) -> Iterator[KeyRow]:
        """Yield the keys of one partition; the next request is in progress while an answer is used."""
        name = self._history.store.keys.sort_key
        while True:
            answer = pending.result()
            if answer.next is not None:
                request = replace(request, start=answer.next)
                pending = self._history.pool.submit(self._query, request)
            for item in answer.items:
                yield Position(plain(item[name]), salt), item
            if answer.next is None:
                return

    def _query(self, request: PartitionQuery) -> PartitionAnswer:
        try:
            answer = self._history.store.query(request)
        except UnavailableError as exc:
            raise exc.with_hint(f"nothing is proved yet; run the audit again. {exc.hint}".strip()) from exc
        with self._lock:
            self._consumed_rcu += answer.consumed_rcu
        return answer

    def _orphan(self, position: Position, keys: Item) -> Orphan:
        row = keys
        if self._history.message_ids.attribute is not None:
            row = self._history.store.get(self._key(position.salt), position.sort_key) or keys
        message_id = self._history.message_ids.id_of(row, self._history.store.keys)
        return Orphan(self._key(position.salt), str(position.sort_key), message_id)

    def _duplicates(self, rows: list[KeyRow]) -> int:
        """Return how many rows of one sort key equal another one; only then are whole rows read."""
        if len(rows) == 1:
            return 0
        store = self._history.store
        whole = [store.get(self._key(position.salt), position.sort_key) for position, _ in rows]
        contents = [fingerprint(row, without=store.keys.partition_key) for row in whole if row is not None]
        return len(contents) - len(set(contents))
