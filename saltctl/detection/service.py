"""The hot partition service. Any number of instances share one consumer group.

Each instance reads, sums, raises and acknowledges, in that order. If a step fails, the entry stays pending and is
read again: by this instance after a pause, or by an instance that claims the entries of a dead one. New entries are
read meanwhile; during an outage only a few, so that instances that can raise get the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from saltctl.detection.detector import BatchResult, Detector
from saltctl.detection.events import FENCE_WATCHER, LOOP, Parts, log_event
from saltctl.detection.failures import describe, is_waiting_for_a_server
from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.detection.read_order import CLAIM_IDLE, ReadOrder
from saltctl.errors import SaltctlError, StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.service_state import KEPT_RAISES, ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.times import iso_utc
from saltctl.values import LONGEST, check_number

if TYPE_CHECKING:
    from saltctl.stores.event_log import EventLog

MAINTENANCE_INTERVAL = 10.0
HEARTBEAT_INTERVAL = 2.0
ALIVE_SECONDS = 15.0
"""Idle time in seconds after which a consumer counts as dead."""
DELETE_CONSUMERS_AFTER = 3600.0
DRAIN_SECONDS = 10.0
LATE_AFTER = 30.0
"""Seconds without progress, in addition to the timeouts of the servers, after which the loop counts as late."""

RAISES_EVERY = 60.0
"""Seconds between two events that name the conversations that were raised: one write, however many they are."""
MAX_NAMED_RAISES = 1000
"""Raised conversations that wait to be named in an event; others are left out."""


@dataclass(eq=False)
class Service:
    """One instance. Call :meth:`run`, or call :meth:`step` in a loop.

    Args:
        consumer: the consumer's name in the group. Two instances of one name share pending entries harmlessly.
        settings: the retention of acknowledged reports.
        stop: set by a signal handler; the current batch is finished, and no more entries are read.
        fence_watcher: runs in a thread of its own; None to watch no fence.
        state: records the latest raises and late parts for operators; None to record nothing.
        log: records for operators what Redis would lose: start, stop, late parts and raises; None to record nothing.
        parts: the progress of the loop, the fence watcher and the metrics server.
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
    log: EventLog | None = None
    parts: Parts = field(default_factory=Parts)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    block: float = 1.0
    claim_idle: float = CLAIM_IDLE
    back_off: float = field(default=0.0, init=False)
    """Seconds to wait before the next step; 0 if the last one succeeded."""

    def __post_init__(self) -> None:
        for name in ("block", "claim_idle"):
            check_number(name, getattr(self, name), 0.001, LONGEST)
        counters, block, claim_idle = self.detector.counters, self.block, self.claim_idle
        self._order = ReadOrder(
            self.stream, self.consumer, counters, clock=self.clock, block=block, claim_idle=claim_idle
        )
        self._next_maintenance = self._next_heartbeat = 0.0
        self._logged_late: list[str] = []
        self._raised: dict[str, None] = {}
        self._next_raise_event = 0.0
        self._touched_at = 0.0
        self._logged_ahead = False
        self._within = LATE_AFTER + 6 * (self.settings.aws_timeout + self.settings.redis_timeout)
        self._logged_loss: tuple[str, str | None] | None = None
        if self.fence_watcher is not None:
            self.fence_watcher.parts = self.parts
        self.counters = self.detector.counters
        """Totals since the start."""

    def run(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Run until ``stop`` is set. No exception of a step or of the fence watcher ends it, except OtherRegistryError.

        The loop itself calls ``after_step`` after each step, and about every second during a long one, unless a part
        of the service is late.
        """
        log_event(INFO, "started", consumer=self.consumer)
        self._note("service-started", self.consumer)
        self.detector.progress = lambda: self._note_progress(after_step)
        self.parts.progress(LOOP, self._within)
        thread = None
        try:
            while not self.stop.is_set():
                thread = self._keep_watching(thread)
                self._touched_at = self.clock()
                self.step()
                self._finish_step(after_step)
                if self.back_off:
                    self.stop.wait(self.back_off)
        finally:
            self.stop.set()
            if thread is not None:
                thread.join(timeout=DRAIN_SECONDS)
            self._sign_out()
            log_event(INFO, "stopped", consumer=self.consumer)
            self._note_stop()
        if self.fence_watcher is not None and self.fence_watcher.ended_by is not None:
            raise self.fence_watcher.ended_by

    def _keep_watching(self, thread: threading.Thread | None) -> threading.Thread | None:
        """Start the fence watcher, again if its thread has ended. The system may have no thread left for a while."""
        if self.fence_watcher is None or (thread is not None and thread.is_alive()):
            return thread
        if thread is not None:
            log_event(ERROR, "fence_watcher_ended", why="its thread ended; it is started again")
        started = threading.Thread(target=self.fence_watcher.run, name="saltctl-fence-watcher", daemon=True)
        try:
            started.start()
        except RuntimeError as exc:
            self.counters.unexpected += 1
            log_event(ERROR, "fence_watcher_not_started", **describe(exc))
            self.parts.watch(FENCE_WATCHER, lambda: False)
            return None
        self.parts.watch(FENCE_WATCHER, started.is_alive)
        return started

    def _note_progress(self, after_step: Callable[[], None]) -> None:
        """Record progress within a step."""
        self.parts.progress(LOOP, self._within)
        if self.clock() >= self._touched_at + 1.0:
            self._touched_at = self.clock()
            try:
                self._send_heartbeat()
            except Exception:  # the raises that follow must not wait for it again and again
                self._next_heartbeat = self.clock() + MAINTENANCE_INTERVAL
            self._finish_step(after_step)

    def _finish_step(self, after_step: Callable[[], None]) -> None:
        """Log a change of the late parts, and call ``after_step`` if there are none."""
        late = [] if self.stop.is_set() else self.parts.late()
        if late != self._logged_late:
            self._logged_late = late
            why = "these parts have not done their work for a while" if late else "all parts do their work again"
            log_event(ERROR if late else INFO, "parts_late", parts=late, why=why)
            self._note("service-late", f"{self.consumer}: {', '.join(late) or why}")
        if late:
            return
        try:
            after_step()
        except Exception as exc:  # detection does not depend on it
            self.counters.unexpected += 1
            log_event(ERROR, "after_step_failed", **describe(exc))

    def _sign_out(self) -> None:
        try:
            self.stream.delete_idle_consumers(0.0, self.consumer)
            if self.state is not None:
                self.state.forget_instances([self.consumer])
        except Exception as exc:  # the process ends all the same
            log_event(WARNING, "consumer_not_deleted", **describe(exc))

    def step(self) -> None:
        """Handle one batch. Backs off instead of raising, whatever fails."""
        try:
            self._maintain()
            entries = self._order.read()
            result = self.detector.handle(entries, self.stream) if entries else BatchResult()
        except StreamLostError as exc:
            self._recreate_group(exc)
        except Exception as exc:  # an unforeseen one, too, must not end the loop
            self._increase_back_off(exc)
        else:
            self._record_raises(result)
            if result.failure is not None:
                self._increase_back_off(result.failure)
            else:
                self.back_off = 0.0
                self._order.handled(raised=bool(result.raises), left_pending=bool(result.left_pending))
                self.parts.progress(LOOP, self._within)

    def _note(self, kind: str, detail: str = "", conversation_ids: Collection[str] = ()) -> None:
        if self.log is not None:
            self.log.note(kind, detail, conversation_ids)

    def _note_raises(self) -> None:
        """Name the conversations that were raised since the last event, if it is long ago."""
        if self._raised and self.clock() >= self._next_raise_event:
            self._next_raise_event = self.clock() + RAISES_EVERY
            self._note("raise", f"by {self.consumer}", tuple(self._raised))
            self._raised.clear()

    def _note_stop(self) -> None:
        self._next_raise_event = 0.0
        self._note_raises()
        self._note("service-stopped", self.consumer)
        if self.log is not None:
            self.log.flush()

    def _record_raises(self, result: BatchResult) -> None:
        changed = [raised for raised in result.raises if raised.changed]
        if len(self._raised) < MAX_NAMED_RAISES:
            self._raised.update((raised.conversation_id, None) for raised in changed)
        self._note_raises()
        if self.state is None or not changed:
            return
        at = iso_utc(self.now())
        # A failure loses only what status shows: the raises are done, and recorded in the backup.
        with suppress(Exception):
            for raised in changed[-KEPT_RAISES:]:
                self.state.note_raise(raised.conversation_id, raised.before, raised.after, at, self.consumer)

    def _send_heartbeat(self) -> None:
        """Send the heartbeat in its interval, in a long step, too: an instance without it looks dead."""
        if (now := self.clock()) < self._next_heartbeat:
            return
        self.stream.send_heartbeat(self.consumer)
        self._next_heartbeat = now + HEARTBEAT_INTERVAL
        if self.state is not None:
            with suppress(Exception):  # for operators only
                self.state.note_instance(self.consumer, self.parts.late(), self.now())

    def _maintain(self) -> None:
        """Send the heartbeat and tidy up, each in its interval. If tidying fails, entries are read all the same."""
        self._send_heartbeat()
        if (now := self.clock()) >= self._next_maintenance:
            self._next_maintenance = now + MAINTENANCE_INTERVAL
            try:
                self._tidy_up()
            except StreamLostError:
                raise
            except Exception as exc:  # reading and raising do not depend on it
                self.counters.failures += 1
                log_event(ERROR, "maintenance_failed", **describe(exc))

    def _tidy_up(self) -> None:
        """Log entries that were trimmed unread, trim the stream, and delete consumers that are gone."""
        info = self.stream.info()
        group = info.group(self.stream.group)
        loss = None if group is None else group.loss
        if loss is not None and (loss.after_id, loss.before_id) != self._logged_loss:
            self._logged_loss = (loss.after_id, loss.before_id)
            self.counters.lost += loss.entries
            why = "the stream was full, or trimmed from outside: heat reports of this time are lost"
            ids = {"after": loss.after_id, "before": loss.before_id}
            log_event(ERROR, "unread_entries_trimmed", count=loss.entries, **ids, why=why)
        ahead = info.ahead(self.now())
        if bool(ahead) != self._logged_ahead:
            self._logged_ahead = bool(ahead)
            why = "ids of the stream are ahead of the clock: entries are trimmed once they are acknowledged"
            log_event(WARNING if ahead else INFO, "stream_ids_ahead", seconds=round(ahead), why=why)
        # The times of such ids mean nothing; without this no entry would ever be old enough.
        self.stream.trim(info.newest + 1 if ahead else self.now() - self.settings.heat_retention)
        gone = self.stream.delete_idle_consumers(DELETE_CONSUMERS_AFTER)
        if self.state is not None:
            self.state.forget_instances(gone)

    def _recreate_group(self, exc: StreamLostError) -> None:
        """Create the stream and its group after Redis lost them. Unread entries are lost; new reports are read."""
        try:
            self.stream.create_group()
        except SaltctlError as failure:
            self._increase_back_off(failure)
            return
        self._order.restart()
        self._next_heartbeat = 0.0
        self.parts.progress(LOOP, self._within)
        log_event(WARNING, "group_created", why=exc.message)

    def _increase_back_off(self, exc: Exception) -> None:
        self.counters.failures += 1
        if not isinstance(exc, SaltctlError):
            self.counters.unexpected += 1
        if is_waiting_for_a_server(exc):
            self.parts.progress(LOOP, self._within)
        self.back_off = self._order.failed()
        log_event(ERROR, "backing_off", seconds=self.back_off, **describe(exc))


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
