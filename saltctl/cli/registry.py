"""``saltctl registry get|set|list``."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from saltctl.cli.output import Column, Record, emit, note, warn
from saltctl.cli.session import (
    ConfirmOption,
    DryRunOption,
    OutputOption,
    Session,
    YesOption,
    session_of,
)
from saltctl.cli.text import ago
from saltctl.errors import InvalidSaltCountError, SaltctlError, UnavailableError, UnverifiedError
from saltctl.salting import check_conversation_id, check_salt_count

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
    """Add the group to the command tree."""
    app.add_typer(group, name="registry")


def _last_raise(record: Record) -> str:
    raises = record["raises"]
    if not raises:
        return "never raised"
    last = raises[-1]
    return f"to {last['n']} {ago(last['at'])} by {last['by']}" + (f": {last['reason']}" if last["reason"] else "")


GET_COLUMNS = (
    Column("conversation_id", "conversation"),
    Column("max_n", "max_n", right=True),
    Column("write_n", "write_n", right=True),
    Column("source", "source"),
    Column("redis_n", "redis", right=True),
    Column("backup_n", "backup", right=True),
    Column("in_sync", "in sync"),
    Column("raises", "last raise", show=_last_raise),
)
SET_COLUMNS = (
    Column("conversation_id", "conversation"),
    Column("before", "before", right=True),
    Column("after", "after", right=True),
    Column("changed", "changed"),
    Column("committed", "committed"),
    Column("dry_run", "dry run"),
)
LIST_COLUMNS = (Column("conversation_id", "conversation"), Column("max_n", "max_n", right=True))


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
    emit(records, output, columns=GET_COLUMNS)


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
            hint=f"saltctl registry get {conversation}",
        )
    record: dict[str, Any] = {"conversation_id": conversation, "before": before, "after": n}
    half_done = entry is not None and entry.write_n < entry.max_n
    if n == before and not half_done:
        note(f"{conversation} has {n} already: nothing to do")
        record |= {"changed": False, "committed": True, "dry_run": dry_run}
    elif dry_run:
        record |= {"changed": n != before, "committed": False, "dry_run": True}
    else:
        session.consent(f"Raise {conversation} from {before} to {n}?", yes=yes, confirm=confirm, irreversible=True)
        done = session.registry.raise_to(conversation, n, reason=reason)
        record |= {
            "before": done.before,
            "after": done.after,
            "changed": done.changed,
            "committed": done.committed,
            "dry_run": False,
        }
    emit(record, output, columns=SET_COLUMNS)


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
    output: OutputOption = None,
) -> None:
    """List the entries of the registry.

    \b
    Examples:
      saltctl registry list --sort n --limit 5
      saltctl registry list --min-n 8 --source backup -o jsonl
    """
    session = session_of(context)
    entries = (
        (conversation_id, n)
        for conversation_id, n in _entries(session, source or _trusted_source(session))
        if n >= min_n and conversation_id.startswith(prefix)
    )
    key = (lambda e: (-e[1], e[0])) if sort is Order.n else (lambda e: e)
    chosen = sorted(entries, key=key) if limit is None else heapq.nsmallest(limit, entries, key=key)
    emit([{"conversation_id": i, "max_n": n} for i, n in chosen], output, columns=LIST_COLUMNS)


def _trusted_source(session: Session) -> Source:
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
