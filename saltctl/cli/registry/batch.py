"""``saltctl registry set --file``: many conversations, each with its N and its reason, confirmed once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from saltctl.cli.formats.delimited import tsv_value
from saltctl.cli.formats.text import counted
from saltctl.cli.output import note, warn
from saltctl.cli.session import Session
from saltctl.cli.signals import rerun_hint
from saltctl.commands import command_line, hint_of
from saltctl.errors import (
    IncompleteError,
    InvalidSaltCountError,
    RaiseIncompleteError,
    RefusedError,
    SaltctlError,
    UnavailableError,
    UsageError,
)
from saltctl.salting import check_conversation_id, check_salt_count

if TYPE_CHECKING:
    from saltctl.stores.contracts.entries import Entry
    from saltctl.stores.contracts.registry import BackupEntry

MAX_LINES = 10_000
"""Lines of a file. ``registry import`` takes more, since it needs no memory for them."""
_MAX_LINE_BYTES = 1 << 14
_NAMED = 5
"""Lines and conversations that an error names."""
_HEADER = ("conversation_id", "n", "reason")
_FORMS = "write CONV, N and a reason with tabs between them, or as JSON with conversation_id, n and reason"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A line of the file: the conversation, its N and the reason."""

    line: int
    conversation_id: str
    n: int
    reason: str


def read_wanted(lines: BinaryIO, file: str, cap: int, reason: str) -> list[Wanted]:
    """Read the whole file. A line that begins with ``{`` is JSON, others are TSV. A header and empty lines are skipped.

    ``reason`` is that of lines without one.

    Raises:
        UsageError: a line is not understood, or names a conversation again. All lines are checked before.
        RefusedError: the only problem of the lines are ids and numbers that cannot be.
    """
    from saltctl.registry.registry import MAX_REASON

    found: dict[str, Wanted] = {}
    problems: list[tuple[int, Exception]] = []
    for number, text in _texts(lines, file):
        try:
            conversation_id, n, why = _parse(text)
            wanted = Wanted(number, check_conversation_id(conversation_id), check_salt_count(n, cap), why or reason)
            first = found.setdefault(conversation_id, wanted)
            if len(why) > MAX_REASON:
                raise ValueError(f"the reason has {len(why):,} characters; at most {MAX_REASON} are kept")
            if first is not wanted:
                raise ValueError(f"{conversation_id!r} is on line {first.line} already")
        except (ValueError, RefusedError) as exc:
            problems.append((number, exc))
    if problems:
        kind = RefusedError if all(isinstance(exc, RefusedError) for _, exc in problems) else UsageError
        told = [f"line {number}: {getattr(exc, 'message', exc)}" for number, exc in problems]
        raise kind(
            f"cannot use {file!r}: {_some(told, '; ')}", hint=hint_of("correct it, then check it again", _again(file))
        )
    return list(found.values())


def _again(file: str) -> str:
    """Return the command that checks the file once it is corrected, and changes nothing."""
    return command_line("registry", "set", "--file", file, "--dry-run")


