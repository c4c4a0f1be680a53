"""``saltctl history read``, and the group with the commands ``find`` and ``audit``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.history.audit import audit
from saltctl.cli.history.find import find
from saltctl.cli.output import (
    OutputFormat,
    columns_of,
    note,
    print_result,
    resolve_format,
    warn,
    write_json,
)
from saltctl.cli.session import session_of
from saltctl.cli.signals import deadline
from saltctl.cli.text import command_line
from saltctl.cli.times import sort_key_bound
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.cli.history.view import PageWriter
    from saltctl.history.models import Page, ReadPlan
    from saltctl.stores.contracts import PartitionQuery

group = typer.Typer(
    help="Read whole conversations, find messages, and check that no reader misses one.", no_args_is_help=True
)
REQUEST_COLUMNS = columns_of("partition_key order limit from to consistent")


@group.command("read")
def read(
    context: typer.Context,
    conversation: option.Conversation,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Messages of a page; 50 if omitted.")] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="CURSOR", help="Only older messages.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Only newer messages.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest message.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="All messages, page by page, in constant memory.")] = False,
    since: option.Since = None,
    until: option.Until = None,
    eventual: option.Eventual = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Leave out partitions that fail, and exit 4.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the first requests, and read no message.")] = False,
    timeout: option.Timeout = 0.0,
    output: option.Output = None,
) -> None:
    """Read a conversation completely: its base partition and every salt, merged, newest first.

    Each page has cursors for both directions, which stay valid while N grows. If a partition cannot be read,
    the command fails and names it; it never shows a shorter history. TIME is an ISO 8601 time, a duration
    ago, or the beginning of a sort key; it is a number if the table's sort key is one.

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
        raise UsageError("--all chooses the size of its pages: it cannot take a --limit", hint="leave one of them out")
    history = session_of(context).history
    low, high = sort_key_bound(history, since), sort_key_bound(history, until)
    options = ReadOptions(
        limit or 50, before, after, oldest_first, low, high, consistent=not eventual, allow_partial=allow_partial
    )
    form = resolve_format(output)
    if explain:
        _show_plan(history.explain(conversation, options), form)
        return
    given = {"--limit": limit, "--all": all_, "--since": since, "--until": until, "--oldest-first": oldest_first}
    given |= {"--eventual": eventual, "--allow-partial": allow_partial}

    def next_command(cursor: str) -> str:
        """Return the command that reads the next page."""
        direction = "--after" if oldest_first else "--before"
        return command_line("history", "read", conversation, given={**given, direction: cursor})

    writer = PageWriter(form, oldest_first=oldest_first)
    with deadline(timeout):
        if all_:
            _write_all(writer, history.pages(conversation, options), next_command)
        else:
            writer.add(history.page(conversation, options))
    summary = writer.finish()
    if not all_ and summary["next_cursor"] is not None and form is OutputFormat.table:
        note(f"more: {next_command(summary['next_cursor'])}")
    if not summary["complete"]:
        missing = [shard["partition_key"] for shard in summary["shards"] if shard["error"]]
        warn(f"the history is incomplete: cannot read {', '.join(missing)}. Try again without --allow-partial")
        raise typer.Exit(ExitCode.INCOMPLETE)


def _write_all(writer: PageWriter, pages: Iterable[Page], next_command: Callable[[str], str]) -> None:
    """Print all pages; if that is interrupted, also the command that continues, unless the reader closed the pipe."""
    try:
        for page in pages:
            writer.add(page)
    except BrokenPipeError:
        raise
    except BaseException:
        if writer.cursor:
            note(f"the output ends with a whole message; to continue: {next_command(writer.cursor)}")
        raise


def _show_plan(plan: ReadPlan, form: OutputFormat) -> None:
    lookup = plan.lookup
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
    if form is OutputFormat.json:
        head = {"conversation_id": lookup.conversation_id, "max_n": lookup.max_n, "source": lookup.source}
        write_json(head | {"requests": requests})
        return
    note(
        f"{lookup.conversation_id} has max_n {lookup.max_n}, from {lookup.source}. These requests are sent at once; "
        "only a partition that runs dry before the page is full is queried again"
    )
    columns = REQUEST_COLUMNS
    if form is OutputFormat.table and plan.requests:
        # The bounds are long, and the same in all requests.
        columns = tuple(column for column in columns if column.key not in ("from", "to"))
        note(_describe_range(plan.requests[0]))
    print_result(requests, form, columns=columns, empty="no request: no message can lie between these bounds")


def _describe_range(request: PartitionQuery) -> str:
    low, high = request.low, request.high
    if low is None and high is None:
        return f"every request reads from the {'newest' if request.descending else 'oldest'} message on"
    bounds = [f"from {low}"] * (low is not None) + [f"up to {high}"] * (high is not None)
    return f"every request reads {' '.join(bounds)}"


group.command("find")(find)
group.command("audit")(audit)
