"""``saltctl setup``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import setup_sentence
from saltctl.cli.jobs import track_job
from saltctl.cli.output import columns_of, print_table, warn
from saltctl.cli.session import Session, is_interactive, session_of
from saltctl.cli.signals import rerun_without
from saltctl.errors import ConfirmationRequiredError, UsageError

if TYPE_CHECKING:
    from saltctl.registry.setup import Action

COLUMNS = columns_of("resource action detail")


def setup(
    context: typer.Context,
    messages: Annotated[bool, typer.Option("--messages", help="Also create a messages table, for trials.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Only the heat stream and its group, which a flush of Redis deletes.")
    ] = False,
    cron: option.Cron = False,
    metrics_file: option.MetricsFile = None,
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
      saltctl setup --stream
    """
    session = session_of(context)
    with track_job("setup", session, cron=cron, metrics_file=metrics_file) as job:
        session.settings.require_redis_url()
        if stream and messages:
            message = "cannot use --stream with --messages: it creates the stream alone"
            raise UsageError(message, hint=rerun_without("--stream"))
        if not dry_run:
            session.require_consent("Create the missing resources?", confirm)
            if not (stream or messages):
                _ask_about_unseen_messages(session)
        actions = [asdict(change) for change in _set_up(session, stream=stream, messages=messages, dry_run=dry_run)]
        job.finish(
            {"actions": actions},
            output,
            happened=any(action["action"] != "exists" for action in actions),
            columns=(),
            lists={"actions": COLUMNS},
            rows="actions",
            human_view=lambda screen: print_table(actions, COLUMNS, screen),
            sentence=setup_sentence(actions, dry_run=dry_run),
        )
        if not messages and any(a["resource"] == "registry" and a["action"] != "exists" for a in actions):
            _warn_of_unseen_messages(session)
        if not stream and not dry_run and not all(session.store.verified().values()):
            warn("Redis is not verified yet: lookups ask the backup until it is rebuilt", "saltctl rebuild")


def _set_up(session: Session, *, stream: bool, messages: bool, dry_run: bool) -> Iterator[Action]:
    from saltctl.registry.setup import set_up, set_up_stream

    if stream:
        return iter([set_up_stream(session.heat_stream, dry_run=dry_run)])
    return set_up(session.settings, session.store, session.backup, messages=messages, dry_run=dry_run)


def _ask_about_unseen_messages(session: Session) -> None:
    """Ask at a terminal if a new registry would be created and no messages table could show an older one."""
    if not is_interactive() or not any(
        change.resource == "registry" and change.action == "create"
        for change in _set_up(session, stream=False, messages=False, dry_run=True)
    ):
        return
    from saltctl.stores.aws.messages_table import MessagesTable

    messages = MessagesTable(session.settings, client=session.backup.client)
    if messages.describe() is None:
        missing = messages.missing()
        if not session.confirms(f"{missing.message}. Was there never a registry for its messages?"):
            raise ConfirmationRequiredError("not confirmed; nothing was changed", hint=missing.hint)


def _warn_of_unseen_messages(session: Session) -> None:
    """Say that a sample of the messages does not prove that none is salted, if there are more or none could be read."""
    from saltctl.stores.aws.messages_table import SAMPLE, MessagesTable

    messages = MessagesTable(session.settings, client=session.backup.client)
    if messages.describe() is None:
        missing = messages.missing()
        warn(f"{missing.message}, so no message could show whether this registry existed before", missing.hint)
    elif (items := messages.size().items) > SAMPLE:
        warn(
            f"only {SAMPLE:,} of about {items:,} messages were looked at, and none is salted; if this registry existed "
            "before, recover it",
            "saltctl recover --dry-run",
        )
