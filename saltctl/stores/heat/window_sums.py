"""Sums of heat reports for each conversation and window, shared by all instances of the service.

The hash ``{prefix}:sum:{window}:{shard}`` has the sums of some conversations in one window. Shards keep the hashes
small, so that their expiry does not block Redis, and spread them over a cluster. If Redis loses a sum, or if it
expires before a redelivery, the next sum is lower than before, never higher.
"""

from __future__ import annotations

from binascii import crc32
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.store import HeatStore
from saltctl.stores.redis.scripts import script

SHARDS = 16
EXPIRY_SECONDS = 900
"""Expiry after the last report of a window: many times the time after which a pending entry is claimed."""
REPORTS_PER_CALL = 500


class WindowSums(HeatStore):
    """Idempotent sums over all application servers. Thread-safe."""

    name = "sum"

    def add(self, reports: Sequence[HeatReport]) -> list[int]:
        """Add the reports. Return for each the write units of its conversation in its window so far.

        A report that was added before changes nothing, so a call that failed can be repeated.

        Raises:
            RedisUnavailableError, AccessDeniedError: some of the reports may have been added.
        """
        by_hash: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, report in enumerate(reports):
            by_hash[(report.window, crc32(report.conversation_id.encode()) % SHARDS)].append(position)
        # For each primary, the script calls with the positions of the reports that they add.
        calls: dict[str, list[tuple[list[int], tuple[Any, ...]]]] = defaultdict(list)
        for (window, shard), positions in by_hash.items():
            key = f"{self.key}:{window}:{shard}"
            for start in range(0, len(positions), REPORTS_PER_CALL):
                page = positions[start : start + REPORTS_PER_CALL]
                arguments: list[Any] = []
                for report in (reports[position] for position in page):
                    arguments += (report.conversation_id, report.server, report.writes)
                command = ("EVAL", script("add_reports", "heat"), 1, key, EXPIRY_SECONDS, *arguments)
                calls[self._connections.primary_of(key)].append((page, command))
        sums = [0] * len(reports)
        for primary, batch in calls.items():
            with self._connections.errors(primary):
                replies = self._connections.ask_all(primary, [command for _, command in batch])
                for (page, _), reply in zip(batch, replies, strict=True):
                    if isinstance(reply, Exception):
                        raise reply
                    for position, total in zip(page, reply, strict=True):
                        sums[position] = total
        return sums


class InMemorySums:
    """Sums of the given reports alone, in memory: for dry runs. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], dict[str, int]] = {}

    def add(self, reports: Sequence[HeatReport]) -> list[int]:
        """Add the reports, each once. Return for each the write units of its conversation in its window so far."""
        totals = []
        for report in reports:
            part = self._parts.setdefault((report.conversation_id, report.window), {})
            part[report.server] = max(part.get(report.server, 0), report.writes)
            totals.append(sum(part.values()))
        return totals
