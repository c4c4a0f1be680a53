"""Diagnosis of a throttled table: a verdict, its reasons, and the commands to run next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from saltctl.commands import command_line
from saltctl.salting import SEPARATOR, is_conversation_id, split_partition_key
from saltctl.stores.contracts.metrics import Contributors
from saltctl.throttling.analysis import ThrottleAnalysis

MaxNLookup = Callable[[Sequence[str]], Mapping[str, int | None]]
Verdict = Literal["quiet", "hot-partition", "hot-partition-service-down", "capacity", "index", "no-data"]
_CAPACITY_CAUSES = {
    "provisioned": "the provisioned capacity is used up",
    "account": "the account's limit for tables is reached",
    "on_demand_max": "the table's on-demand maximum is reached",
}


@dataclass(frozen=True, slots=True)
class HotKey:
    """A conversation with throttled partition keys.

    ``partition_key`` is the most throttled of them, ``partitions`` their number; ``max_n`` is None if unknown. A key
    such as ``CONV#77`` that the registry does not know as a salt of ``CONV`` is the id of a conversation of its own.
    """

    conversation_id: str
    partition_key: str
    throttles: float
    partitions: int
    max_n: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """State of the hot partition service; None for a value that is unknown, then ``reason`` says why."""

    verdict: str | None
    lag: int | None
    alive: int | None
    reason: str = ""

    @property
    def is_down(self) -> bool:
        """Whether heat reports are not processed."""
        return self.verdict in ("stopped", "stalled") or self.alive == 0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A verdict, its reasons, and commands to run next, in that order."""

    verdict: Verdict
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


def diagnose(found: ThrottleAnalysis, service: ServiceStatus, keys: Sequence[HotKey], table: str) -> Diagnosis:
    """Combine the throttle events with the state of the service and the salts of the hot conversations.

    The cause with the most events gives the verdict. Its reasons and commands come first.
    """
    if not found.has_data:
        reason = "CloudWatch has no metrics of this table in this range; no data does not mean healthy"
        return Diagnosis("no-data", (reason,), ("saltctl config show", "saltctl throttle scan --since 24h"))
    if not found.throttled:
        below = f" ({found.total:,.0f} events, below the threshold)" if found.total else ""
        return Diagnosis("quiet", (f"the table has traffic and is not throttled{below}",), ())
    causes = _causes(found, service, keys, table)
    # On a tie a hot partition comes first, then capacity.
    _, main = max(causes, key=lambda cause: (cause[0], cause[1].verdict.startswith("hot"), cause[1].verdict != "index"))
    ordered = [main, *(cause for _, cause in causes if cause is not main)]
    reasons = tuple(reason for cause in ordered for reason in cause.reasons)
    advice = tuple(command for cause in ordered for command in cause.advice)
    return Diagnosis(main.verdict, reasons, advice)


def _causes(
    found: ThrottleAnalysis, service: ServiceStatus, keys: Sequence[HotKey], table: str
) -> list[tuple[float, Diagnosis]]:
    """List the events of each kind of cause, with a diagnosis as if it were the only one."""
    key_range = found.table_causes["key_range"]
    capacity = sum(found.table_causes[cause] for cause in _CAPACITY_CAUSES)
    indexes = sum(found.index_events.values())
    if not (key_range or capacity or indexes) and keys:
        key_range = found.total  # the metric of the cause is late or not published, but single keys stand out
    causes = []
    describe = f"aws dynamodb describe-table --table-name {shlex.quote(table)}"
    if capacity or not (key_range or indexes):
        counts = {reason: found.table_causes[cause] for cause, reason in _CAPACITY_CAUSES.items()}
        reasons = [f"{events:,.0f} events: {reason}" for reason, events in counts.items() if events]
        unpublished = "the cause is not published: requests were throttled, but no metric names the limit"
        reasons = [*(reasons or [unpublished]), "raising N does not help against this"]
        causes.append((capacity, Diagnosis("capacity", tuple(reasons), (describe, "aws dynamodb describe-limits"))))
    if indexes:
        reasons = [f"{events:,.0f} events: index {name!r} is throttled" for name, events in found.index_events.items()]
        reasons.append("do not raise N for this: an index has its own partition keys")
        causes.append((indexes, Diagnosis("index", tuple(reasons), (describe,))))
    if key_range:
        causes.append((key_range, _hot_partition(key_range, service, keys)))
    return causes


def _hot_partition(events: float, service: ServiceStatus, keys: Sequence[HotKey]) -> Diagnosis:
    reasons = [f"{events:,.0f} events: single partition keys are at their limit"]
    advice = []
    if service.is_down:
        instances = "instances are alive but idle" if service.alive else "no instance is alive"
        reasons.append(f"the hot partition service is {service.verdict or 'down'} ({instances}): N is not raised")
        advice.append("saltctl service run")  # it claims what a dead instance left, too
        if service.lag != 0:
            advice += ["saltctl stream replay --dry-run", "saltctl stream replay"]
    elif service.verdict is None:
        reasons.append(f"the state of the hot partition service is unknown: {service.reason or 'Redis has no data'}")
        advice.append("saltctl service status")
    for key in keys[:3]:
        reasons.append(_key_reason(key))
        base, salt = split_partition_key(key.partition_key)
        if key.conversation_id != key.partition_key and key.max_n is None:
            advice.append(command_line("registry", "get", ids=[base]))
        elif SEPARATOR not in key.conversation_id:
            ids = [key.conversation_id, str(2 * max(key.max_n or 1, 1))]
            advice.append(command_line("registry", "set", ids=ids, given={"--dry-run": True}))
        elif salt is not None and is_conversation_id(base):
            advice.append(command_line("history", "audit", ids=[base]))
    if not keys:
        reasons.append("the hot keys are unknown: Contributor Insights has no data")
        advice.append("saltctl registry list --sort n --limit 10")
    verdict: Verdict = "hot-partition-service-down" if service.is_down else "hot-partition"
    return Diagnosis(verdict, tuple(reasons), tuple(advice))


def _key_reason(key: HotKey) -> str:
    base, salt = split_partition_key(key.conversation_id)
    if salt is not None:
        return f"{key.conversation_id!r} is throttled, and the registry does not know it as a salt of {base!r}"
    if SEPARATOR in key.conversation_id:
        return f"{key.conversation_id!r} is throttled; an id with a '#' cannot be salted"
    if key.max_n is None:
        return f"{key.conversation_id!r} is throttled; its max_n is unknown"
    if key.max_n <= 1:
        return f"{key.conversation_id!r} is throttled and unsalted"
    return f"{key.conversation_id!r} is throttled with max_n {key.max_n}: N is too low"


def hot_keys(insights: Contributors, max_n: MaxNLookup) -> tuple[HotKey, ...]:
    """Group throttled partition keys by conversation, most events first."""
    bases = {key: split_partition_key(key) for key, _ in insights.keys}
    known = max_n(list(dict.fromkeys(base for base, _ in bases.values()))) if bases else {}
    parts_of: dict[str, list[tuple[float, str]]] = {}
    for key, events in insights.keys:
        base, salt = bases[key]
        n = known.get(base)
        is_salt = salt is not None and is_conversation_id(base) and (n is None or salt < n > 1)
        parts_of.setdefault(base if is_salt else key, []).append((events, key))
    keys = [
        HotKey(name, max(parts)[1], sum(events for events, _ in parts), len(parts), known.get(name))
        for name, parts in parts_of.items()
    ]
    return tuple(sorted(keys, key=lambda key: (-key.throttles, key.conversation_id)))
