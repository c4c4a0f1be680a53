"""``saltctl setup``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import setup_sentence
from saltctl.cli.output import columns_of, print_result, print_table, warn
from saltctl.cli.session import Session, session_of

COLUMNS = columns_of("resource action detail")


def setup(
    context: typer.Context,
    messages: Annotated[bool, typer.Option("--messages", help="Also create a messages table, for trials.")] = False,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Create the backup table and the consumer group of the heat stream, if they are missing.

    Resources that exist are checked and not changed, so it can be run any number of times.

    \b
    Examples:
      saltctl setup --dry-run
      saltctl setup
    """
    from saltctl.registry.setup import set_up

    session = session_of(context)
    session.settings.require_redis_url()
    if not dry_run:
        session.require_consent("Create the missing resources?", confirm)
    changes = set_up(session.settings, session.store, session.backup, messages=messages, dry_run=dry_run)
    actions = [asdict(change) for change in changes]
    record, columns = {"actions": actions}, columns_of("actions")
    print_result(
        record,
        output,
        columns=columns,
        human_view=lambda screen: print_table(actions, COLUMNS, screen),
        sentence=setup_sentence(actions, dry_run=dry_run),
    )
    if any(action["resource"] == "registry" and action["action"] != "exists" for action in actions):
        _warn_of_unseen_messages(session)
    if not dry_run and not all(session.store.verified().values()):
        warn("Redis is not verified yet: lookups ask the backup until it is rebuilt", "saltctl rebuild")


def _warn_of_unseen_messages(session: Session) -> None:
    """Say that a sample of the messages does not prove that none is salted, if there are more."""
    from saltctl.stores.aws.messages_table import SAMPLE, MessagesTable

    messages = MessagesTable(session.settings, client=session.backup.client)
    if messages.describe() is not None and (items := messages.size().items) > SAMPLE:
        warn(
            f"only {SAMPLE:,} of about {items:,} messages were looked at, and none is salted; if this registry existed "
            "before, recover it",
            "saltctl recover --dry-run",
        )
