"""The ordered merge of a conversation's partitions: what is certain so far, and who holds it up.

Pure: rows go in as partitions answer, and come out in the order of (sort key, partition), each message
once. Two invariants of a complete read are kept here:

- Nothing is certain that an unfinished partition could still precede. A partition that was read up to
  some sort key has only rows beyond it left; so rows up to the sort key that *every* unfinished partition
  was read to are certain.
- Rows that are equal in everything but their partition are one message, which stands where its lowest
  partition puts it. All rows of one sort key are compared, also where a page ends among them, so that a
  message has one position whichever way it is read. A retry across a raise never moves it: N grows by
  doubling, so the retry's salt is not below the first one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from saltctl.attributes import Item, fingerprint
from saltctl.cursor import Position, SortKey


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the messages table and its position. ``copies`` counts its equal rows on other partitions."""

    position: Position
    item: Item
    copies: int = 0


class Merge:
    """The merge of one page.

    Args:
        salts: every partition of the read set, BASE for the base partition.
        descending: newest first.
        after, before: the page lies strictly between these positions; None is no bound.
        partition_attribute: the name of the table's partition key, which equal rows may differ in.
    """

    def __init__(
        self,
        salts: Iterable[int],
        *,
        descending: bool,
        after: Position | None = None,
        before: Position | None = None,
        partition_attribute: str,
    ) -> None:
        self._unfinished: dict[int, Any] = dict.fromkeys(salts)
        self._descending = descending
        self._after = after
        self._before = before
        self._partition_attribute = partition_attribute
        self._rows: list[Row] = []
        self._merged: list[Row] | None = None

    def add(self, salt: int, rows: Iterable[Row], reached: SortKey | None) -> None:
        """Take an answer of a partition: its rows, and the sort key that it was read up to; None: to its end."""
        self._rows.extend(rows)
        self._merged = None
        if reached is None:
            self._unfinished.pop(salt, None)
        else:
            self._unfinished[salt] = reached

    def give_up(self, salt: int) -> None:
        """Expect nothing more from a partition that failed."""
        self._unfinished.pop(salt, None)

    @property
    def finished(self) -> bool:
        """Whether every partition was read to its end."""
        return not self._unfinished

    def rows(self) -> list[Row]:
        """All rows so far, each message once, in the order of the page; the tail may not be certain yet."""
        if self._merged is None:
            ordered = sorted(self._rows, key=lambda row: row.position)
            unique = [row for row in self._unique(ordered) if self._within(row.position)]
            self._merged = unique[::-1] if self._descending else unique
        return self._merged

    def certain(self) -> int:
        """How many of :meth:`rows`, from the first, no partition can precede any more."""
        rows = self.rows()
        if not self._unfinished:
            return len(rows)
        reached = list(self._unfinished.values())
        if None in reached:
            return 0
        edge = max(reached) if self._descending else min(reached)
        return self._up_to(rows, edge)

    def lagging(self, wanted: int) -> dict[int, int]:
        """The partitions that have to be asked again before the first ``wanted`` rows are certain.

        For each of them, how many rows were merged up to where it was read. A partition that was read as
        far as the row that would come last is left alone: what it has left comes later.
        """
        rows = self.rows()
        behind: dict[int, int] = {}
        for salt, reached in self._unfinished.items():
            depth = 0 if reached is None else self._up_to(rows, reached)
            if depth < wanted:
                behind[salt] = depth
        return behind

    def _up_to(self, rows: Sequence[Row], sort_key: SortKey) -> int:
        """How many rows have a sort key that is not beyond this one, in the order of the page."""
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            key = rows[middle].position.sort_key
            if key >= sort_key if self._descending else key <= sort_key:
                low = middle + 1
            else:
                high = middle
        return low

    def _within(self, position: Position) -> bool:
        return (self._after is None or position > self._after) and (self._before is None or position < self._before)

    def _unique(self, ordered: Iterable[Row]) -> Iterator[Row]:
        for _, group in groupby(ordered, key=lambda row: row.position.sort_key):
            first, *more = group
            if not more:
                yield first
                continue
            kept: dict[Any, Row] = {}
            for row in (first, *more):
                same = fingerprint(row.item, without=self._partition_attribute)
                held = kept.get(same)
                kept[same] = row if held is None else Row(held.position, held.item, held.copies + 1)
            yield from kept.values()
