"""A circuit breaker for lookups, so that an outage of Redis costs milliseconds and not timeouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """Skips a server for ``seconds`` after one failure. Thread-safe.

    It only saves time: while it is open, lookups ask the backup, whose answers are as correct.
    """

    seconds: float
    clock: Callable[[], float]
    _open_until: dict[str, float] = field(default_factory=dict, init=False)

    def is_open(self, server: str) -> bool:
        """Return whether to skip the server for now."""
        # Every lookup calls this: without failures it costs one check of an empty dictionary.
        return bool(self._open_until) and self.clock() < self._open_until.get(server, 0.0)

    def trip(self, server: str) -> None:
        """Record a failure of the server."""
        self._open_until[server] = self.clock() + self.seconds

    def reset(self, server: str) -> None:
        """Record a success of the server."""
        if self._open_until:
            self._open_until.pop(server, None)
