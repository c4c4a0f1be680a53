"""The proof that a conversation is complete, or the list of what readers do not see.

A raise that was lost (from Redis and the backup alike, by hand, by a restored table) leaves messages on
salts beyond max_n, where nobody looks. The audit looks there: on every salt up to the cap, or to twice
max_n where that is more, one row each. Then it reads the keys of the whole conversation once, in order,
and counts.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from saltctl.errors import UnavailableError
from saltctl.history.attributes import fingerprint
from saltctl.history.cursor import BASE, Position
from saltctl.history.scatter_gather import sort_key_of
from saltctl.salting import partition_key, power_of_two_at_least
from saltctl.stores.contracts import Item, PartitionAnswer, PartitionQuery

if TYPE_CHECKING:
    from saltctl.history.history import History

MAX_NAMED = 1000
"""Orphans that are named; all of them are counted."""
_ROWS = 500
"""Keys that one request asks for, which bounds the memory of an audit: two requests for each partition."""
_PROBES = 16
"""Probes in flight at once: an audit is in no hurry, and others read at the same time."""
_PROGRESS = 1000


@dataclass(frozen=True, slots=True)
class Orphan:
    """A message beyond max_n. ``message_id`` is None where its row has none."""

    partition_key: str
    sort_key: str
    message_id: str | None


@dataclass(frozen=True, slots=True)
class PartitionCount:
    """How many rows a partition has."""

    partition_key: str
    messages: int


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """Rows counted so far."""

    messages: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found, with the keys of the command line's contract.

    ``orphans`` are the messages beyond max_n, up to 1,000 of them; ``orphaned`` is their number.
    ``needed_n`` is the N at which readers see all. ``duplicates`` are rows that are equal to another but
    for their partition, which reads return once. ``skew`` is the largest salt's share of rows over the
    average, None where there is nothing to compare: 1 is even, and salts that are older have more.
    ``complete``: readers see every message.
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


class Auditor:
    """The audit of one conversation. Iterate over :meth:`run` once.

    Args:
        history: where it is.
        conversation_id: the conversation.
        cap: the largest N that a raise may aim at.
    """

    def __init__(self, history: History, conversation_id: str, *, cap: int) -> None:
        self._history = history
        self._conversation_id = conversation_id
        self._cap = cap
        self._lock = threading.Lock()
        self._consumed_rcu = 0.0

    def run(self) -> Generator[AuditProgress | Audit, None, None]:
        """Do it, yielding progress, the audit last.

        Raises:
            UnavailableError: a partition cannot be read, and nothing is proved.
            InvalidConversationIdError, AccessDeniedError, ConfigurationError: as ``History.page``.
        """
        started = self._history.clock()
        found = self._history.registry.lookup(self._conversation_id)
        beyond = range(0 if found.max_n <= 1 else found.max_n, max(self._cap, 2 * found.max_n))
        orphaned = self._probe(beyond)
        salts = [BASE, *(range(found.max_n) if found.salted else ()), *orphaned]
        counts: Counter[int] = Counter(dict.fromkeys(salts, 0))
        orphans: list[Orphan] = []
        duplicates = 0
        for group in self._groups(salts):
            for position, item in group:
                counts[position.salt] += 1
                if position.salt in orphaned and len(orphans) < MAX_NAMED:
                    orphans.append(self._orphan(position, item))
                if counts.total() % _PROGRESS == 0:
                    yield AuditProgress(counts.total())
            duplicates += self._duplicates(group)
        yield Audit(
            conversation_id=self._conversation_id,
            max_n=found.max_n,
            orphans=orphans,
            orphaned=sum(counts[salt] for salt in orphaned),
            needed_n=max(power_of_two_at_least(max(orphaned) + 1), 2) if orphaned else found.max_n,
            duplicates=duplicates,
            skew=_skew([counts[salt] for salt in salts if salt != BASE and salt not in orphaned]),
            partitions=[PartitionCount(self._key(salt), counts[salt]) for salt in salts],
            probed=len(beyond),
            complete=not orphaned,
            consumed_rcu=self._consumed_rcu,
            seconds=round(self._history.clock() - started, 3),
        )

    def _key(self, salt: int) -> str:
        return partition_key(self._conversation_id, None if salt == BASE else salt)

    def _probe(self, salts: range) -> list[int]:
        """Which of these salts have a row; all of them, since few messages leave gaps among many salts."""
        found: list[int] = []
        for start in range(0, len(salts), _PROBES):
            some = salts[start : start + _PROBES]
            asked = [self._history.pool.submit(self._has_rows, PartitionQuery(self._key(s), limit=1)) for s in some]
            try:
                found += [salt for salt, answer in zip(some, asked, strict=True) if answer.result()]
            finally:
                for answer in asked:
                    answer.cancel()
        return found

    def _has_rows(self, request: PartitionQuery) -> bool:
        while True:
            answer = self._ask(request)
            if answer.items or answer.next is None:
                return bool(answer.items)
            request = replace(request, start=answer.next)

    def _groups(self, salts: list[int]) -> Iterator[list[tuple[Position, Item]]]:
        """The keys of all partitions, in order, those of one sort key together."""
        rows = heapq.merge(*self._streams(salts), key=lambda row: row[0])
        for _, group in groupby(rows, key=lambda row: row[0].sort_key):
            yield list(group)

    def _streams(self, salts: list[int]) -> list[Iterator[tuple[Position, Item]]]:
        # All first requests are under way before the merge waits for any of them.
        requests = [PartitionQuery(self._key(salt), descending=False, limit=_ROWS, keys_only=True) for salt in salts]
        first = [self._history.pool.submit(self._ask, request) for request in requests]
        return [self._stream(*stream) for stream in zip(salts, requests, first, strict=True)]

    def _stream(
        self, salt: int, request: PartitionQuery, coming: Future[PartitionAnswer]
    ) -> Iterator[tuple[Position, Item]]:
        name = self._history.store.keys.sort_key
        while True:
            answer = coming.result()
            if answer.next is not None:
                request = replace(request, start=answer.next)
                coming = self._history.pool.submit(self._ask, request)
            for item in answer.items:
                yield Position(sort_key_of(item, name), salt), item
            if answer.next is None:
                return

    def _ask(self, request: PartitionQuery) -> PartitionAnswer:
        try:
            answer = self._history.store.query(request)
        except UnavailableError as exc:
            raise exc.with_hint(f"nothing is proved yet; run the audit again. {exc.hint}".strip()) from exc
        with self._lock:
            self._consumed_rcu += answer.consumed_rcu
        return answer

    def _orphan(self, position: Position, item: Item) -> Orphan:
        row = item
        if self._history.message_ids.attribute is not None:
            row = self._history.store.get(self._key(position.salt), position.sort_key) or item
        message_id = self._history.message_ids.id_of(row, self._history.store.keys)
        return Orphan(self._key(position.salt), str(position.sort_key), message_id)

    def _duplicates(self, group: list[tuple[Position, Item]]) -> int:
        """How many rows of one sort key are equal to another one; whole rows are read only to tell."""
        if len(group) == 1:
            return 0
        store = self._history.store
        rows = [store.get(self._key(position.salt), position.sort_key) for position, _ in group]
        there = [fingerprint(row, without=store.keys.partition_key) for row in rows if row is not None]
        return len(there) - len(set(there))


def _skew(counts: list[int]) -> float | None:
    total = sum(counts)
    return round(max(counts) * len(counts) / total, 3) if total else None
