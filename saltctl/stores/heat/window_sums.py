"""Sums of heat reports for each conversation and window, shared by all instances of the service.

The hash ``{prefix}:sum:{window}:{shard}`` has the sums of some conversations in one window. Shards keep the hashes
small, so that their expiry does not block Redis, and spread them over a cluster. If Redis loses a sum, or if it
expires before a redelivery, the next sum is lower than before, never higher.
"""

from __future__ import annotations

from binascii import crc32
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from saltctl.errors import SaltctlError
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.store import HeatStore
from saltctl.stores.redis.scripts import script

SHARDS = 16
EXPIRY_SECONDS = 900
"""Expiry after the last report of a window: many times the time after which a pending entry is claimed."""
REPORTS_PER_CALL = 500
_Call = tuple[list[int], tuple[Any, ...]]
"""Positions of reports, and the command that adds them."""


class WindowSums(HeatStore):
    """Idempotent sums over all application servers. Thread-safe."""

    name = "sum"

    def add(self, reports: Sequence[HeatReport]) -> list[int | SaltctlError]:
        """Add the reports. Return for each the write units of its conversation in its window so far, or its error.

        A report that was added before changes nothing, so a report that failed can be added again.

        Raises:
            RedisUnavailableError, AccessDeniedError: the primaries cannot be found.
        """
        by_hash: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, (conversation_id, _, window, _, _) in enumerate(reports):
            by_hash[window, crc32(conversation_id.encode()) % SHARDS].append(position)
        # For each primary, the script calls with the positions of the reports that they add.
        calls: dict[str, list[_Call]] = defaultdict(list)
        for (window, shard), positions in by_hash.items():
            key = f"{self.key}:{window}:{shard}"
            for start in range(0, len(positions), REPORTS_PER_CALL):
                page = positions[start : start + REPORTS_PER_CALL]
                arguments: list[Any] = []
                for position in page:
                    conversation_id, server, _, writes, _ = reports[position]
                    arguments += (conversation_id, server, writes)
                command = ("EVAL", script("add_reports", "heat"), 1, key, EXPIRY_SECONDS, *arguments)
                calls[self._connections.primary_of(key)].append((page, command))
        sums: list[int | SaltctlError] = [0] * len(reports)
        for primary, batch in calls.items():
            for (page, _), found in zip(batch, self._run(primary, batch), strict=True):
                totals: Sequence[int | SaltctlError] = found if isinstance(found, list) else [found] * len(page)
                for position, total in zip(page, totals, strict=True):
                    sums[position] = total
        return sums

    def _run(self, primary: str, batch: Sequence[_Call]) -> list[list[int] | SaltctlError]:
        """Return the sums of each call, or its error: one damaged hash, or one primary, must not stop the others."""
        try:
            with self._connections.errors(primary):
                replies = self._connections.ask_all(primary, [command for _, command in batch])
        except SaltctlError as exc:
            return [exc] * len(batch)
        return [self._sums_or_error(primary, reply) for reply in replies]

    def _sums_or_error(self, primary: str, reply: Any) -> list[int] | SaltctlError:
        if not isinstance(reply, Exception):
            return cast("list[int]", reply)
        try:
            with self._connections.errors(primary):
                raise reply
        except SaltctlError as exc:
            return exc


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
