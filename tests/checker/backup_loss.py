"""The backup table is deleted or restored to an earlier time, sometimes with a flush of Redis, and recovered later.

Work in flight while both are lost is outside the promise. So a loss of both waits until no put and no raise is in
progress (:class:`InFlight`). A loss of the table alone waits until Redis is verified, so Redis holds every
acknowledged raise, and no fault takes entries from Redis until the table is recovered.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.checker.log import Log
from tests.checker.schedule import TABLE_LOSSES, Event, Fault
from tests.checker.servers import Copy, Servers

MISSING_SECONDS = 3.5
"""Seconds without a table before a restored one takes its place: longer than clients trust their check of the table's
identity, which is a minute by a clock that runs faster (see ``roles``). A real restore takes longer than a minute."""
COPIES = 5
COPY_INTERVAL = 1.0
"""The newest copies of the table, one a second; a restore uses the oldest."""
RECOVERY_SECONDS = 600.0
CALM_AFTER = 15.0
"""Seconds of waiting for a verified Redis or a recovery after which the other processes leave it time: a busy machine
might not finish a rebuild between two kills."""
VERIFIED_CHECK_INTERVAL = 0.2


class InFlight:
    """Puts and raises in progress, in any process, as file locks: a killed process holds none.

    Args:
        directory: of the lock files, one for all processes.
    """

    def __init__(self, directory: Path) -> None:
        self._turnstile, self._work = directory / "turnstile", directory / "work"

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Run one put or raise inside the block; wait while all of them are held up."""
        with _locked(self._turnstile, fcntl.LOCK_SH):
            work = os.open(self._work, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
            fcntl.flock(work, fcntl.LOCK_SH)
        with _closing(work):
            yield

    @contextmanager
    def none(self, while_waiting: Callable[[], None]) -> Iterator[None]:
        """Hold up new puts and raises, and run the block once none is in progress."""
        with (
            _locked(self._turnstile, fcntl.LOCK_EX, while_waiting),
            _locked(self._work, fcntl.LOCK_EX, while_waiting),
        ):
            yield


@contextmanager
def _locked(path: Path, kind: int, while_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    with _closing(descriptor):
        while True:
            try:
                fcntl.flock(descriptor, kind | (fcntl.LOCK_NB if while_waiting else 0))
                break
            except BlockingIOError:
                assert while_waiting is not None
                while_waiting()
                time.sleep(0.005)
        yield


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        # A child that was forked meanwhile has the descriptor, too: closing alone would leave the lock to it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def recovery_request(directory: Path) -> Path:
    """Return the file that exists as long as a recovery is wanted."""
    return directory / "recovery-wanted"


def calm_request(directory: Path) -> Path:
    """Return the file that exists as long as no process is to be killed or paused, and clients pause longer."""
    return directory / "calm-wanted"


class BackupLosses:
    """Injects losses of the backup table, one at a time, and requests the recovery of each.

    Args:
        servers: of the run.
        log: of the controller.
        both_probability: the probability that Redis is flushed at the same time.
    """

    def __init__(self, servers: Servers, log: Log, both_probability: float) -> None:
        self._servers = servers
        self._log = log
        self._both_probability = both_probability
        self._in_flight = InFlight(log.directory)
        self._request = recovery_request(log.directory)
        self._copies: deque[Copy] = deque(maxlen=COPIES)
        self._steps: list[tuple[float, Callable[[], object]]] = []
        self._deadline = self._next_copy = 0.0
        self._both = self._holds_event = False
        self._calm = calm_request(log.directory)
        self._waits_since = self._next_check = 0.0
        self.active = False
        """Whether the table is lost and not recovered yet."""

    def next_event(self, events: list[Event], now: float) -> Event | None:
        """Remove and return the next event that is due and allowed; None if there is none."""
        if self._holds_event and now < self._next_check:
            return None
        self._holds_event = False
        for event in events:
            if event.at > now:
                break
            if self._allows(event):
                events.remove(event)
                return event
            if not self.active:
                # It waits until Redis is verified.
                self._holds_event, self._next_check = True, now + VERIFIED_CHECK_INTERVAL
                break
        return None

    def _allows(self, event: Event) -> bool:
        if event.fault in TABLE_LOSSES:
            return not self.active and (self._is_of_both(event) or self._servers.is_verified())
        return not self.active or self._both or event.fault not in self._servers.takes_entries

    def _is_of_both(self, event: Event) -> bool:
        return event.amount < self._both_probability

    def inject(self, event: Event) -> None:
        """Lose the table, and Redis if the event says so; schedule the restore and the recovery."""
        self._both, copy = self._is_of_both(event), self._copies[0] if self._copies else self._servers.copy_backup()
        self._copies.clear()
        if self._both:
            with self._in_flight.none(self._servers.end_faults):
                self._lose(event, copy)
        else:
            self._lose(event, copy)
        now = time.monotonic()
        self._steps = [(now + event.seconds, self._request.touch)]
        if event.fault is Fault.RESTORE:
            restored = now + MISSING_SECONDS
            self._steps = [
                (restored, lambda: self._servers.restore_backup(copy)),
                (restored + event.seconds, self._request.touch),
            ]
        self._deadline = now + RECOVERY_SECONDS
        self.active = True

    def _lose(self, event: Event, copy: Copy) -> None:
        began = time.monotonic()
        self._servers.delete_backup()
        if self._both:
            self._servers.flush()
        kept = copy.began if event.fault is Fault.RESTORE else 0.0
        self._log.loss(began, kept, both=self._both)
        self._log.note("loss", "table and Redis" if self._both else "table")

    def proceed(self) -> None:
        """Do the steps that are due, notice the end of the recovery, and copy the table now and then."""
        now = time.monotonic()
        self._request_calm(now)
        if not self.active and now >= self._next_copy:
            self._next_copy = now + COPY_INTERVAL
            self._copies.append(self._servers.copy_backup())
        while self._steps and self._steps[0][0] <= now:
            self._steps.pop(0)[1]()
        if self.active and not self._steps and not self._request.exists():
            self.active = False
        if self.active and now > self._deadline:
            self._log.note("crash", "no recovery was completed in time")
            self._request.unlink(missing_ok=True)
            self._steps.clear()

    def _request_calm(self, now: float) -> None:
        if not (self.active or self._holds_event):
            self._waits_since = now
            self._calm.unlink(missing_ok=True)
        elif now - self._waits_since > CALM_AFTER and not self._calm.exists():
            self._calm.touch()
            self._log.note("calm", "a recovery" if self.active else "a verified Redis")
