"""``saltctl registry discover``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.text import counted, scan_cost
from saltctl.cli.hints import hint_lines
from saltctl.cli.jobs import drain
from saltctl.cli.output import OutputFormat, columns_of, note, print_result, resolve_format, warn, write_json
from saltctl.cli.progress import Step, show_progress
from saltctl.cli.registry import export
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline, rerun_with, rerun_without
from saltctl.commands import command_line, hint_of
from saltctl.errors import ExitCode, SaltctlError
from saltctl.stores.contracts import raise_reasons

if TYPE_CHECKING:
    from saltctl.registry.discover import Discovered, Discovery

_SEGMENTS = 4
COLUMNS = columns_of("conversation_id needed_n backup_n state problem")
COST_COLUMNS = columns_of("items bytes rcu", rcu="read units")


def discover(
    context: typer.Context,
    apply: Annotated[
        bool, typer.Option("--apply", help="Raise the conversations that are behind; else change nothing.")
    ] = False,
    any_salting: Annotated[
        bool, typer.Option("--any-salting", help="Also raise those whose writers choose salts by another rule.")
    ] = False,
    cost_only: Annotated[bool, typer.Option("--cost", help="Show the cost of the scan, and do not scan.")] = False,
    segments: option.Segments = _SEGMENTS,
    eventual: option.Eventual = False,
    from_export: export.FromExport = None,
    from_table: export.FromTable = None,
    checkpoint: export.Checkpoint = None,
    restart: option.Restart = False,
    sql: export.Sql = False,
    sql_table: export.SqlTable = None,
    reason: option.Reason = raise_reasons.DISCOVERED,
    timeout: option.Timeout = 0.0,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Learn the registry from the messages themselves, if Redis and the backup are both lost.

    Scans the keys of the whole messages table for salts, and shows the conversations for which the backup holds
    too little. Changes nothing without --apply. It is the last resort, since it reads the whole table; --cost
    shows the cost before. Exits 3 if conversations are behind and were not raised. For a table of terabytes, read
    an export of it to S3 instead, or let Athena or Spark run the query of --sql: saltctl help export.

    A conversation is unproven, and not raised, if its messages are not on the salts of their ids, or are too
    few to tell: CONV#77 may be another conversation than CONV. Then --apply exits with 4.

    \b
    Examples:
      saltctl registry discover --cost
      saltctl registry discover -o json
      saltctl registry discover --sql
    """
    from saltctl.registry.discover import estimate_cost, half_done_raises

    given = {"cost": cost_only, "eventual": eventual, "segments": segments != _SEGMENTS, "apply": apply}
    given |= {"checkpoint": checkpoint is not None, "restart": restart, "sql_table": sql_table is not None}
    given |= {"from_table": from_table is not None}
    export.check_options(from_export, sql=sql, **given)
    session = session_of(context)
    next_step = rerun_without("--dry-run") if apply else rerun_with("--apply")
    apply, raises = apply and not dry_run, _Raises()
    with deadline(timeout):
        if sql:
            export.print_query(session, sql_table)
            return
        if from_export is not None:
            options = {"restart": restart, "any_salting": any_salting}
            found = export.discover_export(session, from_export, checkpoint, from_table=from_table, **options)
        else:
            cost = estimate_cost(session.history.store, consistent=not eventual)
            if cost_only:
                print_result(asdict(cost), output, columns=COST_COLUMNS)
                return
            note(f"scanning the messages: {scan_cost(cost.items, cost.bytes, cost.rcu)}")
            session.backup.check_table()
            found = _scan(session, cost.items, segments=segments, eventual=eventual, any_salting=any_salting)
        incomplete = half_done_raises(found, session.registry) if apply else []
        if apply and (found.behind or incomplete):
            count = counted(len(found.behind) + len(incomplete), "conversation")
            session.require_consent(f"Raise {count} to the N of the messages?", confirm, yes=yes)
            with session.noting_raises():
                raises = _raise_all(session, found, incomplete, reason)
    found = replace(found, conversations=[raises.done.get(c.conversation_id, c) for c in found.conversations])
    _print(found, output, raised=len(raises.done), dry_run=dry_run)
    _warn(found, _place_of_ids(session))
    if found.behind and not apply:
        note("\n".join(["nothing was raised; to raise them:", *hint_lines(next_step)]))
    states = {conversation.state for conversation in found.conversations}
    if raises.failed or (apply and "unproven" in states):
        raise typer.Exit(ExitCode.INCOMPLETE)
    if states - {"held"}:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


@dataclass
class _Raises:
    """The conversations that were raised, as they are now, and the number of raises that failed."""

    done: dict[str, Discovered] = field(default_factory=dict)
    failed: int = 0


