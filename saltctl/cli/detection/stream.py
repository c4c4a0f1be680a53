"""``saltctl stream status|peek``, and the group of ``stream replay`` and ``stream dead``."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.detection import dead_letters
from saltctl.cli.detection.replay import replay
from saltctl.cli.option import parse_stream_id
from saltctl.cli.output import columns_of, note, print_result, table_of, warn
from saltctl.cli.session import session_of
from saltctl.errors import ExitCode
from saltctl.times import iso_utc

group = typer.Typer(help="Inspect the stream of heat reports, and work through it.", no_args_is_help=True)
STATUS_COLUMNS = columns_of("verdict stream length first_id last_id dead groups", dead="dead letters")
GROUP_COLUMNS = columns_of(
    "name lag pending oldest_pending_s trimmed_unread alive", name="group", oldest_pending_s="oldest s"
)
PEEK_COLUMNS = columns_of("id conversation_id server window writes valid")
PEEK_KEYS = (*columns_of("id at"), *PEEK_COLUMNS[1:])


@group.command("status")
def status(context: typer.Context, window: option.Window = 1.0, output: option.Output = None) -> None:
    """Read the heat stream twice, and judge whether it is read, its backlog shrinks, and no entry was lost.

    Exits 3 unless the verdict is ok and no entry was trimmed unread. Verdicts: ok, lagging, stalled, stopped,
    unknown.

    \b
    Examples:
      saltctl stream status
      saltctl stream status --window 3s -o json
    """
    from saltctl.detection.stream_status import read_stream_status

    session = session_of(context)
    found = read_stream_status(session.heat_stream, window)
    record = found.stream_record(session.dead_letters.length())
    print_result(record, output, columns=STATUS_COLUMNS, human_view=lambda screen: _draw_status(screen, record))
    trimmed = [group for group in record["groups"] if group["trimmed_unread"]]
    for group in trimmed:
        warn(
            f"{group['trimmed_unread']} entries were trimmed before group {group['name']} had read them: heat between "
            f"{group['trimmed_from']} and {group['trimmed_to'] or 'now'} was lost"
        )
    if found.verdict == "stopped":
        note("no instance of the service is alive; try: saltctl service run, or saltctl stream replay")
    if found.verdict != "ok" or trimmed:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _draw_status(screen: Any, record: dict[str, Any]) -> None:
    if record["length"] is None:
        screen.print("stream not found; saltctl setup")
        return
    for column in STATUS_COLUMNS[:-1]:
        screen.print(f"{column.title:13} {column.cell(record)}", soft_wrap=False)
    groups = [{**group, "alive": sum(c["alive"] for c in group["consumers"])} for group in record["groups"]]
    if groups:
        screen.print(table_of(groups, GROUP_COLUMNS))


@group.command("peek")
def peek(
    context: typer.Context,
    first: Annotated[
        str | None, typer.Option("--from", metavar="ID|TIME", help="Start there; 15m is 15 minutes ago.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="The number of entries to show.")] = 20,
    pending: Annotated[bool, typer.Option("--pending", help="Only entries that are pending.")] = False,
    output: option.Output = None,
) -> None:
    """Show entries of the heat stream without taking them.

    \b
    Examples:
      saltctl stream peek --count 5
      saltctl stream peek --from 15m
    """
    stream = session_of(context).heat_stream
    start = "-" if first is None else parse_stream_id(first)
    if pending:
        entries = stream.get([entry_id for entry_id, _, _ in stream.pending(start, count)])
    else:
        entries = stream.range(start, "+", count)
    records = [_entry_record(entry) for entry in entries]
    print_result(
        records, output, columns=PEEK_KEYS, human_view=lambda screen: screen.print(table_of(records, PEEK_COLUMNS))
    )


def _entry_record(entry: Any) -> dict[str, Any]:
    from saltctl.detection.stream_status import entry_time
    from saltctl.stores.heat.report import BadReportError, parse

    record = {"id": entry.id, "at": entry_time(entry.id)}
    record |= dict.fromkeys(("conversation_id", "server", "window", "writes"))
    try:
        report = parse(entry.fields or [], time.time())
    except BadReportError as exc:
        return record | {"valid": False, "reason": "trimmed" if entry.fields is None else str(exc)}
    record |= {"conversation_id": report.conversation_id, "server": report.server, "writes": report.writes}
    return record | {"window": iso_utc(report.window, "seconds"), "valid": True, "reason": None}


group.command("replay")(replay)
group.add_typer(dead_letters.group, name="dead")
