"""``saltctl registry get|set|list|discover``."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.output import (
    Column,
    OutputFormat,
    Record,
    columns_of,
    note,
    print_result,
    resolve_format,
    warn,
    write_json,
)
from saltctl.cli.progress import PrintLine, drain, show_progress
from saltctl.cli.session import (
    ConfirmOption,
    DryRunOption,
    OutputOption,
    Session,
    TimeoutOption,
    YesOption,
    session_of,
)
from saltctl.cli.signals import deadline
from saltctl.cli.text import command_line, format_age
from saltctl.errors import ExitCode, InvalidSaltCountError, SaltctlError, UnavailableError, UnverifiedError
from saltctl.salting import check_conversation_id, check_salt_count

if TYPE_CHECKING:
    from saltctl.registry.discover import Discovery, ScanProgress

group = typer.Typer(help="Look at and raise the number of salts of conversations.", no_args_is_help=True)


class Source(StrEnum):
    """Where entries are listed from."""

    redis = "redis"
    backup = "backup"


class Order(StrEnum):
    """What a list is sorted by."""

    id = "id"
    n = "n"


def add_to(app: typer.Typer) -> None:
    """Add the group to the command tree, with the commands of ``saltctl.cli.registry.transfer``."""
    import saltctl.cli.registry.transfer  # noqa: F401  they join the group when they are imported

    app.add_typer(group, name="registry")


def _last_raise(record: Record) -> str:
    raises = record["raises"]
    if not raises:
        return "never raised"
    last = raises[-1]
    return f"to {last['n']} {format_age(last['at'])} by {last['by']}" + (
        f": {last['reason']}" if last["reason"] else ""
    )


GET_COLUMNS = (
    *columns_of("conversation_id max_n write_n source redis_n backup_n in_sync"),
    Column("raises", "last raise", show=_last_raise),
)
SET_COLUMNS = columns_of("conversation_id before after changed committed dry_run")
DISCOVER_COLUMNS = columns_of("conversation_id needed_n backup_n state")
COST_COLUMNS = columns_of("items bytes rcu", rcu="read units")
LIST_COLUMNS = columns_of("conversation_id max_n")


@group.command("get")
def get(
    context: typer.Context,
    conversations: Annotated[list[str], typer.Argument(metavar="CONV...", help="Conversation ids.")],
    output: OutputOption = None,
) -> None:
    """Show what servers see of conversations, and what Redis and the backup hold.

    SOURCE says where servers get their answer now: from redis, or from the backup while Redis is down or
    not verified. A conversation without an entry is unsalted: its max_n is 1.

    \b
    Examples:
      saltctl registry get conv_hot_01
      saltctl registry get conv_hot_01 conv_0001 -o json
    """
    session = session_of(context)
    found = session.registry.lookup_many(conversations)
    failure = session.registry.last_failure
    held = session.backup.get_many(list(found))
    raw = _raw(session, list(found), failure)
    records: list[dict[str, Any]] = []
    for conversation_id, lookup in found.items():
        entry = held.get(conversation_id)
        backup_n = entry.max_n if entry else 1
        redis_n = None if raw is None else raw[conversation_id] or 1
        records.append(
            {
                "conversation_id": conversation_id,
                "max_n": lookup.max_n,
                "write_n": lookup.write_n,
                "source": lookup.source,
                "redis_n": redis_n,
                "backup_n": backup_n,
                "in_sync": None if redis_n is None else redis_n == backup_n,
                "salted": lookup.salted,
                "raises": [asdict(item) for item in entry.raises] if entry else [],
            }
        )
    print_result(records, output, columns=GET_COLUMNS)


def _raw(session: Session, conversation_ids: list[str], failure: SaltctlError | None) -> dict[str, int | None] | None:
    """What Redis holds, or None where it is out of reach; anything else that is wrong with it is an error."""
    if failure is not None:
        if not isinstance(failure, UnavailableError):
            raise failure
        warn(f"answered from the backup: {failure.message}. Try: {failure.hint}")
        if not isinstance(failure, UnverifiedError):
            return None  # it has just failed: asking it again would wait for nothing
    try:
        return session.store.raw(conversation_ids)
    except UnavailableError:
        return None


@group.command("set")
def set_(
    context: typer.Context,
    conversation: Annotated[str, typer.Argument(metavar="CONV", help="A conversation id.")],
    n: Annotated[int, typer.Argument(metavar="N", help="A power of two up to the cap.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the raise.")] = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Raise a conversation to N salts, by the protocol: backup, Redis, commit.

    N never goes down, so this cannot be undone. Running it again is harmless and completes a raise that
    stopped half-way.

    \b
    Examples:
      saltctl registry set conv_0001 4 --reason "launch day" --dry-run
      saltctl registry set conv_0001 4 --reason "launch day" --yes
    """
    session = session_of(context)
    session.settings.require_redis_url()
    check_conversation_id(conversation)
    check_salt_count(n, session.settings.max_n_cap)
    entry = session.backup.get(conversation)
    before = entry.max_n if entry else 1
    if n < before:
        raise InvalidSaltCountError(
            f"{conversation!r} has {before} salts already, and N never goes down: "
            "messages on the upper salts would vanish",
            hint=command_line("registry", "get", conversation),
        )
    record: dict[str, Any] = {"conversation_id": conversation, "before": before, "after": n}
    half_done = entry is not None and entry.write_n < entry.max_n
    if n == before and not half_done:
        note(f"{conversation} has {n} already: nothing to do")
        record |= {"changed": False, "committed": True, "dry_run": dry_run}
    elif dry_run:
        record |= {"changed": n != before, "committed": False, "dry_run": True}
    else:
        session.require_consent(
            f"Raise {conversation} from {before} to {n}?", yes=yes, confirm=confirm, irreversible=True
        )
        done = session.registry.raise_to(conversation, n, reason=reason)
        record |= {
            "before": done.before,
            "after": done.after,
            "changed": done.changed,
            "committed": done.committed,
            "dry_run": False,
        }
    print_result(record, output, columns=SET_COLUMNS)


