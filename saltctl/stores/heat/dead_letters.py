"""Dead letters: entries of the heat stream that nothing can be done with, each with the reason.

``{prefix}:dead`` is a stream of its own, of bounded length. A letter is kept before its entry is acknowledged,
so a crash in between makes two letters of one entry, and never none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.heat.report import MAX_ENTRY_BYTES, MAX_FIELDS
from saltctl.stores.heat.stream import Entry
from saltctl.stores.redis.connections import Connections

MAX_LETTERS = 10_000
"""The oldest go first: whoever floods the stream with nonsense must not fill Redis."""
_MARK = b"f:"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One letter. ``fields`` is what the entry held, as far as it was kept; ``whole`` says whether that is all."""

    id: str
    original_id: str
    reason: str
    fields: list[tuple[bytes, bytes]]
    whole: bool


class DeadLetters:
    """The dead letters of one stream. Thread-safe. All methods raise RedisUnavailableError and AccessDeniedError."""

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
        """Keep each entry with the reason; what is too large is kept in part."""
        self._ask_all([self._letter(entry, reason) for entry, reason in letters])

    def _letter(self, entry: Entry, reason: str) -> tuple[Any, ...]:
        flat = entry.fields or []
        kept: list[bytes] = []
        room = MAX_ENTRY_BYTES
        for name, value in list(zip(flat[::2], flat[1::2], strict=False))[:MAX_FIELDS]:
            if len(name) + len(value) > room:
                break
            room -= len(name) + len(value)
            kept += (_MARK + name, value)
        whole = int(len(kept) == len(flat))
        head = ("reason", reason[:500], "original_id", entry.id, "whole", whole)
        return ("XADD", self.key, "MAXLEN", "~", MAX_LETTERS, "*", *head, *kept)

    def length(self) -> int:
        """How many there are."""
        return int(self._ask_all([("XLEN", self.key)])[0])

    def list(self, count: int = MAX_LETTERS) -> list[DeadLetter]:
        """The newest letters, the oldest of them first."""
        found = self._ask_all([("XREVRANGE", self.key, "+", "-", "COUNT", count)])[0]
        return [_parsed(entry_id.decode(), flat) for entry_id, flat in reversed(found)]

    def requeue(self, letter: DeadLetter) -> str:
        """Put the entry on the heat stream again and drop the letter; the entry's new id.

        In this order, so that a crash in between makes two of it, and a report counts once however often it
        comes.
        """
        flat = [part for pair in letter.fields for part in pair]
        new_id = self._ask_all([("XADD", self._stream, "*", *flat)], self._stream)[0]
        self.drop([letter.id])
        return str(new_id.decode())

    def drop(self, ids: Sequence[str]) -> int:
        """Delete letters; how many there were."""
        return int(self._ask_all([("XDEL", self.key, *ids)])[0]) if ids else 0


def _parsed(letter_id: str, flat: Sequence[bytes]) -> DeadLetter:
    pairs = list(zip(flat[::2], flat[1::2], strict=False))
    head = {name: value.decode("utf-8", "backslashreplace") for name, value in pairs if not name.startswith(_MARK)}
    fields = [(name[len(_MARK) :], value) for name, value in pairs if name.startswith(_MARK)]
    return DeadLetter(
        letter_id, head.get(b"original_id", ""), head.get(b"reason", ""), fields, head.get(b"whole") == "1"
    )
