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
from saltctl.salting import is_conversation_id
from saltctl.stores.aws.backup_items import LARGEST_N
from saltctl.stores.contracts.messages import KeysPage, MessageStore
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

    def run(
        self, state: SampleState, wanted: int, is_over: Callable[[], bool], now: float
    ) -> Generator[SampleState | Finding | None, None, None]:
        """Read about ``wanted`` rows, or up to the end of the round; yield the state after each page.

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
                state = yield from self._read(page, state)
                yield state
                if self.items >= wanted or is_over():
                    if page.segment < 0 or page.last is not None:
                        return
                    break
        yield replace(state, began=None, position=None, complete=state.began)

    def _read(self, page: KeysPage, state: SampleState) -> Generator[Finding | None, None, SampleState]:
        probe, seen = self.judge.probe, Salts(self.store.keys.partition_key, self._message_id)
        seen.add(page)
        self.items += len(page.items)
        for candidate, held in self._uncovered(list(seen.seen())):
            state = replace(state, candidates=state.candidates + 1)
            if candidate.evidence.cause(registered=held > 1) in ("misplaced", "without-id") or (
                candidate.highest >= LARGEST_N
            ):
                state = replace(state, unproven=state.unproven + 1)
                continue
            try:
                missed = yield from probe.run(
                    candidate.conversation_id, highest=candidate.highest, candidates=state.candidates
                )
            except (AccessDeniedError, ConfigurationError) as exc:
                if isinstance(exc, NOT_OF_ONE):
                    raise
                missed = Missed("beyond", 0, held, 0, exc.message)  # one of its partitions is denied
            if missed is None:
                continue
            if missed.unproven:
                state = replace(state, unproven=state.unproven + 1)
            else:
                yield self.judge.finding_of(candidate.conversation_id, missed, lost=not held)
        position = state.position if page.segment < 0 else page.last
        return replace(state, items=state.items + len(page.items), position=position)

    def _message_id(self, item: object) -> str | None:
        return message_id_of(item, self.store.keys, self.judge.probe.id_attribute)  # type: ignore[arg-type]

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
