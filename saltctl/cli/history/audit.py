"""``saltctl history audit``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from saltctl.cli import option
from saltctl.cli.jobs import drain, show_progress
from saltctl.cli.output import columns_of, note, print_result, warn
from saltctl.cli.session import session_of
from saltctl.cli.signals import deadline
from saltctl.cli.text import command_line, counted
from saltctl.errors import ExitCode

COLUMNS = columns_of(
    "conversation_id complete max_n needed_n orphaned duplicates skew probed consumed_rcu repaired orphans partitions",
    orphaned="messages beyond max_n",
    probed="salts probed",
)
PARTITION_COLUMNS = columns_of("partition_key messages")
ORPHAN_COLUMNS = columns_of("partition_key sort_key message_id", message_id="message")


def audit(
    context: typer.Context,
    conversation: option.Conversation,
    repair: Annotated[bool, typer.Option("--repair", help="Raise N to what the messages need.")] = False,
    reason: option.Reason = "audit: messages beyond max_n",
    timeout: option.Timeout = 0.0,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Check that readers see every message of a conversation, or list the messages that they miss.

    Looks on every salt beyond max_n for messages that a lost raise left behind. Counts the rows of each
    partition, duplicates, and the skew between salts. Reads the keys of the whole conversation once. Exits 3
    if readers miss messages, 0 once --repair has raised N.

    \b
    Examples:
      saltctl history audit conv_hot_08
      saltctl history audit conv_hot_08 --repair --dry-run -o json
    """
    from saltctl.history.audit import Audit, Auditor

    session = session_of(context)
    with deadline(timeout):
        events = Auditor(session.history, conversation, cap=session.settings.max_n_cap).run()
        with show_progress("looking beyond max_n") as (show, _):
            found = drain(
                events, Audit, lambda event: isinstance(event, Audit) or show(counted(event.messages, "message"))
            )
        repaired = repair and found.orphaned > 0 and not dry_run
        if repaired:
            question = f"Raise {conversation} from {found.max_n} to {found.needed_n}?"
            session.require_consent(question, confirm, yes=yes)
            session.registry.raise_to(conversation, found.needed_n, reason=reason)
    record = asdict(found) | {"repaired": repaired, "dry_run": dry_run}
    tables = {"partitions": PARTITION_COLUMNS, "orphans": ORPHAN_COLUMNS}
    print_result(record, output, columns=COLUMNS, tables=tables)
    if found.orphaned and not repaired:
        if found.orphaned > len(found.orphans):
            note(f"the list has the first {len(found.orphans):,} of {found.orphaned:,} messages beyond max_n")
        warn(
            f"readers miss {counted(found.orphaned, 'message')}: {conversation} has max_n {found.max_n} and needs "
            f"{found.needed_n}. To raise it: {command_line('history', 'audit', conversation, '--repair')}"
        )
        raise typer.Exit(ExitCode.FOUND_SOMETHING)
