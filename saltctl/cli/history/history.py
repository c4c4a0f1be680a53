"""``saltctl history read|find|audit``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import audit_sentence
from saltctl.cli.formats.text import counted
from saltctl.cli.guide.groups import new_group
from saltctl.cli.jobs import drain, track_job
from saltctl.cli.output import Column, columns_of, format_value, note, print_result, resolve_format, warn, write_json
from saltctl.cli.progress import Step, show_progress
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline
from saltctl.commands import command_line, hint_of
from saltctl.errors import ExitCode, RefusedError, SaltctlError, UsageError
from saltctl.stores.contracts import raise_reasons

if TYPE_CHECKING:
    from saltctl.history.audit import Audit
    from saltctl.registry.mending import Damage

group = new_group("Read whole conversations, find messages, and check that no reader misses one.")
FIELD_COLUMNS = columns_of("sort_key message_id partition_key", message_id="message")


def _audit_columns(orphaned: str) -> tuple[Column, ...]:
    return columns_of(
        "conversation_id complete max_n recent_n needed_n orphaned damage unproven duplicates skew probed consumed_rcu "
        "repaired orphans partitions",
        orphaned=orphaned,
        unproven=lambda found: format_value(found["unproven"] or None),
        probed="salts probed",
    )


AUDIT_COLUMNS = _audit_columns("messages that readers miss")
REPAIRED_COLUMNS = _audit_columns("messages that readers missed")
PARTITION_COLUMNS = columns_of("partition_key messages")
ORPHAN_COLUMNS = columns_of("partition_key sort_key message_id", message_id="message")


@group.command("read")
def read(
    context: typer.Context,
    conversation: option.Conversation,
    limit: Annotated[int | None, option.number("--limit", "Messages of a page; 50 if omitted.", 1, 10**9)] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="CURSOR", help="Only older messages.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Only newer messages.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest message.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="All messages, page by page, in constant memory.")] = False,
    since: option.Since = None,
    until: option.Until = None,
    since_key: option.SinceKey = None,
    until_key: option.UntilKey = None,
    eventual: option.Eventual = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Leave out partitions with an outage, and exit 4.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the first requests, and read no message.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Show counts and times of each partition.")] = False,
    timeout: option.Timeout = 0.0,
    output: option.Output = None,
) -> None:
    """Read a conversation completely: its base partition and every salt, merged, newest first.

    Each page has cursors for both directions, which stay valid while N grows. If a partition cannot be read,
    the command fails and names it; it never shows a shorter history.

    TIME is ISO 8601, in UTC without a zone; today, yesterday or now; or 90min, 2h30m, 1w ago. It becomes a sort
    key in the form of the conversation's newest and oldest messages, which are read for that.

    Messages are as they are stored: the partition key of one, whatever its name, is a partition such as
    conv_hot_01#0, and is not the id of the conversation.

    \b
    Examples:
      saltctl history read conv_hot_01
      saltctl history read conv_hot_12 --limit 5 --explain
      saltctl history read conv_hot_01 --all --oldest-first -o jsonl
      saltctl history read conv_hot_01 --since 12h -o json
      saltctl history read conv_hot_12 --stats
    """
    from saltctl.cli.history.bounds import BoundOptions
    from saltctl.cli.history.view import PageWriter, print_plan
    from saltctl.history.models import ReadOptions
    from saltctl.history.pages.cursor import check_cursor

    if all_ and limit is not None:
        raise UsageError("--all chooses the size of its pages: it cannot take a --limit", hint="leave one of them out")
    for cursor in (before, after):
        if cursor is not None:
            check_cursor(cursor)  # before any server is asked
    form = resolve_format(output, listing=False)
    between = BoundOptions(since, until, since_key, until_key)
    with deadline(timeout):
        session = session_of(context)
        options = ReadOptions(
            limit or 50, before, after, oldest_first, consistent=not eventual, allow_partial=allow_partial
        )
        bounds = between.resolve(session, conversation, options)
        options = replace(options, since=bounds.low, until=bounds.high)
        if explain:
            print_plan(session.history.explain(conversation, options), form, bounds.form)
            return
        given: dict[str, object] = {"--limit": limit, "--all": all_, **bounds.options(), "--oldest-first": oldest_first}
        given |= {"--eventual": eventual, "--allow-partial": allow_partial, "--stats": stats}

        def continue_at(cursor: str) -> str:
            """Return the command that continues after a page."""
            bound = {"--after" if oldest_first else "--before": cursor}
            return command_line("history", "read", ids=[conversation], given={**given, **bound})

        bounded = bounds.low is not None or bounds.high is not None
        writer = PageWriter(form, continue_at, oldest_first=oldest_first, stats=stats, bounded=bounded)
        history = session.history
        writer.write(history.pages(conversation, options) if all_ else [history.page(conversation, options)])
    if not writer.finish():
        raise typer.Exit(ExitCode.INCOMPLETE)


@group.command("find")
def find(
    context: typer.Context,
    conversation: option.Conversation,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", parser=option.parse_text, help="A message id.")],
    sort_key: Annotated[
        str | None, option.text("--sort-key", "Its whole sort key: one read a partition.", "KEY")
    ] = None,
    since: option.Since = None,
    until: option.Until = None,
    since_key: option.SinceKey = None,
    until_key: option.UntilKey = None,
    timeout: option.Timeout = 0.0,
    output: option.Output = None,
) -> None:
    """Find one message by its id: first on the log2(N)+1 likely partitions, then on all others.

    With its sort key, it is one read for each of them. Without, they are read, newest first, until the
    message is found: limit the search with --since and --until. Exits 3 if no partition has it.

    \b
    Examples:
      saltctl history find conv_hot_12 ma5abd5f5b05b
      saltctl history find conv_hot_12 ma5abd5f5b05b --since 36h -o json
    """
    from saltctl.cli.history.bounds import BoundOptions
    from saltctl.cli.history.view import MESSAGE_COLUMNS, print_chat, record_of
    from saltctl.history.models import FIND_TIMEOUT, FindOptions, ReadOptions

    between = BoundOptions(since, until, since_key, until_key)
    if sort_key is not None and (since or until or since_key or until_key):
        raise UsageError("--sort-key names one row: it takes no bounds", hint="leave out the bounds")
    with deadline(timeout):
        session = session_of(context)
        # A partition that cannot be read may not be needed; if it is, the search says so.
        bounds = between.resolve(session, conversation, ReadOptions(allow_partial=True))
        options = FindOptions(sort_key, bounds.low, bounds.high, timeout=max(timeout, FIND_TIMEOUT))
        found = session.history.find(conversation, message, options)
    form = resolve_format(output, listing=False)
    if found.message is None:
        keys = found.partition_keys
        partitions = ", ".join(keys[:5]) + (f" and {counted(len(keys) - 5, 'more partition')}" if len(keys) > 5 else "")
        note(f"not found on {partitions}; {counted(found.items_read, 'item')} read")
        if form == "json":
            write_json(None)
        raise typer.Exit(ExitCode.FOUND_SOMETHING)
    if form in ("json", "jsonl"):
        print_result(found.message.attributes, form, columns=())
    elif form in ("tsv", "csv"):
        print_result([record_of(found.message)], form, columns=MESSAGE_COLUMNS)
    else:
        print_chat([found.message])
        print_result(record_of(found.message), form, columns=FIELD_COLUMNS)


@group.command("audit")
def audit(
    context: typer.Context,
    conversation: Annotated[
        str | None, typer.Argument(metavar="CONV", help="A conversation id; none with --all.", show_default=False)
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Raise N to what the messages need.")] = False,
    reason: option.OptionalReason = None,
    all_: Annotated[
        bool, typer.Option("--all", help="All conversations of the registry, from where it ended.")
    ] = False,
    max_rcu: option.MaxRcu = None,
    for_: Annotated[float, option.duration("--for", "With --all: end after this long, such as 50s; exit 0.")] = 0.0,
    sample_items: Annotated[
        int | None,
        option.number("--sample-items", "With --all: messages to look at for lost entries; 10000.", 0, 10**12),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="With --all: begin a new cycle.")] = False,
    timeout: option.Timeout = 0.0,
    cron: option.Cron = False,
    metrics_file: option.MetricsFile = None,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Check that readers see every message of a conversation, or list the messages that they miss.

    Looks on every salt beyond max_n for messages that a lost raise left behind and, in a cooled conversation,
    for messages at or above its boundary outside recent_n salts. Counts the rows of each partition, duplicates,
    and the skew between salts. Reads the keys of the whole conversation once. Exits 3 if readers miss
    messages, 0 once --repair has raised N.

    If the conversation's item in the backup, or its value in Redis, is damaged, --repair replaces it: by an N that is
    not below what the other side, the item and the messages show.

    --all audits each conversation of the registry, and looks for entries that the registry lost in a sample of the
    messages. It asks only partitions that readers do not query. Each run continues where the last one ended, until
    the cycle is complete. See `saltctl help audit`. Exits 3 as long as anything that was found stands.

    \b
    Examples:
      saltctl history audit conv_hot_08
      saltctl history audit conv_hot_08 --repair --dry-run -o json
      saltctl history audit --all --max-rcu 50 --for 50s
    """
    session = session_of(context)
    one: dict[str, object] = {"CONV": conversation, "--repair": repair, "--reason": reason, "--dry-run": dry_run}
    one |= {"--yes": yes, "--confirm": confirm}
    every: dict[str, object] = {"--max-rcu": max_rcu, "--for": for_, "--sample-items": sample_items}
    every |= {"--restart": restart}
    if all_:
        from saltctl.cli.history.full_audit import AllOptions, audit_all

        options = AllOptions(max_rcu, for_, sample_items, restart=restart)
        with track_job("history audit", session, cron=cron, metrics_file=metrics_file) as job:
            _refuse_beside("--all", one)
            with deadline(timeout):
                audit_all(session, job, options, output)
        return
    every |= {"--cron": cron, "--metrics-file": metrics_file}
    if conversation is None:
        raise UsageError(
            "cannot audit: neither a conversation nor --all is given", hint="saltctl history audit --all --max-rcu 50"
        )
    _refuse_beside("CONV", every)
    with deadline(timeout):
        found, damage = _audit_one(session, conversation)
        repaired = repair and (found.orphaned > 0 or damage is not None) and not dry_run
        if repair and found.unproven:
            raise _unproven(found)
        if repaired:
            reason = reason or (raise_reasons.AUDITED if damage is None else raise_reasons.MENDED)
            _repair(session, found, damage, reason, confirm, yes=yes)
        if repaired or found.complete:
            _forget_finding(session, conversation)
    record = asdict(found) | {"repaired": repaired, "dry_run": dry_run}
    columns = AUDIT_COLUMNS
    if repaired:  # readers see now what they missed
        record |= {"complete": True, "max_n": max(found.max_n, found.needed_n)}
        columns = REPAIRED_COLUMNS
    tables = {"partitions": PARTITION_COLUMNS, "orphans": ORPHAN_COLUMNS}
    print_result(record, output, columns=columns, lists=tables, sentence=audit_sentence(found, repaired=repaired))
    if not repaired:
        _warn(found, damage)
        if not found.complete:
            raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _refuse_beside(name: str, given: Mapping[str, object]) -> None:
    """Raise UsageError if one of these options is given: they are not for ``name``."""
    for other, value in given.items():
        if value or type(value) is int:  # --sample-items 0 is given, too
            raise UsageError(f"cannot use {other} with {name}", hint=f"leave out {other}, or {name}")


