"""The ordered merge of a conversation's partitions: which rows are final, and which partitions are behind.

Pure: rows are added as partitions answer, and come out in the order (sort key, message id), each message once. It keeps
two invariants of a complete read:

- A row is final only if no unfinished partition can still precede it. A partition that was read up to some sort key has
  only later rows left, so rows up to the sort key that *every* unfinished partition was read to are final.
- Rows that differ only in their partition are one message. All rows of one sort key are compared, also if a page ends
  between them. The order does not depend on partitions, so a retry that adds a row to another partition between two
  pages moves no message, under any N.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from operator import gt, itemgetter, lt
from typing import Any, NamedTuple

from saltctl.history.attributes import fingerprint
from saltctl.history.models import message_id_of
from saltctl.history.pages.cursor import MAX_ID, Position, Tie
from saltctl.stores.contracts.messages import Item, SortKey, TableKeys


class Row(NamedTuple):
    """A row of the messages table with its position. A tuple, because many are created and sorted.

    ``tie`` is set by the merge if other messages have its sort key.
    """

    sort_key: Any
    salt: int
    item: Item
    tie: Tie | None = None

    @property
    def position(self) -> Position:
        """The position in the order of the history."""
        return Position(self.sort_key, self.salt, self.tie)


_Place = tuple[SortKey, Tie]
"""The place of a message in the order."""


@dataclass(kw_only=True)
class OrderedMerge:
    """The merge of one page.

    Args:
        unfinished: by salt, BASE for the base partition, the sort key up to which it was read; None before its first
            answer. Partitions that were read to their end, or failed, are not in it.
        descending: newest first.
        after, before: the page lies strictly between these positions, and no row beyond their sort keys is added; None
            is no bound.
        tie_of: returns the order of a row among those of its sort key; equal rows have the same.
    """

    unfinished: dict[int, Any]
    descending: bool
    after: Position | None = None
    before: Position | None = None
    tie_of: Callable[[Item], Tie]
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
            # Partitions answer in order, so sorting merges runs. Items are never compared: no partition has a sort key
            # twice.
            ordered = sorted(self._added)
            shared = {row[0] for row, following in pairwise(ordered) if row[0] == following[0]}
            shared.update(bound.sort_key for bound in (self.after, self.before) if bound is not None)
            if shared:
                others = [row for row in ordered if row[0] not in shared]
                messages = self._messages([row for row in ordered if row[0] in shared])
                ordered = sorted([*others, *messages], key=itemgetter(0, 3))
            self._merged = ordered[::-1] if self.descending else ordered
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

    def _messages(self, rows: list[Row]) -> list[Row]:
        """Return one row of each message between the bounds, the one on its lowest partition."""
        messages: dict[_Place, Row] = {}
        named: set[_Place] = set()  # messages of a bound without a tie, which names one of their rows
        for row in rows:
            place = row.sort_key, self.tie_of(row.item)
            messages.setdefault(place, row)
            if row.position in (self.after, self.before):
                named.add(place)
        sharing = Counter(sort_key for sort_key, _ in messages)
        return [
            row._replace(tie=place[1] if sharing[place[0]] > 1 else None)
            for place, row in messages.items()
            if place not in named and self._is_within(place)
        ]

    def _is_within(self, place: _Place) -> bool:
        return (self.after is None or _is_beyond(place, self.after, gt)) and (
            self.before is None or _is_beyond(place, self.before, lt)
        )


def _is_beyond(place: _Place, position: Position, beyond: Callable[[Any, Any], bool]) -> bool:
    """Return whether a message that is not the one of the position is beyond it: ``gt`` after, ``lt`` before it."""
    if position.tie is None:
        return place[0] == position.sort_key or beyond(place[0], position.sort_key)
    return beyond(place, (position.sort_key, position.tie))


def tie_of(item: Item, keys: TableKeys, id_attribute: str | None) -> Tie:
    """Return the order of a row among the rows of its sort key: rows that differ only in their partition are equal.

    A long id is shortened, so that cursors fit into a URL.
    """
    message_id = message_id_of(item, keys, id_attribute) or ""
    if len(message_id) > MAX_ID:
        message_id = message_id[: MAX_ID - 32] + sha256(message_id.encode()).hexdigest()[:32]
    return message_id, fingerprint(item, without=keys.partition_key)
