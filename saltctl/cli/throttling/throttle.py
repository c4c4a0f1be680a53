"""``saltctl throttle scan`` and ``saltctl throttle alarms``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.formats.text import counted
from saltctl.cli.guide.groups import new_group
from saltctl.cli.hints import in_force
from saltctl.cli.output import OutputFormat, columns_of, format_value, print_result, resolve_format, warn
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline
from saltctl.commands import command_line
from saltctl.errors import ExitCode, SaltctlError, UsageError
from saltctl.salting import is_conversation_id

if TYPE_CHECKING:
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
    from saltctl.throttling.analysis import TimeRange
    from saltctl.throttling.diagnosis import ServiceStatus

group = new_group("Find the cause of throttling, and manage alarms on it.")
alarms = new_group("Manage CloudWatch alarms on throttling.")
group.add_typer(alarms, name="alarms")
SERVICE_WINDOW = 0.3
"""Seconds between the two samples of the stream: a live instance answers within milliseconds."""
SCAN_COLUMNS = columns_of(
    "verdict table start end period_s throttled total causes series keys service advice", total="events", advice="next"
)
ALARM_COLUMNS = columns_of("name metric operation threshold periods state action actions")
ALARM_VIEW_COLUMNS = columns_of(
    "metric threshold periods state action actions",
    metric=lambda alarm: " ".join(filter(None, (alarm["metric"], alarm["operation"]))),
    state=lambda alarm: "no data" if alarm["state"] == "INSUFFICIENT_DATA" else format_value(alarm["state"]),
    actions=lambda alarm: " ".join(arn.rpartition(":")[2] for arn in alarm["actions"]),
)


@group.command("scan")
def scan(
    context: typer.Context,
    since: option.RangeStart = "1h",
    until: option.RangeEnd = None,
    period: Annotated[float, option.duration("--period", "Length of a period, such as 5m.")] = 0.0,
    table: option.Table = None,
    threshold: Annotated[
        float,
        option.number("--threshold", "Events in one period that count as throttling.", 1, 10**9, whole=False),
    ] = 1.0,
    timeout: option.Timeout = 0.0,
    output: option.Output = None,
) -> None:
    """Show whether a table or index is throttled, the cause, the hot conversations, and the commands to run next.

    Verdicts: quiet, hot-partition, hot-partition-service-down, capacity, index, no-data. No data does not mean
    healthy. CloudWatch data is minutes late. Exits 3 if throttling was found. Without permission for CloudWatch it
    prints the rest and exits 77.

    \b
    Examples:
      saltctl throttle scan
      saltctl throttle scan --since 2h --until 20m -o json
      saltctl throttle scan --since 24h --period 15m --threshold 100
    """
    from saltctl.cli.throttling.view import draw
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
    from saltctl.throttling.scan import ScanOptions, as_record, scan_table

    session = session_of(context)
    options = ScanOptions(table or session.settings.messages_table, _parse_range(since, until, period), threshold)
    with deadline(timeout):
        store = CloudWatchMetrics(session.settings)
        result = scan_table(store, options, _service_status(session), lambda ids: _max_n(session, ids))
    advice = tuple(map(in_force, result.diagnosis.advice))
    result = replace(result, diagnosis=replace(result.diagnosis, advice=advice))
    record = as_record(result)
    print_result(record, output, columns=SCAN_COLUMNS, human_view=lambda screen: draw(screen, result))
    for note in result.notes:
        warn(note)
    if result.failure is not None:
        raise result.failure
    if record["throttled"]:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _parse_range(since: str, until: str | None, period: float) -> TimeRange:
    from saltctl.throttling.analysis import time_range

    now = datetime.now(UTC)
    if period % 1:
        raise UsageError(f"the period must be a multiple of a minute, not {period:g} s", hint="write 1m, 5m, 15m or 1h")
    start = option.parse_time_option("--since", since, now) or now
    end = option.parse_time_option("--until", until, now) or now
    if until is not None and end < start < now:
        swapped = command_line("throttle", "scan", "--since", until, "--until", since)
        raise UsageError("the range ends before it begins", hint=swapped)
    return time_range(start.timestamp(), end.timestamp(), int(period) or None, now.timestamp())


def _service_status(session: Session) -> ServiceStatus:
    from saltctl.detection.stream_status import read_stream_status
    from saltctl.throttling.diagnosis import ServiceStatus

    try:
        status = read_stream_status(session.heat_stream, SERVICE_WINDOW)
    except SaltctlError as exc:
        return ServiceStatus(None, None, None, exc.message)
    if status.group is None:
        return ServiceStatus(status.verdict, None, 0, "there is no heat stream or no consumer group")
    return ServiceStatus(status.verdict, status.group.lag, status.alive)


def _max_n(session: Session, conversation_ids: Sequence[str]) -> Mapping[str, int | None]:
    # A partition key may be any string. One that is not a conversation id has no max_n.
    valid = [conversation_id for conversation_id in conversation_ids if is_conversation_id(conversation_id)]
    try:
        return {name: found.write_n for name, found in session.registry.lookup_many(valid).items()}
    except SaltctlError as exc:
        warn(f"max_n is unknown: {exc.message}")
        return {}


@alarms.command("create")
def create(
    context: typer.Context,
    sns: Annotated[
        list[str] | None, typer.Option("--sns", metavar="ARN", help="The SNS topic to notify; repeatable.")
    ] = None,
    threshold: Annotated[
        float, option.number("--threshold", "Events a minute, in two consecutive minutes.", 1, 10**9, whole=False)
    ] = 10.0,
    table: option.Table = None,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Create alarms on throttled key ranges and throttled requests, or update the existing ones.

    Safe to repeat. The description of each alarm names the command that finds the cause: the hot partition service
    may be down. Alarms without saltctl's tag are never changed.

    \b
    Examples:
      saltctl throttle alarms create --sns arn:aws:sns:us-east-1:111122223333:oncall --dry-run
      saltctl throttle alarms create --sns arn:aws:sns:us-east-1:111122223333:oncall
    """
    from saltctl.throttling.alarms import AlarmOptions, apply_changes, as_record, plan_changes

    session, store, table = _open(context, table)
    changes = plan_changes(store, AlarmOptions(table, tuple(sns or ()), threshold))
    if not dry_run:
        session.require_consent("Create alarms?", confirm)
        apply_changes(store, changes)
    _print([as_record(spec, action) for action, spec in changes], output)


