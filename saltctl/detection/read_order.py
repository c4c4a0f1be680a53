"""The order in which an instance reads entries: those it holds already, those of dead instances, and new ones.

Entries whose raise failed are tried again after a pause that grows, while new entries are read. During an outage, in
which no raise is done, pending and new entries take turns, and only a few new ones are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, WARNING

from saltctl.detection.events import Counters, log_event
from saltctl.stores.heat.contracts import FIRST_ID, Entry
from saltctl.stores.heat.stream import HeatStream

BATCH_ENTRIES = 250
"""Entries of a batch, which may have 5,000 reports, and as many raises: a stop waits for the one that is being done."""
PROBE_ENTRIES = 10
"""New entries that are read while no raise is done: enough to find out whether raises are possible again."""
CLAIM_INTERVAL = 5.0
CLAIM_IDLE = 30.0
"""Seconds after which a pending entry is claimed. If its instance was only slow, handling it twice is harmless."""
LONGEST_PAUSE = 5.0
"""Longest pause in seconds between two tries."""


@dataclass(eq=False)
class ReadOrder:
    """Reads the batches of one consumer. Not thread-safe. The arguments are those of the service."""

    stream: HeatStream
    consumer: str
    counters: Counters
    _: KW_ONLY
    clock: Callable[[], float] = time.monotonic
    block: float = 1.0
    claim_idle: float = CLAIM_IDLE
    # Entries that were delivered to this name before a restart come first. None: there are no more of them.
    _own_after: str | None = field(default=FIRST_ID, init=False)
    _reading_own: bool = field(default=False, init=False)
    _pending: bool = field(default=True, init=False)
    _retry_at: float | None = field(default=None, init=False)
    _retry_pause: float = field(default=0.0, init=False)
    _outage_pause: float = field(default=0.0, init=False)
    _claim_cursor: str = field(default=FIRST_ID, init=False)
    _next_claim: float = field(default=0.0, init=False)

    def read(self) -> list[Entry]:
        """Read the next batch; empty if there is nothing to read. Raises as the stream does."""
        self._reading_own = False
        if self._retry_at is not None and self.clock() >= self._retry_at:
            self.restart()
        if self._own_after is not None:
            if entries := self._read_own(self._own_after):
                return entries
            self._own_after = None
        if self._outage_pause:
            return self.stream.read_new(self.consumer, PROBE_ENTRIES, self.block)
        if self.clock() >= self._next_claim and (entries := self._claim()):
            return entries
        return self.stream.read_new(self.consumer, BATCH_ENTRIES, self.block)

    def restart(self) -> None:
        """Read the own pending entries next, from the first on."""
        self._retry_at, self._own_after = None, FIRST_ID

    def handled(self, *, raised: bool, left_pending: bool) -> None:
        """Plan the next read after a batch that met no outage: whether it raised, and whether it left entries."""
        self._pending = self._pending or left_pending
        probed = self._outage_pause and self._pending and not self._reading_own
        if raised or not probed:
            self._outage_pause = 0.0
        if left_pending or (probed and raised):  # only some of the raises fail
            self._schedule_retry()
        elif probed:
            self.restart()  # these entries needed no raise, and so proved nothing

    def failed(self) -> float:
        """Plan the next read after a failure that stops every raise, and return the pause before it, in seconds."""
        # A failed read may have delivered entries: read the own pending entries first. If they were tried just now,
        # try new ones, so that one primary of several, or one batch, cannot stop all others.
        self._pending = True
        if self._reading_own:
            self._own_after = None
        else:
            self.restart()
        self._outage_pause = min(max(self._outage_pause * 2, 0.1), LONGEST_PAUSE)
        return self._outage_pause

    def _schedule_retry(self) -> None:
        if self._retry_at is None:
            self._retry_pause = min(max(self._retry_pause * 2, 0.1), LONGEST_PAUSE)
            self._retry_at = self.clock() + self._retry_pause

    def _read_own(self, after: str) -> list[Entry]:
        entries = self.stream.read_own(self.consumer, after, BATCH_ENTRIES)
        if entries:
            self._reading_own = True
            self._own_after = entries[-1].id
            self.counters.redelivered += len(entries)
        elif after == FIRST_ID:  # nothing is left of earlier failures
            self._pending, self._retry_pause = False, 0.0
        return entries

    def _claim(self) -> list[Entry]:
        claimed = self.stream.claim(self.consumer, self.claim_idle, self._claim_cursor, BATCH_ENTRIES)
        self._claim_cursor, entries, deleted = claimed
        if self._claim_cursor == FIRST_ID:
            self._next_claim = self.clock() + CLAIM_INTERVAL
        if deleted:
            self.counters.lost += len(deleted)
            log_event(ERROR, "pending_entries_trimmed", count=len(deleted), first=deleted[0], last=deleted[-1])
        if entries:
            self.counters.claimed += len(entries)
            log_event(WARNING, "claimed", count=len(entries), first=entries[0].id)
        return entries
