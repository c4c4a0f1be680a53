"""``saltctl registry cool``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import cooling_sentence, page_cost_sentence
from saltctl.cli.formats.tables import print_beside
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.hints import in_force
from saltctl.cli.output import columns_of, note, print_result, warn
from saltctl.cli.registry.refusals import check_salt_count
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import rerun_hint, rerun_with
from saltctl.commands import command_line, hint_of
from saltctl.errors import IncompleteError, RefusedError, SaltctlError, UnknownTimesError, UsageError
from saltctl.registry.failures import cause_of, is_outage, read_undamaged
from saltctl.salting import check_conversation_id, number_text

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.cooling.cooling import Cooling
    from saltctl.stores.contracts.messages import SortKey
    from saltctl.stores.contracts.registry import BackupEntry

COLUMNS = columns_of("conversation_id phase max_n write_n recent_n recent_from ready_at changed reason problem")
COST_COLUMNS = columns_of("queries_before queries_after rcu_before rcu_after")
_NAMED = 5
"""Conversations that an error names."""
_OLDER_CLIENTS = "releases of saltctl that do not know cooling are refused by this registry (78)"
Record = dict[str, Any]


def cool(
    context: typer.Context,
    conversations: option.Conversations = None,
    to: Annotated[
        int | None,
        option.number(
            "--to", "A power of two; what ten minutes of heat reports need if omitted.", 1, 10**9, metavar="N"
        ),
    ] = None,
    idle: Annotated[
        float, option.duration("--idle", "Cool what needed fewer salts for so long, and seal what was begun.")
    ] = 0.0,
    wait: Annotated[float, option.duration("--wait", "Time between the phases; cool_wait if omitted.")] = 0.0,
    reason: option.OptionalReason = None,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Let new messages use fewer salts, so that newest pages cost less; older ones are read as before.

    It takes two runs. The first one narrows: writers use N salts, readers still ask all of them. After the wait the
    same command seals: from a boundary on, readers ask N salts. Both exit 0. A raise in between ends the cool-down.
    --dry-run reads a newest page of 50 messages as it is, and from the partitions that new messages will use.
    The first cool-down of a registry asks: older releases of saltctl are refused from then on.
    --yes also accepts sort keys that hold no known times. The topic is saltctl help cooling.

    --idle is for cron: each run seals what was begun, by anyone, and narrows what needed fewer salts all the time, by
    the heat reports. It exits 6 if reports of that time may be lost; what was begun is sealed all the same.

    \b
    Examples:
      saltctl registry cool conv_hot_12 --to 1 --dry-run
      saltctl registry cool conv_hot_12 --to 1 --yes
      saltctl registry cool --idle 1h --yes
    """
    from saltctl.cooling.cooling import Cooling

    session = session_of(context)
    settings, ids = session.settings, list(dict.fromkeys(conversations or ()))
    _check_choice(ids, to, idle)
    settings.require_redis_url()
    options = {"--reason": reason, "--dry-run": dry_run, "--yes": yes, "--confirm": confirm}
    _check(ids, to, settings.max_n_cap, options)
    if wait and wait < settings.cool_wait:
        warn(
            f"--wait {wait:g}s is less than cool_wait ({settings.cool_wait:g} s): a server that stalls may write by an "
            "older lookup, and readers look there only if the sort key is an earlier time"
        )
    refused: RefusedError | None = None
    if idle:
        targets, refused = _idle_targets(session, idle)
        ids = list(targets)
    entries, _ = read_undamaged(session.backup, ids)
    if not idle:
        targets = dict.fromkeys(ids, to) if to is not None else _targets(session, ids, entries)
    older = not dry_run and _require_consent(session, targets, entries, confirm, yes=yes)
    more = {"wait": wait} if wait else {}
    cooling = Cooling.over(settings, session.registry, session.history, any_form=yes, **more)
    step = _previewing(cooling) if dry_run else _cooling(cooling, reason or "")
    with session.noting_raises("registry cool"):
        records, error = _cool_all(targets, step)
        if not dry_run and (changed := [r["conversation_id"] for r in records if r["changed"]]):
            session.event_log.note("cooled", f"by {settings.actor}", changed)
    columns = (*COLUMNS, *COST_COLUMNS) if dry_run else COLUMNS
    given = {"--wait": f"{wait:g}s" if wait else None, "--yes": yes, "--confirm": confirm}
    if idle and not records:
        note("no conversation was idle, and none waits to be sealed")
    print_result(records, output, columns=columns, human_view=lambda screen: _print(screen, records, given))
    _warn(records)
    if older and not session.backup.registry.serves_older_clients():
        note(f"from now on {_OLDER_CLIENTS}")
    if error is not None or refused is not None:
        raise error or refused  # type: ignore[misc]  # one of them is there


