"""``saltctl stream status|peek|replay|dead``."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.cron import CronOption, MetricsFileOption, track_job
from saltctl.cli.output import Column, columns_of, fields_and_tables, note, print_result, table_of, warn
from saltctl.cli.progress import drain, show_progress
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
from saltctl.cli.text import command_line, parse_duration
from saltctl.errors import ExitCode, RefusedError, UsageError
from saltctl.times import iso_utc, parse_iso

if TYPE_CHECKING:
    from saltctl.detection.replay import ReplayOptions, ReplayReport
    from saltctl.stores.heat.dead_letters import DeadLetter

group = typer.Typer(help="Look into the stream of heat reports, and work through it.", no_args_is_help=True)
dead_group = typer.Typer(help="Entries that nothing could be done with.", no_args_is_help=True)
group.add_typer(dead_group, name="dead")
STATUS_COLUMNS = columns_of("verdict stream length first_id last_id dead groups", dead="dead letters")
GROUP_COLUMNS = columns_of(
    "name lag pending oldest_pending_s trimmed_unread alive", name="group", oldest_pending_s="oldest s"
)
PEEK_COLUMNS = columns_of("id conversation_id server window writes valid")
PEEK_KEYS = (*columns_of("id at"), *PEEK_COLUMNS[1:])
REPLAY_COLUMNS = columns_of("read claimed raised unchanged stale dead drained raises dry_run")
RAISES_COLUMNS = columns_of("conversation_id before after")
DEAD_COLUMNS = (
    *columns_of("id original_id reason"),
    Column("fields", "fields", show=lambda record: " ".join(f"{name}={v}" for name, v in record["fields"].items())),
)
CHANGED_COLUMNS = columns_of("id new_id action")
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids of dead letters.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]


def add_to(app: typer.Typer) -> None:
    """Add the group to the command tree."""
    app.add_typer(group, name="stream")


@group.command("status")
def status(
    context: typer.Context,
    window: Annotated[float, duration_option("--window", "Look twice, this far apart; 1s if omitted.")] = 1.0,
    output: OutputOption = None,
) -> None:
    """Judge the heat stream by two looks: is it read, does the backlog shrink, was anything lost.

    Exits 3 unless the verdict is ok and nothing was trimmed unread. Verdicts: ok, lagging, stalled, stopped,
    unknown.

    \b
    Examples:
      saltctl stream status
      saltctl stream status --window 3s -o json
    """
    from saltctl.detection.stream_status import as_record, read_stream_status
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.stream import HeatStream

    settings = session_of(context).settings
    settings.require_redis_url()
    record = as_record(read_stream_status(HeatStream(settings), window), DeadLetters(settings).length())
    print_result(record, output, columns=STATUS_COLUMNS, human_view=lambda screen: _draw(screen, record))
    lost = [found for found in record["groups"] if found["trimmed_unread"]]
    for found in lost:
        warn(
            f"{found['trimmed_unread']} entries were trimmed before group {found['name']} had read them: heat between "
            f"{found['trimmed_from']} and {found['trimmed_to'] or 'now'} was not seen"
        )
    if record["verdict"] != "ok" or lost:
        if record["verdict"] == "stopped":
            note("no instance of the service is alive; try: saltctl service run, or saltctl stream replay")
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _draw(screen: Any, record: dict[str, Any]) -> None:
    heads = [{"field": c.heading, "value": c.cell(record)} for c in STATUS_COLUMNS[:-1]]
    for head in heads:
        screen.print(f"{head['field']:13} {head['value']}", soft_wrap=False)
    groups = [{**found, "alive": sum(c["alive"] for c in found["consumers"])} for found in record["groups"]]
    if groups:
        screen.print(table_of(groups, GROUP_COLUMNS))


@group.command("peek")
def peek(
    context: typer.Context,
    first: Annotated[
        str | None, typer.Option("--from", metavar="ID|TIME", help="From there on; 15m is 15 minutes ago.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="At most so many.")] = 20,
    pending: Annotated[bool, typer.Option("--pending", help="Only what is delivered and not acknowledged.")] = False,
    output: OutputOption = None,
) -> None:
    """Show entries of the heat stream. Reads them without taking them.

    \b
    Examples:
      saltctl stream peek --count 5
      saltctl stream peek --from 15m
    """
    from saltctl.stores.heat.stream import Entry, HeatStream

    settings = session_of(context).settings
    settings.require_redis_url()
    stream = HeatStream(settings)
    start = "-" if first is None else parse_bound(first)
    if pending:
        ids = [entry_id for entry_id, _, _ in stream.pending(start, count)]
        found = stream.get(ids)
        entries = [Entry(entry_id, found.get(entry_id)) for entry_id in ids]
    else:
        entries = stream.range(start, "+", count)
    records = [_entry_record(entry) for entry in entries]
    print_result(
        records,
        output,
        columns=PEEK_KEYS,
        human_view=lambda screen: screen.print(table_of(records, PEEK_COLUMNS)),
        empty="no entries",
    )


def _entry_record(entry: Any) -> dict[str, Any]:
    from saltctl.detection.stream_status import entry_time
    from saltctl.stores.heat.report import BadReportError, parse

    record: dict[str, Any] = {"id": entry.id, "at": entry_time(entry.id)}
    try:
        report = parse(entry.fields or [], time.time())
    except BadReportError as exc:
        reason = "trimmed" if entry.fields is None else str(exc)
        nothing = dict.fromkeys(("conversation_id", "server", "window", "writes"))
        return {**record, **nothing, "valid": False, "reason": reason}
    window = iso_utc(report.window, "seconds")
    return {
        **record,
        "conversation_id": report.conversation_id,
        "server": report.server,
        "window": window,
        "writes": report.writes,
        "valid": True,
        "reason": None,
    }


def parse_bound(text: str) -> str:
    """A stream id from an id, an ISO 8601 time, or a duration ago."""
    no_bound = UsageError(
        f"{text!r} is no stream id and no time", hint="write 1700000000000-0, 2026-01-31T12:00:00Z or 15m"
    )
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
        if any(len(part) > 20 or int(part) >= 2**64 for part in text.split("-")):
            raise no_bound
        return text
    try:
        return f"{max(int((time.time() - parse_duration(text)) * 1000), 0)}"
    except ValueError:
        pass
    try:
        return f"{max(int(parse_iso(text).timestamp() * 1000), 0)}"
    except ValueError:
        raise no_bound from None


@group.command("replay")
def replay(
    context: typer.Context,
    first: Annotated[
        str | None, typer.Option("--from", metavar="ID|TIME", help="Replay a range instead of the backlog.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="ID|TIME", help="The end of the range.")] = None,
    max_age: Annotated[
        float | None, duration_option("--max-age", "Older heat raises nothing; heat_max_age if omitted.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.1, help="At most so many entries a second.")] = None,
    max_events: Annotated[int | None, typer.Option("--max-events", min=1, help="End after so many entries.")] = None,
    timeout: TimeoutOption = 0.0,
    cron: CronOption = False,
    metrics_file: MetricsFileOption = None,
    dry_run: DryRunOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Do the service's work without the service: sum, raise and acknowledge until the stream is drained.

    Claims what dead consumers hold. With --from or --to it goes once more through what was acknowledged
    before. Safe beside running instances, safe to repeat, and goes on where it was broken off.

    \b
    Examples:
      saltctl stream replay --dry-run
      saltctl stream replay --from 2h --to 1h --dry-run
      saltctl stream replay --rate 500 --timeout 15m
    """
    from saltctl.detection.replay import ReplayOptions

    session = session_of(context)
    with track_job("stream replay", session, cron=cron, metrics_file=metrics_file) as run:
        session.settings.require_redis_url()
        if not dry_run:
            session.require_consent("Replay heat reports?", yes=True, confirm=confirm, irreversible=False)
        options = ReplayOptions(
            # One name a host: what a replay was broken off with is the first that the next one reads.
            consumer=f"replay-{socket.gethostname()}",
            first=None if first is None else parse_bound(first),
            last=None if last is None else parse_bound(last),
            rate=rate,
            max_events=max_events,
            dry_run=dry_run,
        )
        with deadline(timeout):
            report = _replayed(session, options, max_age, quiet=cron)
        record = asdict(report)
        run.done(record, happened=bool(report.raised or report.dead or not report.drained))
        if not cron or output is not None:
            view = fields_and_tables(record, REPLAY_COLUMNS, raises=RAISES_COLUMNS)
            print_result(record, output, columns=REPLAY_COLUMNS, human_view=view)
        if not report.drained:
            if not cron:
                _say_what_is_left(report, options, max_age)
            raise typer.Exit(ExitCode.INCOMPLETE)


