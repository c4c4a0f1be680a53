"""An entry of the registry: how many salts a conversation has, also after it was cooled, and how two entries merge.

A conversation that was never cooled has a plain number, in Redis and here. Cooling adds a boundary, a sort key: readers
cover ``max_n`` salts below it, and ``recent_n`` from it on (saltctl/help/protocol.txt). In Redis such an entry is a
string, ``max_n write_n epoch era recent_n boundary``, in which ``S`` or ``N`` before the boundary is its type. A client
that knows only plain numbers takes it for damaged, and is refused by the backup, whose format number it does not know.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from saltctl.salting import number_text
from saltctl.stores.contracts.messages import SortKey

_TEXT = re.compile(r"(\d{1,10}) (\d{1,10}) (\d{1,10}) (\d{1,10}) (\d{1,10}) ([SN]?)(.*)", re.ASCII | re.DOTALL)


class CooledEntry(NamedTuple):
    """The entry of a conversation that was cooled, or is being cooled.

    ``epoch`` counts cool-downs, from 1. ``write_n`` is the N of the newest raise or cool-down: writers who look in
    Redis spread over as many salts. ``era`` is the epoch whose boundary readers use, 0 before the first boundary.
    ``recent_n`` and ``boundary`` belong to the era. Readers cover ``max_n`` everywhere if there is no boundary; an era
    without one takes the boundary of the era before back.
    """

    max_n: int
    write_n: int
    epoch: int
    era: int = 0
    recent_n: int = 0
    boundary: SortKey | None = None

    def __str__(self) -> str:
        """Return the string that stands for the entry in Redis."""
        boundary, shown = self.boundary, ""
        if boundary is not None:
            shown = f"S{boundary}" if isinstance(boundary, str) else f"N{number_text(boundary)}"
        return f"{self.max_n} {self.write_n} {self.epoch} {self.era} {self.recent_n} {shown}"

    @property
    def plausible(self) -> bool:
        """Whether saltctl can have written these numbers."""
        return (
            1 <= self.write_n <= self.max_n
            and 0 <= self.era <= self.epoch
            and self.epoch >= 1
            and (self.era > 0) == (self.recent_n > 0)
            and self.recent_n <= self.max_n
            and (self.boundary is None or self.era > 0)
        )


Entry = int | CooledEntry
"""What the registry holds of a conversation: its N, or more if it was cooled."""


def parse_entry(text: str) -> Entry | None:
    """Return the entry that ``str`` of it has returned; None if saltctl did not write it."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,9}", text) else parse_cooled(text)


def parse_cooled(text: str) -> CooledEntry | None:
    """Return the entry that a string in Redis stands for; None if saltctl did not write it."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    boundary = parse_boundary(match[6], match[7])
    if bool(match[6]) != (boundary is not None) or (match[7] and not match[6]):
        return None
    max_n, write_n, epoch, era, recent_n = map(int, match.groups()[:5])
    entry = CooledEntry(max_n, write_n, epoch, era, recent_n, boundary)
    return entry if entry.plausible and str(entry) == text else None


def parse_boundary(kind: str, text: str) -> SortKey | None:
    """Return the sort key of this DynamoDB type, ``S`` or ``N``; None if the text cannot be one."""
    if not text or kind not in ("S", "N"):
        return None
    if kind == "S":
        return text
    try:
        number = Decimal(text)
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


def max_n_of(entry: Entry) -> int:
    """Return how many salts may hold messages."""
    return entry if isinstance(entry, int) else entry.max_n


def write_n_of(entry: Entry) -> int:
    """Return over how many salts writers who look in Redis spread new messages."""
    return entry if isinstance(entry, int) else entry.write_n


def epoch_of(entry: Entry) -> int:
    """Return how often the conversation was cooled."""
    return 0 if isinstance(entry, int) else entry.epoch


def recent_n_of(entry: Entry) -> int:
    """Return how many salts the newest messages are read from: all of them without a boundary."""
    return max_n_of(entry) if isinstance(entry, int) or entry.boundary is None else entry.recent_n


def merge(first: Entry, second: Entry) -> Entry:
    """Return the entry that holds what both know; in any order and repeated, the result is the same.

    The larger ``max_n``; ``write_n`` of the newer epoch, the larger one within an epoch; ``recent_n`` and the boundary
    of the newer era, the larger ``recent_n`` within an era. An era has one boundary, so two that differ are not used.
    """
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second)
    a, b = as_cooled(first), as_cooled(second)
    epoch, write_n = max((a.epoch, a.write_n), (b.epoch, b.write_n))
    newer, older = (a, b) if (a.era, a.recent_n) >= (b.era, b.recent_n) else (b, a)
    boundary = newer.boundary if newer.era != older.era or newer.boundary == older.boundary else None
    return CooledEntry(max(a.max_n, b.max_n), write_n, epoch, newer.era, newer.recent_n, boundary)


def without_boundary(entry: CooledEntry) -> CooledEntry:
    """Return the entry that takes every boundary back, whatever others hold of them: a newer era that has none."""
    epoch = entry.epoch + 1
    return CooledEntry(entry.max_n, entry.write_n, epoch, epoch, entry.max_n)


def lacks(held: Entry | None, entry: Entry) -> bool:
    """Return whether Redis, which holds an entry, or nothing readable (None or 0), would be changed by a merge."""
    return merge(held or 0, entry) != (held or 0)


def as_cooled(entry: Entry) -> CooledEntry:
    """Return a plain number as the entry of epoch 0."""
    return CooledEntry(entry, entry, 0) if isinstance(entry, int) else entry