@alarms.command("list")
def list_alarms(context: typer.Context, table: option.Table = None, output: option.Output = None) -> None:
    """List the alarms that saltctl created for a table, with their state.

    \b
    Examples:
      saltctl throttle alarms list
      saltctl throttle alarms list -o json
    """
    from saltctl.throttling.alarms import as_record, owned_alarms

    _, store, table = _open(context, table)
    _print([as_record(alarm) for alarm in owned_alarms(store, table)], output)


@alarms.command("remove")
def remove(
    context: typer.Context,
    table: option.Table = None,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Remove the alarms that saltctl created for a table, and no others.

    \b
    Examples:
      saltctl throttle alarms remove --dry-run
      saltctl throttle alarms remove --yes
    """
    from saltctl.throttling.alarms import as_record, owned_alarms

    session, store, table = _open(context, table)
    owned = owned_alarms(store, table)
    if owned and not dry_run:
        session.require_consent(f"Remove {counted(len(owned), 'alarm')} of {table}?", confirm, yes=yes)
        store.delete_alarms([alarm.name for alarm in owned])
    _print([as_record(alarm, "remove") for alarm in owned], output, hidden=("threshold", "periods"))


def _open(context: typer.Context, table: str | None) -> tuple[Session, CloudWatchMetrics, str]:
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics

    session = session_of(context)
    return session, CloudWatchMetrics(session.settings), table or session.settings.messages_table


def _print(records: list[dict[str, Any]], output: OutputFormat | None, *, hidden: Sequence[str] = ()) -> None:
    """Print alarms; ``hidden`` are keys that people need not see."""
    columns = ALARM_COLUMNS
    if resolve_format(output, listing=True) == "table":
        shown = [column for column in ALARM_VIEW_COLUMNS if any(record[column.key] for record in records)]
        columns = tuple(column for column in shown if column.key not in hidden)
    print_result(records, output, columns=columns, empty="saltctl has created no alarms for this table")