def _check_choice(ids: Sequence[str], to: int | None, idle: float) -> None:
    """Refuse a command line that names no conversation, or that names some beside --idle."""
    if idle and (ids or to is not None):
        raise UsageError(
            "cannot use --idle with CONV or --to: it finds the conversations, and the N that they need",
            hint="saltctl registry cool --help",
        )
    if not idle and not ids:
        raise UsageError("cannot run saltctl registry cool: CONV is missing", hint="saltctl registry cool --help")


def _idle_targets(session: Session, seconds: float) -> tuple[dict[str, int], RefusedError | None]:
    """Return the conversations that wait to be sealed or were idle, with their N, and why the latter are unknown.

    Raises:
        RefusedError: they are unknown, and none waits to be sealed.
    """
    from saltctl.cooling.idle import IdleSearch

    search = IdleSearch(session.settings, session.store, session.backup, session.heat_stream, session.service_state)
    targets = search.unsealed()
    try:
        return targets | search.idle(seconds), None
    except RefusedError as exc:
        if not targets:
            raise
        return targets, exc


def _check(ids: Sequence[str], to: int | None, cap: int, options: Mapping[str, object]) -> None:
    """Refuse ids and an N that cannot be, before a server is asked."""

    def again(n: int) -> str:
        """Return the command with another N."""
        return command_line("registry", "cool", ids=ids, given={"--to": n, **options})

    for conversation_id in ids:
        check_conversation_id(conversation_id)
    if to is not None:
        check_salt_count(to, cap, again)


def _targets(session: Session, ids: Sequence[str], entries: Mapping[str, BackupEntry]) -> dict[str, int]:
    """Return the N to which each conversation is cooled: that of its cool-down, or what the heat reports need."""
    from saltctl.cooling.recent_heat import needed_salts

    held = {i: entry for i in ids if (entry := entries.get(i)) is not None and entry.recent_n > 1}
    begun = {i: entry.cooling.cool_to for i, entry in held.items() if entry.cooling and entry.cooling.unsealed}
    asked = [i for i in held if i not in begun]
    needed = needed_salts(session.heat_stream, asked, session.settings, time.time()) if asked else {}
    return dict.fromkeys(ids, 1) | begun | needed


def _require_consent(
    session: Session, targets: Mapping[str, int], entries: Mapping[str, BackupEntry], confirm: str | None, *, yes: bool
) -> bool:
    """Return if the change is confirmed: whether clients that do not know cooling were served until now.

    A raise undoes a cool-down; only that these clients are refused cannot be undone.
    """
    from saltctl.cooling.cooling import next_step

    steps = [next_step(entry, targets[i]) for i, entry in entries.items()]
    older = "narrow" in steps and session.backup.registry.serves_older_clients()
    name = printable(repr(next(iter(targets)))) if len(targets) == 1 else counted(len(targets), "conversation")
    question = f"Cool {name}?"
    if older:
        question = f"{question} It is the first cool-down: from then on {_OLDER_CLIENTS}."
    session.require_consent(question, confirm, yes=yes or not older)
    return older


def _cooling(cooling: Cooling, reason: str) -> Callable[[str, int], Record]:
    """Return the function that takes a conversation one phase further, and returns its record."""

    def step(conversation_id: str, to: int) -> Record:
        """Cool a conversation."""
        return asdict(cooling.cool(conversation_id, to, reason=reason)) | {"problem": None, "dry_run": False}

    return step


