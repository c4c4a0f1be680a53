"""The hot partition service. Any number of instances share one consumer group.

Each instance reads, sums, raises and acknowledges, in that order. If a step fails, the entry stays pending and is
read again: by this instance after a back-off, or by an instance that claims the entries of a dead one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, INFO, WARNING

from saltctl.detection.detector import BatchResult, Detector, log_event
from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.errors import SaltctlError, StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import FIRST_ID, Entry
from saltctl.stores.heat.service_state import KEPT_RAISES, ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.times import iso_utc

BATCH_ENTRIES = 1000
CLAIM_INTERVAL = 5.0
CLAIM_IDLE = 30.0
"""Seconds after which a pending entry is claimed. If its instance was only slow, handling it twice is harmless."""
MAINTENANCE_INTERVAL = 10.0
HEARTBEAT_INTERVAL = 2.0
ALIVE_SECONDS = 15.0
"""Idle time in seconds after which a consumer counts as dead."""
DELETE_CONSUMERS_AFTER = 3600.0
DRAIN_SECONDS = 10.0


@dataclass(eq=False)
class Service:
    """One instance. Call :meth:`run`, or call :meth:`step` in a loop.

    Args:
        consumer: the consumer's name in the group. Two instances of one name share pending entries harmlessly.
        settings: the retention of acknowledged reports.
        stop: set by a signal handler; the current batch is finished, and no more entries are read.
        fence_watcher: runs in a thread of its own; None to watch no fence.
        state: records the latest raises for operators; None to record nothing.
        block: the longest wait of one step for entries, in seconds.
        claim_idle: seconds after which a pending entry of another consumer is claimed.
    """

    stream: HeatStream
    detector: Detector
    _: KW_ONLY
    consumer: str
    settings: Settings
    stop: threading.Event
    fence_watcher: FenceWatcher | None = None
    state: ServiceState | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    block: float = 1.0
    claim_idle: float = CLAIM_IDLE
    back_off: float = field(default=0.0, init=False)
    """Seconds to wait before the next step; 0 if the last one succeeded."""

    def __post_init__(self) -> None:
        # Entries that were delivered to this name before a restart come first. None: there are no more of them.
        self._read_own_after: str | None = FIRST_ID
        self._claim_cursor = FIRST_ID
        self._next_claim = self._next_maintenance = self._next_heartbeat = 0.0
        self._logged_loss: tuple[str, str | None] | None = None
        self.counters = self.detector.counters
        """Totals since the start."""

    def run(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Run until ``stop`` is set. The loop calls ``after_step`` itself, which proves that it is alive."""
        log_event(INFO, "started", consumer=self.consumer)
        thread = None
        if self.fence_watcher is not None:
            thread = threading.Thread(target=self.fence_watcher.run, name="saltctl-fence-watcher", daemon=True)
            thread.start()
        try:
            while not self.stop.is_set():
                self.step()
                after_step()
                if self.back_off:
                    self.stop.wait(self.back_off)
        finally:
            self.stop.set()
            if thread is not None:
                thread.join(timeout=DRAIN_SECONDS)
            try:
                self.stream.delete_idle_consumers(0.0, self.consumer)
            except SaltctlError as exc:
                log_event(WARNING, "consumer_not_deleted", why=exc.message)
            log_event(INFO, "stopped", consumer=self.consumer)

    def step(self) -> None:
        """Handle one batch. Backs off instead of raising for an outage."""
        try:
            self._maintain()
            entries = self._read()
            result = self.detector.handle(entries, self.stream) if entries else BatchResult()
        except StreamLostError as exc:
            self._recreate_group(exc)
        except SaltctlError as exc:
            self._increase_back_off(exc)
        else:
            self._record_raises(result)
            if result.left_pending:
                # Start again at the first pending entry; read no new entries until the pending ones succeed.
                if result.failure is not None:
                    self._increase_back_off(result.failure)
                self._read_own_after = FIRST_ID
            else:
                self.back_off = 0.0

    def _record_raises(self, result: BatchResult) -> None:
        changed = [raised for raised in result.raises if raised.changed]
        if self.state is None or not changed:
            return
        at = iso_utc(self.now())
        # A failure loses only what status shows: the raises are done, and recorded in the backup.
        with suppress(SaltctlError):
            for raised in changed[-KEPT_RAISES:]:
                self.state.note_raise(raised.conversation_id, raised.before, raised.after, at, self.consumer)

    def _read(self) -> list[Entry]:
        """Read the own pending entries first, then claim, then read new entries."""
        if self._read_own_after is not None:
            entries = self.stream.read_own(self.consumer, self._read_own_after, BATCH_ENTRIES)
            if entries:
                self._read_own_after = entries[-1].id
                self.counters.redelivered += len(entries)
                return entries
            self._read_own_after = None
        if self.clock() >= self._next_claim and (entries := self._claim()):
            return entries
        return self.stream.read_new(self.consumer, BATCH_ENTRIES, self.block)

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

    def _maintain(self) -> None:
        now = self.clock()
        if now >= self._next_heartbeat:
            self.stream.send_heartbeat(self.consumer)
            self._next_heartbeat = now + HEARTBEAT_INTERVAL
        if now >= self._next_maintenance:
            self._next_maintenance = now + MAINTENANCE_INTERVAL
            group = self.stream.info().group(self.stream.group)
            loss = None if group is None else group.loss
            if loss is not None and (loss.after_id, loss.before_id) != self._logged_loss:
                self._logged_loss = (loss.after_id, loss.before_id)
                self.counters.lost += loss.entries
                why = "the stream was trimmed from outside: heat reports of this time are lost"
                ids = {"after": loss.after_id, "before": loss.before_id}
                log_event(ERROR, "unread_entries_trimmed", count=loss.entries, **ids, why=why)
            self.stream.trim(self.now() - self.settings.heat_retention)
            self.stream.delete_idle_consumers(DELETE_CONSUMERS_AFTER)

    def _recreate_group(self, exc: StreamLostError) -> None:
        """Create the stream and its group after Redis lost them. Unread entries are lost; new reports are read."""
        try:
            self.stream.create_group()
        except SaltctlError as failure:
            self._increase_back_off(failure)
            return
        self._read_own_after = FIRST_ID
        self._next_heartbeat = 0.0
        log_event(WARNING, "group_created", why=exc.message)

    def _increase_back_off(self, exc: SaltctlError) -> None:
        # The failed read may have delivered entries: read the own pending entries first.
        self._read_own_after = FIRST_ID
        self.counters.failures += 1
        self.back_off = min(max(self.back_off * 2, 0.1), 5.0)
        log_event(ERROR, "backing_off", seconds=self.back_off, error=exc.code, why=exc.message, hint=exc.hint)


@dataclass(eq=False)
class DrainDeadline:
    """``Detector(should_stop=…)``: a deadline after a stop. A server that hangs must not keep the process running."""

    stop: threading.Event
    clock: Callable[[], float] = time.monotonic
    _stopped_at: float | None = field(default=None, init=False)

    def __call__(self) -> bool:
        """Return whether ``stop`` has been set for longer than the deadline."""
        if not self.stop.is_set():
            return False
        if self._stopped_at is None:
            self._stopped_at = self.clock()
        return self.clock() - self._stopped_at >= DRAIN_SECONDS
