"""Audits every conversation of the registry in turn, and looks for those that the registry lost.

A run continues where the last one ended, in whatever way, and ends with the cycle or after its time. The order is that
of a scan of the backup. A conversation that is registered behind the position of a cycle waits for the next one; the
age of the proof says nothing about it until then, since it is newer.

The state is saved every few seconds, by the holder of the lease alone. What a killed run had audited since is audited
again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from saltctl.errors import CheckpointRefusedError, LeaseHeldError, SaltctlError, UnavailableError
from saltctl.history.full_audit.events import (
    AuditRestarted,
    FullAudit,
    FullAuditOptions,
    FullAuditProgress,
)
from saltctl.history.full_audit.judge import Judge
from saltctl.history.full_audit.paced_messages import PacedMessages
from saltctl.history.full_audit.probe import Probe
from saltctl.history.full_audit.sample import Sampler
from saltctl.history.full_audit.state import MISSING, AuditState, Finding, SampleState, age, load_state
from saltctl.history.history import History
from saltctl.rebuild.events import StartDelayed
from saltctl.rebuild.lease import Lease
from saltctl.registry.lookups import Lookup
from saltctl.registry.mending import Damage
from saltctl.salting import is_conversation_id
from saltctl.stores.audit_item import AuditItem
from saltctl.stores.contracts.registry import BackupPage, BackupStore
from saltctl.stores.saved_state import encode
from saltctl.times import iso_utc

SAVE_SECONDS = 5.0
"""Seconds between two saves, each of which renews the lease."""
_LOOKUP_UNITS = 2.0
"""Read units of a lookup in the backup: the item, and the identity of the registry."""
_SAMPLE_SHARE = 0.5
"""The share of a run's time that the sample may take."""
Event = StartDelayed | AuditRestarted | FullAuditProgress | FullAudit


