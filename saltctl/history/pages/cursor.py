"""Positions in a history, and cursors, which carry a position from one page to the next.

Messages are ordered by (sort key, message id). Rows of one id with different contents are ordered by a fingerprint of
the content. The partitions of a message do not matter, because the retry of a write can add a row to any of them. So a
position holds in both directions, while N grows, and after a retry under any N.

A cursor is a string for URLs and command lines: base64url of eight bytes of a SHA-256 and of a JSON list. The digest
detects damage. It is not a secret, because a cursor grants no access: a reader has to name the conversation, and a
cursor of another conversation is refused.

Its version says how it names its message, so that the servers of a fleet can be upgraded one after the other:

- Version 2, if no other message has its sort key: by a partition that has it. The next page has everything else that
  is at that sort key by then. Earlier releases know this version alone, and also use it if messages share a sort key.
  After such a cursor of an earlier release, messages of its sort key may be returned again, but none is lost.
- Version 3, if messages share the sort key: by its id and fingerprint, too. Earlier releases refuse it.
"""

from __future__ import annotations

import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from saltctl.errors import InvalidCursorError, UsageError
from saltctl.history.attributes import exact_number
from saltctl.salting import number_text

BASE = -1
"""The salt of the base partition, which has none."""

_LENGTHS = {2: 7, 3: 9}
"""The elements of a cursor, by its version."""
_DIGEST = 8
_MAX_TEXT = 10_000
"""Longer than any cursor: a sort key has at most 1,024 bytes (documented). JSON writes control characters as six."""
MAX_ID = 128
"""Characters of a message id in a cursor."""

Tie = tuple[str, str]
"""The order of messages that share a sort key: the message id, of at most MAX_ID characters, and a fingerprint of the
row."""
FIRST: Tie = ("", "")
"""Before every message of a sort key."""


class Position(NamedTuple):
    """A position in the order of a history: that of a message.

    ``salt`` is a partition that has it, BASE for the base partition. ``tie`` is None if no other message has its sort
    key. Messages that get the same sort key later are then beyond the position, in both directions.
    """

    sort_key: Any
    salt: int
    tie: Tie | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position, and two estimates that make the next page cheaper; a wrong one costs a round and no message.

    ``spread`` is the number of salts that the page was spread over: messages that were written under an earlier N are
    on fewer partitions than there are now. ``distance`` is the average distance of its rows, or 0.0
    (see ``saltctl.history.pages.page_estimate``).
    """

    position: Position
    spread: int
    distance: float = 0.0


def encode(cursor: Cursor, conversation_id: str) -> str:
    """Return the cursor as a string, bound to its conversation."""
    key = cursor.position.sort_key
    kind, text = ("S", key) if isinstance(key, str) else ("N", number_text(key))
    tie = cursor.position.tie or ()
    version = 3 if tie else 2
    parts = [version, _binding(conversation_id), kind, text, cursor.position.salt, cursor.spread, cursor.distance, *tie]
    payload = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()
    return urlsafe_b64encode(_digest(payload) + payload).decode().rstrip("=")


def decode(text: str, conversation_id: str, sort_type: str) -> Cursor:
    """Return the cursor of a string. ``sort_type`` is the type of the table's sort key: ``S`` or ``N``.

    Raises:
        InvalidCursorError: the cursor is damaged, invented, of an unknown version, or belongs to another conversation
            or table.
    """
    try:
        parts = _parts(text)
        if (length := _LENGTHS.get(parts[0])) is None:
            raise InvalidCursorError(
                "the cursor comes from another release of saltctl, and has a version that this one does not know",
                hint="start again without a cursor, or upgrade this saltctl, too",
            )
        binding, kind, key, salt, spread, distance, *tie = parts[1:]
        types = [type(part) for part in (key, salt, spread, distance, *tie)]
        expected = [str, int, int, float, str, str][: length - 3]
        if types != expected or not 0 <= distance < math.inf:
            raise ValueError
        "".join([key, *tie]).encode()  # JSON can express half of a surrogate pair, which no row contains
        position = Position(exact_number(key) if kind == "N" else key, salt, (tie[0], tie[1]) if tie else None)
    except (ValueError, TypeError, RecursionError, UsageError):
        # Errors of base64, UTF-8 and JSON are ValueErrors; deeply nested lists are a RecursionError. A number
        # that no table can hold is a UsageError.
        raise _damaged() from None
    if binding != _binding(conversation_id):
        raise InvalidCursorError(
            f"the cursor does not belong to the conversation {conversation_id!r}",
            hint="a cursor continues the conversation that it came from: check the id",
        )
    if kind != sort_type:
        raise InvalidCursorError(
            "the cursor belongs to another table: its sort key has another type",
            hint="check SALTCTL_MESSAGES_TABLE\nsaltctl config show",
        )
    return Cursor(position, max(spread, 1), distance)


def check_cursor(text: str) -> None:
    """Raise InvalidCursorError if the string is no cursor of any conversation and table."""
    try:
        _parts(text)
    except (ValueError, RecursionError):
        raise _damaged() from None


def _damaged() -> InvalidCursorError:
    return InvalidCursorError(
        "the cursor is damaged, or is not a cursor", hint="copy all of it, or start again without a cursor"
    )


def _parts(text: str) -> list[Any]:
    """Return the JSON list of a cursor, whose first element is a number; raise ValueError if it is damaged."""
    if len(text) > _MAX_TEXT:
        raise ValueError
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    if digest != _digest(payload) or urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise ValueError
    parts = json.loads(payload)
    if not isinstance(parts, list) or not parts or type(parts[0]) is not int:
        raise ValueError
    return parts


def _binding(conversation_id: str) -> str:
    return sha256(b"saltctl cursor of\0" + conversation_id.encode()).hexdigest()[:12]


def _digest(payload: bytes) -> bytes:
    return sha256(b"saltctl cursor\0" + payload).digest()[:_DIGEST]
