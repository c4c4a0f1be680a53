"""A circuit breaker for lookups, so that an outage of Redis costs milliseconds and not timeouts."""

from __future__ import annotations

from collections.abc import Callable


class CircuitBreaker:
    """Skips a server for ``seconds`` after one failure. Thread-safe.

    It only saves time: while it is open, lookups ask the backup, whose answers are as correct.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._open_until: dict[str, float] = {}

    def is_open(self, server: str) -> bool:
        """Return whether to skip the server for now."""
        # Every lookup calls this: without failures it costs one check of an empty dictionary.
        return bool(self._open_until) and self._clock() < self._open_until.get(server, 0.0)

    def trip(self, server: str) -> None:
        """Record a failure of the server."""
        self._open_until[server] = self._clock() + self._seconds

    def reset(self, server: str) -> None:
        """Record a success of the server."""
        if self._open_until:
            self._open_until.pop(server, None)
