"""The rate limiter of a scan: a token bucket of read capacity units that slows down when DynamoDB throttles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import exp, inf
from typing import NamedTuple

LEAST_RCU = 5.0
"""Throttling slows no scan below this rate: the smallest capacity that the console offers for a table."""
RECOVERY = 0.25
"""The share of its rate that a slowed scan regains a second: from the least rate to 1,000 in 24 seconds."""
LARGEST_RCU = 40_000.0
"""A table's quota unless AWS raised it (documented): a scan that may read this much is no longer slowed."""
AVERAGING_SECONDS = 5.0
"""The time constant of the average of recent consumption."""
ITEMS_PER_UNIT = 10.0
"""Assumed items in a read unit of 4 KB before the first page: backup items have about 100 to 400 bytes."""


class Permit(NamedTuple):
    """A permit to send a request if ``wait`` is 0; otherwise the seconds to wait before asking again.

    ``reserved`` are the units that are set aside for the request.
    """

    wait: float
    reserved: float = 0.0


class RateLimiter:
    """Limits the rate of all segments of a scan together. Thread-safe.

    A request reserves the units that the previous one consumed, and settles the difference when its response arrives.
    Requests in progress count, so ``max_rcu`` holds for pages of any size and for any number of segments.

    Args:
        max_rcu: read capacity units a second; None for no limit.
    """

    def __init__(self, max_rcu: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_rate = inf if max_rcu is None else max_rcu
        self._clock = clock
        self._lock = threading.Lock()
        self.rate = self._max_rate
        """The units a second that are allowed now."""
        self._at = clock()
        self._balance = 0.0
        self._expected = 0.0
        self._items_per_unit = ITEMS_PER_UNIT
        self._recent = 0.0
        self._slowed_at = -inf

    def page_limit(self) -> int | None:
        """Return the items to request so that a page costs a quarter of a second's units; None for a full page."""
        return None if self.rate == inf else max(1, int(self.rate * self._items_per_unit / 4))

    def request_permit(self) -> Permit:
        """Reserve units for a request."""
        with self._lock:
            self._refill()
            if self.rate == inf:
                return Permit(0.0)
            if self._balance < 0:
                return Permit(max(-self._balance / self.rate, 0.001))
            self._balance -= self._expected
            return Permit(0.0, self._expected)

    def settle(self, permit: Permit, consumed: float, items: int) -> None:
        """Record the units that a request consumed and the items that it read."""
        with self._lock:
            self._refill()
            self._recent += consumed
            self._balance += permit.reserved - consumed
            if consumed > 0:
                self._expected = consumed
                self._items_per_unit = max(items, 1) / consumed

    def slow_down(self, permit: Permit) -> None:
        """Record that DynamoDB throttled a request: continue at half of the recent rate.

        The rate is halved at most once a second, by whichever segment is throttled first.
        """
        with self._lock:
            self._refill()
            self._balance += permit.reserved
            if self._at - self._slowed_at < 1.0:
                return
            self._slowed_at = self._at
            recent_rate = min(self.rate, self._recent / AVERAGING_SECONDS)
            self.rate = min(self._max_rate, max(LEAST_RCU, recent_rate / 2))
            self._balance = 0.0

    def _refill(self) -> None:
        """Apply the time that has passed: fill the bucket up to one second's units, and recover a slowed rate."""
        now = self._clock()
        passed, self._at = now - self._at, now
        self._recent *= exp(-passed / AVERAGING_SECONDS)
        if self.rate < self._max_rate:
            faster = self.rate * (1 + RECOVERY) ** passed
            self.rate = self._max_rate if faster >= min(self._max_rate, LARGEST_RCU) else faster
        self._balance = 0.0 if self.rate == inf else min(self._balance + passed * self.rate, self.rate)
