"""The lease of a rebuild: acquire, renew, release. Safety does not depend on it (see ``LeaseStore``)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from saltctl.commands import hint_of
from saltctl.errors import LeaseHeldError, SaltctlError, UnavailableError
from saltctl.forks import Process, this_process
from saltctl.rebuild.events import StartDelayed
from saltctl.stores.contracts.registry import LeaseStore

LEASE_EXPIRY = 30.0
"""Seconds without a heartbeat after which another process may take the lease over. Two rebuilds do not overlap if the
clocks of their machines agree within LEASE_EXPIRY less HEARTBEAT_SECONDS; safety does not depend on it."""
HEARTBEAT_SECONDS = 5.0


@dataclass(eq=False)
class Lease:
    """The lease of one owner.

    Args:
        owner: an id that is unique to this run.
        heartbeat_every: seconds between two heartbeats.
        wait_command: waits until the lease is free, or comes again later; for the hint.
        doing: what a process does that holds the lease, for messages.
    """

    store: LeaseStore
    owner: str
    heartbeat_every: float = HEARTBEAT_SECONDS
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    wait_command: str = "saltctl rebuild --lock-wait 15m"
    doing: str = "rebuilding or recovering"
    _heartbeat_due: float = field(default=0.0, init=False)
    _process: Process | None = field(default=None, init=False)

    def acquire(self, timeout: float) -> Iterator[StartDelayed]:
        """Acquire the lease. Yields an event before each pause, for up to ``timeout`` seconds.

        Raises:
            LeaseHeldError: another process still holds it.
        """
        deadline = self.clock() + timeout
        while True:
            holder = self.store.acquire(
                self.owner, self.now(), host=socket.gethostname(), pid=os.getpid(), expiry=LEASE_EXPIRY
            )
            if holder is None:
                self._process = this_process()
                return
            process = f"process {holder.pid} on {holder.host}"
            if self.clock() >= deadline:
                age = max(self.now() - holder.heartbeat, 0.0)
                raise LeaseHeldError(
                    f"{process} is {self.doing} already ({holder.progress}; heartbeat {age:.0f} s ago)",
                    hint=hint_of(
                        f"if it died, its lease ends {LEASE_EXPIRY:.0f} s after its last heartbeat", self.wait_command
                    ),
                )
            yield StartDelayed(f"{process} holds the lease")
            self.sleep(min(1.0, max(deadline - self.clock(), 0.01)))

    @property
    def acquired_here(self) -> bool:
        """Whether this process has acquired the lease, and not the one that it was forked from."""
        return self._process == this_process()

    def renew(self, progress: str) -> None:
        """Write a heartbeat if one is due. An outage of AWS is ignored, because safety does not depend on the lease.

        Raises:
            LeaseHeldError: another process has taken the lease over.
        """
        now = self.clock()
        if now < self._heartbeat_due:
            return
        self._heartbeat_due = now + self.heartbeat_every
        try:
            renewed = self.store.renew(self.owner, self.now(), progress)
        except UnavailableError:
            return
        if not renewed:
            raise LeaseHeldError(
                "the lease was taken over by another rebuild", hint="let that one finish; nothing was lost"
            )

    def release(self) -> None:
        """Release the lease. If that fails, the next rebuild waits until it expires; the error is ignored.

        It must not hide the reason why a rebuild ended. A forked child that unwinds the rebuild of its parent releases
        nothing.
        """
        if not self.acquired_here:
            return
        with suppress(SaltctlError):
            self.store.release(self.owner)
