"""The lease of a rebuild, from its taking to its release. Safety does not depend on it (see ``LeaseStore``)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from saltctl.errors import LeaseHeldError, SaltctlError, UnavailableError
from saltctl.rebuild.events import StartDelayed
from saltctl.stores.contracts import LeaseStore

LEASE_EXPIRY = 30.0
"""Seconds without a heartbeat after which a lease may be taken over. Clocks of different machines have to
agree within this less LEASE_BEAT for two rebuilds not to overlap; safety does not depend on it."""
LEASE_BEAT = 5.0


class Lease:
    """One owner's lease.

    Args:
        store: where leases are.
        owner: unique to this run.
        clock: monotonic seconds.
        now: seconds since the epoch.
        sleep: waits.
    """

    def __init__(
        self,
        store: LeaseStore,
        owner: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._next_beat = 0.0

    def take(self, wait: float) -> Iterator[StartDelayed]:
        """Take it, waiting for its holder for up to ``wait`` seconds.

        Raises:
            LeaseHeldError: somebody else has it still.
        """
        deadline = self._clock() + wait
        while True:
            holder = self._store.acquire(
                self._owner, self._now(), host=socket.gethostname(), pid=os.getpid(), expiry=LEASE_EXPIRY
            )
            if holder is None:
                return
            who = f"process {holder.pid} on {holder.host}"
            if self._clock() >= deadline:
                age = max(self._now() - holder.heartbeat, 0.0)
                raise LeaseHeldError(
                    f"{who} is rebuilding already ({holder.progress}; heartbeat {age:.0f} s ago)",
                    hint=f"wait for it with --lock-wait 15m; if it died, its lease ends {LEASE_EXPIRY:.0f} s after "
                    "its last heartbeat",
                )
            yield StartDelayed(f"{who} holds the lease")
            self._sleep(min(1.0, max(deadline - self._clock(), 0.01)))

    def beat(self, progress: str) -> None:
        """Renew it, where that is due.

        Raises:
            LeaseHeldError: somebody else has taken it over.
        """
        now = self._clock()
        if now < self._next_beat:
            return
        self._next_beat = now + LEASE_BEAT
        try:
            still_ours = self._store.renew(self._owner, self._now(), progress)
        except UnavailableError:
            # Safety does not hang on the lease, and a recovery must outlast a throttled minute.
            return
        if not still_ours:
            raise LeaseHeldError(
                "the lease was taken over by another rebuild", hint="let that one finish; nothing was lost"
            )

    def release(self) -> None:
        """Give it back.

        A release that fails costs the next one a wait until the lease expires, and must not hide why a rebuild ended.
        """
        with suppress(SaltctlError):
            self._store.release(self._owner)
