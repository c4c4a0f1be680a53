"""Dead letters: entries of the heat stream that cannot be handled, each with the reason.

The stream ``{prefix}:dead`` has a bounded length. A dead letter is added before its entry is acknowledged, so a
crash in between adds a second letter for the entry; it never loses the entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.report import MAX_ENTRY_BYTES, MAX_FIELDS
from saltctl.stores.heat.store import HeatStore
from saltctl.stores.heat.stream import COMMANDS_PER_CALL, MAX_ENTRIES, HeatStream

MAX_LETTERS = 10_000
"""Length limit, so that a flood of invalid entries cannot fill Redis. The oldest letters are deleted first."""
REQUEUED = b"requeued"
"""A field of an entry that was a dead letter: how often it was requeued. Reports have no such field."""
_FIELD_PREFIX = b"f:"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One letter. ``fields`` are the kept fields of the entry; ``whole`` is True if all of them were kept."""

    id: str
    original_id: str
    reason: str
    fields: list[tuple[bytes, bytes]]
    whole: bool


class DeadLetters(HeatStore):
    """Dead letters of one stream. Thread-safe."""

    name = "dead"

    def add(self, letters: Sequence[tuple[Entry, str]]) -> None:
        """Add each entry with the reason. An entry that is too large is kept in part."""
        commands = []
        for entry, reason in letters:
            flat = entry.fields or []
            kept: list[bytes] = []
            room = MAX_ENTRY_BYTES
            for name, value in list(zip(flat[::2], flat[1::2], strict=False))[:MAX_FIELDS]:
                room -= len(name) + len(value)
                if room < 0:
                    break
                kept += (_FIELD_PREFIX + name, value)
            times = times_requeued(list(zip(flat[::2], flat[1::2], strict=False)))
            before = f"requeued {'once' if times == 1 else f'{times} times'}: " if times else ""
            head = ("reason", (before + reason)[:500], "original_id", entry.id, "whole", int(len(kept) == len(flat)))
            commands.append(("XADD", self.key, "MAXLEN", "~", MAX_LETTERS, "*", *head, *kept))
        self._connections.ask_of(self.key, commands)

    def length(self) -> int:
        """Return the number of dead letters."""
        return int(self._ask("XLEN", self.key))

    def list(self, count: int = MAX_LETTERS) -> list[DeadLetter]:
        """Return the newest letters, oldest first."""
        found = self._ask("XREVRANGE", self.key, "+", "-", "COUNT", count)
        return [_parse(entry_id.decode(), flat) for entry_id, flat in reversed(found)]

    def get(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Return the letters with these ids, in their order; those that are not there are left out."""
        letters = []
        for start in range(0, len(ids), COMMANDS_PER_CALL):
            commands = [("XREVRANGE", self.key, i, i) for i in ids[start : start + COMMANDS_PER_CALL]]
            for found in self._connections.ask_of(self.key, commands):
                letters += [_parse(entry_id.decode(), flat) for entry_id, flat in found]
        return letters

    def requeue(self, letter: DeadLetter) -> str:
        """Add the entry to the heat stream again, then delete the letter. Return the new id of the entry.

        The entry carries how often it was requeued, if that fits, so that one that always fails is noticed.
        A crash in between leaves both. That is harmless, since a report counts once even if it is repeated.
        """
        kept = [pair for pair in letter.fields if pair[0] != REQUEUED]
        counted = [*kept, (REQUEUED, b"%d" % (times_requeued(letter.fields) + 1))]
        if len(counted) <= MAX_FIELDS and sum(len(name) + len(value) for name, value in counted) <= MAX_ENTRY_BYTES:
            kept = counted
        flat = [part for pair in kept for part in pair]
        stream = self.key.removesuffix(self.name) + HeatStream.name
        new_id = self._connections.ask_of(stream, [("XADD", stream, "MAXLEN", "~", MAX_ENTRIES, "*", *flat)])[0]
        self.drop([letter.id])
        return str(new_id.decode())

    def drop(self, ids: Sequence[str]) -> int:
        """Delete letters. Return how many existed."""
        return int(self._ask("XDEL", self.key, *ids)) if ids else 0


def times_requeued(fields: Sequence[tuple[bytes, bytes]]) -> int:
    """Return how often an entry was requeued, from its fields."""
    value = dict(fields).get(REQUEUED, b"0")
    return int(value) if value.isdigit() and len(value) < 9 else 0


def _parse(letter_id: str, flat: Sequence[bytes]) -> DeadLetter:
    pairs = list(zip(flat[::2], flat[1::2], strict=False))
    fields = [(name.removeprefix(_FIELD_PREFIX), value) for name, value in pairs if name.startswith(_FIELD_PREFIX)]
    head = dict(pairs)
    original_id, reason = (head.get(n, b"").decode("utf-8", "backslashreplace") for n in (b"original_id", b"reason"))
    return DeadLetter(letter_id, original_id, reason, fields, whole=head.get(b"whole") == b"1")
