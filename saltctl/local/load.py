"""A load to watch detection with: many servers that write to Zipf-distributed conversations.

Every write is counted by its server's meter; a sample of them is really written, salted as a lookup says, so
that raises show in where messages land. Local servers alone: see :func:`require_local`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import RefusedError, SaltctlError
from saltctl.local.environment import require_loopback
from saltctl.registry.registry import Lookup
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.times import iso_utc
from saltctl.urls import parse_redis_url

TICKS_A_SECOND = 20
REAL_WRITES_A_SECOND = 20
"""What moto takes beside everything else; the other writes are counted and not carried out."""
WATCHED = 5


class Lookups(Protocol):
    """Where writers learn N: ``Registry``."""

    def lookup(self, conversation_id: str) -> Lookup:
        """How many salts it has."""
        ...


class Messages(Protocol):
    """Where messages go: ``MessagesTable``."""

    def put(self, partition_key: str, sort_key: str, attributes: dict[str, dict[str, str]]) -> object:
        """Write one row unless it exists."""
        ...


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """``rate`` in writes a second over all servers, ``seconds`` of load; ``skew`` is Zipf's exponent."""

    rate: int = 5000
    servers: int = 10
    seconds: float = 30.0
    conversations: int = 1000
    skew: float = 1.1


@dataclass
class LoadReport:
    """What was done so far. ``hottest``: rate, max_n, and how many partition keys their real writes went to."""

    writes: int = 0
    seconds: float = 0.0
    reports: int = 0
    dropped: int = 0
    written: int = 0
    failed: int = 0
    hottest: list[dict[str, object]] = field(default_factory=list)


def require_local(settings: Settings) -> None:
    """Raise RefusedError unless Redis and AWS are on loopback: a load is not for real servers."""
    hosts = {address.host for address in parse_redis_url(settings.require_redis_url()).addresses}
    if not hosts or hosts - {"127.0.0.1", "::1", "localhost"} or not settings.aws_endpoint_url:
        raise RefusedError(
            "a load is for the local environment, and these servers are not on loopback",
            hint="saltctl local shell, and there: saltctl local load",
        )
    require_loopback(settings.aws_endpoint_url)


def run(
    options: LoadOptions,
    meters: list[WriteMeter],
    lookups: Lookups,
    messages: Messages,
    *,
    chance: random.Random,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LoadReport]:
    """Write at the rate; yields the report, as it grows, about once a second and at the end."""
    ids = [f"conv_load_{rank:04d}" for rank in range(1, options.conversations + 1)]
    weights = list(accumulate(1 / rank**options.skew for rank in range(1, options.conversations + 1)))
    report = LoadReport()
    counts: Counter[str] = Counter()
    keys: dict[str, set[str]] = {conversation_id: set() for conversation_id in ids[:WATCHED]}
    started = clock()
    ticks = max(int(options.seconds * TICKS_A_SECOND), 1)
    for tick in range(1, ticks + 1):
        due = int(options.rate * tick / TICKS_A_SECOND) - report.writes
        chosen = chance.choices(ids, cum_weights=weights, k=due)
        for number, conversation_id in enumerate(chosen):
            meters[number % len(meters)].record(conversation_id)
        counts.update(chosen)
        report.writes += due
        for number in range(REAL_WRITES_A_SECOND // TICKS_A_SECOND):
            target = ids[(tick + number) % len(keys)]
            _write_one(target, f"load-{started:.0f}-{tick}-{number}", lookups, messages, report, keys)
        report.seconds = round(clock() - started, 3)
        if tick % TICKS_A_SECOND == 0 or tick == ticks:
            _sum_up(report, meters, counts, keys, lookups)
            yield report
        sleep(max(started + tick / TICKS_A_SECOND - clock(), 0.0))


def _write_one(
    conversation_id: str,
    message_id: str,
    lookups: Lookups,
    messages: Messages,
    report: LoadReport,
    keys: dict[str, set[str]],
) -> None:
    at = iso_utc(time.time())
    try:
        key = partition_key(conversation_id, salt_of(message_id, lookups.lookup(conversation_id).write_n))
        messages.put(key, f"{at}#{message_id}", {"message_id": {"S": message_id}, "text": {"S": "load"}})
    except SaltctlError:
        report.failed += 1
        return
    report.written += 1
    keys[conversation_id].add(key)


def _sum_up(
    report: LoadReport,
    meters: list[WriteMeter],
    counts: Counter[str],
    keys: dict[str, set[str]],
    lookups: Lookups,
) -> None:
    report.reports = sum(meter.stats.sent for meter in meters)
    report.dropped = sum(meter.stats.dropped for meter in meters)
    report.hottest = []
    for conversation_id, used in keys.items():
        try:
            max_n: int | None = lookups.lookup(conversation_id).max_n
        except SaltctlError:
            max_n = None
        rate = round(counts[conversation_id] / max(report.seconds, 0.001))
        row = {"conversation_id": conversation_id, "rate": rate, "max_n": max_n, "partitions": len(used)}
        report.hottest.append(row)
