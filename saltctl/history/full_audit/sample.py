"""Looks for conversations whose entries are lost altogether, in a part of the messages table.

The messages of such a conversation are on salts, and neither Redis nor the backup knows it, so no cycle over the
registry comes to it. Each run reads the keys of some rows by a scan that goes round the table. As in a discovery,
conversations that the backup does not cover are judged by their rows: see ``salting.SaltEvidence``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

from saltctl.errors import AccessDeniedError, ConfigurationError
from saltctl.history.full_audit.judge import NOT_OF_ONE, Judge
from saltctl.history.full_audit.probe import Missed
from saltctl.history.full_audit.state import Finding, SampleState
from saltctl.history.models import message_id_of
from saltctl.registry.discover import Salts, Seen
from saltctl.registry.failures import read_undamaged
from saltctl.salting import is_conversation_id, split_partition_key
from saltctl.stores.aws.backup_items import LARGEST_N
from saltctl.stores.contracts.messages import Item, KeysPage, MessageStore
from saltctl.stores.contracts.registry import BackupStore

_BATCH = 99
"""Entries of one request: those of BatchGetItem, one of which is the registry's identity."""


@dataclass(eq=False)
class Sampler:
    """The sample of one run.

    Args:
        judge: judges conversations.
        store: the messages table.
        backup: the backup table.
        max_rcu: read capacity units a second of the scan.
    """

    judge: Judge
    store: MessageStore
    backup: BackupStore
    max_rcu: float | None = None
    items: int = field(default=0, init=False)
    """Rows that were read."""
    _judged: int = field(default=0, init=False)
    """Conversations whose partitions were asked."""

    def run(
        self, state: SampleState, wanted: int, is_over: Callable[[], bool], now: float
    ) -> Generator[SampleState | Finding | None, None, None]:
        """Read about ``wanted`` rows, or up to the end of the round; yield the state after each conversation.

        Findings are yielded before the state behind their rows. None is yielded about every second.
        """
        if state.began is None:
            state = SampleState(began=now, complete=state.complete)
        after = {} if state.position is None else {0: state.position}
        attribute = self.judge.probe.id_attribute
        scan = self.store.scan_keys(1, consistent=False, attribute=attribute, after=after, max_rcu=self.max_rcu)
        with closing(scan) as pages:
            for page in pages:
                self.judge.probe.store.charge(page.consumed_rcu)
                state, whole = yield from self._read(page, state, is_over)
                yield state
                is_last = page.segment >= 0 and page.last is None
                if not whole or ((self.items >= wanted or is_over()) and not is_last):
                    return
        yield replace(state, began=None, position=None, complete=state.began)

    def _read(
        self, page: KeysPage, state: SampleState, is_over: Callable[[], bool]
    ) -> Generator[SampleState | Finding | None, None, tuple[SampleState, bool]]:
        """Judge the conversations of a page; return the state, and whether the time was enough for all of them.

        The position in the page is the row before the first conversation that is left. One is judged at least.
        """
        salts = Salts(self.store.keys.partition_key, self._message_id)
        salts.add(page)
        first: dict[str, int] = {}
        for number, item in enumerate(page.items):
            first.setdefault(split_partition_key(item[salts.partition_key]["S"])[0], number)
        seen = sorted(salts.seen(), key=lambda one: first[one.conversation_id])
        position, before = state.position if page.segment < 0 else page.last, state
        for candidate, held in self._uncovered(seen):
            read = first[candidate.conversation_id]
            partial = replace(
                state,
                items=before.items + read,
                position=self._keys_of(page.items[read - 1]) if read else before.position,
            )
            if self._judged and is_over():
                self.items += read
                return partial, False
            yield partial  # a process that is killed in a page goes on in it
            state = replace(state, candidates=state.candidates + 1)
            finding = yield from self._judge_candidate(candidate, held, state.candidates)
            if finding is None:
                continue
            if finding.kind == "unproven":
                state = replace(state, unproven=state.unproven + 1)
            else:
                yield finding
        self.items += len(page.items)
        return replace(state, items=before.items + len(page.items), position=position), True

    def _judge_candidate(self, candidate: Seen, held: int, candidates: int) -> Generator[None, None, Finding | None]:
        """Return the finding of a conversation that the backup does not cover; None if readers see all of it."""
        name, evidence = candidate.conversation_id, candidate.evidence
        missed: Missed | None = Missed("beyond", 0, held, 0, "its rows are not on the salts of their message ids")
        if evidence.cause(registered=held > 1) in ("", "too-few") and candidate.highest < LARGEST_N:
            self._judged += 1
            try:
                missed = yield from self.judge.probe.run(name, highest=candidate.highest, candidates=candidates)
            except (AccessDeniedError, ConfigurationError) as exc:  # perhaps one of its partitions is denied
                if isinstance(exc, NOT_OF_ONE):
                    raise
                missed = Missed("beyond", 0, held, 0, exc.message)
        return None if missed is None else self.judge.finding_of(name, missed, lost=not held)

    def _keys_of(self, row: Item) -> Item:
        return {name: row[name] for name in (self.store.keys.partition_key, self.store.keys.sort_key)}

    def _message_id(self, item: Item) -> str | None:
        return message_id_of(item, self.store.keys, self.judge.probe.id_attribute)

    def _uncovered(self, seen: list[Seen]) -> Iterator[tuple[Seen, int]]:
        """Yield the conversations that the backup does not cover, with the max_n that it holds; 0 without an entry.

        Damaged items are left out: the cycle over the registry comes to them.
        """
        valid = [one for one in seen if is_conversation_id(one.conversation_id)]
        for start in range(0, len(valid), _BATCH):
            batch = valid[start : start + _BATCH]
            entries, damaged = read_undamaged(self.backup, [one.conversation_id for one in batch])
            self.judge.probe.store.charge(len(batch) + 1)
            for one in batch:
                entry = entries.get(one.conversation_id)
                held = 0 if entry is None else entry.max_n
                if one.conversation_id not in damaged and held <= max(one.highest, 1):
                    yield one, held
