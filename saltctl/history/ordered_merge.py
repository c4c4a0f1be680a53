"""The ordered merge of a conversation's partitions: which rows are final, and which partitions are behind.

Pure: rows are added as partitions answer, and come out in the order (sort key, partition), each message once. It keeps
two invariants of a complete read:

- A row is final only if no unfinished partition can still precede it. A partition that was read up to some sort key has
  only later rows left, so rows up to the sort key that *every* unfinished partition was read to are final.
- Rows that differ only in their partition are one message, at the position of its lowest partition. All rows of one
  sort key are compared, also if a page ends between them, so a message has one position in both directions. A retry
  across a raise never moves it: N grows by doubling, so the salt of the retry is not below the first one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from saltctl.history.attributes import fingerprint
from saltctl.history.cursor import Position
from saltctl.stores.contracts import Item, SortKey


class Row(NamedTuple):
    """A row of the messages table with its position. A tuple, because many are created and sorted."""

    sort_key: Any
    salt: int
    item: Item

    @property
    def position(self) -> Position:
        """The position in the order of the history."""
        return Position(self.sort_key, self.salt)


class OrderedMerge:
    """The merge of one page.

    Args:
        salts: every partition of the read set; BASE for the base partition.
        descending: newest first.
        after, before: the page lies strictly between these positions; None is no bound.
        partition_attribute: the name of the table's partition key, the one attribute in which equal rows may differ.
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
        """Add an answer of a partition: its rows, and the sort key up to which it was read; None is its end."""
        self._rows.extend(rows)
        self._merged = None
        if reached is None:
            self._unfinished.pop(salt, None)
        else:
            self._unfinished[salt] = reached

    def drop_partition(self, salt: int) -> None:
        """Stop waiting for a partition that failed."""
        self._unfinished.pop(salt, None)

    @property
    def finished(self) -> bool:
        """Whether every partition was read to its end."""
        return not self._unfinished

    def rows(self) -> list[Row]:
        """Return all rows so far, each message once, in the order of the page; the last ones may not be final."""
        if self._merged is None:
            # Partitions answer in order, so sorting merges runs. Positions are unique: items are never compared.
            unique = self._unique(sorted(self._rows))
            if self._after is not None or self._before is not None:
                unique = [row for row in unique if self._within(row[:2])]
            self._merged = unique[::-1] if self._descending else unique
        return self._merged

    def final_count(self) -> int:
        """Return how many of :meth:`rows`, from the first, no partition can precede any more."""
        rows = self.rows()
        if not self._unfinished:
            return len(rows)
        reached = list(self._unfinished.values())
        if None in reached:
            return 0
        return self._count_up_to(rows, max(reached) if self._descending else min(reached))

    def partitions_behind(self, wanted: int) -> dict[int, int]:
        """Return the partitions to ask again before the first ``wanted`` rows are final.

        The value is the number of merged rows up to which a partition was read. A partition that was read as far as
        the last wanted row is not behind: its remaining rows come later.
        """
        rows = self.rows()
        behind: dict[int, int] = {}
        for salt, reached in self._unfinished.items():
            depth = 0 if reached is None else self._count_up_to(rows, reached)
            if depth < wanted:
                behind[salt] = depth
        return behind

    def _count_up_to(self, rows: Sequence[Row], sort_key: SortKey) -> int:
        """Return how many rows have a sort key that is not beyond this one, in the order of the page."""
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
        """Drop rows that equal an earlier one; only rows of one sort key can be equal."""
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
