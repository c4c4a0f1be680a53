"""Which queries are sent again, because they take longer than others do, and how many may be.

One query in a hundred takes many times as long as the others, so every second page of 64 salts waits for one. The
second copy of such a query usually answers at once, and if it is slow, too, a third one does: otherwise one page in 150
would wait for both. The first answer counts. All copies are sent after the reader asked, so the page is as complete as
without.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from saltctl.forks import PerProcess
from saltctl.stores.throttle_notes import throttles

COPIES = 3
EARNED = 0.03
"""More copies that one query pays for: at most 3 % more queries, over any time."""
CAP = 8.0
"""More copies that may be saved up. A History that was idle, or fast for long, sends no burst of them."""
QUIET_SECONDS = 5.0
"""Time without more copies after DynamoDB has throttled a request: they would add to its load."""
SLOW = 1.25
"""A query is slow once it takes so many times as long as nine in ten of the others."""
USUAL = 0.9
SIBLINGS = 8
"""Queries of a round that are compared with each other. Fewer are compared with the latest ones of this History."""
RECENT = 256
ENOUGH_RECENT = 32
LEAST_SECONDS = 0.002
"""A query that takes less is never slow: another copy would take about as long as the rest of it."""


@dataclass(eq=False)
class _Counts:
    """What one process has counted. A forked child begins anew, without locks of its parent's threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    saved: float = 0.0
    in_progress: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    throttles: int = field(default_factory=throttles)
    quiet_until: float = -math.inf


class Hedging:
    """The budget of more copies of one History, and the times that its latest queries took. Thread-safe.

    Args:
        clock: monotonic seconds.
        most: more copies in progress at once, until all copies have ended: so many threads they may keep busy.
        copies: of one query at most, the first one included.
    """

    def __init__(self, clock: Callable[[], float], most: int, copies: int = COPIES) -> None:
        self.copies = copies
        self._clock = clock
        self._most = most
        self._own = PerProcess(_Counts)

    def earn(self, queries: int) -> None:
        """Count queries that are sent for the first time."""
        counts = self._own.get()
        with counts.lock:
            counts.saved = min(counts.saved + EARNED * queries, CAP)

    def answered(self, seconds: float) -> None:
        """Count the time that a query took until its answer."""
        counts = self._own.get()
        with counts.lock:
            counts.recent.append(seconds)

    def throttled(self) -> None:
        """Send no more copies for a while."""
        counts = self._own.get()
        with counts.lock:
            counts.quiet_until = self._clock() + QUIET_SECONDS

    def slow_after(self, answered: Sequence[float], queries: int) -> float | None:
        """Return the seconds after which a query of a round is slow; None if it cannot be said yet.

        ``answered``: the seconds that those of its ``queries`` took that have answered.
        """
        if queries >= SIBLINGS:
            usual = _usual(answered, queries)
        else:
            counts = self._own.get()
            with counts.lock:
                recent = list(counts.recent)
            usual = _usual(recent, len(recent)) if len(recent) >= ENOUGH_RECENT else None
        return None if usual is None else max(SLOW * usual, LEAST_SECONDS)

    def begin(self) -> bool:
        """Take one copy from the budget; return whether it may be sent. :meth:`end` is called once for it."""
        counts, seen = self._own.get(), throttles()
        with counts.lock:
            if counts.throttles != seen:
                counts.throttles, counts.quiet_until = seen, self._clock() + QUIET_SECONDS
            if counts.saved < 1 or counts.in_progress >= self._most or self._clock() < counts.quiet_until:
                return False
            counts.saved -= 1
            counts.in_progress += 1
            return True

    def end(self) -> None:
        """Note that all copies of a query have ended, or that one was not sent after all."""
        counts = self._own.get()
        with counts.lock:
            counts.in_progress = max(counts.in_progress - 1, 0)  # a copy of a parent process may end in its child


def enough(queries: int) -> int:
    """Return how many queries must have answered before it can be said which others are slow."""
    return math.ceil(USUAL * queries)


def _usual(answered: Sequence[float], queries: int) -> float | None:
    """Return the seconds within which nine in ten queries have answered; None if they have not yet."""
    return sorted(answered)[enough(queries) - 1] if len(answered) >= enough(queries) else None
