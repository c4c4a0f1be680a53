"""A load to watch detection with: many servers that write to Zipf-distributed conversations.

The meter of each server counts every write. A sample of the writes is stored, salted as a lookup says, so that
raises show in the partitions of new messages. Local servers only: see :func:`require_local`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import RefusedError, SaltctlError
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.contracts.messages import MessageStore
from saltctl.times import iso_utc
from saltctl.urls import is_loopback, parse_redis_url
from saltctl.values import LONGEST, check_number, check_whole

TICKS_PER_SECOND = 20
"""At each tick one write is stored: so many moto can take besides its other requests. All others are only counted."""
WATCHED = 5
"""The hottest conversations, which get the stored writes and are reported."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """``rate`` is in writes a second over all servers, ``seconds`` the duration, ``skew`` Zipf's exponent."""

    rate: int = 5000
    servers: int = 10
    seconds: float = 30.0
    conversations: int = 1000
    skew: float = 1.1

    def __post_init__(self) -> None:
        """Refuse numbers that the command refuses; raises UsageError."""
        for name, most in (("rate", 100_000), ("servers", 200), ("conversations", 100_000)):
            check_whole(name, getattr(self, name), 1, most)
        check_number("seconds", self.seconds, 0.001, LONGEST)
        check_number("skew", self.skew, 0)


@dataclass
class LoadReport:
    """The load so far. ``hottest`` has rate, max_n and the number of partition keys with stored writes."""

    writes: int = 0
    seconds: float = 0.0
    reports: int = 0
    dropped: int = 0
    written: int = 0
    failed: int = 0
    hottest: list[dict[str, object]] = field(default_factory=list)


def require_local(settings: Settings) -> None:
    """Raise RefusedError unless Redis and AWS are on loopback: a load is not for real servers."""
    addresses = parse_redis_url(settings.require_redis_url()).addresses
    urls = [*(f"//{address}" for address in addresses), settings.aws_endpoint_url or ""]
    if not addresses or not all(map(is_loopback, urls)):
        raise RefusedError(
            "a load is for the local environment, and these servers are not on loopback",
            hint="saltctl local run -- saltctl local load",
        )


@dataclass
class Load:
    """Writes of many servers to Zipf-distributed conversations.

    Args:
        options: rate, duration and distribution.
        meters: one for each server.
        registry: where N is looked up.
        messages: where the stored writes go.
    """

    options: LoadOptions
    meters: Sequence[WriteMeter]
    registry: Registry
    messages: MessageStore
    rng: random.Random = field(kw_only=True)

    def __post_init__(self) -> None:
        ranks = range(1, self.options.conversations + 1)
        self._ids = [f"conv_load_{rank:04d}" for rank in ranks]
        self._weights = list(accumulate(1 / rank**self.options.skew for rank in ranks))
        self._counts: Counter[str] = Counter()
        self._partitions: dict[str, set[str]] = {conversation_id: set() for conversation_id in self._ids[:WATCHED]}
        self._report = LoadReport()

    def run(self) -> Iterator[LoadReport]:
        """Write at the rate of the options; yield the growing report about once a second and at the end."""
        started = time.monotonic()
        ticks = max(int(self.options.seconds * TICKS_PER_SECOND), 1)
        for tick in range(1, ticks + 1):
            self._count_writes(int(self.options.rate * tick / TICKS_PER_SECOND))
            self._store_write(self._ids[tick % len(self._partitions)], f"load-{started:.0f}-{tick}")
            self._report.seconds = round(time.monotonic() - started, 3)
            if tick % TICKS_PER_SECOND == 0 or tick == ticks:
                self._update_report()
                yield self._report
            time.sleep(max(started + tick / TICKS_PER_SECOND - time.monotonic(), 0.0))

    def _count_writes(self, total: int) -> None:
        """Count writes until there are ``total`` of them."""
        chosen = self.rng.choices(self._ids, cum_weights=self._weights, k=total - self._report.writes)
        for number, conversation_id in enumerate(chosen):
            self.meters[number % len(self.meters)].record(conversation_id)
        self._counts.update(chosen)
        self._report.writes = total

    def _store_write(self, conversation_id: str, message_id: str) -> None:
        sort_key = f"{iso_utc(time.time())}#{message_id}"
        try:
            key = partition_key(conversation_id, salt_of(message_id, self.registry.lookup(conversation_id).write_n))
            self.messages.put(key, sort_key, {"message_id": {"S": message_id}, "text": {"S": "load"}})
        except SaltctlError:
            self._report.failed += 1
            return
        self._report.written += 1
        self._partitions[conversation_id].add(key)

    def _update_report(self) -> None:
        report = self._report
        report.reports = sum(meter.stats.sent for meter in self.meters)
        report.dropped = sum(meter.stats.dropped for meter in self.meters)
        report.hottest = []
        for conversation_id, partitions in self._partitions.items():
            rate = round(self._counts[conversation_id] / max(report.seconds, 0.001))
            row = {"conversation_id": conversation_id, "rate": rate, "max_n": None, "partitions": len(partitions)}
            with suppress(SaltctlError):
                row["max_n"] = self.registry.lookup(conversation_id).max_n
            report.hottest.append(row)
