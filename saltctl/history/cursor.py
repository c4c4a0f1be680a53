"""Positions in a history, and the cursors that carry them from one page to the next.

Messages are ordered by (sort key, partition), where the base partition comes before salt 0. A cursor is
one position in that order and nothing else that matters: it holds in both directions, and it stays valid
while N grows, since new salts find their place in the same order.

A cursor is text for URLs and command lines: base64url of a JSON list and of eight bytes of its SHA-256.
The digest finds damage and invention; it is no secret, because a cursor grants nothing: whoever reads a
conversation with it has to name the conversation, and cursors of other conversations are refused.
"""

from __future__ import annotations

import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import Any, NamedTuple

from saltctl.errors import InvalidCursorError

BASE = -1
"""The base partition's place among the salts of one sort key: before all of them."""

_VERSION = 2
_DIGEST = 8
_MAX_TEXT = 4096
"""More than any cursor has: a sort key is at most 1,024 bytes (documented)."""


class Position(NamedTuple):
    """A place in the order of a history. ``salt`` is BASE for the base partition."""

    sort_key: Any
    salt: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position, and two guesses that make the next page cheaper; a wrong one costs a round, no message.

    ``spread`` is over how many salts the page before was spread: history that was written under an
    earlier N lies on fewer partitions than there are now. ``pace`` is how far apart its rows were, or 0.0
    (see ``saltctl.history.page_estimate``).
    """

    position: Position
    spread: int
    pace: float = 0.0


def encode(cursor: Cursor, conversation_id: str) -> str:
    """The cursor as text, bound to its conversation."""
    key = cursor.position.sort_key
    kind, text = ("S", key) if isinstance(key, str) else ("N", str(key))
    parts = [_VERSION, _binding(conversation_id), kind, text, cursor.position.salt, cursor.spread, cursor.pace]
    payload = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()
    return urlsafe_b64encode(_digest(payload) + payload).decode().rstrip("=")


def decode(text: str, conversation_id: str, sort_type: str) -> Cursor:
    """The cursor of a text.

    Args:
        text: what :func:`encode` made.
        conversation_id: the conversation that is read.
        sort_type: ``S`` or ``N``, the type of the table's sort key.

    Raises:
        InvalidCursorError: damaged, invented, or of another conversation or table.
    """
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        digest, payload = data[:_DIGEST], data[_DIGEST:]
        if digest != _digest(payload) or urlsafe_b64encode(data).decode().rstrip("=") != text:
            raise ValueError
        version, binding, kind, key, salt, spread, pace = json.loads(payload)
        if version != _VERSION or not isinstance(key, str) or type(salt) is not int or type(spread) is not int:
            raise ValueError
        if type(pace) is not float or not 0 <= pace < math.inf:
            raise ValueError
        key.encode()  # JSON can spell half of a surrogate pair, which no sort key holds
        position = Position(Decimal(key) if kind == "N" else key, salt)
        if kind == "N" and not position.sort_key.is_finite():
            raise ValueError
    except (ValueError, TypeError, InvalidOperation, RecursionError):
        # Errors of base64, UTF-8 and JSON are all ValueErrors, except for lists in lists in lists.
        raise InvalidCursorError(
            "this is no cursor, or it was damaged on its way", hint="copy it whole, or begin again without a cursor"
        ) from None
    if binding != _binding(conversation_id):
        raise InvalidCursorError(
            f"this cursor belongs to another conversation than {conversation_id!r}",
            hint="a cursor continues the conversation that it came from: check the id",
        )
    if kind != sort_type:
        raise InvalidCursorError(
            "this cursor belongs to another table: its sort key is of another type",
            hint="check SALTCTL_MESSAGES_TABLE: saltctl config show",
        )
    return Cursor(position, max(spread, 1), pace)


def _binding(conversation_id: str) -> str:
    return sha256(b"saltctl cursor of\0" + conversation_id.encode()).hexdigest()[:12]


def _digest(payload: bytes) -> bytes:
    return sha256(b"saltctl cursor\0" + payload).digest()[:_DIGEST]
