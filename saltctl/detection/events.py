"""Log events, counters and progress of the service and of replay."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import NullHandler, getLogger

LOOP = "loop"
FENCE_WATCHER = "fence_watcher"
METRICS = "metrics"
logger = getLogger("saltctl.detection")
logger.addHandler(NullHandler())


def log_event(level: int, event: str, **fields: object) -> None:
    """Log an event of the service or of replay, such as ``raised``: the record's message is its name.

    The record's attribute ``fields`` is a dict of plain values, which may contain hostile strings.
    """
    logger.log(level, event, extra={"fields": fields})


@dataclass
class Counters:
    """Totals of one process since its start. Written by its loop, read by status and metrics."""

    reports: int = 0
    acknowledged: int = 0
    stale: int = 0
    dead: int = 0
    lost: int = 0
    claimed: int = 0
    redelivered: int = 0
    raised: int = 0
    unchanged: int = 0
    clamped: int = 0
    failures: int = 0
    rebuilds: int = 0
    unexpected: int = 0


@dataclass(eq=False)
class Parts:
    """The parts of one process, judged by their progress: a thread that exists may still do nothing. Thread-safe.

    ``clock`` returns monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _due: dict[str, float] = field(default_factory=dict, init=False)
    _alive: dict[str, Callable[[], bool]] = field(default_factory=dict, init=False)

    def progress(self, part: str, within: float) -> None:
        """Record progress of a part, which must make more of it within so many seconds."""
        self._due[part] = self.clock() + within

    def watch(self, part: str, is_alive: Callable[[], bool]) -> None:
        """Count a part as late while ``is_alive`` returns False."""
        self._alive[part] = is_alive

    def names(self) -> list[str]:
        """Return the names of all parts."""
        return sorted({*self._due, *self._alive})

    def late(self) -> list[str]:
        """Return the parts that have not done their work for a while; empty if the process is healthy."""
        now = self.clock()
        overdue = {part for part, due in list(self._due.items()) if now > due}
        return sorted(overdue | {part for part, is_alive in list(self._alive.items()) if not is_alive()})
