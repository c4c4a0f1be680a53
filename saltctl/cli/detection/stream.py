"""``saltctl stream status|peek`` and ``saltctl stream dead list|requeue|drop``, and the group of ``stream replay``."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.detection.replay import replay
from saltctl.cli.formats.sentences import backlog_sentence
from saltctl.cli.formats.text import counted
from saltctl.cli.guide.groups import new_group
from saltctl.cli.output import columns_of, print_fields, print_result, print_table, warn
from saltctl.cli.session import session_of
from saltctl.commands import command_line
from saltctl.errors import ExitCode, RefusedError, StreamLostError, UsageError
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.detection.stream_status import StreamStatus
    from saltctl.stores.heat.contracts import Entry
    from saltctl.stores.heat.dead_letters import DeadLetter, DeadLetters

group = new_group("Inspect the stream of heat reports, and work through it.")
dead = new_group("Inspect, requeue and drop dead letters.")
STATUS_COLUMNS = columns_of("verdict stream length first_id last_id dead groups", dead="dead letters")
GROUP_COLUMNS = columns_of(
    "name lag pending oldest_pending_s trimmed_unread trimmed_pending alive", name="group", oldest_pending_s="oldest s"
)
PEEK_COLUMNS = columns_of("id conversation_id server window writes valid")
PEEK_KEYS = (*columns_of("id at"), *PEEK_COLUMNS[1:])
DEAD_COLUMNS = columns_of(
    "id original_id reason fields", fields=lambda record: " ".join(f"{n}={v}" for n, v in record["fields"].items())
)
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")
_MAX_NAMED = 20
"""Ids of dead letters that a command to run next names."""
DEAD_ACTION_COLUMNS = columns_of("id new_id action")


@group.command("status")
def status(context: typer.Context, window: option.Window = 1.0, output: option.Output = None) -> None:
    """Read the heat stream twice, and judge whether it is read, its backlog shrinks, and no entry was lost.

    Exits 3 unless the verdict is ok and no entry was trimmed unread or while pending. Verdicts: ok, lagging, stalled,
    stopped, unknown, such as of a stream that is missing, and degraded if the ids are ahead of the clock.

    \b
    Examples:
      saltctl stream status
      saltctl stream status --window 3s -o json
    """
    from saltctl.detection.stream_status import read_stream_status

    session = session_of(context)
    found = read_stream_status(session.heat_stream, window)
    record = found.stream_record(session.dead_letters.length())
    print_result(
        record,
        output,
        columns=STATUS_COLUMNS,
        human_view=lambda screen: _draw_status(screen, record),
        sentence=backlog_sentence(found),
    )
    warn_of_stream(found)
    if found.verdict == "stopped":
        warn("no instance of the service is alive; stream replay processes the backlog once", "saltctl service run")
    if found.verdict != "ok" or found.warnings:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _draw_status(screen: Any, record: dict[str, Any]) -> None:
    if record["length"] is None:
        return
    groups = [{**group, "alive": sum(c["alive"] for c in group["consumers"])} for group in record["groups"]]
    print_fields({**record, "groups": groups}, STATUS_COLUMNS, {"groups": GROUP_COLUMNS})


@group.command("peek")
def peek(
    context: typer.Context,
    first: Annotated[
        str | None, typer.Option("--from", metavar="ID|TIME", help="Start there; 15m is 15 minutes ago.")
    ] = None,
    count: Annotated[int, option.number("--count", "The number of entries to show.", 1, 10_000)] = 20,
    pending: Annotated[bool, typer.Option("--pending", help="Only entries that are pending.")] = False,
    output: option.Output = None,
) -> None:
    """Show entries of the heat stream without taking them: a row for each heat report, up to 20 an entry.

    Exits 3 if the stream or its group is missing.

    \b
    Examples:
      saltctl stream peek --count 5
      saltctl stream peek --from 15m
    """
    session = session_of(context)
    stream = session.heat_stream
    start = "-" if first is None else option.parse_stream_id(first)
    missing = stream.missing()
    if not pending:
        entries = stream.range(start, "+", count)
    else:
        entries = [] if missing else stream.get([entry_id for entry_id, _, _ in stream.pending(start, count)])
    records = [record for entry in entries for record in _entry_records(entry)]
    print_result(
        records, output, columns=PEEK_KEYS, human_view=lambda screen: print_table(records, PEEK_COLUMNS, screen)
    )
    _report_missing(missing)


def warn_of_stream(found: StreamStatus) -> None:
    """Print what is missing, with its cure, and what was lost."""
    if found.missing:
        warn(f"{found.missing}: hot conversations are not raised", "saltctl setup")
    for warning in found.warnings:
        warn(warning)


def _report_missing(missing: str) -> None:
    """Name what is missing, and exit with 3 if anything is: what was printed is not all that there was."""
    if missing:
        warn(f"{missing}: what it held is lost, or it was never set up", "saltctl setup")
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _entry_records(entry: Entry) -> list[dict[str, Any]]:
    """Return a record for each report of the entry, or one with the reason why it is invalid."""
    from saltctl.detection.stream_status import entry_time
    from saltctl.stores.heat.report import BadReportError, parse

    record: dict[str, Any] = {"id": entry.id, "at": entry_time(entry.id)}
    record |= dict.fromkeys(("conversation_id", "server", "window", "writes"))
    try:
        reports = parse(entry.fields or [], time.time())
    except BadReportError as exc:
        return [record | {"valid": False, "reason": "trimmed" if entry.fields is None else str(exc)}]
    record |= {"server": reports[0].server, "window": iso_utc(reports[0].window, "seconds")}
    record |= {"valid": True, "reason": None}
    return [record | {"conversation_id": report.conversation_id, "writes": report.writes} for report in reports]


IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of dead letters.")]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@dead.command("list")
def list_letters(
    context: typer.Context,
    limit: Annotated[int, option.number("--limit", "How many of the newest to list.", 1, 10_000)] = 100,
    output: option.Output = None,
) -> None:
    """List dead letters: the fields of the entry, and the reason why it could not be handled.

    Exits 3 if the heat stream or its group is missing: what lost it took dead letters, too.

    \b
    Examples:
      saltctl stream dead list
    """
    session = session_of(context)
    records = [_record(letter) for letter in session.dead_letters.list(limit)]
    missing = session.heat_stream.missing()
    print_result(records, output, columns=DEAD_COLUMNS, empty="no dead letters")
    _report_missing(missing)


@dead.command("requeue")
def requeue(
    context: typer.Context,
    ids: IdsArgument = None,
    all_: AllOption = False,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Put dead letters back on the stream, after the cause was fixed.

    A letter that is not there any more is listed as absent: it was requeued or dropped before.

    \b
    Examples:
      saltctl stream dead requeue --all --dry-run
      saltctl stream dead requeue --all
    """
    session = session_of(context)
    store = session.dead_letters
    letters, absent = _select(store, ids, all_)
    cut = [letter.id for letter in letters if not letter.whole or not letter.fields]
    if ids and cut:
        hint = f"saltctl stream dead drop {cut[0]}"
        raise RefusedError(f"cannot requeue letter {cut[0]}: it was too large to be kept whole", hint=hint)
    letters = [letter for letter in letters if letter.id not in cut]
    if missing := session.heat_stream.missing():
        raise StreamLostError(f"cannot requeue dead letters: {missing}", hint="saltctl setup")
    if not dry_run:
        session.require_consent("Requeue dead letters?", confirm)
    action = "requeue" if dry_run else "requeued"
    records = [{"id": x.id, "new_id": None if dry_run else store.requeue(x), "action": action} for x in letters]
    print_result(records + _absent(absent), output, columns=DEAD_ACTION_COLUMNS, empty="no dead letters")
    if cut:
        deletion = command_line("stream", "dead", "drop", *cut[:_MAX_NAMED])
        warn(f"not requeued, too large to be kept whole: {len(cut)}. To delete: {deletion}")
        raise typer.Exit(ExitCode.INCOMPLETE)


