"""Positions in a history, and cursors, which carry a position from one page to the next.

Messages are ordered by (sort key, partition), with the base partition before salt 0. A cursor is one position in that
order. It holds in both directions and stays valid while N grows, because new salts have their place in the same order.

A cursor is a string for URLs and command lines: base64url of eight bytes of a SHA-256 and of a JSON list. The digest
detects damage. It is not a secret, because a cursor grants no access: a reader has to name the conversation, and a
cursor of another conversation is refused.
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
"""The salt of the base partition in this order: before all others of one sort key."""

_VERSION = 2
_DIGEST = 8
_MAX_TEXT = 4096
"""Longer than any cursor: a sort key has at most 1,024 bytes (documented)."""


class Position(NamedTuple):
    """A position in the order of a history. ``salt`` is BASE for the base partition."""

    sort_key: Any
    salt: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position, and two estimates that make the next page cheaper; a wrong one costs a round and no message.

    ``spread`` is the number of salts that the page was spread over: messages that were written under an earlier N are
    on fewer partitions than there are now. ``distance`` is the average distance of its rows, or 0.0
    (see ``saltctl.history.page_estimate``).
    """

    position: Position
    spread: int
    distance: float = 0.0


def encode(cursor: Cursor, conversation_id: str) -> str:
    """Return the cursor as a string, bound to its conversation."""
    key = cursor.position.sort_key
    kind, text = ("S", key) if isinstance(key, str) else ("N", number_text(key))
    parts = [_VERSION, _binding(conversation_id), kind, text, cursor.position.salt, cursor.spread, cursor.distance]
    payload = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()
    return urlsafe_b64encode(_digest(payload) + payload).decode().rstrip("=")


def decode(text: str, conversation_id: str, sort_type: str) -> Cursor:
    """Return the cursor of a string. ``sort_type`` is the type of the table's sort key: ``S`` or ``N``.

    Raises:
        InvalidCursorError: the cursor is damaged, invented, or belongs to another conversation or table.
    """
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        digest, payload = data[:_DIGEST], data[_DIGEST:]
        if digest != _digest(payload) or urlsafe_b64encode(data).decode().rstrip("=") != text:
            raise ValueError
        version, binding, kind, key, salt, spread, distance = json.loads(payload)
        types = [type(part) for part in (key, salt, spread, distance)]
        if version != _VERSION or types != [str, int, int, float] or not 0 <= distance < math.inf:
            raise ValueError
        key.encode()  # JSON can express half of a surrogate pair, which no sort key contains
        position = Position(exact_number(key) if kind == "N" else key, salt)
    except (ValueError, TypeError, RecursionError, UsageError):
        # Errors of base64, UTF-8 and JSON are ValueErrors; deeply nested lists are a RecursionError. A number
        # that no table can hold is a UsageError.
        raise InvalidCursorError(
            "the cursor is damaged, or is not a cursor", hint="copy all of it, or start again without a cursor"
        ) from None
    if binding != _binding(conversation_id):
        raise InvalidCursorError(
            f"the cursor does not belong to the conversation {conversation_id!r}",
            hint="a cursor continues the conversation that it came from: check the id",
        )
    if kind != sort_type:
        raise InvalidCursorError(
            "the cursor belongs to another table: its sort key has another type",
            hint="check SALTCTL_MESSAGES_TABLE: saltctl config show",
        )
    return Cursor(position, max(spread, 1), distance)


def _binding(conversation_id: str) -> str:
    return sha256(b"saltctl cursor of\0" + conversation_id.encode()).hexdigest()[:12]


def _digest(payload: bytes) -> bytes:
    return sha256(b"saltctl cursor\0" + payload).digest()[:_DIGEST]
