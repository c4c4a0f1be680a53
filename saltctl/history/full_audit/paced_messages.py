"""A messages table whose queries keep to a rate of read units, and outlast throttling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from saltctl.errors import ThrottledError
from saltctl.stores.aws.backup_scan import Permit, RateLimiter
from saltctl.stores.contracts.messages import MessageStore, PartitionAnswer, PartitionQuery, TableKeys
from saltctl.stores.parallel_scan import IDLE_SECONDS
from saltctl.stores.retry import retry_while_throttled


class PacedMessages:
    """Sends the queries of an audit within ``max_rcu`` read units a second, with what else the audit reads.

    Thread-safe. ``max_rcu`` None is no limit, until DynamoDB throttles.
    """

    def __init__(
        self, store: MessageStore, max_rcu: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.consumed_rcu = 0.0
        """All units so far."""
        self._limiter = RateLimiter(max_rcu, clock=clock)
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def keys(self) -> TableKeys:
        """The table's key names."""
        return self.store.keys

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Send one query, and again while it is throttled. Raises as ``MessageStore.query``."""
        return retry_while_throttled(lambda: self._send(request), self._stopped.wait, stopped=self._stopped.is_set)

    def _send(self, request: PartitionQuery) -> PartitionAnswer:
        while (permit := self._limiter.request_permit()).wait and not self._stopped.is_set():
            self._stopped.wait(min(permit.wait, IDLE_SECONDS))
        try:
            answer = self.store.query(request)
        except ThrottledError:
            self._limiter.slow_down(permit)
            raise
        except BaseException:
            self._limiter.settle(permit, permit.reserved, 1)
            raise
        self._count(permit, answer.consumed_rcu)
        return answer

    def charge(self, units: float) -> None:
        """Count units that something else has consumed: queries wait for them, too."""
        self._count(Permit(0.0), units)

    def _count(self, permit: Permit, units: float) -> None:
        with self._lock:
            self.consumed_rcu += units
        self._limiter.settle(permit, units, 1)

    def stop(self) -> None:
        """End all waits: the audit ends."""
        self._stopped.set()
