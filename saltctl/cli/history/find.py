"""``saltctl history find``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.output import OutputFormat, columns_of, console, note, print_result, resolve_format, write_json
from saltctl.cli.session import session_of
from saltctl.cli.signals import deadline
from saltctl.cli.text import counted
from saltctl.cli.times import sort_key_bound
from saltctl.errors import ExitCode

if TYPE_CHECKING:
    from saltctl.history.models import Message

FIELD_COLUMNS = columns_of("sort_key message_id partition_key", message_id="message")


def find(
    context: typer.Context,
    conversation: option.Conversation,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="A message id.")],
    sort_key: Annotated[
        str | None, typer.Option("--sort-key", metavar="KEY", help="Its whole sort key: one read a partition.")
    ] = None,
    since: option.Since = None,
    until: option.Until = None,
    timeout: option.Timeout = 0.0,
    output: option.Output = None,
) -> None:
    """Find one message by its id, on the log2(N)+1 partitions that can hold it.

    With its sort key, it is one read for each of them. Without, they are read, newest first, until the
    message is found: limit the search with --since and --until. Exits 3 if no partition has it.

    \b
    Examples:
      saltctl history find conv_hot_12 ma5abd5f5b05b
      saltctl history find conv_hot_12 ma5abd5f5b05b --since 36h -o json
    """
    from saltctl.history.models import FIND_TIMEOUT, FindOptions

    history = session_of(context).history
    bounds = sort_key_bound(history, since), sort_key_bound(history, until)
    options = FindOptions(sort_key, *bounds, timeout=max(timeout, FIND_TIMEOUT))
    with deadline(timeout):
        found = history.find(conversation, message, options)
    form = resolve_format(output)
    if found.message is None:
        note(f"not found on {', '.join(found.partition_keys)}; {counted(found.items_read, 'item')} read")
        if form is OutputFormat.json:
            write_json(None)
        raise typer.Exit(ExitCode.FOUND_SOMETHING)
    _show(found.message, form)


def _show(message: Message, form: OutputFormat) -> None:
    from saltctl.cli.history.chat_view import ChatView
    from saltctl.cli.history.view import MESSAGE_COLUMNS, record_of

    if form in (OutputFormat.json, OutputFormat.jsonl):
        print_result(message.attributes, form, columns=())
    elif form is OutputFormat.tsv:
        print_result([record_of(message)], form, columns=MESSAGE_COLUMNS)
    else:
        ChatView(console()).show([message])
        print_result(record_of(message), form, columns=FIELD_COLUMNS)
