"""``saltctl throttle scan``, and the group that ``saltctl throttle alarms`` belongs to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.option import parse_time
from saltctl.cli.output import columns_of, print_result, warn
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline
from saltctl.cli.throttling import alarms
from saltctl.errors import ExitCode, SaltctlError, UsageError
from saltctl.salting import is_conversation_id

if TYPE_CHECKING:
    from saltctl.throttling.diagnosis import ServiceStatus
    from saltctl.throttling.time_range import TimeRange

group = typer.Typer(help="Find the cause of throttling, and manage alarms on it.", no_args_is_help=True)
group.add_typer(alarms.group, name="alarms")
SERVICE_WINDOW = 0.3
"""Seconds between the two samples of the stream: a live instance answers within milliseconds."""
COLUMNS = columns_of(
    "verdict table start end period_s throttled total causes series keys service advice", total="events", advice="next"
)


@group.command("scan")
def scan(
    context: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="TIME|DURATION", help="Start of the range.")] = "1h",
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME|DURATION", help="End of the range; now if omitted.")
    ] = None,
    period: Annotated[float, option.duration("--period", "Length of a period, such as 5m.")] = 0.0,
    table: option.Table = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=1.0, help="Events in one period that count as throttling.")
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
    record = as_record(result)
    print_result(record, output, columns=COLUMNS, human_view=lambda screen: draw(screen, result))
    for note in result.notes:
        warn(note)
    if result.failure is not None:
        raise result.failure
    if record["throttled"]:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _parse_range(since: str, until: str | None, period: float) -> TimeRange:
    from saltctl.throttling.time_range import time_range

    now = time.time()
    if period % 1:
        raise UsageError(f"the period must be a multiple of a minute, not {period:g} s", hint="write 1m, 5m, 15m or 1h")
    start = _parse_bound(since, now, "--since")
    end = now if until is None else _parse_bound(until, now, "--until")
    return time_range(start, end, int(period) or None, now)


def _parse_bound(text: str, now: float, option: str) -> float:
    try:
        return parse_time(text, now)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is not a time", hint="write 2026-01-31T12:00:00Z, or 90m for 90 minutes ago"
        ) from None


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
        return {name: found.max_n for name, found in session.registry.lookup_many(valid).items()}
    except SaltctlError as exc:
        warn(f"max_n is unknown: {exc.message}")
        return {}