@dead.command("drop")
def drop(
    context: typer.Context,
    ids: IdsArgument = None,
    all_: AllOption = False,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Delete dead letters for good.

    A letter that is not there any more is listed as absent: there is nothing to do.

    \b
    Examples:
      saltctl stream dead drop --all --dry-run
      saltctl stream dead drop --all --yes
    """
    session = session_of(context)
    store = session.dead_letters
    letters, absent = _select(store, ids, all_)
    if not dry_run and letters:
        question = f"Delete {counted(len(letters), 'dead letter')}?"
        session.require_consent(question, confirm, yes=yes)
        store.drop([letter.id for letter in letters])
    action = "drop" if dry_run else "dropped"
    records = [{"id": letter.id, "new_id": None, "action": action} for letter in letters]
    print_result(records + _absent(absent), output, columns=DEAD_ACTION_COLUMNS, empty="no dead letters")


def _record(letter: DeadLetter) -> dict[str, Any]:
    fields = {n.decode("utf-8", "backslashreplace"): v.decode("utf-8", "backslashreplace") for n, v in letter.fields}
    return {"id": letter.id, "original_id": letter.original_id, "reason": letter.reason, "fields": fields}


def _select(store: DeadLetters, ids: list[str] | None, all_: bool) -> tuple[Sequence[DeadLetter], list[str]]:
    """Return the letters that were asked for, and the ids of those that are not there (any more)."""
    if bool(ids) == all_:
        raise UsageError("pass ids of dead letters, or --all", hint="saltctl stream dead list")
    if not ids:
        return store.list(), []
    for letter_id in ids:
        if not _ID.fullmatch(letter_id) or max(map(int, letter_id.split("-"))) >= 2**64:
            raise UsageError(f"{letter_id!r:.60} is not the id of a dead letter", hint="saltctl stream dead list")
    found = store.get(list(dict.fromkeys(ids)))
    return found, [letter_id for letter_id in dict.fromkeys(ids) if letter_id not in {letter.id for letter in found}]


def _absent(ids: list[str]) -> list[dict[str, Any]]:
    """Return the records of letters that are not there: a run before this one has handled them."""
    return [{"id": letter_id, "new_id": None, "action": "absent"} for letter_id in ids]


group.command("replay")(replay)
group.add_typer(dead, name="dead")