def _audit_one(session: Session, conversation: str) -> tuple[Audit, Damage | None]:
    """Audit one conversation; return the audit, and what is damaged."""
    from saltctl.history.audit import Audit, Auditor
    from saltctl.registry.mending import find_damage

    damage = find_damage(session.store, session.backup, conversation)
    events = Auditor(session.history, conversation, cap=session.settings.max_n_cap, damage=damage).run()
    with show_progress("looking beyond max_n") as (show, _):
        nouns = ("message", "messages")
        found = drain(
            events,
            Audit,
            lambda event: isinstance(event, Audit) or show(Step("looking beyond max_n", event.messages, nouns)),
        )
    return found, damage


def _forget_finding(session: Session, conversation: str) -> None:
    """Remove the finding of an audit of all conversations. If that fails, its next run does so."""
    from saltctl.history.full_audit.state import forget_finding
    from saltctl.stores.audit_item import AuditItem

    with suppress(SaltctlError):
        forget_finding(AuditItem(session.backup), conversation)


def _warn(found: Audit, damage: Damage | None) -> None:
    """Print a warning for what readers miss, with the command that mends it."""
    conversation = found.conversation_id
    if damage is not None:
        warn(f"damaged: {damage.problem}; lookups that read it fail", _repair_command(conversation))
    if not found.orphaned:
        return
    if found.orphaned > len(found.orphans):
        note(f"the list has the first {len(found.orphans):,} of {found.orphaned:,} messages that readers miss")
    if found.unproven:
        warn(f"rows beyond max_n may belong to other conversations: {found.unproven}")
    else:
        missed = f"readers miss {counted(found.orphaned, 'message')}"
        warn(
            f"{missed}: {conversation} has {_covered(found)} and needs {found.needed_n}", _repair_command(conversation)
        )


