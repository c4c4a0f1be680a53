"""The write counts of one window, in bounded memory."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple


class WeightedWrite(NamedTuple):
    """A log item for a write of other than one unit."""

    conversation_id: str
    units: float


@dataclass(eq=False, slots=True)
class WriteWindow:
    """Counts of one window: a log that any thread appends to, and the counters made from it.

    In CPython an append to a list is one operation, so writers need no lock. A lock would cost more than the rest
    of a write (measured: ``python -m tests.benchmarks detection``). A write between its clock reading and its append
    may be missed while the window is sent: at most one for each thread and window. No write is counted twice.

    Above ``capacity`` conversations the counts are approximate: see :class:`~saltctl.WriteMeter` for the bound.
    """

    begin: int
    end: int
    capacity: int
    log: list[Any] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    invalid: int = 0
    reductions: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_log(self, *, wait: bool) -> None:
        """Move the log into the counters. If another thread does so, wait for it or return at once."""
        if not self._lock.acquire(blocking=wait):
            return
        try:
            # The log is emptied in place: writes that other threads append meanwhile stay in it.
            items = self.log[:]
            del self.log[: len(items)]
            self._count(items)
        finally:
            self._lock.release()

    def _count(self, items: list[Any]) -> None:
        try:
            tally = Counter(items)
        except TypeError:  # an item that is not hashable, and so not a conversation id
            tally = Counter()
            for item in items:
                try:
                    tally[item] += 1
                except TypeError:
                    self.invalid += 1
        for item, times in tally.items():
            try:
                if type(item) is WeightedWrite:
                    if not 0 <= item.units < inf:
                        raise TypeError("neither negative nor nan")
                    self._add(item.conversation_id, times * (0 + item.units))
                else:
                    self._add(item, times)
            except TypeError:
                self.invalid += times

    def _add(self, conversation_id: str, units: float) -> None:
        counts = self.counts
        if conversation_id in counts:
            counts[conversation_id] += units
            return
        if len(counts) >= self.capacity:
            # Subtract the median from each count and free the counters at zero or below.
            median = sorted(counts.values())[len(counts) // 2]
            self.counts = counts = {key: left for key, count in counts.items() if (left := count - median) > 0}
            self.reductions += 1
        counts[conversation_id] = units
