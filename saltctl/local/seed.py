"""Realistic data for the local environment: one day of a chat service."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import cycle
from typing import Any

from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.aws.failures.errors import aws_errors
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.throttling.alarms import AlarmOptions, apply_changes, plan_changes
from saltctl.times import iso_utc

QUIET = 300
"""Conversations that were never salted."""
HOT = (2, 2, 2, 2, 4, 4, 4, 4, 4, 8, 8, 16)
"""The N that each hot conversation has reached."""
HEAT_REPORTS = 60
_OPENINGS = ("has anyone seen", "we are about to ship", "the dashboard shows", "please look at", "who changed")
_SUBJECTS = ("the checkout", "tonight's deploy", "the login page", "the new pricing", "the search index")
_ENDINGS = ("?", ", thanks", " — looks fine now", ", any idea?", " :)")


@dataclass(frozen=True, slots=True)
class Seeded:
    """The numbers of seeded conversations and messages."""

    conversations: int
    salted: int
    messages: int


def seed(settings: Settings, rng: random.Random, now: datetime) -> Seeded:
    """Fill tables, registry, stream and metrics. The registry stays unverified until a rebuild."""
    registry = Registry.open(settings)
    hot = {f"conv_hot_{number:02d}": n for number, n in enumerate(HOT, 1)}
    rows = list(_messages(hot, rng, now))
    table = MessagesTable(settings)
    # The server runs one request at a time; with two threads one waits for it while the other one parses.
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(table.load, rows[start : start + 25]) for start in range(0, len(rows), 25)]
        for conversation_id, final in hot.items():
            for n in sorted({max(final // 2, 2), final}):
                registry.raise_to(conversation_id, n, reason="above 800 writes a second per salt")
        for load in loads:
            load.result()
    _report_heat(settings, hot, rng, int(now.timestamp()))
    _put_throttle_metrics(settings, rng, now)
    alarms = AlarmOptions(settings.messages_table, ("arn:aws:sns:us-east-1:123456789012:oncall",))
    metrics = CloudWatchMetrics(settings)
    apply_changes(metrics, plan_changes(metrics, alarms))
    return Seeded(QUIET + len(HOT), len(HOT), len(rows))


def _messages(hot: dict[str, int], rng: random.Random, now: datetime) -> Iterator[dict[str, Any]]:
    for number in range(QUIET):
        for _ in range(rng.randint(1, 3)):
            yield _message(f"conv_{number:04d}", None, rng, now - timedelta(seconds=rng.uniform(0, 86400)))
    for conversation_id, final in hot.items():
        # Messages from before it was salted, then for each N on the way up: all partitions have history.
        for n in (1 << power for power in range(final.bit_length())):
            age = 86400 / (2 * n)
            for _ in range(6 * n):
                yield _message(conversation_id, n, rng, now - timedelta(seconds=rng.uniform(age / 2, age)))


def _message(conversation_id: str, n: int | None, rng: random.Random, at: datetime) -> dict[str, Any]:
    message_id = f"m{rng.getrandbits(48):012x}"
    salt = None if n is None else salt_of(message_id, n)
    return {
        "conversation_id": {"S": partition_key(conversation_id, salt)},
        "sort_key": {"S": f"{iso_utc(at)}#{message_id}"},
        "message_id": {"S": message_id},
        "sender": {"S": f"user_{rng.randint(1, 40):02d}"},
        "text": {"S": f"{rng.choice(_OPENINGS)} {rng.choice(_SUBJECTS)}{rng.choice(_ENDINGS)}"},
    }


def _report_heat(settings: Settings, hot: dict[str, int], rng: random.Random, now: int) -> None:
    reports = [
        HeatReport(conversation_id, f"app-{number % 5}", now - (HEAT_REPORTS - number) // 5, rng.randint(10, 100 * n))
        for number, (conversation_id, n) in zip(range(HEAT_REPORTS), cycle(hot.items()), strict=False)
    ]
    HeatStream(replace(settings, lookup_timeout=settings.redis_timeout)).append_reports(reports)
    # An invalid report, so that there is a dead letter.
    letter = Entry("1700000000000-0", [b"v", b"0", b"conversation_id", b"conv_hot_01"])
    DeadLetters(settings).add([(letter, "unknown version '0'")])


_BURST = (20, 60, 140, 260, 400, 380, 410, 390, 350, 240, 120, 30)
"""Throttled writes a minute, while the hottest conversation had too few salts."""


def _put_throttle_metrics(settings: Settings, rng: random.Random, now: datetime) -> None:
    """Put metrics: throttling for twelve minutes, half an hour ago, and consumed capacity before and after."""
    cloudwatch = create_client(settings, "cloudwatch")
    minute = now.replace(second=0, microsecond=0)
    table = {"Name": "TableName", "Value": settings.messages_table}
    data: list[dict[str, Any]] = []

    def put(name: str, age: int, value: float, operation: str | None = None) -> None:
        """Add a value of a metric, ``age`` minutes ago."""
        dimensions = [table] if operation is None else [table, {"Name": "Operation", "Value": operation}]
        at = minute - timedelta(minutes=age)
        data.append(
            {"MetricName": name, "Dimensions": dimensions, "Timestamp": at, "Value": float(value), "Unit": "Count"}
        )

    for age in range(5, 125, 5):
        put("ConsumedWriteCapacityUnits", age, rng.randint(20_000, 40_000))
    for number, usual in enumerate(_BURST):
        events = usual + rng.randint(-9, 9)
        # The same events in total and by cause, as DynamoDB counts them.
        put("WriteThrottleEvents", 36 - number, events)
        put("WriteKeyRangeThroughputThrottleEvents", 36 - number, events)
        put("ThrottledRequests", 36 - number, events, "PutItem")
    with aws_errors("CloudWatch"):
        cloudwatch.put_metric_data(Namespace="AWS/DynamoDB", MetricData=data)
