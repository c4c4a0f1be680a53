"""``saltctl stream dead list|requeue|drop``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.output import columns_of, note, print_result
from saltctl.cli.session import session_of
from saltctl.cli.text import counted
from saltctl.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from saltctl.stores.heat.dead_letters import DeadLetter

group = typer.Typer(help="Inspect, requeue and drop dead letters.", no_args_is_help=True)
COLUMNS = columns_of(
    "id original_id reason fields", fields=lambda record: " ".join(f"{n}={v}" for n, v in record["fields"].items())
)
ACTION_COLUMNS = columns_of("id new_id action")
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids of dead letters.")]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@group.command("list")
def list_letters(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many of the newest to list.")] = 100,
    output: option.Output = None,
) -> None:
    """List dead letters: the fields of the entry, and the reason why it could not be handled.

    \b
    Examples:
      saltctl stream dead list
    """
    records = [_record(letter) for letter in session_of(context).dead_letters.list(limit)]
    print_result(records, output, columns=COLUMNS, empty="no dead letters")


@group.command("requeue")
def requeue(
    context: typer.Context,
    ids: IdsArgument = None,
    all_: AllOption = False,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Put dead letters back on the stream, after the cause was fixed.

    \b
    Examples:
      saltctl stream dead requeue --all --dry-run
      saltctl stream dead requeue --all
    """
    session = session_of(context)
    store = session.dead_letters
    letters = _select(store.list(), ids, all_)
    cut = [letter.id for letter in letters if not letter.whole or not letter.fields]
    if ids and cut:
        hint = f"saltctl stream dead drop {cut[0]}"
        raise RefusedError(f"cannot requeue letter {cut[0]}: it was too large to be kept whole", hint=hint)
    letters = [letter for letter in letters if letter.id not in cut]
    if not dry_run:
        session.require_consent("Requeue dead letters?", confirm)
    action = "requeue" if dry_run else "requeued"
    records = [{"id": x.id, "new_id": None if dry_run else store.requeue(x), "action": action} for x in letters]
    print_result(records, output, columns=ACTION_COLUMNS, empty="no dead letters")
    if cut:
        note(f"not requeued, too large to be kept whole: {len(cut)}. To delete: saltctl stream dead drop")


@group.command("drop")
def drop(
    context: typer.Context,
    ids: IdsArgument = None,
    all_: AllOption = False,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Delete dead letters for good.

    \b
    Examples:
      saltctl stream dead drop --all --dry-run
      saltctl stream dead drop --all --yes
    """
    session = session_of(context)
    store = session.dead_letters
    letters = _select(store.list(), ids, all_)
    if not dry_run and letters:
        question = f"Delete {counted(len(letters), 'dead letter')}?"
        session.require_consent(question, confirm, yes=yes)
        store.drop([letter.id for letter in letters])
    action = "drop" if dry_run else "dropped"
    records = [{"id": letter.id, "new_id": None, "action": action} for letter in letters]
    print_result(records, output, columns=ACTION_COLUMNS, empty="no dead letters")


def _record(letter: DeadLetter) -> dict[str, Any]:
    fields = {n.decode("utf-8", "backslashreplace"): v.decode("utf-8", "backslashreplace") for n, v in letter.fields}
    return {"id": letter.id, "original_id": letter.original_id, "reason": letter.reason, "fields": fields}


def _select(letters: list[DeadLetter], ids: list[str] | None, all_: bool) -> list[DeadLetter]:
    if bool(ids) == all_:
        raise UsageError("pass ids of dead letters, or --all", hint="saltctl stream dead list")
    by_id = {letter.id: letter for letter in letters}
    for letter_id in ids or ():
        if letter_id not in by_id:
            raise UsageError(f"there is no dead letter {letter_id!r}", hint="saltctl stream dead list")
    return [by_id[letter_id] for letter_id in ids or by_id]
