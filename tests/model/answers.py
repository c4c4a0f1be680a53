"""The answers of the backup to calls, and all answers that a call can get."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, cast

from saltctl.stores.redis.scripts import script_sha
from tests.model.replay import NOT_CLAIMED, OTHER_TABLE, REGISTRY_ID, RESUMED, TABLE, Call, checkpoint_text
from tests.model.servers import (
    CHECK_RESULTS,
    CONDITION_FAILED,
    NO_SCRIPT,
    OTHER_IDENTITY,
    READ_ONLY,
    READ_ONLY_SCRIPT,
    TOKEN_GONE,
    UNREACHABLE,
    UNUSED_IDENTITY,
    UNVERIFIED,
    Reply,
    hexadecimal,
    holds,
    holds_for,
    script_of,
    update_item,
)

if TYPE_CHECKING:
    from tests.model.world import Case, Shared

FIRST = "first"
"""Stands for the token in the note of a primary that is verified at first."""
REPLACED = "replaced"
"""Stands for all tokens that are in the note no more."""


def serve_backup(shared: Shared, call: Call, *, keep_older: bool) -> Iterator[tuple[Shared, Reply]]:
    """Yield every possible answer to a call to DynamoDB, and the shared state after it."""
    match call:
        case Call("checkpoint", ("load",)):
            yield shared, shared.checkpoint
        case Call("checkpoint", ("save", text)):
            yield shared._replace(checkpoint=text.encode()), 1
        case Call("checkpoint"):
            yield shared._replace(checkpoint=None), 1
        case Call(words=("scan",)):
            yield shared, shared.item
        case Call(words=("describe",)):
            yield shared, shared.table
        case Call(words=("get",) | ("note", _, _)) if not shared.claimed:
            yield shared, NOT_CLAIMED
        case Call(words=("get",)):
            yield shared, shared.item
        case Call(words=("note", part, consistency)):
            for note in {shared.note, shared.older_note} if consistency == "eventually" else {shared.note}:
                yield shared, note and note.split()[part == "ids"]
        case Call(words=("note", condition), values=values):
            yield _write_note(shared, condition, dict(values), keep_older=keep_older)
        case Call(words=("update", condition, update), values=values):
            item, reply = update_item(shared.item, condition, update, cast("dict[str, int]", dict(values)))
            yield shared._replace(item=item), reply


def note_text(token: str, replication_id: bytes) -> bytes:
    """Return a note in the form that the model keeps."""
    return token.encode() + b" " + replication_id


def token_in(note: bytes | None) -> str:
    """Return the token in a note; empty if there is no note."""
    return "" if note is None else note.decode().split()[0]


def without_token(reply: Reply, token: str) -> Reply:
    """Return an answer after the token in it was replaced in the note."""
    return REPLACED.encode() if reply == token.encode() else reply


def _write_note(
    shared: Shared, condition: str, values: Mapping[str, int | str], *, keep_older: bool
) -> tuple[Shared, Reply]:
    """Apply the conditional UpdateItem of a note."""
    held: dict[str, int | str] = {"registry_id": REGISTRY_ID} if shared.claimed else {}
    if shared.note is not None:
        held["rebuild_token"] = token_in(shared.note)
    if not holds(condition, held, values):
        return shared, CONDITION_FAILED
    note = note_text(str(values[":token"]), str(values[":ids"]).encode())
    return shared._replace(note=note, older_note=shared.note if keep_older else note), ()


def possible_replies(call: Call, case: Case) -> Collection[Reply]:
    """Return every answer that this call can get in a case, and possibly some more."""
    if call.over in ("dynamodb", "checkpoint"):
        return list(_possible_in_backup(call, case))
    # One replication id for each server, and one for all that are gone.
    ids = [hexadecimal(i) for i in (*range(case.servers), UNUSED_IDENTITY)]
    refused = [READ_ONLY, UNREACHABLE] if case.read_only_replicas else [READ_ONLY, READ_ONLY_SCRIPT, UNREACHABLE]
    entries = [None, *(b"%d" % n for n in case.raises)]
    if call.over == "member":
        return [*(ids if call.words[1] == "INFO" else [1]), UNREACHABLE]
    match script_of(call.words), call.words[0]:
        case _, "ask":
            return [1]
        case "lookup", "SCRIPT":
            return [script_sha("lookup").encode(), UNREACHABLE]
        case "lookup", _:
            return [*((entry,) for entry in entries), NO_SCRIPT, UNVERIFIED, *refused]
        case "raise", _:
            states = (b"noted", b"unverified", b"deposed") if case.code.notes else (b"noted",)
            named = [b"", *ids] if case.code.clustered else [b""]
            marked = [b"", *(i[:16] for i in ids)] if case.code.clustered else [b""]
            return [*((0, state, fence, mark) for state in states for fence in named for mark in marked), *refused]
        case "mark_buckets", _:
            return [*ids, *refused]
        case "check_marks", _:
            return [*CHECK_RESULTS, *refused]
        case "set_fence", _:
            return [1, TOKEN_GONE, OTHER_IDENTITY, *refused]
        case _, "HGET":
            return [*entries, UNREACHABLE]
        case _, "HMGET":
            return [*((entry,) for entry in entries), UNREACHABLE]
    return [0, 1, *refused]


def _possible_in_backup(call: Call, case: Case) -> Iterator[Reply]:
    numbers = [(), *((n,) for n in sorted(set(case.raises)))]
    items: list[Reply] = [
        (*(("max_n", n) for n in max_n), *(("write_n", n) for n in write_n))
        for max_n in numbers
        for write_n in numbers
        if max_n or not write_n
    ]
    ids = [hexadecimal(i) for i in (*range(case.servers), UNUSED_IDENTITY)]
    no_note = [*([] if case.verified else [None]), *([NOT_CLAIMED] if case.code.replaced else [])]
    match call:
        case Call("checkpoint", ("load",)):
            yield None
            yield from (
                checkpoint_text(RESUMED, i.decode(), n).encode() for i in ids for n in ("", *map(str, case.raises))
            )
        case Call("checkpoint"):
            yield 1
        case Call(words=("note", "token", _)):
            tokens = [RESUMED, *([FIRST] if case.verified else []), *(["S", REPLACED] if case.rebuilds > 1 else [])]
            yield from (*no_note, *(token.encode() for token in tokens))
        case Call(words=("note", "ids", _)):
            yield from (*no_note, *ids)
        case Call(words=("note", _)):
            yield from ((), CONDITION_FAILED)
        case Call(words=("describe",)):
            yield from (TABLE, OTHER_TABLE)
        case Call(words=("scan",)):
            yield from items
        case Call(words=("get",)):
            yield from (*items, *([NOT_CLAIMED] if case.code.replaced else []))
        case Call(words=(_, condition, _), values=values):
            yield from (*(item for item in items if holds_for(item, condition, dict(values))), CONDITION_FAILED)
