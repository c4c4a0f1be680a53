"""CloudWatch alarms on throttling: what is wished, compared with what is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

from saltctl.errors import RefusedError, UsageError
from saltctl.stores.contracts import Alarm, AlarmSpec, MetricKey, MetricsStore

KEY_RANGE = ("ReadKeyRangeThroughputThrottleEvents", "WriteKeyRangeThroughputThrottleEvents")
OPERATIONS = ("PutItem", "BatchWriteItem", "Query", "GetItem")
"""What reads and writes messages; each is an alarm that is paid for."""
PERIODS = 2
"""Minutes in a row: one alone is what adaptive capacity mends by itself."""
MAX_NAME = 255
"""Characters of an alarm's name (documented)."""
_SNS = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")

Action = Literal["create", "update", "unchanged", "remove"]


@dataclass(frozen=True, slots=True)
class AlarmOptions:
    """Which alarms are wished: the table, who is told, and events a minute from which on it alarms."""

    table: str
    sns: tuple[str, ...]
    threshold: float = 10.0


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """What is to be done about one alarm."""

    action: Action
    spec: AlarmSpec


def name_prefix(table: str) -> str:
    """How the names of a table's alarms begin; a very long name is cut, and kept apart by its checksum."""
    if len(table) > 160:
        table = f"{table[:150]}~{crc32(table.encode()):08x}"
    return f"saltctl/{table}/"


def alarm_specs(options: AlarmOptions) -> list[AlarmSpec]:
    """The alarms of a table.

    Raises:
        UsageError: no action, or one that is no ARN of an SNS topic.
    """
    if not options.sns:
        raise UsageError(
            "an alarm without an action wakes nobody",
            hint="saltctl throttle alarms create --sns arn:aws:sns:eu-central-1:111122223333:oncall",
        )
    for arn in options.sns:
        if _SNS.fullmatch(arn) is None:
            raise UsageError(f"{arn!r} is no ARN of an SNS topic", hint="aws sns list-topics")
    keys = [MetricKey(metric, options.table) for metric in KEY_RANGE]
    keys += [MetricKey("ThrottledRequests", options.table, operation=operation) for operation in OPERATIONS]
    return [
        AlarmSpec(
            name_prefix(options.table) + "-".join(filter(None, (key.metric, key.operation))),
            key,
            options.threshold,
            PERIODS,
            options.sns,
            f"{_about(key)} The hot partition service may be down. Run: saltctl throttle scan --table {options.table}",
        )
        for key in keys
    ]


def _about(key: MetricKey) -> str:
    if key.operation is not None:
        return f"DynamoDB throttles {key.operation} on table {key.table}."
    return f"Single partition keys of table {key.table} are throttled."


def plan_changes(store: MetricsStore, options: AlarmOptions) -> list[AlarmChange]:
    """What is to be done so that the alarms are as wished.

    Raises:
        UsageError: see ``alarm_specs``. RefusedError: an alarm of such a name exists and is not saltctl's.
        ConfigurationError: there is no such table.
    """
    wanted = alarm_specs(options)
    store.describe(options.table)
    held = {alarm.name: alarm for alarm in store.alarms(name_prefix(options.table))}
    return [AlarmChange(_needed(spec, held.get(spec.name)), spec) for spec in wanted]


def _needed(spec: AlarmSpec, alarm: Alarm | None) -> Action:
    if alarm is None:
        return "create"
    if not alarm.owned:
        raise RefusedError(
            f"an alarm {spec.name!r} exists that bears no tag of saltctl's", hint="rename or delete it in CloudWatch"
        )
    same = (alarm.key, alarm.threshold, alarm.periods, sorted(alarm.actions), alarm.description) == (
        spec.key,
        spec.threshold,
        spec.periods,
        sorted(spec.actions),
        spec.description,
    )
    return "unchanged" if same else "update"


def apply_changes(store: MetricsStore, changes: Sequence[AlarmChange]) -> None:
    """Do what is planned; safe to repeat."""
    for change in changes:
        if change.action in ("create", "update"):
            store.put_alarm(change.spec)


def owned_alarms(store: MetricsStore, table: str) -> list[Alarm]:
    """The table's alarms that are saltctl's own."""
    return [alarm for alarm in store.alarms(name_prefix(table)) if alarm.owned]


def as_record(alarm: Alarm | AlarmSpec, action: Action | None = None) -> dict[str, Any]:
    """An alarm with the keys of the command line's contract; ``state`` and ``action`` are null where there is none."""
    return {
        "name": alarm.name,
        "metric": alarm.key.metric,
        "table": alarm.key.table,
        "operation": alarm.key.operation,
        "threshold": alarm.threshold,
        "periods": alarm.periods,
        "actions": list(alarm.actions),
        "state": alarm.state if isinstance(alarm, Alarm) else None,
        "description": alarm.description,
        "action": action,
    }
