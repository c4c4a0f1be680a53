"""Proves that readers see all of a conversation, or lists the messages that they miss.

If a raise is lost from Redis and the backup alike (by hand, or by a restored table), messages stay on salts beyond
max_n, which readers do not query. The audit queries these salts up to the cap, or up to twice max_n if that is more,
for one row each. Then it reads the keys of the whole conversation once, in order, and counts them.

Readers of a cooled conversation do not query all of max_n from its boundary on. A message there, outside the recent_n
salts, was written by a clock beyond the margin of the cooling, and is an orphan, too.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import compress, groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from saltctl.commands import hint_of
from saltctl.errors import UnavailableError
from saltctl.history.attributes import fingerprint, plain
from saltctl.history.models import message_id_of
from saltctl.history.pages.cursor import BASE, Position
from saltctl.salting import SaltEvidence, number_text, partition_key, power_of_two_at_least
from saltctl.stores.contracts.messages import Item, PartitionAnswer, PartitionQuery

if TYPE_CHECKING:
    from saltctl.history.history import History
    from saltctl.registry.lookups import Lookup
    from saltctl.registry.mending import Damage

MAX_ORPHANS_LISTED = 1000
"""Orphans that an audit lists; it counts all of them."""
_ROWS = 500
"""Keys that one request asks for, which bounds the memory of an audit: two requests for each partition."""
_PROBES = 16
"""Probes in progress at once. An audit is not urgent, and others read at the same time."""
_ROWS_BETWEEN_PROGRESS = 1000
_KeyRow = tuple[Position, Item]
"""The keys of a row, and its position in the history."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A message that readers miss. ``message_id`` is None if its row has none."""

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

    ``orphans`` are the messages beyond max_n, or beyond recent_n from the boundary of a cooled conversation on, up to
    1,000 of them; ``orphaned`` is their number. ``unproven`` is the reason why those beyond max_n may be messages of
    other conversations, empty if they are not. ``damage`` is what cannot be read of the conversation in the registry,
    None if nothing: then ``max_n`` is what the rest of the registry shows, and ``recent_n`` is None. ``needed_n`` is
    the N to raise to, so that readers see all messages; it is max_n if they do. It may be below max_n, since a raise of
    a cooled conversation increases recent_n. ``complete`` is True if readers see all messages now, which is not known
    if the registry is damaged. ``duplicates`` are rows that equal another one except for their partition; reads return
    them once. ``skew`` is the row count of the largest salt divided by the average: 1 is even, and None if there are no
    rows. Older salts have more rows.
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
    unproven: str = ""
    damage: str | None = None
    recent_n: int | None = None