def _replayed(session: Session, options: ReplayOptions, max_age: float | None, *, quiet: bool) -> ReplayReport:
    from saltctl.detection.detector import Detector
    from saltctl.detection.replay import InMemorySums, KeepNothing, Replay, ReplayReport
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.stream import HeatStream
    from saltctl.stores.heat.window_sums import WindowSums

    settings = session.settings
    stream = HeatStream(settings)
    if options.is_range:
        _warn_of_trimmed(stream, options)
    detector = Detector(
        InMemorySums() if options.dry_run else WindowSums(settings),
        session.registry,
        KeepNothing() if options.dry_run or options.is_range else DeadLetters(settings),
        settings,
        max_age=max_age,
        tell=_tell,
    )
    job = Replay(stream, detector, session.registry, options)
    with show_progress("replaying", quiet=quiet) as (show, _):
        return drain(job.run(), ReplayReport, lambda report: show(f"{report.read:,} entries, {report.raised:,} raises"))


def _tell(level: str, event: str, **fields: Any) -> None:
    if event == "clamped":
        warn(f"{fields['conversation_id']}: {fields['why']}. {fields['hint']}")
    elif event == "dead_letter":
        warn(f"entry {fields['id']} is no report: {fields['reason']}")


def _warn_of_trimmed(stream: Any, options: ReplayOptions) -> None:
    from saltctl.detection.stream_status import entry_time
    from saltctl.stores.heat.stream import id_order

    first = stream.info().first_id
    if first is None or (options.first is not None and id_order(options.first) < id_order(first)):
        warn(f"the range begins before the first entry that is left ({entry_time(first) or 'none is'})")