def _texts(lines: BinaryIO, file: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines below the header, with their numbers; raises UsageError for another kind of file."""
    number, empty = 0, True
    while line := lines.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if number > MAX_LINES or len(line) > _MAX_LINE_BYTES:
            what = f"it has more than {MAX_LINES:,} lines" if number > MAX_LINES else f"line {number:,} is too long"
            raise UsageError(f"cannot use {file!r}: {what}", hint="saltctl registry import --help")
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        text = text.removesuffix(b"\n").removesuffix(b"\r")
        if empty and b"conversation_id" in text and b"max_n" in text:
            raise UsageError(
                f"cannot use {file!r}: it is a listing with max_n, which an import takes",
                hint=command_line("registry", "import", file, "--dry-run"),
            )
        empty = empty and not text.strip()
        if text.strip() and not (number == 1 and tuple(text.decode(errors="replace").split("\t")) == _HEADER):
            yield number, text
    if empty:
        raise UsageError(f"cannot use {file!r}: it is empty", hint=f"{_FORMS}, a conversation a line")


def _parse(line: bytes) -> tuple[str, int, str]:
    """Return the conversation, N and reason of a line; raises ValueError if it is not understood exactly."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if text.startswith("{"):
        return _parse_json(text)
    fields = [tsv_value(field) for field in text.split("\t")]  # as the listings write them
    if not 2 <= len(fields) <= 3:
        raise ValueError(f"it has {counted(len(fields), 'field')}: {_FORMS}")
    if re.fullmatch("[0-9]{1,9}", fields[1]) is None:
        raise ValueError(f"{fields[1]!r:.60} is not a whole number")
    return fields[0], int(fields[1]), fields[2] if len(fields) == 3 else ""


def _parse_json(text: str) -> tuple[str, int, str]:
    try:
        record = json.loads(text, object_pairs_hook=_unique, parse_int=_number)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"it is not JSON: {_FORMS}") from None
    conversation_id, n, reason = (record.pop(key, None) for key in _HEADER)
    if record:
        raise ValueError(f"it has an unknown key {next(iter(record))!r:.60}: {_FORMS}")
    if not isinstance(conversation_id, str):
        raise ValueError("conversation_id is not a string")
    if type(n) is not int:
        raise ValueError("n is not a whole number")
    if not isinstance(reason, str | None):
        raise ValueError("reason is not a string")
    return conversation_id, n, reason or ""


def _number(text: str) -> int:
    if len(text) > 9:
        raise ValueError("n is too large")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(record := dict(pairs)) < len(pairs):
        raise ValueError("it has a key twice")
    return record


def set_many(
    session: Session, wanted: Sequence[Wanted], confirm: str | None, *, dry_run: bool, yes: bool
) -> tuple[list[dict[str, Any]], IncompleteError | None]:
    """Raise the conversations, after one confirmation; return a record for each, and the error if some are left.

    Raises:
        InvalidSaltCountError: a conversation has more salts than its line wants. Nothing was changed.
        SaltctlError: no server answers, and nothing was changed.
    """
    states = _read_states(session, wanted)
    _check_none_lower(wanted, states)
    todo = [item for item in wanted if not _is_done(item, states[item.conversation_id])]
    records = {item.conversation_id: _record(item, states[item.conversation_id], dry_run) for item in wanted}
    if dry_run or not todo:
        note(f"{counted(len(todo), 'conversation')} to raise, {len(wanted) - len(todo):,} with this N already")
        return list(records.values()), None
    session.require_consent(f"Raise {counted(len(todo), 'conversation')}?", confirm, yes=yes)
    with session.noting_raises():
        error = _raise_all(session, todo, records)
    return list(records.values()), error


@dataclass(frozen=True, slots=True)
class _State:
    entry: BackupEntry
    redis_n: int


def _read_states(session: Session, wanted: Sequence[Wanted]) -> dict[str, _State]:
    """Return what the backup and Redis hold; an N in Redis of 0 is unknown."""
    from saltctl.registry.drift import writers_n
    from saltctl.stores.contracts.registry import BackupEntry

    ids = [item.conversation_id for item in wanted]
    entries = session.backup.get_many(ids)
    in_redis: dict[str, Entry | None] = {}
    try:
        for start in range(0, len(ids), 1000):
            in_redis |= session.store.read_unverified(ids[start : start + 1000])
    except UnavailableError as exc:
        warn(f"the entries in Redis are unknown: {exc.message}")
        in_redis = dict.fromkeys(ids, 0)
    held = {i: entries.get(i) or BackupEntry(i, 1, 1) for i in ids}
    return {i: _State(entry, writers_n(entry, in_redis[i])) for i, entry in held.items()}


def _check_none_lower(wanted: Sequence[Wanted], states: dict[str, _State]) -> None:
    def most(item: Wanted) -> int:
        """Return the N of either side."""
        return max(states[item.conversation_id].entry.target, states[item.conversation_id].redis_n)

    if lower := [item for item in wanted if item.n < most(item)]:
        told = [f"line {item.line}: {item.conversation_id!r} has {most(item)} salts already" for item in lower]
        cooled = command_line("registry", "cool", ids=[lower[0].conversation_id], given={"--to": lower[0].n})
        raise InvalidSaltCountError(
            f"cannot lower N, as readers would miss the messages on the upper salts: {_some(told, '; ')}",
            hint=hint_of(
                "delete these lines, or write the N that these conversations have, or more. "
                "Cooling lets new messages use fewer salts",
                cooled,
            ),
        )


def _is_done(item: Wanted, state: _State) -> bool:
    entry = state.entry
    return item.n == entry.target and (item.n == 1 or min(entry.write_n, state.redis_n) == item.n)


def _record(item: Wanted, state: _State, dry_run: bool) -> dict[str, Any]:
    """Return what is so before a raise; in a dry run, what would be after it."""
    before = state.entry.target
    return {
        "conversation_id": item.conversation_id,
        "before": before,
        "after": item.n if dry_run else before,
        "changed": dry_run and item.n != before,
        "committed": _is_done(item, state),
        "dry_run": dry_run,
        "problem": None,
    }


def _raise_all(session: Session, todo: Sequence[Wanted], records: dict[str, dict[str, Any]]) -> IncompleteError | None:
    """Raise one after the other; an outage ends it, and a conversation that fails alone does not."""
    from saltctl.registry.failures import cause_of, is_outage

    left: list[Wanted] = []
    failure: SaltctlError | None = None
    for at, item in enumerate(todo):
        record = records[item.conversation_id]
        try:
            raised = session.registry.raise_to(item.conversation_id, item.n, reason=item.reason)
            record |= {key: getattr(raised, key) for key in ("before", "after", "changed", "committed")}
        except SaltctlError as exc:
            if at == 0 and is_outage(exc) and not isinstance(exc, RaiseIncompleteError):
                raise  # nothing was done
            failure, record["problem"] = exc, exc.message
            if isinstance(exc, RaiseIncompleteError):  # the backup holds it
                record |= {"after": item.n, "changed": item.n != record["before"]}
            left.append(item)
            if is_outage(exc):
                left += todo[at + 1 :]
                break
    if failure is None:
        return None
    cure = getattr(cause_of(failure), "hint", "")
    names = _some([item.conversation_id for item in left], ", ")
    done = f"raised {len(todo) - len(left):,} of {counted(len(todo), 'conversation')}"
    return IncompleteError(f"{done}; not raised: {names}: {failure.message}", hint=hint_of(cure, rerun_hint()))


def _some(texts: Sequence[str], separator: str) -> str:
    """Join the first texts, and count the others."""
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return separator.join(texts[:_NAMED]) + more
