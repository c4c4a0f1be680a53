"""How fast a scan may read: a token bucket on consumed capacity, which gives way where DynamoDB throttles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import exp, inf
from typing import NamedTuple

LEAST_RCU = 5.0
"""No throttling slows a scan below this: the smallest capacity that the console offers for a table."""
RECOVERY = 0.25
"""How much of its rate a slowed scan regains a second: from the least to 1,000 in 24 seconds."""
LARGEST_RCU = 40_000.0
"""A table's quota unless AWS was asked for more (documented): a slowed scan that allows itself as much is not slow."""
LATELY = 5.0
ITEMS_A_UNIT = 10.0
"""Items that a read unit of 4 KB is taken for before a page has told: backup items have some 100 to 400 bytes."""


class Permit(NamedTuple):
    """Permit to send a request, where ``wait`` is 0; else the seconds until it is worth asking again.

    ``reserved`` are the units that are set aside for the request.
    """

    wait: float
    reserved: float = 0.0


class RateLimiter:
    """Shared by the segments of a scan. Thread-safe.

    A request reserves what the one before it consumed, and settles when the answer says what it consumed itself: so
    requests under way count, and ``max_rcu`` holds whatever the size of pages and however many segments there are.

    Args:
        max_rcu: read capacity units a second; None for no bound.
        clock: monotonic seconds.
    """

    def __init__(self, max_rcu: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound = inf if max_rcu is None else max_rcu
        self._clock = clock
        self._lock = threading.Lock()
        self.rate = self._bound
        """Units a second that are allowed now."""
        self._at = clock()
        self._balance = 0.0
        self._expected = 0.0
        self._items_a_unit = ITEMS_A_UNIT
        self._recent = 0.0
        self._slowed_at = -inf

    def page_limit(self) -> int | None:
        """Items to ask for at most, so that a page costs what a quarter of a second allows; None for a full page."""
        return None if self.rate == inf else max(1, int(self.rate * self._items_a_unit / 4))

    def request_permit(self) -> Permit:
        """Ask for permit to send a request."""
        with self._lock:
            self._refill()
            if self.rate == inf:
                return Permit(0.0)
            if self._balance < 0:
                return Permit(max(-self._balance / self.rate, 0.001))
            self._balance -= self._expected
            return Permit(0.0, self._expected)

    def settle(self, permit: Permit, consumed: float, items: int) -> None:
        """What a request consumed, in units, and the items that it read."""
        with self._lock:
            self._refill()
            self._recent += consumed
            self._balance += permit.reserved - consumed
            if consumed > 0:
                self._expected = consumed
                self._items_a_unit = max(items, 1) / consumed

    def slow_down(self, permit: Permit) -> None:
        """DynamoDB has refused: go on at half of what was read lately. At most once a second, however many segments."""
        with self._lock:
            self._refill()
            self._balance += permit.reserved
            if self._at - self._slowed_at < 1.0:
                return
            self._slowed_at = self._at
            self.rate = min(self._bound, max(LEAST_RCU, min(self.rate, self._recent / LATELY) / 2))
            self._balance = 0.0

    def _refill(self) -> None:
        """What time does: the bucket fills up to one second's worth, and a slowed scan recovers."""
        now = self._clock()
        passed, self._at = now - self._at, now
        self._recent *= exp(-passed / LATELY)
        if self.rate < self._bound:
            faster = self.rate * (1 + RECOVERY) ** passed
            self.rate = self._bound if faster >= min(self._bound, LARGEST_RCU) else faster
        self._balance = 0.0 if self.rate == inf else min(self._balance + passed * self.rate, self.rate)
