"""Looks for messages of one conversation that readers miss, at a cost that does not grow with its messages.

Only partitions that readers do not query are asked: the salts beyond max_n and, from the boundary of a cooled
conversation on, those outside recent_n. A partition without rows costs half a read unit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from saltctl.history.full_audit.paced_messages import PacedMessages
from saltctl.history.models import message_id_of
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.registry.lookups import Lookup
from saltctl.salting import SaltEvidence, partition_key, power_of_two_at_least
from saltctl.stores.contracts.messages import Item, PartitionQuery, SortKey

ROWS = 100
"""Rows that are counted of one partition, which bounds the cost of a conversation; ``history audit`` counts all."""
_PROBES = 16
"""Queries in progress at once. An audit is not urgent, and others read at the same time."""
_TICK = 1.0
"""Seconds of a wait after which the caller can renew its lease."""
MissedKind = Literal["beyond", "boundary"]
"""beyond: on salts beyond max_n. boundary: outside recent_n, from the boundary of a cooled conversation on."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages that readers miss: at least ``orphans``, since at most 100 of a partition are counted.

    ``needed_n`` is the N to raise to, as in :class:`saltctl.history.audit.Audit`. ``unproven`` is the reason why they
    may be messages of other conversations; empty if they are not.
    """

    kind: MissedKind
    orphans: int
    max_n: int
    needed_n: int
    unproven: str = ""


class _Partition(NamedTuple):
    """A partition that readers do not query, from the sort key ``low`` on; None is all of it."""

    salt: int
    low: SortKey | None


@dataclass(eq=False)
class Probe:
    """Asks the partitions of conversations that their readers do not query.

    Reads are eventually consistent, which halves their cost: a message of the last second is found by the next audit.

    Args:
        lookup: looks up a conversation, as readers do.
        store: the messages table.
        pool: the threads that send queries.
        cap: the largest N that a raise can set.
        id_attribute: the attribute that has message ids; None if the sort key does.
    """

    lookup: Callable[[str], Lookup]
    store: PacedMessages
    pool: ThreadPool
    cap: int = field(kw_only=True)
    id_attribute: str | None = field(kw_only=True, default=None)
    probed: int = field(default=0, init=False)
    """Partitions that were asked."""

    def run(
        self, conversation_id: str, *, at_least: int | None = None, highest: int = -1, candidates: int = 1
    ) -> Generator[None, None, Missed | None]:
        """Return what readers miss; None if they see everything. Yields about every second while it waits.

        What is found counts only if a lookup after it is still the same: a raise in between is not a lost one.

        Args:
            conversation_id: the conversation.
            at_least: the max_n of a conversation that cannot be looked up, since its entry is damaged.
            highest: a salt that has messages.
            candidates: how many conversations may be taken for salted ones by chance, if the registry has no salts.

        Raises:
            SaltctlError: as ``History.lookup``, and those of the messages table. Then nothing is known.
        """
        found = self.lookup(conversation_id) if at_least is None else None
        while True:
            missed = yield from self._ask(conversation_id, found, at_least or 1, highest, candidates)
            if missed is None or found is None:
                return missed
            again = self.lookup(conversation_id)
            if again.covers_as(found):
                return missed
            found = again

    def _ask(
        self, conversation_id: str, found: Lookup | None, at_least: int, highest: int, candidates: int
    ) -> Generator[None, None, Missed | None]:
        max_n = at_least if found is None else found.max_n
        partitions = list(_unread(max_n, found, max(self.cap, 2 * max_n, highest + 1)))
        rows: dict[_Partition, Sequence[Item]] = {}
        for start in range(0, len(partitions), _PROBES):
            batch = partitions[start : start + _PROBES]
            queries = [self._query_of(conversation_id, partition) for partition in batch]
            answers = [self.pool.submit(self._rows, query) for query in queries]
            yield from _until_done(answers)
            for partition, answer in zip(batch, answers, strict=True):
                if items := answer.result():
                    rows[partition] = items
        self.probed += len(partitions)
        if not rows:
            return None
        beyond = [partition for partition in rows if partition.low is None]
        return Missed(
            kind="beyond" if beyond else "boundary",
            orphans=sum(map(len, rows.values())),
            max_n=max_n,
            needed_n=max(power_of_two_at_least(max(partition.salt for partition in rows) + 1), 2),
            unproven=self._unproven({partition.salt: rows[partition] for partition in beyond}, max_n, candidates),
        )

    def _query_of(self, conversation_id: str, partition: _Partition) -> PartitionQuery:
        return PartitionQuery(
            partition_key(conversation_id, partition.salt),
            descending=False,
            limit=ROWS,
            low=partition.low,
            consistent=False,
            keys_only=self.id_attribute is None,
        )

    def _rows(self, query: PartitionQuery) -> Sequence[Item]:
        answer = self.store.query(query)
        while not answer.items and answer.next is not None:  # an empty page is not the end
            answer = self.store.query(replace(query, start=answer.next))
        return answer.items

    def _unproven(self, rows: dict[int, Sequence[Item]], max_n: int, candidates: int) -> str:
        """Return why rows beyond max_n may be those of other conversations; empty if they are not."""
        evidence, keys = SaltEvidence(), self.store.keys
        for salt, items in rows.items():
            for item in items:
                evidence.add(salt, message_id_of(item, keys, self.id_attribute))
        return evidence.problem(candidates, registered=max_n > 1) if evidence.rows else ""


def _unread(max_n: int, found: Lookup | None, end: int) -> Iterator[_Partition]:
    """Yield the partitions that readers do not query, up to the salt before ``end``."""
    if found is not None:
        for salt in found.old_salts:
            yield _Partition(salt, found.boundary)
    for salt in range(max_n if max_n > 1 else 0, end):
        yield _Partition(salt, None)


def _until_done(answers: Sequence[Future[Sequence[Item]]]) -> Iterator[None]:
    while wait(answers, timeout=_TICK).not_done:
        yield
