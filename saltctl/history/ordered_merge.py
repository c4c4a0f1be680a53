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

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from saltctl.history.attributes import fingerprint
from saltctl.history.cursor import Position
from saltctl.stores.contracts import Item, SortKey


class Row(NamedTuple):
    """A row of the messages table and where it stands. A tuple, since it is made and sorted in numbers."""

    sort_key: Any
    salt: int
    item: Item

    @property
    def position(self) -> Position:
        """Its position in the order of the history."""
        return Position(self.sort_key, self.salt)


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
            # Partitions answer in order: sorting merges their runs. A position is there once: no items are compared.
            unique = self._unique(sorted(self._rows))
            if self._after is not None or self._before is not None:
                unique = [row for row in unique if self._within(row[:2])]
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
            key = rows[middle].sort_key
            if key >= sort_key if self._descending else key <= sort_key:
                low = middle + 1
            else:
                high = middle
        return low

    def _within(self, position: tuple[Any, int]) -> bool:
        return (self._after is None or position > self._after) and (self._before is None or position < self._before)

    def _unique(self, ordered: list[Row]) -> list[Row]:
        """The rows without those that are equal to one before them; only rows of one sort key can be."""
        unique: list[Row] = []
        kept: set[Hashable] = set()
        previous: Row | None = None
        for row in ordered:
            if previous is None or row[0] != previous[0]:
                kept.clear()
            else:
                if not kept:
                    kept.add(self._content(previous))
                content = self._content(row)
                if content in kept:
                    continue
                kept.add(content)
            previous = row
            unique.append(row)
        return unique

    def _content(self, row: Row) -> Hashable:
        return fingerprint(row.item, without=self._partition_attribute)