@dataclass(eq=False)
class FullAuditor:
    """One run. Iterate over :meth:`run` once.

    Args:
        history: looks conversations up, and has the threads that send queries.
        backup: the backup table.
        item: keeps the state.
        find_damage: returns what the registry holds of a conversation and cannot be read; None if nothing.
        messages_table: the name of the messages table.
        save_every: seconds between two saves.
    """

    history: History
    backup: BackupStore
    item: AuditItem
    find_damage: Callable[[str], Damage | None]
    options: FullAuditOptions
    messages_table: str
    save_every: float = SAVE_SECONDS
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    _state: AuditState = field(init=False)
    _trusted: AuditState | None = field(default=None, init=False)
    """The state before conversations that failed in a row, while it is not known whether that is an outage."""
    _audited: int = field(default=0, init=False)
    _completed: bool = field(default=False, init=False)
    _restarted: bool = field(default=False, init=False)
    _save_due: float = field(default=0.0, init=False)
    _doing: str = field(default="auditing", init=False)

    def __post_init__(self) -> None:
        options, history = self.options, self.history
        self._started = self.clock()
        self._paced = PacedMessages(history.store, options.max_rcu, clock=self.clock)
        self._probe = Probe(self._lookup, self._paced, history.pool, cap=options.cap, id_attribute=history.id_attribute)
        self._judge = Judge(self._probe, self.find_damage, self.now)
        self._sampler = Sampler(self._judge, history.store, self.backup, options.max_rcu)
        self._lease = Lease(
            self.item.lease,
            os.urandom(16).hex(),
            clock=self.clock,
            now=self.now,
            wait_command="this run would continue where that one is: run it again later",
            doing="auditing all conversations",
        )

    def run(self) -> Generator[Event, None, None]:
        """Run the audit; yield its progress, and its report last.

        Raises:
            LeaseHeldError: another run is in progress, or has taken the lease over.
            CheckpointRefusedError: the state is damaged.
            UnavailableError, AccessDeniedError, ConfigurationError: a server that every conversation needs fails. The
                next run continues.
        """
        _ = self.history.store.keys  # a missing table is no failure of one conversation
        yield from self._lease.acquire(0.0)
        try:
            yield from self._load()
            try:
                self._drop_cured()
                yield from self._sample()
                yield from self._cycle()
                self._drop_cured()
                self._trusted = None
                self._save()
            except LeaseHeldError:
                raise
            except BaseException:
                if self._lease.acquired_here:
                    with suppress(SaltctlError):
                        self._save()
                raise
        finally:
            self._paced.stop()
            self._lease.release()
        yield self._report()

    # The state.

    def _load(self) -> Iterator[AuditRestarted]:
        """Load the state, or begin a new one."""
        registry_id = self.backup.check_registry().registry_id
        new, reason = AuditState(registry_id, self.messages_table), ""
        try:
            found = load_state(self.item)
        except CheckpointRefusedError as exc:
            if not self.options.restart:
                raise
            found, reason = None, exc.message
        if found is not None and (found.registry_id, found.messages_table) != (registry_id, self.messages_table):
            reason = "the state of the audit is that of another registry or messages table"
            found = None
        if found is not None and self.options.restart:
            sample = SampleState(complete=found.sample.complete)
            found = replace(found, began=None, position=None, sample=sample)
        self._state = found or new
        self._restarted = bool(reason)
        self._save_due = self.clock() + self.save_every
        if reason:
            yield AuditRestarted(reason)

    def _save(self) -> None:
        state = self._trusted or self._state
        self._save_due = self.clock() + self.save_every
        progress = f"{state.audited:,} audited, {state.found:,} found"
        if not self.item.save(self._lease.owner, encode(state), self.now(), progress):
            raise LeaseHeldError(
                "the lease was taken over by another audit", hint="let that one go on; nothing was lost"
            )

    def _tick(self) -> FullAuditProgress:
        """Save every few seconds, which renews the lease; return the progress."""
        if self.clock() >= self._save_due:
            self._save()
        state, rcu = self._state, self._paced.consumed_rcu
        return FullAuditProgress(self._doing, self._audited, state.audited, self._sampler.items, state.found, rcu)

    def _is_over(self, share: float = 1.0) -> bool:
        budget = self.options.budget
        return budget is not None and self.clock() - self._started >= share * budget

    # Reading.

    def _lookup(self, conversation_id: str) -> Lookup:
        found = self.history.lookup(conversation_id)
        if found.source == "backup":
            self._paced.charge(_LOOKUP_UNITS)
        return found

    def _drop_cured(self) -> None:
        """Drop findings that the registry covers now."""
        with suppress(UnavailableError):  # the rest of the run says what is down
            for finding in self._state.findings:
                if self._judge.is_cured(finding, self._lookup):
                    self._state = self._state.with_finding(finding.conversation_id, None)

    def _sample(self) -> Iterator[FullAuditProgress]:
        """Look at a part of the messages table."""
        if not self.options.sample_items:
            return
        self._doing = "sampling"
        steps = self._sampler.run(
            self._state.sample, self.options.sample_items, lambda: self._is_over(_SAMPLE_SHARE), self._time()
        )
        with closing(steps):
            for step in steps:
                if isinstance(step, Finding):
                    self._state = self._state.with_finding(step.conversation_id, step)
                elif step is not None:
                    self._state = replace(self._state, sample=step)
                yield self._tick()

    def _cycle(self) -> Iterator[FullAuditProgress]:
        """Continue the cycle over the registry, or begin one."""
        self._doing = "auditing"
        if self._state.began is None:
            self._state = replace(self._state, began=self._time(), position=None, audited=0, unread=0, unlisted=0)
        after = {} if self._state.position is None else {0: self._state.position}
        scan = self.backup.scan(1, limit=self.options.page, after=after, max_rcu=self.options.max_rcu)
        with closing(scan) as pages:
            for page in pages:
                whole = yield from self._audit_page(page)
                is_last = page.segment >= 0 and page.last is None
                if not whole or (self._has_worked_enough() and not is_last):
                    return
        if not (yield from self._audit_unvisited()):
            return
        if self._judge.failure is not None and not self._state.audited:
            raise self._judge.failure
        self._complete()

    def _has_worked_enough(self) -> bool:
        """Return whether the time of the run is over. It audits one conversation at least, so that a cycle ends."""
        return self._audited > 0 and self._is_over()

    def _audit_page(self, page: BackupPage) -> Generator[FullAuditProgress, None, bool]:
        """Audit the conversations of a page; return whether the time was enough for all.

        Damaged ones are first: their places among the others are not known.
        """
        self._paced.charge(page.consumed_rcu)
        yield self._tick()
        for item in page.damaged:
            yield from self._audit(item.conversation_id, damaged=True)
        for left, (conversation_id, _, _) in zip(range(len(page.entries) - 1, -1, -1), page.entries, strict=True):
            yield from self._audit(conversation_id)
            self._state = replace(self._state, position=conversation_id)
            if left and self._has_worked_enough():
                return False
        if page.segment >= 0 and page.last is not None:
            self._state = replace(self._state, position=page.last)
        return True

    def _audit_unvisited(self) -> Generator[FullAuditProgress, None, bool]:
        """Audit conversations with findings that are not in the registry, or not any more; return as _audit_page."""
        began = self._state.began or 0.0
        for finding in self._state.findings:
            if finding.at >= began:
                continue
            if self._has_worked_enough():
                return False
            if is_conversation_id(finding.conversation_id):
                yield from self._audit(finding.conversation_id)
            else:  # an item whose id cannot be that of a conversation was deleted
                self._state = self._state.with_finding(finding.conversation_id, None)
        return True

    def _audit(self, conversation_id: str, *, damaged: bool = False) -> Iterator[FullAuditProgress]:
        """Audit one conversation, and add the result to the state."""
        judgement = self._judge.judge(conversation_id, damaged=damaged)
        while True:
            try:
                next(judgement)
            except StopIteration as done:
                finding: Finding | None = done.value
                break
            yield self._tick()
        before, failed = self._state, self._judge.failures > 0
        self._trusted = (self._trusted or before) if failed else None
        self._audited += not failed
        state = replace(before, audited=before.audited + (not failed), unread=before.unread + failed)
        self._state = state.with_finding(conversation_id, self._merged(conversation_id, finding))
        yield self._tick()

    def _merged(self, conversation_id: str, found: Finding | None) -> Finding | None:
        """Return what stands now that this was found: a conversation that cannot be read still has what it had."""
        earlier = next((one for one in self._state.findings if one.conversation_id == conversation_id), None)
        if found is None or earlier is None:
            return found
        if found.kind == "unread" and earlier.kind in MISSING:
            return earlier
        return replace(found, kind="lost") if earlier.kind == "lost" and found.kind == "beyond" else found

    def _complete(self) -> None:
        """End the cycle. It proves something only if every conversation could be audited."""
        state = self._state
        self._completed = True
        self._state = replace(
            state,
            began=None,
            position=None,
            proven=state.proven if state.unread else state.began,
            completed=self._time(),
            unlisted_before=state.unlisted,
            unlisted=0,
        )

    def _time(self) -> float:
        return round(self.now(), 3)

    def _report(self) -> FullAudit:
        state, now = self._state, self.now()
        return FullAudit(
            audited=self._audited,
            probes=self._probe.probed,
            orphans=sum(finding.orphans for finding in state.findings if finding.kind != "unproven"),
            found=state.found,
            lost=sum(finding.kind == "lost" for finding in state.findings),
            findings=list(state.findings),
            cycle_complete=self._completed,
            cycle_began_at=None if state.began is None else iso_utc(state.began),
            cycle_audited=state.audited,
            unread=state.unread,
            oldest_age_s=age(state.proven, now),
            sample_items=self._sampler.items,
            sample_unproven=state.sample.unproven,
            sample_age_s=age(state.sample.complete, now),
            consumed_rcu=round(self._paced.consumed_rcu, 3),
            seconds=round(self.clock() - self._started, 3),
            restarted=self._restarted,
        )
