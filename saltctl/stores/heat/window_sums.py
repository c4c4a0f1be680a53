"""The sums of heat reports, shared by all instances of the service: one for each conversation and window.

``{prefix}:sum:{window}:{share}`` is a hash of the sums of some of the conversations in one window; the shares
keep each small, so that its expiry stalls nobody, and spread them over a cluster. Sums are no promise: where
Redis loses them, or they expired before a redelivery, a sum is lower than it was, never higher.
"""

from __future__ import annotations

from binascii import crc32
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.scripts import script

SHARES = 16
EXPIRY_SECONDS = 900
"""Kept this long after the last report of a window: longer than an entry waits to be claimed, many times over."""
REPORTS_A_CALL = 500


class WindowSums:
    """Idempotent sums over servers. Thread-safe."""

    def __init__(self, settings: Settings, connections: Connections | None = None) -> None:
        self._stem = f"{settings.key_prefix}:sum:"
        self._connections = connections or Connections(settings, timeout=settings.redis_timeout, retries=0)

    def add(self, reports: Sequence[HeatReport]) -> list[int]:
        """Add the reports and return, for each, the write units of its conversation in its window so far.

        A report that was added before changes nothing, so a call that failed half-way is simply repeated.

        Raises:
            RedisUnavailableError, AccessDeniedError: some of them may have been added.
        """
        calls: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, report in enumerate(reports):
            calls[(report.window, crc32(report.conversation_id.encode()) % SHARES)].append(position)
        by_primary: dict[str, list[tuple[list[int], tuple[Any, ...]]]] = defaultdict(list)
        text = script("add_reports", "heat")
        for (window, share), positions in calls.items():
            key = f"{self._stem}{window}:{share}"
            for start in range(0, len(positions), REPORTS_A_CALL):
                part = positions[start : start + REPORTS_A_CALL]
                arguments: list[Any] = []
                for position in part:
                    report = reports[position]
                    arguments += (report.conversation_id, report.server, report.writes)
                # EVAL, not EVALSHA: nothing has to be loaded before, and nothing again after a restart.
                command = ("EVAL", text, 1, key, EXPIRY_SECONDS, *arguments)
                by_primary[self._connections.primary_of(key)].append((part, command))
        sums = [0] * len(reports)
        for primary, batch in by_primary.items():
            with self._connections.errors(primary):
                replies = self._connections.ask_all(primary, [command for _, command in batch])
                for (part, _), reply in zip(batch, replies, strict=True):
                    if isinstance(reply, Exception):
                        raise reply
                    for position, total in zip(part, reply, strict=True):
                        sums[position] = total
        return sums

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()
