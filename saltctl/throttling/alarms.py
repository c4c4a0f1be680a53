"""CloudWatch alarms on throttling: the specified alarms, and the changes that existing ones need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

from saltctl.errors import RefusedError, UsageError
from saltctl.stores.contracts.metrics import Alarm, AlarmSpec, MetricKey, MetricsStore
from saltctl.values import check_number

KEY_RANGE = ("ReadKeyRangeThroughputThrottleEvents", "WriteKeyRangeThroughputThrottleEvents")
OPERATIONS = ("PutItem", "BatchWriteItem", "Query", "GetItem")
"""Operations on messages. AWS charges for each alarm, so other operations have none."""
PERIODS = 2
"""Consecutive minutes before an alarm: adaptive capacity handles a single one."""
_SNS = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")

Action = Literal["create", "update", "unchanged", "remove"]


@dataclass(frozen=True, slots=True)
class AlarmOptions:
    """Table, ARNs of the SNS topics to notify, and the threshold in events a minute."""

    table: str
    sns: tuple[str, ...]
    threshold: float = 10.0

    def __post_init__(self) -> None:
        """Refuse a threshold that never or always alarms; raises UsageError."""
        check_number("threshold", self.threshold, 1, hint="such as --threshold 10")


def name_prefix(table: str) -> str:
    """Return the prefix of the names of a table's alarms.

    A name of more than 160 characters is cut and gets a checksum: CloudWatch allows 255 characters (documented).
    """
    if len(table) > 160:
        table = f"{table[:150]}~{crc32(table.encode()):08x}"
    return f"saltctl/{table}/"


def alarm_specs(options: AlarmOptions) -> list[AlarmSpec]:
    """Specify the alarms of a table.

    Raises:
        UsageError: there is no SNS topic, or an ARN is not one of an SNS topic.
    """
    if not options.sns:
        hint = "saltctl throttle alarms create --sns arn:aws:sns:eu-central-1:111122223333:oncall"
        raise UsageError("an alarm needs an SNS topic to notify: pass --sns", hint=hint)
    for arn in options.sns:
        if _SNS.fullmatch(arn) is None:
            raise UsageError(f"{arn!r:.100} is not the ARN of an SNS topic", hint="aws sns list-topics")
    table = options.table
    problems = {MetricKey(name, table): f"Single partition keys of table {table} are throttled." for name in KEY_RANGE}
    for operation in OPERATIONS:
        key = MetricKey("ThrottledRequests", table, operation=operation)
        problems[key] = f"DynamoDB throttles {operation} on table {table}."
    specs = []
    for key, problem in problems.items():
        name = name_prefix(table) + "-".join(filter(None, (key.metric, key.operation)))
        advice = f"The hot partition service may be down. Run: saltctl throttle scan --table {table}"
        specs.append(AlarmSpec(name, key, options.threshold, PERIODS, options.sns, f"{problem} {advice}"))
    return specs


def plan_changes(store: MetricsStore, options: AlarmOptions) -> list[tuple[Action, AlarmSpec]]:
    """Compare the specified alarms with the existing ones. Return the change of each.

    Raises:
        UsageError: see ``alarm_specs``.
        RefusedError: an alarm of such a name exists that saltctl did not create.
        ConfigurationError: the table does not exist.
    """
    specs = alarm_specs(options)
    store.describe(options.table)
    existing = {alarm.name: alarm for alarm in store.alarms(name_prefix(options.table))}
    return [(_action(spec, existing.get(spec.name)), spec) for spec in specs]


def _action(spec: AlarmSpec, alarm: Alarm | None) -> Action:
    if alarm is None:
        return "create"
    if not alarm.owned:
        hint = "rename or delete it in CloudWatch"
        raise RefusedError(f"alarm {spec.name!r} exists without the tag of saltctl", hint=hint)
    found, wanted = (
        (one.key, one.threshold, one.periods, sorted(one.actions), one.description) for one in (alarm, spec)
    )
    return "unchanged" if found == wanted else "update"


def apply_changes(store: MetricsStore, changes: Sequence[tuple[Action, AlarmSpec]]) -> None:
    """Create and update the planned alarms; safe to repeat."""
    for action, spec in changes:
        if action in ("create", "update"):
            store.put_alarm(spec)


def owned_alarms(store: MetricsStore, table: str) -> list[Alarm]:
    """Return the table's alarms that saltctl created."""
    return [alarm for alarm in store.alarms(name_prefix(table)) if alarm.owned]


def as_record(alarm: Alarm | AlarmSpec, action: Action | None = None) -> dict[str, Any]:
    """Convert an alarm to the keys of the command line's contract; an alarm without state or action has null."""
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
