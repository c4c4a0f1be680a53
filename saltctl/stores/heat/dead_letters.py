"""Dead letters: entries of the heat stream that cannot be handled, each with the reason.

The stream ``{prefix}:dead`` has a bounded length. A dead letter is added before its entry is acknowledged, so a
crash in between adds a second letter for the entry; it never loses the entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.report import MAX_ENTRY_BYTES, MAX_FIELDS
from saltctl.stores.redis.connections import Connections

MAX_LETTERS = 10_000
"""Length limit, so that a flood of invalid entries cannot fill Redis. The oldest letters are deleted first."""
_FIELD_PREFIX = b"f:"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One letter. ``fields`` are the kept fields of the entry; ``whole`` is True if all of them were kept."""

    id: str
    original_id: str
    reason: str
    fields: list[tuple[bytes, bytes]]
    whole: bool


class DeadLetters:
    """Dead letters of one stream. Thread-safe. All methods raise RedisUnavailableError and AccessDeniedError."""

    def __init__(self, settings: Settings) -> None:
        self.key = f"{settings.key_prefix}:dead"
        self._stream = f"{settings.key_prefix}:heat"
        self._connections = Connections(settings, timeout=settings.redis_timeout, retries=0)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _ask_all(self, commands: Sequence[tuple[Any, ...]], key: str | None = None) -> list[Any]:
        return self._connections.ask_of(key or self.key, commands)

    def add(self, letters: Sequence[tuple[Entry, str]]) -> None:
        """Add each entry with the reason. An entry that is too large is kept in part."""
        self._ask_all([self._xadd(entry, reason) for entry, reason in letters])

    def _xadd(self, entry: Entry, reason: str) -> tuple[Any, ...]:
        flat = entry.fields or []
        kept: list[bytes] = []
        room = MAX_ENTRY_BYTES
        for name, value in list(zip(flat[::2], flat[1::2], strict=False))[:MAX_FIELDS]:
            if len(name) + len(value) > room:
                break
            room -= len(name) + len(value)
            kept += (_FIELD_PREFIX + name, value)
        whole = int(len(kept) == len(flat))
        head = ("reason", reason[:500], "original_id", entry.id, "whole", whole)
        return ("XADD", self.key, "MAXLEN", "~", MAX_LETTERS, "*", *head, *kept)

    def length(self) -> int:
        """Return the number of dead letters."""
        return int(self._ask_all([("XLEN", self.key)])[0])

    def list(self, count: int = MAX_LETTERS) -> list[DeadLetter]:
        """Return the newest letters, oldest first."""
        found = self._ask_all([("XREVRANGE", self.key, "+", "-", "COUNT", count)])[0]
        return [_parse(entry_id.decode(), flat) for entry_id, flat in reversed(found)]

    def requeue(self, letter: DeadLetter) -> str:
        """Add the entry to the heat stream again, then delete the letter. Return the new id of the entry.

        A crash in between leaves both. That is harmless, since a report counts once even if it is repeated.
        """
        flat = [part for pair in letter.fields for part in pair]
        new_id = self._ask_all([("XADD", self._stream, "*", *flat)], self._stream)[0]
        self.drop([letter.id])
        return str(new_id.decode())

    def drop(self, ids: Sequence[str]) -> int:
        """Delete letters. Return how many existed."""
        return int(self._ask_all([("XDEL", self.key, *ids)])[0]) if ids else 0


def _parse(letter_id: str, flat: Sequence[bytes]) -> DeadLetter:
    pairs = list(zip(flat[::2], flat[1::2], strict=False))
    head = {
        name: value.decode("utf-8", "backslashreplace") for name, value in pairs if not name.startswith(_FIELD_PREFIX)
    }
    fields = [(name[len(_FIELD_PREFIX) :], value) for name, value in pairs if name.startswith(_FIELD_PREFIX)]
    return DeadLetter(
        letter_id, head.get(b"original_id", ""), head.get(b"reason", ""), fields, head.get(b"whole") == "1"
    )
