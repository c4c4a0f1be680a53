"""``saltctl history read|find|audit``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.output import (
    Column,
    OutputFormat,
    Record,
    columns_of,
    console,
    note,
    print_result,
    print_table,
    resolve_format,
    warn,
    write_json,
)
from saltctl.cli.progress import drain, show_progress
from saltctl.cli.session import (
    ConfirmOption,
    DryRunOption,
    OutputOption,
    ReasonOption,
    Session,
    TimeoutOption,
    YesOption,
    session_of,
)
from saltctl.cli.signals import deadline
from saltctl.cli.text import command_line, parse_duration
from saltctl.errors import ExitCode, UsageError
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.history.audit import Audit
    from saltctl.history.history import History
    from saltctl.history.models import Message
    from saltctl.stores.contracts import PartitionQuery

group = typer.Typer(
    help="Read conversations completely, find messages, and prove that none is lost.", no_args_is_help=True
)

Conversation = Annotated[str, typer.Argument(metavar="CONV", help="A conversation id.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From this time or sort key on; 2h is two hours ago."),
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time or sort key.")]
REQUEST_COLUMNS = columns_of("partition_key order limit from to consistent")
AUDIT_COLUMNS = columns_of(
    "conversation_id complete max_n needed_n orphaned duplicates skew probed consumed_rcu repaired",
    orphaned="messages beyond max_n",
    probed="salts probed",
)
AUDIT_KEYS = (*AUDIT_COLUMNS, *columns_of("orphans partitions"))
PARTITION_COLUMNS = columns_of("partition_key messages")
ORPHAN_COLUMNS = columns_of("partition_key sort_key message_id", message_id="message")


def add_to(app: typer.Typer) -> None:
    """Add the group to the command tree."""
    app.add_typer(group, name="history")


@group.command("read")
def read(
    context: typer.Context,
    conversation: Conversation,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Messages of a page; 50 if not given.")] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="CURSOR", help="Only what is older.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Only what is newer.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="The other direction.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Everything, as it comes, in flat memory.")] = False,
    since: SinceOption = None,
    until: UntilOption = None,
    eventual: Annotated[bool, typer.Option("--eventual", help="Eventually consistent: half the cost.")] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Show what there is where partitions fail; exit 4.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the first requests, and read no message.")] = False,
    timeout: TimeoutOption = 0.0,
    output: OutputOption = None,
) -> None:
    """Read a conversation completely: its base partition and every salt, merged, newest first.

    Cursors come with every page and hold in both directions, also while N grows. A partition that cannot
    be read is an error that names it, never a shorter history. TIME is an ISO 8601 time, a duration ago, or
    the beginning of a sort key; a number where the table's sort key is one.

    \b
    Examples:
      saltctl history read conv_hot_01
      saltctl history read conv_hot_12 --limit 5 --explain
      saltctl history read conv_hot_01 --all --oldest-first -o jsonl
      saltctl history read conv_hot_01 --since 12h -o json
    """
    from saltctl.cli.history.view import PageWriter
    from saltctl.history.models import ReadOptions

    if all_ and limit is not None:
        raise UsageError("--all chooses its own pages: it takes no --limit", hint="leave one of them out")
    history = session_of(context).history
    options = ReadOptions(
        limit=limit or 50,
        before=before,
        after=after,
        oldest_first=oldest_first,
        since=_bound(history, since),
        until=_bound(history, until),
        consistent=not eventual,
        allow_partial=allow_partial,
    )
    if explain:
        _explain(history, conversation, options, output)
        return
    writer = PageWriter(resolve_format(output), oldest_first=oldest_first)
    given = {"--limit": limit, "--all": all_, "--since": since, "--until": until, "--oldest-first": oldest_first}
    given |= {"--eventual": eventual, "--allow-partial": allow_partial}
    with deadline(timeout):
        pages = history.pages(conversation, options) if all_ else iter((history.page(conversation, options),))
        try:
            for page in pages:
                writer.add(page)
        except BrokenPipeError:
            raise  # whoever read the pipe has what was wanted
        except BaseException:
            if all_ and (cursor := writer.cursor):
                note(f"what was printed is whole; the rest: {_onward(conversation, cursor, given)}")
            raise
    summary = writer.finish()
    if not all_ and summary["next_cursor"] is not None and resolve_format(output) is OutputFormat.table:
        note(f"more: {_onward(conversation, summary['next_cursor'], given)}")
    if not summary["complete"]:
        missing = [shard["partition_key"] for shard in summary["shards"] if shard["error"]]
        warn(f"incomplete: nothing was read of {', '.join(missing)}. Run it again without --allow-partial")
        raise typer.Exit(ExitCode.INCOMPLETE)


def _onward(conversation: str, cursor: str, given: Mapping[str, object]) -> str:
    """The command that reads on behind a cursor, with what was given to this one."""
    turn = "--after" if given["--oldest-first"] else "--before"
    return command_line("history", "read", conversation, given={**given, turn: cursor})


def _explain(history: History, conversation: str, options: Any, output: OutputFormat | None) -> None:
    plan = history.explain(conversation, options)
    requests = [
        {
            "partition_key": request.partition_key,
            "order": "newest first" if request.descending else "oldest first",
            "limit": request.limit,
            "from": request.low,
            "to": request.high,
            "consistent": request.consistent,
        }
        for request in plan.requests
    ]
    form = resolve_format(output)
    if form is OutputFormat.json:
        write_json(
            {
                "conversation_id": conversation,
                "max_n": plan.lookup.max_n,
                "source": plan.lookup.source,
                "requests": requests,
            }
        )
        return
    note(
        f"{conversation} has max_n {plan.lookup.max_n}, says {plan.lookup.source}; these requests go out at once, "
        "and only a partition that runs dry before the page is full is asked again"
    )
    columns: tuple[Column, ...] = REQUEST_COLUMNS
    if form is OutputFormat.table and plan.requests:
        # The same for all, and long: said once.
        columns = tuple(column for column in columns if column.key not in ("from", "to"))
        note(_range(plan.requests[0]))
    print_result(requests, output, columns=columns, empty="nothing lies between these bounds: no request")


def _range(request: PartitionQuery) -> str:
    """Between which sort keys a request reads, for people."""
    low, high = request.low, request.high
    if low is None and high is None:
        return "all of them read from the " + ("newest" if request.descending else "oldest") + " message on"
    bounds = [f"from {low}"] * (low is not None) + [f"up to {high}"] * (high is not None)
    return f"all of them read {' '.join(bounds)}"


def _bound(history: History, text: str | None) -> str | None:
    """A sort key for a time: UTC without final zeros, which is a prefix of every longer way to write it."""
    if text is None or history.store.keys.sort_type == "N":
        return text
    if re.fullmatch(r"[0-9.]+(ms|s|m|h|d)", text):
        return _prefix(datetime.now(UTC) - timedelta(seconds=parse_duration(text)))
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ].+", text):
        return text
    try:
        at = parse_iso(text)
    except ValueError:
        return text
    return _prefix(at.astimezone(UTC))


def _prefix(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")


@group.command("find")
def find(
    context: typer.Context,
    conversation: Conversation,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="A message id.")],
    sort_key: Annotated[
        str | None, typer.Option("--sort-key", metavar="KEY", help="Its whole sort key: one read a partition.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    timeout: TimeoutOption = 0.0,
    output: OutputOption = None,
) -> None:
    """Find one message by its id, on the log2(N)+1 partitions that it can be on.

    With its sort key that is one read for each of them. Without, they are read, newest first, until the
    message is there: narrow it with --since and --until. Exits 3 if no partition has it.

    \b
    Examples:
      saltctl history find conv_hot_12 ma5abd5f5b05b
      saltctl history find conv_hot_12 ma5abd5f5b05b --since 36h -o json
    """
    from saltctl.history.models import FIND_TIMEOUT, FindOptions

    history = session_of(context).history
    options = FindOptions(sort_key, _bound(history, since), _bound(history, until), max(timeout, FIND_TIMEOUT))
    with deadline(timeout):
        found = history.find(conversation, message, options)
    if found.message is None:
        note(f"not found on {', '.join(found.partition_keys)}, where it would be; {found.items_read:,} items were read")
        if resolve_format(output) is OutputFormat.json:
            write_json(None)
        raise typer.Exit(ExitCode.FOUND_SOMETHING)
    _show_message(found.message, resolve_format(output))


def _show_message(message: Message, form: OutputFormat) -> None:
    from saltctl.cli.history.chat_view import Chat
    from saltctl.cli.history.view import MESSAGE_KEYS, record_of

    if form in (OutputFormat.json, OutputFormat.jsonl):
        print_result(message.attributes, form, columns=())
    elif form is OutputFormat.tsv:
        print_result([record_of(message)], form, columns=[Column(key, key) for key in MESSAGE_KEYS])
    else:
        Chat(console()).show([message])
        record = {name: value for name, value in record_of(message).items() if name != "message"}
        print_result(record, form, columns=(*ORPHAN_COLUMNS[1:], *ORPHAN_COLUMNS[:1]))


@group.command("audit")
def audit(
    context: typer.Context,
    conversation: Conversation,
    repair: Annotated[bool, typer.Option("--repair", help="Raise N to what the messages need.")] = False,
    reason: ReasonOption = "audit: messages beyond max_n",
    timeout: TimeoutOption = 0.0,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Prove that readers see all of a conversation, or list what they do not see.

    Looks on every salt beyond max_n for messages that a lost raise left behind, and counts what each
    partition has, duplicates, and the skew between salts. It reads the keys of the whole conversation once.
    Exits 3 if readers miss messages, 0 once --repair has raised N.

    \b
    Examples:
      saltctl history audit conv_hot_08
      saltctl history audit conv_hot_08 --repair --dry-run -o json
    """
    session = session_of(context)
    with deadline(timeout):
        found = _run_audit(session, conversation)
        record = asdict(found) | {"repaired": False, "dry_run": dry_run}
        if repair and found.orphaned and not dry_run:
            session.require_consent(
                f"Raise {conversation} from {found.max_n} to {found.needed_n}?",
                yes=yes,
                confirm=confirm,
                irreversible=True,
            )
            session.registry.raise_to(conversation, found.needed_n, reason=reason)
            record["repaired"] = True
    print_result(record, output, columns=AUDIT_KEYS, human_view=lambda screen: _show_audit(record))
    if found.orphaned and not record["repaired"]:
        warn(
            f"readers miss {found.orphaned:,} messages: {conversation} has max_n {found.max_n} and needs "
            f"{found.needed_n}; {command_line('history', 'audit', conversation, '--repair')} raises it"
        )
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _run_audit(session: Session, conversation: str) -> Audit:
    from saltctl.history.audit import Audit, Auditor

    events = Auditor(session.history, conversation, cap=session.settings.max_n_cap).run()
    with show_progress("looking beyond max_n") as (say, _):
        return drain(events, Audit, lambda event: isinstance(event, Audit) or say(f"{event.messages:,} messages"))


def _show_audit(record: Record) -> None:
    print_result(record, OutputFormat.table, columns=AUDIT_COLUMNS)
    print_table(record["partitions"], PARTITION_COLUMNS)
    if record["orphans"]:
        note(f"the first {len(record['orphans']):,} messages that readers miss:")
        print_table(record["orphans"], ORPHAN_COLUMNS)