def _previewing(cooling: Cooling) -> Callable[[str, int], Record]:
    """Return the function that does so in a dry run, and measures what a page costs."""
    from saltctl.cooling.page_cost import page_costs

    def step(conversation_id: str, to: int) -> Record:
        """Preview the cool-down of a conversation."""
        found = cooling.preview(conversation_id, to)
        before, after = page_costs(cooling.history, conversation_id, found.write_n)
        queries = {"queries_before": before.queries, "queries_after": after.queries}
        units = {"rcu_before": before.rcu, "rcu_after": after.rcu}
        return asdict(found) | {"problem": None, "dry_run": True} | queries | units

    return step


def _cool_all(
    targets: Mapping[str, int], step: Callable[[str, int], Record]
) -> tuple[list[Record], IncompleteError | None]:
    """Cool one after the other; an outage ends it, and a conversation that fails alone does not.

    Raises:
        SaltctlError: of the only conversation, or an outage before anything was done.
    """
    from saltctl.cooling.cooling import CoolingResult

    records: list[Record] = []
    failures: list[SaltctlError] = []
    left: list[str] = []
    for conversation_id, to in targets.items():
        problem = "not tried: a server failed before"
        try:
            if not failures or not is_outage(failures[-1]):
                records.append(step(conversation_id, to))
                continue
        except SaltctlError as exc:
            failure = exc
            if isinstance(exc, UnknownTimesError):
                sentence = exc.hint.split("\n")[0]
                failure = exc.with_hint(hint_of(sentence, rerun_with("--yes")))
            if len(targets) == 1 or (not records and is_outage(exc)):
                raise failure from exc
            failures.append(failure)
            problem = exc.message
        left.append(conversation_id)
        unknown = dict.fromkeys(CoolingResult.__slots__)
        records.append(unknown | {"conversation_id": conversation_id, "problem": problem})
    return records, _incomplete(len(targets), left, failures)


def _incomplete(count: int, left: Sequence[str], failures: Sequence[SaltctlError]) -> IncompleteError | None:
    """Return the error that names the conversations that are left; None if there are none."""
    if not failures:
        return None
    more = f" and {len(left) - _NAMED:,} more" if len(left) > _NAMED else ""
    done = f"{count - len(left):,} of {counted(count, 'conversation')} could be cooled"
    cure = getattr(cause_of(failures[-1]), "hint", "")
    message = f"{done}; not cooled: {', '.join(left[:_NAMED])}{more}: {failures[-1].message}"
    return IncompleteError(message, hint=hint_of(cure, rerun_hint()))


def _print(screen: Console, records: Sequence[Record], given: Mapping[str, object]) -> None:
    """Print a sentence for each conversation; then the command that goes on, or what a page costs in a dry run."""
    from rich.text import Text

    for record in records:
        sentence, again = printable(cooling_sentence(record)), ""
        if sentence.endswith(" on:"):
            options = {"--to": record["write_n"], **given}
            command = command_line("registry", "cool", ids=[record["conversation_id"]], given=options)
            again = printable(in_force(command))
        if again and len(sentence) + 1 + len(again) <= screen.width:
            sentence, again = f"{sentence} {again}", ""
        print_beside(screen, Text(), Text(sentence), 0)
        if again:
            screen.print(Text(f"  {again}"), soft_wrap=True)
        if record.get("rcu_after") is not None:
            print_beside(screen, Text("  "), Text(page_cost_sentence(record)), 2)


def _warn(records: Sequence[Record]) -> None:
    """Name the messages that push a boundary far up."""
    for record in records:
        if record["pushed_by"] is not None:
            warn(
                f"{record['conversation_id']!r} has a message in the future, {shown_key(record['pushed_by'])}: the "
                f"boundary lies above it, so until then newest pages ask all {record['max_n']} salts",
                "if it should not be there: delete it, raise the conversation once, and cool it again",
            )


def shown_key(key: SortKey) -> str:
    """Return a sort key as a shell word, so that it is seen where it begins and ends."""
    return shlex.quote(key if isinstance(key, str) else number_text(key))
