"""``saltctl throttle alarms``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.output import Column, OutputFormat, columns_of, format_value, print_result, resolve_format
from saltctl.cli.session import Session, session_of
from saltctl.cli.text import counted

if TYPE_CHECKING:
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics

group = typer.Typer(help="Manage CloudWatch alarms on throttling.", no_args_is_help=True)
HUMAN_COLUMNS = (
    Column("metric", "metric", show=lambda r: r["metric"] + (f" {r['operation']}" if r["operation"] else "")),
    *columns_of("threshold periods"),
    Column("state", show=lambda r: {"INSUFFICIENT_DATA": "no data"}.get(r["state"], format_value(r["state"]))),
    Column("action"),
    Column("actions", show=lambda r: " ".join(arn.rpartition(":")[2] for arn in r["actions"])),
)
COLUMNS = columns_of("name metric operation threshold periods state action actions")


@group.command("create")
def create(
    context: typer.Context,
    sns: Annotated[
        list[str] | None, typer.Option("--sns", metavar="ARN", help="The SNS topic to notify; repeatable.")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=1.0, help="Events a minute, in two consecutive minutes.")
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

    session, store, name = _open(context, table)
    changes = plan_changes(store, AlarmOptions(name, tuple(sns or ()), threshold))
    if not dry_run:
        session.require_consent("Create alarms?", confirm)
        apply_changes(store, changes)
    _print([as_record(change.spec, change.action) for change in changes], output)


@group.command("list")
def list_alarms(context: typer.Context, table: option.Table = None, output: option.Output = None) -> None:
    """List the alarms that saltctl created for a table, with their state.

    \b
    Examples:
      saltctl throttle alarms list
      saltctl throttle alarms list -o json
    """
    from saltctl.throttling.alarms import as_record, owned_alarms

    _, store, name = _open(context, table)
    _print([as_record(alarm) for alarm in owned_alarms(store, name)], output)


@group.command("remove")
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

    session, store, name = _open(context, table)
    alarms = owned_alarms(store, name)
    if alarms and not dry_run:
        session.require_consent(f"Remove {counted(len(alarms), 'alarm')} of {name}?", confirm, yes=yes)
        store.delete_alarms([alarm.name for alarm in alarms])
    _print([as_record(alarm, "remove") for alarm in alarms], output)


def _open(context: typer.Context, table: str | None) -> tuple[Session, CloudWatchMetrics, str]:
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics

    session = session_of(context)
    return session, CloudWatchMetrics(session.settings), table or session.settings.messages_table


def _print(records: list[dict[str, Any]], output: OutputFormat | None) -> None:
    columns = COLUMNS
    if resolve_format(output) == "table":
        columns = tuple(column for column in HUMAN_COLUMNS if any(record[column.key] for record in records))
    print_result(records, output, columns=columns, empty="saltctl has created no alarms for this table")
