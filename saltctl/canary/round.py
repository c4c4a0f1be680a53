"""One round: what its checks share, and the verdict of the judges on all that they recorded."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from typing import Any

from saltctl.canary.classes import Classes
from saltctl.canary.clients import Client, Recorder
from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.canary.ground_truth import OLD, GroundTruth, MarkedRows, delete_old_rows, read_ground_truth
from saltctl.canary.judge import Violation, check_lookups, check_reads
from saltctl.canary.new_rows import NewRow, NewRows
from saltctl.canary.operations import BackupLoss, LookupAnswer, Operations, Put, RaiseAttempt, Read
from saltctl.errors import SaltctlError, UnavailableError
from saltctl.settings import Settings
from saltctl.stores.contracts.registry import BackupEntry, BackupStore, RegistryIdentity, RegistryStore

_ANY_N = 1 << 30


@dataclass(frozen=True)
class Servers:
    """The stores of the canary, open over many rounds.

    Args:
        store, backup, messages: those that the clients use.
        table, entries: the messages and the backup as they are, which no client under test reads.
        identify: returns the identity of the registry and of its table, read anew.
        foreign: opens the registry in Redis as a client of another registry does; None if that is not possible.
        check_lost: raises BackupLostError, as a client does that finds an empty table; None if not possible.
        cooled: returns whether the registry has cooled entries already, so that older clients are refused.
        forks: whether a forked child can use the same stores.
    """

    settings: Settings
    classes: Classes
    store: RegistryStore
    backup: BackupStore
    messages: Any
    table: MarkedRows
    entries: BackupStore
    identify: Callable[[], RegistryIdentity]
    cooled: Callable[[], bool]
    foreign: Callable[[], RegistryStore] | None = None
    check_lost: Callable[[], object] | None = None
    forks: bool = False


@dataclass
class Round:
    """What the checks of one round share.

    ``by_redis`` and ``by_backup`` are the clients. ``held`` has the entry of each reserved conversation in the backup.
    ``steady`` is the conversation that is written and read; ``raised`` is raised, too, if one can be.
    """

    servers: Servers
    by_redis: Client
    by_backup: Client
    recorder: Recorder
    rng: random.Random
    now: Callable[[], datetime]
    identity: RegistryIdentity
    may_cool: bool
    held: dict[str, BackupEntry]
    began: float
    steady: str
    raised: str | None
    written: list[tuple[str, NewRow]] = field(default_factory=list)
    truths: dict[str, GroundTruth] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    """What readers miss of conversations: their lookups do not cover it."""
    queries: int = 0
    consumed_rcu: float = 0.0

    def sources(self) -> str:
        """Say who answered the lookups of the check in progress."""
        process = self.recorder.process(self.by_redis.name)
        answered = [one for one in self.recorder.operations.lookups if one.process == process and one.source == "redis"]
        return "by Redis and by the backup" if answered else "by the backup alone, since Redis answers no lookup"

    @property
    def clients(self) -> tuple[Client, Client]:
        """Both clients."""
        return self.by_redis, self.by_backup

    def use(self, conversation: str) -> str:
        """Read what the table holds of a conversation, before anything of this round is judged by it.

        Raises:
            SaltctlError: it cannot be read.
        """
        if conversation not in self.truths:
            self.truths[conversation] = self._ground_truth(conversation)
            self.recorder.operations.puts += self.truths[conversation].puts()
        return conversation

    def _ground_truth(self, conversation: str) -> GroundTruth:
        entry = self.held.get(conversation)
        truth = read_ground_truth(self.servers.table, conversation, entry.max_n if entry else 1, self.recorder.clock)
        self.queries, self.consumed_rcu = self.queries + truth.queries, self.consumed_rcu + truth.consumed_rcu
        return truth

    def entry(self, conversation: str) -> BackupEntry:
        """Read the entry of a conversation from the backup, record it as a lookup there, and return it."""
        began = self.recorder.clock()
        found = self.servers.entries.get(conversation)
        entry = self.held[conversation] = found or BackupEntry(conversation, 1, 1)
        process = self.recorder.process("canary")
        self.recorder.operations.lookups.append(
            LookupAnswer(process, conversation, began, self.recorder.clock(), entry.max_n, entry.write_n, "backup")
        )
        return entry

    def row(self, conversation: str, *, ahead: float = 0.0, recent: bool = False) -> NewRow:
        """Return a new message; with ``recent`` it is not below the boundary of the conversation."""
        settings, entry = self.servers.settings, self.held.get(conversation)
        boundary = entry.cooling.boundary if recent and entry and entry.cooling else None
        attribute = settings.message_id_from.partition("attribute:")[2] or None
        rows = NewRows(self.servers.table.keys, settings.sort_key_form, attribute, self.now, self.rng)
        return rows.new(ahead=ahead, boundary=boundary)

    # The verdict.

    def judge(self) -> tuple[list[Violation], SaltctlError | None]:
        """Return all violations, and why reads could not be judged; None if they were.

        A message that is gone at the end was deleted by another canary, so reads need not have it. Nothing is judged if
        the backup was lost meanwhile: work in progress then is outside the promise. The next round judges the recovery.
        """
        operations, reason = self.recorder.operations, None
        try:
            used = {read.conversation for read in operations.reads}
            used |= {put.conversation for put in operations.puts if put.began > -inf}
            last = {conversation: self._ground_truth(conversation) for conversation in used & self.truths.keys()}
        except SaltctlError as exc:
            reason, last = exc, {}
        losses, lost = self._losses()
        if lost is not None:
            return [], lost
        lookups = check_lookups(operations.lookups, [*operations.raises, *self._ceilings()], operations.puts, losses)
        found = list(lookups)
        for conversation, truth in last.items():
            found += check_reads(*_still_there(operations, conversation, truth))
            found += self._lost(conversation, truth)
        return found, reason

    def delete_old_rows(self, has_time: Callable[[], bool]) -> int:
        """Delete old rows of this round's conversations while there is time; return how many. Raises SaltctlError."""
        table, truths = self.servers.table, self.truths.values()
        return sum(delete_old_rows(table, truth, self.now(), has_time) for truth in truths)

    def _losses(self) -> tuple[list[BackupLoss], SaltctlError | None]:
        """Return the loss of the backup that there may have been, and the one that there was."""
        try:
            if self.servers.identify().registry_id == self.identity.registry_id:
                return [], None
        except UnavailableError:
            return [BackupLoss(self.began, self.recorder.clock(), 0.0, both=True)], None
        except SaltctlError as exc:
            return [], exc
        return [], UnavailableError("the registry was recovered, as another one, during this round")

    def _ceilings(self) -> list[RaiseAttempt]:
        """Return what others may have raised the conversations to: BOUND, or what the backup holds."""
        try:
            held = self.servers.entries.get_many(RESERVED)
        except SaltctlError:
            held = None
        ceilings = []
        for conversation in RESERVED:
            entry = held and held.get(conversation)
            n = _ANY_N if held is None else max(BOUND, entry.max_n if entry else 1)
            ceilings.append(RaiseAttempt("others", conversation, -inf, inf, n, n, acknowledged=False))
        return ceilings

    def _lost(self, conversation: str, truth: GroundTruth) -> list[Violation]:
        """Return the acknowledged messages that the table does not have, and those that searches did not find."""
        found = [
            Violation("not found", conversation, f"{one.process} did not find {one.message}", one.process)
            for one in self.recorder.not_found
            if one.conversation == conversation and one.message in truth.rows
        ]
        # A host whose clock is ahead takes new rows for old ones.
        if not truth.written_after(self.now() + OLD / 2 + timedelta(seconds=1)):
            found += [
                Violation(
                    "not stored", conversation, f"{put.process} wrote {put.message}, which is not there", put.process
                )
                for put in self.recorder.operations.puts
                if put.conversation == conversation and put.acknowledged and put.message not in truth.rows
                if put.began > -inf
            ]
        return found


def _still_there(operations: Operations, conversation: str, truth: GroundTruth) -> tuple[list[Put], list[Read]]:
    """Return the puts and reads of a conversation with the messages that still exist, and those that others sent."""
    puts = [put for put in operations.puts if put.conversation == conversation and put.message in truth.rows]
    elsewhere = {put.message for put in operations.puts if put.conversation != conversation}
    reads = [
        read._replace(messages=tuple(name for name in read.messages if name in truth.rows or name in elsewhere))
        for read in operations.reads
        if read.conversation == conversation
    ]
    others = {name for read in reads for name in read.messages} - {put.message for put in operations.puts}
    puts += [Put("others", conversation, -inf, inf, name, acknowledged=False) for name in others]
    return puts, reads