def _say_what_is_left(report: ReplayReport, options: ReplayOptions, max_age: float | None) -> None:
    if report.held_by_others:
        warn(f"{report.held_by_others} entries are held by consumers that are alive; see saltctl stream status")
        return
    if options.dry_run and not options.is_range:
        note("not all was looked at; without --max-events all is")
        return
    given = {"--from": report.next_id, "--to": options.last, "--max-age": max_age, "--rate": options.rate}
    given |= {"--max-events": options.max_events, "--dry-run": options.dry_run}
    note(f"not all was read; to go on: {command_line('stream', 'replay', given=given)}")


@dead_group.command("list")
def dead_list(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The newest so many.")] = 100,
    output: OutputOption = None,
) -> None:
    """List dead letters: what stood on the stream, and why nothing could be done with it.

    \b
    Examples:
      saltctl stream dead list
    """
    records = [_letter_record(letter) for letter in _letters(context).list(limit)]
    print_result(records, output, columns=DEAD_COLUMNS, empty="no dead letters")


def _letters(context: typer.Context) -> Any:
    from saltctl.stores.heat.dead_letters import DeadLetters

    settings = session_of(context).settings
    settings.require_redis_url()
    return DeadLetters(settings)


def _letter_record(letter: DeadLetter) -> dict[str, Any]:
    fields = {n.decode("utf-8", "backslashreplace"): v.decode("utf-8", "backslashreplace") for n, v in letter.fields}
    return {"id": letter.id, "original_id": letter.original_id, "reason": letter.reason, "fields": fields}


def _chosen(letters: list[DeadLetter], ids: list[str] | None, all_: bool) -> list[DeadLetter]:
    if bool(ids) == all_:
        raise UsageError("name dead letters by their ids, or take --all", hint="saltctl stream dead list")
    known = {letter.id: letter for letter in letters}
    for letter_id in ids or ():
        if letter_id not in known:
            raise UsageError(f"there is no dead letter {letter_id!r}", hint="saltctl stream dead list")
    return [known[letter_id] for letter_id in ids or known]


@dead_group.command("requeue")
def dead_requeue(
    context: typer.Context,
    ids: IdsArgument = None,
    all_: AllOption = False,
    dry_run: DryRunOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Put dead letters back on the stream, after what was wrong was mended.

    \b
    Examples:
      saltctl stream dead requeue --all --dry-run
      saltctl stream dead requeue --all
    """
    store = _letters(context)
    letters = _chosen(store.list(), ids, all_)
    cut = [letter.id for letter in letters if not letter.whole or not letter.fields]
    if ids and cut:
        raise RefusedError(f"letter {cut[0]} was too large to be kept whole", hint=f"saltctl stream dead drop {cut[0]}")
    letters = [letter for letter in letters if letter.id not in cut]
    if not dry_run:
        session_of(context).require_consent("Requeue dead letters?", yes=True, confirm=confirm, irreversible=False)
    action = "requeue" if dry_run else "requeued"
    records = [{"id": x.id, "new_id": None if dry_run else store.requeue(x), "action": action} for x in letters]
    print_result(records, output, columns=CHANGED_COLUMNS, empty="no dead letters")
    if cut:
        note(f"{len(cut)} letters stay, which were too large to be kept whole; saltctl stream dead drop deletes them")


@dead_group.command("drop")
def dead_drop(
    context: typer.Context,
    ids: IdsArgument = None,
    all_: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Delete dead letters for good.

    \b
    Examples:
      saltctl stream dead drop --all --dry-run
      saltctl stream dead drop --all --yes
    """
    store = _letters(context)
    letters = _chosen(store.list(), ids, all_)
    if not dry_run and letters:
        question = f"Delete {len(letters)} dead letters?"
        session_of(context).require_consent(question, yes=yes, confirm=confirm, irreversible=True)
        store.drop([letter.id for letter in letters])
    action = "drop" if dry_run else "dropped"
    records = [{"id": letter.id, "new_id": None, "action": action} for letter in letters]
    print_result(records, output, columns=CHANGED_COLUMNS, empty="no dead letters")
