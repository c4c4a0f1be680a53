"""The hot partition service: one instance of any number in the same consumer group.

Read, sum, raise, acknowledge, in that order. Whatever fails in between leaves the entry pending, and it is
read again: after a back-off by this instance, or by one that claims what a dead instance left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from saltctl.detection.detector import BatchResult, Counters, Detector, Tell
from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.errors import SaltctlError, StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.stream import FIRST_ID, Claimed, Entry, StreamInfo
from saltctl.times import iso_utc

BATCH = 1000
BLOCK_SECONDS = 1.0
CLAIM_EVERY = 5.0
CLAIM_IDLE = 30.0
"""Seconds after which an entry that was delivered and not acknowledged is taken over. An instance that is only
slow loses nothing by it: whoever handles the entry second finds everything done."""
UPKEEP_EVERY = 10.0
SIGN_IN_EVERY = 2.0
ALIVE_SECONDS = 15.0
"""A consumer that has been silent for longer is taken for dead."""
FORGET_SECONDS = 3600.0
BACK_OFF_FIRST = 0.1
BACK_OFF_MOST = 5.0
DRAIN_SECONDS = 10.0
NOTED_RAISES = 8
"""Raises of one round that are noted for people: as many as are shown."""


class ServiceStream(Protocol):
    """What the service asks of the stream. See ``HeatStream`` for the semantics."""

    group: str

    def create_group(self) -> None: ...  # noqa: D102
    def send_heartbeat(self, consumer: str) -> None: ...  # noqa: D102
    def read_own(self, consumer: str, after: str, count: int) -> list[Entry]: ...  # noqa: D102
    def read_new(self, consumer: str, count: int, block: float = 0.0) -> list[Entry]: ...  # noqa: D102
    def claim(self, consumer: str, idle: float, cursor: str, count: int) -> Claimed: ...  # noqa: D102
    def acknowledge(self, ids: Sequence[str]) -> int: ...  # noqa: D102
    def trim(self, keep_from: float) -> int: ...  # noqa: D102
    def delete_idle_consumers(self, idle: float, name: str | None = None) -> list[str]: ...  # noqa: D102
    def info(self) -> StreamInfo: ...  # noqa: D102


class RaiseNotes(Protocol):
    """Where the latest raises are noted for people: ``ServiceState``."""

    def note_raise(self, conversation_id: str, before: int, after: int, at: str, by: str) -> None: ...  # noqa: D102


class Service:
    """One instance. Call :meth:`run`, or :meth:`step` from a loop of your own.

    Args:
        stream: the heat stream.
        detector: what entries are handled by.
        consumer: its name in the group. Two instances of one name share what is pending, and do no harm.
        settings: how long acknowledged reports stay.
        tell: hears what happens.
        stop: set by a signal handler; the entries in hand are finished, and no more are read.
        clock: monotonic seconds.
        now: seconds since the epoch.
        block: how long one step waits for entries, in seconds.
    """

    def __init__(
        self,
        stream: ServiceStream,
        detector: Detector,
        *,
        consumer: str,
        settings: Settings,
        tell: Tell,
        stop: threading.Event,
        fence_watcher: FenceWatcher | None = None,
        notes: RaiseNotes | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        block: float = BLOCK_SECONDS,
        claim_idle: float = CLAIM_IDLE,
    ) -> None:
        self._stream = stream
        self._detector = detector
        self._consumer = consumer
        self._retention = settings.heat_retention
        self._tell = tell
        self._stop = stop
        self._fence_watcher = fence_watcher
        self._notes = notes
        self._clock = clock
        self._now = now
        self._block = block
        self._claim_idle = claim_idle
        # What this name had in hand before it (re)started comes first.
        self._own: str | None = "0"
        self._claim_from = FIRST_ID
        self._next_claim = self._next_upkeep = self._next_sign = 0.0
        self._lost_said: tuple[str, str | None] | None = None
        self.back_off = 0.0
        """Seconds to wait before the next step; 0 while all is well."""

    @property
    def counters(self) -> Counters:
        """What it did so far."""
        return self._detector.counters

    def run(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Go on until stopped. ``after_step`` is called by the loop itself, and so proves that it lives."""
        self._tell("info", "started", consumer=self._consumer)
        watcher = None
        if self._fence_watcher is not None:
            watcher = threading.Thread(target=self._fence_watcher.run, name="saltctl-fence_watcher", daemon=True)
            watcher.start()
        try:
            while not self._stop.is_set():
                self.step()
                after_step()
                if self.back_off:
                    self._stop.wait(self.back_off)
        finally:
            self._stop.set()
            if watcher is not None:
                watcher.join(timeout=DRAIN_SECONDS)
            self._leave()

    def step(self) -> int:
        """One round; how many entries were handled. Never raises for an outage: it backs off."""
        try:
            self._upkeep()
            entries = self._next()
            done = self._detector.handle(entries, self._stream) if entries else None
        except StreamLostError as exc:
            self._recreate(exc)
            return 0
        except SaltctlError as exc:
            self._retreat(exc)
            return 0
        if done is None:
            self.back_off = 0.0
            return 0
        self._note_raise(done)
        if done.kept:
            # Read again from the first one; nothing new is taken on while the old cannot be done.
            if done.failure is not None:
                self._retreat(done.failure)
            self._own = "0"
        else:
            self.back_off = 0.0
        return done.acknowledged

    def _note_raise(self, done: BatchResult) -> None:
        changed = [result for result in done.raises if result.changed]
        if self._notes is None or not changed:
            return
        at = iso_utc(self._now())
        # For people only: the raises themselves are done and on record.
        with suppress(SaltctlError):
            for result in changed[-NOTED_RAISES:]:
                self._notes.note_raise(result.conversation_id, result.before, result.after, at, self._consumer)

    def _next(self) -> list[Entry]:
        if self._own is not None:
            entries = self._stream.read_own(self._consumer, self._own, BATCH)
            if entries:
                self._own = entries[-1].id
                self.counters.redelivered += len(entries)
                return entries
            self._own = None
        if self._clock() >= self._next_claim:
            entries = self._claim()
            if entries:
                return entries
        return self._stream.read_new(self._consumer, BATCH, self._block)

    def _claim(self) -> list[Entry]:
        claimed = self._stream.claim(self._consumer, self._claim_idle, self._claim_from, BATCH)
        self._claim_from = claimed.cursor
        if claimed.cursor == FIRST_ID:
            self._next_claim = self._clock() + CLAIM_EVERY
        if claimed.deleted:
            self.counters.lost += len(claimed.deleted)
            ends = {"first": claimed.deleted[0], "last": claimed.deleted[-1]}
            self._tell("error", "trimmed_pending", count=len(claimed.deleted), **ends)
        if claimed.entries:
            self.counters.claimed += len(claimed.entries)
            self._tell("warning", "claimed", count=len(claimed.entries), first=claimed.entries[0].id)
        return claimed.entries

    def _upkeep(self) -> None:
        now = self._clock()
        if now >= self._next_sign:
            self._stream.send_heartbeat(self._consumer)
            self._next_sign = now + SIGN_IN_EVERY
        if now >= self._next_upkeep:
            self._next_upkeep = now + UPKEEP_EVERY
            self._say_what_was_lost()
            self._stream.trim(self._now() - self._retention)
            self._stream.delete_idle_consumers(FORGET_SECONDS)

    def _say_what_was_lost(self) -> None:
        group = self._stream.info().group(self._stream.group)
        loss = None if group is None else group.loss
        if loss is None or (loss.after_id, loss.before_id) == self._lost_said:
            return
        self._lost_said = (loss.after_id, loss.before_id)
        self.counters.lost += loss.entries
        self._tell(
            "error",
            "trimmed_unread",
            count=loss.entries,
            after=loss.after_id,
            before=loss.before_id,
            why="somebody trimmed the stream: heat in this time was not seen",
        )

    def _recreate(self, exc: StreamLostError) -> None:
        """Redis lost the stream or its group; heat goes on, and what was not read yet is gone."""
        try:
            self._stream.create_group()
        except SaltctlError as worse:
            self._retreat(worse)
            return
        self._own = "0"
        self._next_sign = 0.0
        self._tell("warning", "group_created", why=exc.message)

    def _retreat(self, exc: SaltctlError) -> None:
        # Entries may have been delivered by a read whose answer was lost: own ones are read again first.
        self._own = "0"
        self.counters.failures += 1
        self.back_off = min(max(self.back_off * 2, BACK_OFF_FIRST), BACK_OFF_MOST)
        self._tell("error", "backing_off", seconds=self.back_off, error=exc.code, why=exc.message, hint=exc.hint)

    def _leave(self) -> None:
        try:
            self._stream.delete_idle_consumers(0.0, self._consumer)
        except SaltctlError as exc:
            self._tell("warning", "not_signed_out", why=exc.message)
        self._tell("info", "stopped", consumer=self._consumer)


class DrainDeadline:
    """Whether the time that is left after a stop is over, so that a hanging server does not hold the process."""

    def __init__(
        self, stop: threading.Event, seconds: float = DRAIN_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stop = stop
        self._seconds = seconds
        self._clock = clock
        self._since: float | None = None

    def __call__(self) -> bool:
        """Asked before every raise."""
        if not self._stop.is_set():
            return False
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since >= self._seconds
