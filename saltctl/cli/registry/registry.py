"""``saltctl registry get|set|list``, and the group with the commands of ``transfer`` and ``discover``."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saltctl.cli import option
from saltctl.cli.formats.listing import ids_of_listing
from saltctl.cli.formats.sentences import raise_sentence
from saltctl.cli.formats.text import format_age
from saltctl.cli.guide.groups import new_group
from saltctl.cli.jobs import damage_hint
from saltctl.cli.output import (
    UNKNOWN,
    Column,
    OutputFormat,
    Record,
    columns_of,
    format_value,
    note,
    print_result,
    print_table,
    warn,
)
from saltctl.cli.registry.cool import cool
from saltctl.cli.registry.discover import discover
from saltctl.cli.registry.refusals import check_alone, check_not_lower, check_salt_count
from saltctl.cli.registry.transfer import export, import_, open_lines, read_source
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline
from saltctl.commands import command_line
from saltctl.errors import (
    DamagedEntryError,
    IncompleteError,
    SaltctlError,
    UnavailableError,
    UnverifiedError,
    UsageError,
    WrongTypeError,
)
from saltctl.registry.drift import writers_n
from saltctl.registry.failures import read_undamaged
from saltctl.salting import check_conversation_id
from saltctl.stores.contracts.entries import Entry, max_n_of
from saltctl.stores.contracts.registry import BackupEntry, DamagedEntry
from saltctl.stores.redis.buckets import UNREADABLE

if TYPE_CHECKING:
    from saltctl.registry.lookups import Lookup

group = new_group("Show and change the number of salts of conversations.")


def _last_raise(record: Record) -> str:
    if record["raises"] is None:
        return UNKNOWN
    if not record["raises"]:
        return "never raised"
    last = record["raises"][-1]
    reason = f": {last['reason']}" if last["reason"] else ""
    verb = "cooled to" if last["cooled"] else "to"
    return f"{verb} {last['n']} {format_age(last['at'])} by {last['by']}{reason}"


def _side(name: str) -> Callable[[Record], str]:
    """Return how to show what a side holds: its N, — without an entry, or that it is unknown or cannot be used."""

    def show(record: Record) -> str:
        """Show the side of one conversation."""
        state = record[f"{name}_state"]
        shown = {"entry": format_value(record[f"{name}_n"]), "absent": UNKNOWN}
        return shown.get(state, state or "unknown")

    return show


GET_COLUMNS = (
    *columns_of("conversation_id max_n write_n source"),
    *(Column(f"{side}_n", right=True, show=_side(side)) for side in ("redis", "backup")),
    *columns_of("in_sync"),
    Column("raises", "last raise", show=_last_raise),
)
COOLED_COLUMNS = (*GET_COLUMNS[:3], *columns_of("recent_n recent_from"), *GET_COLUMNS[3:])
"""Those of the table of ``registry get`` if a conversation has a boundary."""
SET_COLUMNS = columns_of("conversation_id before after changed committed dry_run")
MANY_COLUMNS = (*SET_COLUMNS, *columns_of("problem"))
LIST_COLUMNS = columns_of("conversation_id max_n")
_MAX_NAMED = 5
"""Damaged items whose problems an error tells."""


@group.command("get")
def get(
    context: typer.Context,
    conversations: option.Conversations = None,
    ids_from: Annotated[
        str | None,
        typer.Option(
            "--ids-from", metavar="FILE|-", help="Ids one a line, or a listing in tsv, json or jsonl; - is stdin."
        ),
    ] = None,
    output: option.Output = None,
) -> None:
    """Show the salts of conversations: for application servers, in Redis and in the backup.

    SOURCE is where servers get their answer now: redis, or the backup while Redis is down or not verified.
    A conversation without an entry is unsalted: its max_n is 1. REDIS and BACKUP are — without an entry; the keys
    redis_state and backup_state say entry, absent, unreadable or damaged, and are null if that is unknown.
    If the backup does not answer, or its item of a conversation is damaged, what it alone knows is null, and the exit
    code is 4. If Redis refuses the credentials, or is not set up for this registry, what it alone knows is null, and
    the exit code is 77 or 78.

    \b
    Examples:
      saltctl registry get conv_hot_01
      saltctl registry get conv_hot_01 conv_0001 -o json
      saltctl registry get --ids-from registry.jsonl
    """
    session = session_of(context)
    ids = list(dict.fromkeys(_chosen(conversations, ids_from)))
    found: dict[str, Lookup] = {}
    held: dict[str, BackupEntry] | None = None
    damaged: dict[str, str] = {}
    outage: UnavailableError | None = None
    try:
        found = _look_up(session, ids)
        held, damaged = read_undamaged(session.backup, ids)
    except UnavailableError as exc:
        outage = exc
    failure = session.registry.last_failure
    if found and failure is not None and isinstance(failure, UnavailableError):
        warn(f"answered from the backup: {failure.message}", failure.hint)
    refused = None if failure is None or isinstance(failure, UnavailableError) else failure
    in_redis = _read_redis(session, ids, failure)
    if outage is not None and not found and in_redis is None:
        raise refused or outage
    records = [_record(i, found.get(i), in_redis, None if i in damaged else held) for i in ids]
    for record in records:
        if record["conversation_id"] in damaged:
            record["backup_state"] = "damaged"
    shown = COOLED_COLUMNS if any(record["recent_from"] is not None for record in records) else GET_COLUMNS
    print_result(records, output, columns=GET_COLUMNS, human_view=lambda screen: print_table(records, shown, screen))
    if damaged:
        items = [DamagedEntry(conversation_id, problem) for conversation_id, problem in damaged.items()]
        told = "; ".join(item.problem for item in items[:_MAX_NAMED])
        raise IncompleteError(
            f"damaged items of the backup: {len(items):,}. {told}", hint=damage_hint(items, len(items))
        )
    if outage is not None:
        unknown = "its entries are unknown" if found else "only the entries in Redis are known, verified or not"
        raise IncompleteError(f"the backup did not answer, and {unknown}: {outage.message}", hint=outage.hint)
    if refused is not None:
        raise refused  # servers are answered from the backup, as printed


def _look_up(session: Session, ids: list[str]) -> dict[str, Lookup]:
    """Look up what servers get; a conversation for which the backup is needed, and is damaged, is left out."""
    try:
        return session.registry.lookup_many(ids)
    except DamagedEntryError:
        if len(ids) == 1:
            return {}
    half = len(ids) // 2
    return _look_up(session, ids[:half]) | _look_up(session, ids[half:])


def _chosen(conversations: list[str] | None, ids_from: str | None) -> list[str]:
    """Return the ids that were typed, or those of a listing."""
    if (ids_from is None) == (not conversations):
        raise UsageError("give conversation ids, or --ids-from with a list of them", hint="saltctl registry get --help")
    if ids_from is None:
        return conversations or []
    with open_lines(ids_from) as lines:
        try:
            return ids_of_listing(lines.read().decode())
        except ValueError as exc:
            reason = "it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
            raise UsageError(
                f"cannot read ids from {ids_from!r}: {reason}",
                hint="give ids one a line, or tsv, json or jsonl with conversation_id, as listings print them",
            ) from None


def _record(
    conversation_id: str,
    lookup: Lookup | None,
    in_redis: dict[str, Entry | None] | None,
    held: dict[str, BackupEntry] | None,
) -> dict[str, Any]:
    """Return one record of ``registry get``; what a side that did not answer knows is null."""
    entry = held.get(conversation_id) if held else None
    in_redis_entry = None if in_redis is None else in_redis.get(conversation_id, UNREADABLE)
    redis_state = None if in_redis is None else _REDIS_STATES.get(in_redis_entry, "entry")
    backup_state = None if held is None else "entry" if entry else "absent"
    known = redis_state is not None and redis_state != "unreadable" and backup_state is not None
    # A side that has no entry says 1, as a lookup of it does.
    redis_entry = 1 if redis_state == "absent" else in_redis_entry
    backup = entry or BackupEntry(conversation_id, 1, 1)
    return {
        "conversation_id": conversation_id,
        "max_n": lookup.max_n if lookup else None,
        "write_n": lookup.write_n if lookup else None,
        "recent_n": lookup.recent_n if lookup else None,
        "recent_from": lookup.boundary if lookup else None,
        "source": lookup.source if lookup else None,
        "redis_n": max_n_of(redis_entry) if redis_entry else None,
        "backup_n": backup.max_n if backup_state else None,
        "in_sync": redis_entry == backup.entry and not backup.half_done if known else None,
        "salted": lookup.salted if lookup else None,
        "raises": None if held is None else [asdict(item) for item in entry.raises] if entry else [],
        "redis_state": redis_state,
        "backup_state": backup_state,
    }


_REDIS_STATES: dict[Entry | None, str] = {None: "absent", UNREADABLE: "unreadable"}


def _read_redis(
    session: Session, conversation_ids: list[str], failure: SaltctlError | None
) -> dict[str, Entry | None] | None:
    """Return the entries in Redis, verified or not, without those of overwritten buckets; None if they are unknown.

    ``failure`` is the reason why lookups fell back.
    """
    if failure is not None and not isinstance(failure, UnverifiedError | WrongTypeError):
        return None  # it failed a moment ago: it would refuse again, or asking would only wait
    try:
        return session.store.read_unverified(conversation_ids)
    except WrongTypeError:
        if len(conversation_ids) == 1:
            return {}
    except UnavailableError:
        return None
    half = len(conversation_ids) // 2
    halves = [_read_redis(session, ids, None) for ids in (conversation_ids[:half], conversation_ids[half:])]
    return {i: n for found in halves if found is not None for i, n in found.items()}


@group.command("set")
def set_(
    context: typer.Context,
    conversation: Annotated[str | None, typer.Argument(metavar="CONV", help="A conversation id.")] = None,
    n: Annotated[
        int | None,
        typer.Argument(metavar="N", parser=option.parse_whole_number, help="A power of two up to the cap."),
    ] = None,
    file: Annotated[
        str | None,
        option.text("--file", "Lines of CONV, N and a reason: TSV or JSON; - is stdin.", "FILE|-"),
    ] = None,
    reason: option.OptionalReason = None,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Raise a conversation to N salts, by the protocol: backup, Redis, commit.

    N never goes down, so this cannot be undone. Repeating it is harmless, and completes an interrupted raise.

    With --file it raises many, after one confirmation. Nothing is changed if a line is not understood. If some could
    not be raised, the error names them, and the exit code is 4: the same command goes on.

    \b
    Examples:
      saltctl registry set conv_0001 4 --reason "launch day" --dry-run
      saltctl registry set conv_0001 4 --reason "launch day" --yes
      saltctl registry set --file raises.tsv --dry-run
    """
    session = session_of(context)
    if file is not None:
        check_alone(file, conversation)
        session.settings.require_redis_url()
        _set_from_file(session, file, reason or "", output, confirm, dry_run=dry_run, yes=yes)
        return
    if conversation is None or n is None:
        missing = "N is missing" if conversation else "CONV and N are missing"
        raise UsageError(f"cannot run saltctl registry set: {missing}", hint="saltctl registry set --help")
    session.settings.require_redis_url()
    check_conversation_id(conversation)
    options = {"--reason": reason, "--confirm": confirm, "--dry-run": dry_run, "--yes": yes}
    check_salt_count(n, session.settings.max_n_cap, lambda n: _again(conversation, n, options))
    entry = session.backup.get(conversation) or BackupEntry(conversation, 1, 1)
    before = entry.target
    redis_n = _redis_n(session, entry)
    check_not_lower(conversation, n, before, redis_n, options)
    done = n == before and (n == 1 or min(entry.write_n, redis_n) == n)
    result = {"before": before, "after": n, "changed": n != before, "committed": done}
    if dry_run and n == before and not done:
        note(
            f"the backup holds {n}, Redis {redis_n or 'is unknown'}, write_n is {entry.write_n}: this would complete it"
        )
    elif not dry_run and not done:
        question = f"Raise {conversation} from {before} to {n}?" if n > before else f"Complete the raise to {n}?"
        session.require_consent(question, confirm, yes=yes)
        with session.noting_raises():
            raised = session.registry.raise_to(conversation, n, reason=reason or "")
        result = {key: getattr(raised, key) for key in result}
    record = {"conversation_id": conversation, **result, "dry_run": dry_run}
    print_result(record, output, columns=SET_COLUMNS, sentence=raise_sentence(record))


