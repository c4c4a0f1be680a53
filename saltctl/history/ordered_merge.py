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

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from operator import gt, lt
from typing import Any, NamedTuple

from saltctl.history.attributes import fingerprint
from saltctl.history.cursor import Position
from saltctl.stores.contracts.messages import Item, SortKey


class Row(NamedTuple):
    """A row of the messages table with its position. A tuple, because many are created and sorted."""

    sort_key: Any
    salt: int
    item: Item

    @property
    def position(self) -> Position:
        """The position in the order of the history."""
        return Position(self.sort_key, self.salt)


@dataclass(kw_only=True)
class OrderedMerge:
    """The merge of one page.

    Args:
        unfinished: by salt, BASE for the base partition, the sort key up to which it was read; None before its first
            answer. Partitions that were read to their end, or failed, are not in it.
        descending: newest first.
        after, before: the page lies strictly between these positions; None is no bound.
        partition_attribute: the name of the table's partition key, the one attribute in which equal rows may differ.
    """

    unfinished: dict[int, Any]
    descending: bool
    after: Position | None = None
    before: Position | None = None
    partition_attribute: str
    _added: list[Row] = field(default_factory=list, init=False)
    _merged: list[Row] | None = field(default=None, init=False)

    def add(self, salt: int, rows: Iterable[Row], reached: SortKey | None) -> None:
        """Add an answer of a partition: its rows, and the sort key up to which it was read; None is its end."""
        self._added.extend(rows)
        self._merged = None
        if reached is None:
            del self.unfinished[salt]
        else:
            self.unfinished[salt] = reached

    def rows(self) -> list[Row]:
        """Return all rows so far, each message once, in the order of the page; the last ones may not be final."""
        if self._merged is None:
            # Partitions answer in order, so sorting merges runs. Positions are unique: items are never compared.
            merged = self._unique(sorted(self._added))
            if (after := self.after) is not None:
                merged = [row for row in merged if row[:2] > after]
            if (before := self.before) is not None:
                merged = [row for row in merged if row[:2] < before]
            self._merged = merged[::-1] if self.descending else merged
        return self._merged

    def partitions_behind(self, wanted: int) -> dict[int, int]:
        """Return the partitions to ask again before the first ``wanted`` rows are final; none if they are.

        The value is the number of merged rows up to which a partition was read. A partition that was read as far as
        the last wanted row is not behind: its remaining rows come later.
        """
        rows = self.rows()
        is_later = lt if self.descending else gt
        last = rows[wanted - 1].sort_key if len(rows) >= wanted else None

        def depth(reached: SortKey | None) -> int:
            """Return how many rows have a sort key that is not beyond this one, in the order of the page."""
            return 0 if reached is None else bisect_left(rows, True, key=lambda row: is_later(row.sort_key, reached))

        return {
            salt: depth(reached)
            for salt, reached in self.unfinished.items()
            if reached is None or last is None or is_later(last, reached)
        }

    def _unique(self, ordered: list[Row]) -> list[Row]:
        """Drop rows that equal an earlier one; only rows of one sort key can be equal."""
        repeated = {row[0] for row, following in pairwise(ordered) if row[0] == following[0]}
        if not repeated:
            return ordered
        unique: dict[Hashable, Row] = {}
        for row in ordered:
            equal_rows = fingerprint(row.item, without=self.partition_attribute) if row[0] in repeated else row[:2]
            unique.setdefault(equal_rows, row)
        return list(unique.values())
