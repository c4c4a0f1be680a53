"""``saltctl throttle scan`` and ``saltctl throttle alarms``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.output import Column, OutputFormat, columns_of, print_result, resolve_format, warn
from saltctl.cli.session import (
    ConfirmOption,
    DryRunOption,
    OutputOption,
    Session,
    TimeoutOption,
    YesOption,
    duration_option,
    session_of,
)
from saltctl.cli.signals import deadline
from saltctl.cli.text import parse_duration
from saltctl.errors import InvalidConversationIdError, SaltctlError, UsageError
from saltctl.salting import check_conversation_id
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
    from saltctl.throttling.analysis import ServiceStatus

group = typer.Typer(help="Is it throttled, why, and what now: CloudWatch's metrics and alarms.", no_args_is_help=True)
alarms_group = typer.Typer(help="CloudWatch alarms on throttling, which page people.", no_args_is_help=True)
group.add_typer(alarms_group, name="alarms")
FOUND_SOMETHING = 3
SCAN_COLUMNS = columns_of(
    "verdict table start end period_s throttled total causes series keys service advice", total="events", advice="next"
)
ALARM_COLUMNS = (
    Column("metric", "metric", show=lambda r: r["metric"] + (f" {r['operation']}" if r["operation"] else "")),
    *columns_of("threshold periods state action", threshold="at", periods="min"),
    Column("actions", "tells", show=lambda r: " ".join(arn.rpartition(":")[2] for arn in r["actions"])),
)
ALARM_KEYS = (*columns_of("name metric operation"), *ALARM_COLUMNS[1:])
TableOption = Annotated[
    str | None, typer.Option("--table", metavar="TABLE", help="Which table; the messages table if omitted.")
]


def add_to(app: typer.Typer) -> None:
    """Add the group to the command tree."""
    app.add_typer(group, name="throttle")


@group.command("scan")
def scan(
    context: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="TIME|DURATION", help="From there on; 1h ago.")] = "1h",
    until: Annotated[str | None, typer.Option("--until", metavar="TIME|DURATION", help="Up to there; now.")] = None,
    period: Annotated[float, duration_option("--period", "One point is so long; as fine as is legible.")] = 0.0,
    table: TableOption = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=1.0, help="Events in one period that count as throttling.")
    ] = 1.0,
    timeout: TimeoutOption = 0.0,
    output: OutputOption = None,
) -> None:
    """Tell whether a table or an index is throttled, by what, which conversations, and what to do now.

    Verdicts: quiet, hot-partition, hot-partition-service-down, capacity, index, no-data. No data is no sign of
    health. CloudWatch is minutes late. Exits 3 when throttling was found; 77 without permission for CloudWatch,
    after saying what can be told without it.

    \b
    Examples:
      saltctl throttle scan
      saltctl throttle scan --since 2h --until 20m -o json
      saltctl throttle scan --since 24h --period 15m --threshold 100
    """
    from saltctl.cli.throttling.view import draw
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
    from saltctl.throttling.analysis import time_range
    from saltctl.throttling.scan import ScanOptions, as_record
    from saltctl.throttling.scan import scan as look_at

    session = session_of(context)
    now = time.time()
    if period % 1:
        raise UsageError(f"a period of {period:g} s is no multiple of a minute", hint="write 1m, 5m, 15m or 1h")
    over = time_range(
        parse_time(since, now, "--since"),
        now if until is None else parse_time(until, now, "--until"),
        int(period) or None,
        now,
    )
    options = ScanOptions(table or session.settings.messages_table, over, threshold)
    with deadline(timeout):
        found = look_at(
            CloudWatchMetrics(session.settings), options, lambda: _service(session), lambda ids: _max_n(session, ids)
        )
    record = as_record(found)
    print_result(record, output, columns=SCAN_COLUMNS, human_view=lambda screen: draw(screen, found))
    for text in found.notes:
        warn(text)
    if found.failure is not None:
        raise found.failure
    if record["throttled"]:
        raise typer.Exit(FOUND_SOMETHING)


def parse_time(text: str, now: float, option: str) -> float:
    """Seconds since the epoch from an ISO 8601 time, or from a duration ago."""
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_iso(text).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is no time", hint="write 2026-01-31T12:00:00Z, or 90m for that long ago"
        ) from None


def _service(session: Session) -> ServiceStatus:
    from saltctl.detection.stream_status import is_alive, look
    from saltctl.stores.heat.stream import HeatStream
    from saltctl.throttling.analysis import ServiceStatus
    from saltctl.throttling.scan import SERVICE_WINDOW

    try:
        session.settings.require_redis_url()
        stream = HeatStream(session.settings)
        try:
            seen = look(stream, SERVICE_WINDOW)
        finally:
            stream.close()
    except SaltctlError as exc:
        return ServiceStatus(None, None, None, exc.message)
    found = None if seen.info is None else seen.info.group(stream.group)
    if found is None:
        return ServiceStatus(seen.verdict, None, 0, "there is no heat stream, or nobody ever read it")
    return ServiceStatus(seen.verdict, found.lag, sum(is_alive(c.idle_s) for c in found.consumers))


def _max_n(session: Session, conversation_ids: Sequence[str]) -> Mapping[str, int | None]:
    # Partition keys are whatever somebody wrote: what cannot be a conversation has no max_n.
    valid = [conversation_id for conversation_id in conversation_ids if _is_valid(conversation_id)]
    try:
        return {name: found.max_n for name, found in session.registry.lookup_many(valid).items()}
    except SaltctlError as exc:
        warn(f"max_n is unknown: {exc.message}")
        return {}


def _is_valid(conversation_id: str) -> bool:
    try:
        check_conversation_id(conversation_id)
    except InvalidConversationIdError:
        return False
    return True


def _open(context: typer.Context, table: str | None) -> tuple[Session, CloudWatchMetrics, str]:
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics

    session = session_of(context)
    return session, CloudWatchMetrics(session.settings), table or session.settings.messages_table


def _emit_alarms(records: list[dict[str, Any]], output: OutputFormat | None, empty: str) -> None:
    columns = ALARM_COLUMNS if resolve_format(output) is OutputFormat.table else ALARM_KEYS
    print_result(records, output, columns=columns, empty=empty)


@alarms_group.command("create")
def create(
    context: typer.Context,
    sns: Annotated[
        list[str] | None, typer.Option("--sns", metavar="ARN", help="The SNS topic that is told; repeatable.")
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", min=1.0, help="Events a minute, twice in a row.")] = 10.0,
    table: TableOption = None,
    dry_run: DryRunOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Create alarms on throttled key ranges and throttled requests, or bring those that exist up to date.

    Running it again changes nothing. A spike may mean that the hot partition service is down, so each alarm
    names the command that tells. Alarms that are not tagged as saltctl's own are left alone.

    \b
    Examples:
      saltctl throttle alarms create --sns arn:aws:sns:us-east-1:111122223333:oncall --dry-run
      saltctl throttle alarms create --sns arn:aws:sns:us-east-1:111122223333:oncall
    """
    from saltctl.throttling.alarms import AlarmOptions, apply_changes, as_record, plan_changes

    session, store, name = _open(context, table)
    changes = plan_changes(store, AlarmOptions(name, tuple(sns or ()), threshold))
    if not dry_run:
        session.require_consent("Create alarms?", yes=True, confirm=confirm, irreversible=False)
        apply_changes(store, changes)
    _emit_alarms([as_record(change.spec, change.action) for change in changes], output, "no alarms")


@alarms_group.command("list")
def list_alarms(context: typer.Context, table: TableOption = None, output: OutputOption = None) -> None:
    """List the alarms of a table that saltctl created, with their state.

    \b
    Examples:
      saltctl throttle alarms list
      saltctl throttle alarms list -o json
    """
    from saltctl.throttling.alarms import as_record, owned_alarms

    _, store, name = _open(context, table)
    _emit_alarms([as_record(alarm) for alarm in owned_alarms(store, name)], output, "no alarms of saltctl's")


@alarms_group.command("remove")
def remove(
    context: typer.Context,
    table: TableOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Remove the alarms of a table that saltctl created, and no others.

    \b
    Examples:
      saltctl throttle alarms remove --dry-run
      saltctl throttle alarms remove --yes
    """
    from saltctl.throttling.alarms import as_record, owned_alarms

    session, store, name = _open(context, table)
    alarms = owned_alarms(store, name)
    if alarms and not dry_run:
        session.require_consent(f"Remove {len(alarms)} alarms of {name}?", yes=yes, confirm=confirm, irreversible=True)
        store.delete_alarms([alarm.name for alarm in alarms])
    _emit_alarms([as_record(alarm, "remove") for alarm in alarms], output, "no alarms of saltctl's")