def _raise_all(session: Session, found: Discovery, incomplete: list[str], reason: str) -> _Raises:
    """Raise what is behind, and complete what is incomplete. One raise may fail alone, as by a damaged bucket."""
    from saltctl.registry.failures import is_outage

    registry, raises = session.registry, _Raises()
    behind = {conversation.conversation_id: conversation for conversation in found.behind}
    for conversation_id in [*behind, *incomplete]:
        try:
            if (conversation := behind.get(conversation_id)) is None:
                registry.complete(conversation_id)
            else:
                after = registry.raise_to(conversation_id, conversation.needed_n, reason=reason).after
                raises.done[conversation_id] = replace(conversation, backup_n=after, state="held")
        except SaltctlError as exc:
            if is_outage(exc):
                raise
            raises.failed += 1
            warn(f"{conversation_id} could not be raised: {exc.message}")
    failed = f"; failed: {raises.failed:,}" if raises.failed else ""
    note(f"raised: {len(raises.done):,}; interrupted raises that were to be completed: {len(incomplete):,}{failed}")
    return raises


def _scan(session: Session, total: int | None, *, segments: int, eventual: bool, any_salting: bool) -> Discovery:
    from saltctl.history.models import message_id_of
    from saltctl.registry.discover import Discovery, ScanProgress, discover

    def show_event(event: ScanProgress | Discovery) -> None:
        """Show the counts so far."""
        if isinstance(event, ScanProgress):
            more = (counted(event.salted, "salted conversation"), f"{event.consumed_rcu:,.1f} RCU")
            show(Step("scanning keys", event.items, ("message", "messages"), total, more=more))

    cap = session.settings.max_n_cap
    store, attribute = session.history.store, session.history.id_attribute
    events = discover(
        store,
        session.backup,
        message_id=lambda item: message_id_of(item, store.keys, attribute),
        attribute=attribute,
        segments=segments,
        cap=cap,
        consistent=not eventual,
        any_salting=any_salting,
    )
    with show_progress("scanning keys") as (show, _):
        return drain(events, Discovery, show_event)


def _print(found: Discovery, output: OutputFormat | None, *, raised: int, dry_run: bool) -> None:
    from saltctl.registry.export.query import MAX_N

    behind = len(found.behind)
    records = [{column.key: getattr(shown, column.key) for column in COLUMNS} for shown in found.conversations]
    for record in records:
        if record["needed_n"] > MAX_N:
            record["needed_n"] = None  # a salt may have any number of digits
    if resolve_format(output, listing=True) == "json":
        counts = asdict(replace(found, conversations=[]))
        write_json(counts | {"conversations": records, "behind": behind, "raised": raised, "dry_run": dry_run})
    else:
        print_result(records, output, columns=COLUMNS, empty="no conversation is salted")
    salted = counted(len(found.conversations), "salted conversation")
    note(f"{counted(found.items, 'item')}, {salted}, {behind:,} behind{f', {raised:,} raised' if raised else ''}")


def _place_of_ids(session: Session) -> str:
    """Return where message ids are read from."""
    history = session.history
    return (
        f"attribute {history.id_attribute!r}" if history.id_attribute else f"sort key {history.store.keys.sort_key!r}"
    )


def _warn(found: Discovery, place_of_ids: str) -> None:
    """Name what cannot be raised, and why."""
    unusable = [c for c in found.conversations if c.state in ("above-cap", "invalid-id", "damaged")]
    if unusable:
        warn(
            f"conversations that cannot be raised and need a manual check: {len(unusable):,}, such as "
            f"{unusable[0].conversation_id!r}: {unusable[0].problem}"
        )
    if found.foreign_rows:
        warn(f"rows with a '#' but no salt in the partition key: {found.foreign_rows:,}, such as {found.foreign_key!r}")
    _warn_unproven(found, place_of_ids)


def _warn_unproven(found: Discovery, place_of_ids: str) -> None:
    """Name what is not proved to be salted, by cause, and what to do."""
    from saltctl.registry.export.query import MAX_N

    advice = {
        "misplaced": "If partition keys hold a '#' by design, a raise would merge different conversations. If message "
        "ids are elsewhere, set SALTCTL_MESSAGE_ID_FROM. If writers choose salts by another rule, add --any-salting",
        "without-id": f"Message ids are read from the {place_of_ids}: set SALTCTL_MESSAGE_ID_FROM to where they are",
        "too-few": "They could be on their keys by chance",
    }
    for cause, about in advice.items():
        caused = [conversation for conversation in found.conversations if conversation.cause == cause]
        if not caused:
            continue
        first, hint = caused[0], ""
        if cause == "too-few" and first.needed_n <= MAX_N:
            command = command_line("registry", "set", ids=[first.conversation_id, str(first.needed_n)])
            hint = hint_of("if you know that it is a conversation, and that its keys have salts", command)
        warn(
            f"conversations that are not proved to be salted, and are not raised: {len(caused):,}, such as "
            f"{first.conversation_id!r}: {first.problem}. {about}",
            hint,
        )