@group.command("list")
def list_(
    context: typer.Context,
    min_n: Annotated[int, typer.Option("--min-n", min=1, help="Only entries with at least this max_n.")] = 1,
    prefix: Annotated[str, typer.Option("--prefix", help="Only ids that begin with this.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")] = None,
    sort: Annotated[Order, typer.Option("--sort", help="By id, or by n with the largest first.")] = Order.id,
    source: Annotated[
        Source | None,
        typer.Option("--source", help="Default: redis if it is verified, else the backup.", show_default=False),
    ] = None,
    timeout: TimeoutOption = 0.0,
    output: OutputOption = None,
) -> None:
    """List the entries of the registry.

    \b
    Examples:
      saltctl registry list --sort n --limit 5
      saltctl registry list --min-n 8 --source backup -o jsonl
    """
    session = session_of(context)
    key = (lambda e: (-e[1], e[0])) if sort is Order.n else (lambda e: e)
    with deadline(timeout):
        entries = (
            (conversation_id, n)
            for conversation_id, n in _entries(session, source or trusted_source(session))
            if n >= min_n and conversation_id.startswith(prefix)
        )
        chosen = sorted(entries, key=key) if limit is None else heapq.nsmallest(limit, entries, key=key)
    print_result([{"conversation_id": i, "max_n": n} for i, n in chosen], output, columns=LIST_COLUMNS)


def trusted_source(session: Session) -> Source:
    """Redis if it is verified; else the backup, and a warning that says so."""
    try:
        if all(session.store.verified().values()):
            return Source.redis
        warn("Redis is not verified, so this is what the backup holds. saltctl rebuild")
    except UnavailableError as exc:
        warn(f"this is what the backup holds: {exc.message}")
    return Source.backup


def _entries(session: Session, source: Source) -> Iterable[tuple[str, int]]:
    if source is Source.redis:
        yield from session.store.entries()
        return
    damaged = 0
    for page in session.backup.scan(4):
        damaged += len(page.damaged)
        for conversation_id, max_n, _ in page.entries:
            yield conversation_id, max_n
    if damaged:
        warn(f"{damaged} damaged items of the backup are left out; saltctl rebuild --dry-run names them")


@group.command("discover")
def discover(
    context: typer.Context,
    apply: Annotated[bool, typer.Option("--apply", help="Raise what is behind; else nothing is changed.")] = False,
    cost_only: Annotated[bool, typer.Option("--cost", help="Show what the scan would cost, and do not scan.")] = False,
    segments: Annotated[int, typer.Option("--segments", help="Parallel scans of the messages table.")] = 4,
    eventual: Annotated[bool, typer.Option("--eventual", help="Eventually consistent: half the cost.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with each raise.")] = "registry discover",
    timeout: TimeoutOption = 0.0,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Learn the registry from the messages themselves, when Redis and the backup are both lost.

    Scans the keys of the whole messages table for salts, and shows which conversations the backup holds
    too little of. Changes nothing without --apply. The last resort: it reads, and costs, the whole table;
    --cost says how much before. Exits 3 if conversations are behind and were not raised.

    \b
    Examples:
      saltctl registry discover --cost
      saltctl registry discover -o json
    """
    from saltctl.registry import discover as discovery

    session = session_of(context)
    messages = session.history.store
    cost = discovery.estimate_cost(messages, consistent=not eventual)
    if cost_only:
        print_result(asdict(cost), output, columns=COST_COLUMNS)
        return
    note(f"the scan reads about {cost.items:,} items and costs about {cost.rcu:,} read units ({cost.bytes:,} bytes)")
    apply = apply and not dry_run
    with deadline(timeout):
        session.backup.check_table()
        events = discovery.discover(
            messages, session.backup, segments=segments, cap=session.settings.max_n_cap, consistent=not eventual
        )
        with show_progress("scanning keys") as (show, _):
            found = drain(events, discovery.Discovery, lambda event: _show_scan(event, show))
        if apply and found.behind:
            question = f"Raise {len(found.behind)} conversations to what their messages need?"
            session.require_consent(question, yes=yes, confirm=confirm, irreversible=True)
            for conversation in found.behind:
                session.registry.raise_to(conversation.conversation_id, conversation.needed_n, reason=reason)
    raised = len(found.behind) if apply else 0
    if resolve_format(output) is OutputFormat.json:
        write_json(asdict(found) | {"behind": len(found.behind), "raised": raised, "dry_run": not apply})
    else:
        records = [asdict(conversation) for conversation in found.conversations]
        print_result(records, output, columns=DISCOVER_COLUMNS, empty="no conversation is salted")
    note(f"{found.items:,} items, {len(found.conversations):,} salted conversations, {len(found.behind):,} behind")
    unusable = [c.conversation_id for c in found.conversations if c.state in ("above-cap", "invalid-id")]
    if unusable:
        warn(f"{len(unusable)} need a look by somebody who knows them, such as {unusable[0]}")
    if unusable or (found.behind and not apply):
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _show_scan(event: ScanProgress | Discovery, show: PrintLine) -> None:
    from saltctl.registry.discover import ScanProgress

    if isinstance(event, ScanProgress):
        show(f"{event.items:,} items, {event.salted:,} salted conversations, {event.consumed_rcu:,.1f} RCU")
