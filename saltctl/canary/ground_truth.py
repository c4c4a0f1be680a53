"""What the messages table holds of a reserved conversation, read without the library that the canary checks."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Protocol

from saltctl.canary.conversations import BOUND
from saltctl.canary.new_rows import MARK, shown_key
from saltctl.canary.operations import Put
from saltctl.history.attributes import plain
from saltctl.salting import read_set, split_partition_key
from saltctl.stores.contracts.messages import Item, MessageStore, PartitionQuery, SortKey
from saltctl.times import parse_iso

KEPT = 100
"""Rows that each conversation keeps at least."""
OLD = timedelta(minutes=15)
"""The age of rows that are deleted. Clocks of hosts may differ by less than that."""
_DELETED = 100
"""Rows that one round deletes from a conversation at most."""
_THREADS = 8


class MarkedRows(MessageStore, Protocol):
    """A messages table from which marked rows can be deleted."""

    def delete(self, partition_key: str, sort_key: SortKey, marked: str) -> None:
        """Delete one row if it has the attribute ``marked``."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and when the canary wrote it; None if it did not."""

    partition_key: str
    sort_key: SortKey
    written_at: datetime | None

    @property
    def needed_n(self) -> int:
        """The smallest N whose readers cover the row."""
        salt = split_partition_key(self.partition_key)[1]
        return 1 if salt is None else max(salt + 1, 2)


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """All rows of a conversation at one time, by sort key. ``ended``: monotonic seconds after which it was complete."""

    conversation: str
    rows: dict[str, Row]
    ended: float
    queries: int
    consumed_rcu: float

    def puts(self) -> list[Put]:
        """Return the rows as messages that were written and acknowledged before."""
        return [
            Put("table", self.conversation, -inf, self.ended, name, True, row.needed_n)
            for name, row in self.rows.items()
        ]

    def written_after(self, at: datetime) -> bool:
        """Return whether the clock of a host that writes here is ahead: a row is from after this time."""
        return any(row.written_at is not None and row.written_at > at for row in self.rows.values())


def read_ground_truth(
    table: MessageStore, conversation: str, max_n: int, clock: Callable[[], float] = time.monotonic
) -> GroundTruth:
    """Read the base partition and ``max_n`` salts, at least BOUND, by strongly consistent queries.

    Raises:
        SaltctlError: a partition cannot be read.
    """
    rows: dict[str, Row] = {}
    queries, units = 0, 0.0
    with ThreadPoolExecutor(_THREADS) as threads:
        keys = read_set(conversation, max(max_n, BOUND))
        for of_partition, number, consumed in threads.map(lambda key: _read(table, key), keys):
            queries, units = queries + number, units + consumed
            for row in of_partition:
                # A message that was written again after a raise is on two salts; readers may find either.
                held = rows.get(name := shown_key(row.sort_key))
                rows[name] = row if held is None or row.needed_n < held.needed_n else held
    return GroundTruth(conversation, rows, clock(), queries, units)


def _read(table: MessageStore, partition_key: str) -> tuple[list[Row], int, float]:
    rows: list[Row] = []
    start: Item | None = None
    queries, units = 0, 0.0
    while True:
        answer = table.query(PartitionQuery(partition_key, start=start))
        rows += [_row(table, partition_key, item) for item in answer.items]
        queries, units = queries + 1, units + answer.consumed_rcu
        if (start := answer.next) is None:
            return rows, queries, units


def _row(table: MessageStore, partition_key: str, item: Item) -> Row:
    try:
        written_at = parse_iso(str(item[MARK]["S"]))
    except (KeyError, ValueError):
        written_at = None
    return Row(partition_key, plain(item[table.keys.sort_key]), written_at)


def delete_old_rows(table: MarkedRows, held: GroundTruth, now: datetime, has_time: Callable[[], bool]) -> int:
    """Delete old rows of the canary, except the newest KEPT; return how many. None is begun without time.

    Raises:
        SaltctlError: a row cannot be deleted.
    """
    marked = [(row.written_at, row) for row in held.rows.values() if row.written_at is not None]
    oldest_first = [row for _, row in sorted(marked, key=lambda pair: pair[0])]
    old = [row for row in oldest_first[: max(len(marked) - KEPT, 0)] if row.written_at and row.written_at < now - OLD]

    def delete(row: Row) -> bool:
        if has_time():
            table.delete(row.partition_key, row.sort_key, MARK)
            return True
        return False

    with ThreadPoolExecutor(_THREADS) as threads:
        return sum(threads.map(delete, old[:_DELETED]))