def _covered(found: Audit) -> str:
    """Return over how many salts readers look for the newest messages, which a raise increases."""
    cooled = found.recent_n is not None and found.recent_n < found.max_n
    return f"recent_n {found.recent_n}" if cooled else f"max_n {found.max_n}"


def _repair_command(conversation: str) -> str:
    return command_line("history", "audit", ids=[conversation], given={"--repair": True, "--yes": True})


def _unproven(found: Audit) -> RefusedError:
    conversation = found.conversation_id
    return RefusedError(
        f"the rows on salts beyond max_n are not proved to be messages of {conversation!r}: {found.unproven}. "
        "A raise could merge different conversations",
        hint=hint_of(
            command_line("history", "audit", ids=[conversation]),
            "if they are not, set max_n in the damaged item by hand"
            if found.damage
            else hint_of(
                "only if these are its messages:",
                command_line("registry", "set", ids=[conversation, str(found.needed_n)]),
            ),
        ),
    )


def _repair(
    session: Session, found: Audit, damage: Damage | None, reason: str, confirm: str | None, *, yes: bool
) -> None:
    """Raise the conversation to what it needs, and replace what is damaged."""
    from saltctl.registry.mending import mend

    name, n = found.conversation_id, found.needed_n
    question = f"Raise {name} from {_covered(found)} to {n}?" if damage is None else f"Set the N of {name} to {n}?"
    session.require_consent(question, confirm, yes=yes)
    with session.noting_raises(reason):
        if damage is None:
            session.registry.raise_to(name, n, reason=reason)
        else:
            mend(session.registry, session.backup, damage, n, reason)
