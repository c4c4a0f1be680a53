"""``saltctl recover``."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saltctl.cli import option
from saltctl.cli.jobs import MAX_DAMAGED_NAMED, drain, show_progress
from saltctl.cli.output import columns_of, note, print_fields, print_result, warn
from saltctl.cli.session import session_of
from saltctl.cli.signals import deadline
from saltctl.cli.text import counted, printable
from saltctl.errors import ExitCode

if TYPE_CHECKING:
    from saltctl.registry.recover import RecoveryPlan

COLUMNS = columns_of(
    "table registry_id from_redis from_messages skipped verified consumed_rcu consumed_wcu seconds dry_run"
)
_TABLES = {
    "missing": "does not exist: it will be created",
    "unclaimed": "is not the backup of a registry: it will become that of this one",
    "restored": "was restored, copied or edited: raises may be missing in it",
    "intact": "is the one that the registry was created in: nothing shows that it was lost",
}


def recover(
    context: typer.Context,
    segments: option.Segments = 4,
    max_rcu: Annotated[
        float | None,
        typer.Option("--max-rcu", metavar="UNITS", help="Maximum read capacity units a second.", show_default=False),
    ] = None,
    lock_wait: Annotated[float, option.duration("--lock-wait", "Wait for a rebuild that is in progress.")] = 0.0,
    unproven: Annotated[
        Literal["refuse", "raise", "skip"],
        typer.Option("--unproven", help="Conversations whose messages do not prove that they are salted."),
    ] = "refuse",
    timeout: option.Timeout = 0.0,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Recover the registry after its backup table was deleted, restored or replaced.

    Makes the union of the backup table, of Redis and of the messages, never lowering an N, creates the table if
    it is missing, makes it the backup of the registry, and rebuilds Redis. The messages table is read in full
    unless the table was lost and Redis was verified all the time; --dry-run prints the cost, and changes nothing.
    Safe to interrupt and to run again. Conversations with too few messages to prove that they are salted stop
    it, unless --unproven says what to do.

    \b
    Examples:
      saltctl recover --dry-run
      saltctl recover --max-rcu 500 --yes
    """
    from saltctl.history.models import message_id_of
    from saltctl.rebuild.options import RebuildOptions
    from saltctl.rebuild.rebuild import Rebuild
    from saltctl.registry.discover import Discovered
    from saltctl.registry.recover import Recovery, RecoveryProgress, RecoveryReport
    from saltctl.stores.aws.messages_table import MessagesTable
    from saltctl.stores.contracts.registry import DamagedEntry

    session = session_of(context)
    session.settings.require_redis_url()
    options = RebuildOptions(segments=segments, max_rcu=max_rcu, lock_wait=lock_wait, dry_run=dry_run)
    messages, attribute = MessagesTable(session.settings, client=session.backup.client), session.history.id_attribute

    def show_event(event: object) -> None:
        """Show the progress, the damaged items, and the first conversations that are not proved to be salted."""
        match event:
            case RecoveryProgress():
                show(f"{event.step}: {event.done:,}")
            case DamagedEntry():
                keep(printable(f"skipped {event.conversation_id!r}: {event.problem}"))
            case Discovered():
                named.append(event.conversation_id)
                if len(named) <= MAX_DAMAGED_NAMED:
                    keep(printable(f"unproven: {event.conversation_id!r}, N {event.needed_n}: {event.problem}"))

    named: list[str] = []
    job = Recovery(
        session.settings,
        session.store,
        session.backup,
        messages,
        lambda item: message_id_of(item, messages.keys, attribute),
        options,
        unproven=unproven,
        new_rebuild=partial(Rebuild, notes=session.service_state),
    )
    with deadline(timeout):
        plan = job.plan()
        for line in _describe(plan, session.backup.where):
            note(printable(line))
        if not dry_run:
            session.require_consent(f"Make table {session.backup.where} the backup of this Redis?", confirm, yes=yes)
        with show_progress("recovering") as (show, keep):
            report = drain(job.run(plan), RecoveryReport, show_event)
    rebuilt = report.rebuild
    found = asdict(report)
    found |= {"table": report.plan.table, "verified": rebuilt.verified if rebuilt else report.plan.redis_verified}
    # The keys of the contract first, in its order.
    record: dict[str, Any] = {column.key: found[column.key] for column in COLUMNS} | found
    print_result(record, output, columns=COLUMNS, human_view=lambda screen: print_fields(record, COLUMNS))
    if report.skipped:
        warn(f"entries that cannot be used: {report.skipped:,}; saltctl registry discover names those of the messages")
        raise typer.Exit(ExitCode.INCOMPLETE)
    if dry_run:
        note("nothing was changed, and no message was read")


def _describe(plan: RecoveryPlan, table: str) -> list[str]:
    """Describe what was found, and what a recovery costs."""
    entries = counted(plan.redis_entries, "entry", "entries")
    owner = f"of registry {plan.redis_registry}" if plan.redis_registry else "without a fence"
    merged = "they will be merged" if plan.use_redis else "they belong to another registry and are not used"
    state = "verified" if plan.redis_verified else "not verified"
    lines = [f"table {table} {_TABLES[plan.table]}", f"Redis holds {entries} {owner}, {state}: {merged}"]
    if plan.messages is not None:
        cost = plan.messages
        lines.append(
            f"the messages will be read: {counted(cost.items, 'item')}, {cost.bytes:,} bytes, about {cost.rcu:,} read "
            "capacity units"
        )
    return lines