def _again(conversation: str, n: int, options: Mapping[str, object]) -> str:
    """Return the command with another N."""
    return command_line("registry", "set", ids=[conversation, str(n)], given=options)


def _set_from_file(
    session: Session,
    file: str,
    reason: str,
    output: OutputFormat | None,
    confirm: str | None,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    from saltctl.cli.registry.batch import read_wanted, set_many

    with open_lines(file, hint="saltctl registry set --help") as lines:
        wanted = read_wanted(lines, file, session.settings.max_n_cap, reason)
    records, error = set_many(session, wanted, confirm, dry_run=dry_run, yes=yes)
    print_result(records, output, columns=MANY_COLUMNS, empty="the file names no conversation")
    if error is not None:
        raise error


def _redis_n(session: Session, entry: BackupEntry) -> int:
    """Return the N of writers in Redis, verified or not, 1 without an entry; 0 if it cannot be read or is no number."""
    try:
        return writers_n(entry, session.store.read_unverified([entry.conversation_id])[entry.conversation_id])
    except UnavailableError as exc:
        warn(f"the entry in Redis is unknown: {exc.message}")
        return 0


@group.command("list")
def list_(
    context: typer.Context,
    min_n: Annotated[int, option.number("--min-n", "Only entries with at least this max_n.", 1, 10**9)] = 1,
    prefix: Annotated[str | None, option.text("--prefix", "Only ids that begin with this.", "TEXT")] = None,
    limit: Annotated[int | None, option.number("--limit", "The largest number of entries.", 1, 10**9)] = None,
    sort: Annotated[Literal["id", "n"], typer.Option("--sort", help="By id, or by n with the largest first.")] = "id",
    source: option.Source = None,
    timeout: option.Timeout = 0.0,
    output: option.Output = None,
) -> None:
    """List the entries of the registry. Exits 4 if some are damaged: they are left out, and named.

    \b
    Examples:
      saltctl registry list --sort n --limit 5
      saltctl registry list --min-n 8 --source backup -o jsonl
    """
    session = session_of(context)
    key = (lambda e: (-max_n_of(e[1]), e[0])) if sort == "n" else (lambda e: e[0])
    with deadline(timeout):
        entries = read_source(session, source)
        wanted = (e for e in entries if max_n_of(e[1]) >= min_n and e[0].startswith(prefix or ""))
        chosen = sorted(wanted, key=key) if limit is None else heapq.nsmallest(limit, wanted, key=key)
    print_result(
        [{"conversation_id": i, "max_n": max_n_of(entry)} for i, entry in chosen], output, columns=LIST_COLUMNS
    )
    entries.check_complete()


group.command("cool")(cool)
group.command("discover")(discover)
group.command("export")(export)
group.command("import")(import_)