@dataclass(eq=False)
class Auditor:
    """The audit of one conversation. Iterate over :meth:`run` once. ``cap`` is the largest N that a raise can set.

    ``damage`` is that of the conversation in the registry, and then no lookup is needed.
    """

    history: History
    conversation_id: str
    cap: int = field(kw_only=True)
    damage: Damage | None = field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._consumed_rcu = 0.0
        self._rows: Counter[int] = Counter()
        self._salts = range(0)
        self._found: Lookup | None = None
        self._orphan_rows: Counter[int] = Counter()
        self._orphans: list[Orphan] = []
        self._duplicates = 0
        self._evidence = SaltEvidence()

    def run(self) -> Generator[AuditProgress | Audit, None, None]:
        """Run the audit; yield its progress, and its result last. Raises as ``History.page``.

        An UnavailableError means that a partition cannot be read, so the audit proves nothing. If the conversation is
        raised meanwhile, messages on its new salts are no orphans: the audit begins anew.
        """
        for event in self._run():
            if isinstance(event, Audit) and event.orphaned and self._was_raised():
                yield from replace(self).run()
                return
            yield event

    def _was_raised(self) -> bool:
        """Return whether readers query other partitions now than at the start of the audit."""
        found = self._found
        return found is not None and not self.history.lookup(self.conversation_id).covers_as(found)

    def _run(self) -> Generator[AuditProgress | Audit, None, None]:
        started = self.history.clock()
        damage = self.damage
        if damage is None:
            self._found = self.history.lookup(self.conversation_id)
        found = self._found
        max_n = found.max_n if found else damage.at_least if damage else 1
        salts = self._salts = range(max_n if max_n > 1 else 0)
        beyond = range(len(salts), max(self.cap, 2 * max_n))
        yield from self._count_rows([BASE, *salts, *self._salts_with_rows(beyond)])
        missed = self._orphan_rows
        in_salts = [self._rows[salt] for salt in salts]
        yield Audit(
            conversation_id=self.conversation_id,
            max_n=max_n,
            orphans=self._orphans,
            orphaned=missed.total(),
            needed_n=max(power_of_two_at_least(max(missed) + 1), 2) if missed else max_n,
            duplicates=self._duplicates,
            skew=round(max(in_salts) * len(in_salts) / sum(in_salts), 3) if any(in_salts) else None,
            partitions=[PartitionCount(self._key(salt), count) for salt, count in self._rows.items()],
            probed=len(beyond),
            complete=not missed and damage is None,
            damage=damage.problem if damage else None,
            recent_n=found.recent_n if found else None,
            consumed_rcu=self._consumed_rcu,
            seconds=round(self.history.clock() - started, 3),
            # A few messages are enough if the registry knows that the conversation is salted.
            unproven=self._evidence.problem(registered=max_n > 1) if self._evidence.rows else "",
        )

    def _key(self, salt: int) -> str:
        return partition_key(self.conversation_id, None if salt == BASE else salt)

    def _salts_with_rows(self, salts: range) -> list[int]:
        """Return which of these salts have a row. All are asked: a few messages leave gaps among many salts."""
        found: list[int] = []
        for start in range(0, len(salts), _PROBES):
            batch = salts[start : start + _PROBES]
            queries = [PartitionQuery(self._key(salt), limit=1) for salt in batch]
            found += compress(batch, self.history.pool.map(self._has_rows, queries))
        return found

    def _has_rows(self, query: PartitionQuery) -> bool:
        while not (answer := self._query(query)).items and answer.next is not None:
            query = replace(query, start=answer.next)
        return bool(answer.items)

    def _count_rows(self, salts: list[int]) -> Iterator[AuditProgress]:
        """Count the rows of all partitions, in the order of the history: rows of one sort key come together."""
        self._rows.update(dict.fromkeys(salts, 0))
        queries = [PartitionQuery(self._key(salt), descending=False, limit=_ROWS, keys_only=True) for salt in salts]
        # All first queries are in progress before the merge waits for any of them.
        answers = [self.history.pool.submit(self._query, query) for query in queries]
        merged = heapq.merge(*map(self._stream, salts, queries, answers), key=itemgetter(0))
        seen = 0
        for _, group in groupby(merged, key=lambda row: row[0].sort_key):
            rows = list(group)
            for position, item in rows:
                self._rows[position.salt] += 1
                if self._is_missed(position):
                    self._add_orphan(position, item)
                seen += 1
                if seen % _ROWS_BETWEEN_PROGRESS == 0:
                    yield AuditProgress(seen)
            if len(rows) > 1:  # only then are whole rows read
                whole = [row for position, _ in rows if (row := self._whole_row(position)) is not None]
                contents = {fingerprint(row, without=self.history.store.keys.partition_key) for row in whole}
                self._duplicates += len(whole) - len(contents)

    def _stream(self, salt: int, query: PartitionQuery, pending: Future[PartitionAnswer]) -> Iterator[_KeyRow]:
        """Yield the keys of one partition; the next request is in progress while an answer is used."""
        name = self.history.store.keys.sort_key
        while True:
            answer = pending.result()
            if answer.next is not None:
                query = replace(query, start=answer.next)
                pending = self.history.pool.submit(self._query, query)
            for item in answer.items:
                yield Position(plain(item[name]), salt), item
            if answer.next is None:
                return

    def _query(self, query: PartitionQuery) -> PartitionAnswer:
        try:
            answer = self.history.store.query(query)
        except UnavailableError as exc:
            raise exc.with_hint(hint_of("nothing is proved yet: run the audit again", exc.hint)) from exc
        with self._lock:
            self._consumed_rcu += answer.consumed_rcu
        return answer

    def _whole_row(self, position: Position) -> Item | None:
        return self.history.store.get(self._key(position.salt), position.sort_key)

    def _is_missed(self, position: Position) -> bool:
        """Return whether no reader queries the partition for this sort key."""
        found, salt = self._found, position.salt
        if found is not None and salt in found.old_salts:
            return not found.is_below(position.sort_key)
        return self._is_beyond(salt)

    def _is_beyond(self, salt: int) -> bool:
        return salt != BASE and salt >= len(self._salts)

    def _add_orphan(self, position: Position, keys: Item) -> None:
        """Count a message that readers miss, list it if the list is not full, and judge whether it is one."""
        self._orphan_rows[position.salt] += 1
        # Rows on the others are on salts that the registry knows: they need no evidence.
        is_evidence = self._is_beyond(position.salt) and self._evidence.rows < MAX_ORPHANS_LISTED
        is_listed = len(self._orphans) < MAX_ORPHANS_LISTED
        if not (is_evidence or is_listed):
            return
        attribute = self.history.id_attribute
        row = keys if attribute is None else self._whole_row(position) or keys
        message_id = message_id_of(row, self.history.store.keys, attribute)
        if is_evidence:
            self._evidence.add(position.salt, message_id)
        if is_listed:
            key = position.sort_key
            text = key if isinstance(key, str) else number_text(key)
            self._orphans.append(Orphan(self._key(position.salt), text, message_id))
