"""A messages table in memory that answers as DynamoDB does."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from decimal import Decimal
from typing import Any, Literal

from saltctl.errors import UsageError
from saltctl.forks import PerProcess
from saltctl.salting import number_text
from saltctl.stores.contracts.messages import (
    NOTHING_READ,
    Item,
    KeysPage,
    PartitionAnswer,
    PartitionQuery,
    SortKey,
    TableKeys,
    TableSize,
)


class MemoryMessages:
    """The messages table: a ``MessageStore`` with DynamoDB's pages, limits and last keys.

    Args:
        sort_type: the type of the sort key.
        page_bytes: the size at which pages are cut; DynamoDB's is 1 MB.
        before_query: called with each request, in its thread: it may raise, wait or write.
        keys: the names of the table's keys.
    """

    def __init__(
        self,
        sort_type: Literal["S", "N"] = "S",
        *,
        page_bytes: int = 1 << 20,
        before_query: Callable[[PartitionQuery], None] = lambda request: None,
        keys: tuple[str, str] = ("room", "at"),
    ) -> None:
        self.keys = TableKeys(*keys, sort_type)
        self.queries: list[PartitionQuery] = []
        self.page_bytes = page_bytes
        self.before_query = before_query
        self.passes: Callable[[Item], bool] | None = None
        """Which rows a filter lets through. Only equalities such as ``#name = :value``, also several with OR, are
        evaluated without it."""
        self._partitions: defaultdict[str, dict[SortKey, Item]] = defaultdict(dict)
        self._order: defaultdict[str, list[Any]] = defaultdict(list)
        self._sizes: dict[tuple[str, SortKey], int] = {}
        self._lock = PerProcess(threading.Lock)

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Query as DynamoDB does. Raises UsageError if the filter is not an equality, and ``passes`` is not set."""
        self.before_query(request)
        read: list[Item] = []
        size = 0
        with self._lock.get():
            self.queries.append(request)
            keys = self._sort_keys_of(request)
            for key in keys:
                # DynamoDB says that there may be more as soon as it stops because of a limit, also at the end.
                if len(read) == request.limit or (read and size > self.page_bytes):
                    break
                read.append(self._partitions[request.partition_key][key])
                size += self._sizes[request.partition_key, key]
        stopped = bool(read) and (len(read) < len(keys) or len(read) == request.limit)
        keys_of_table = (self.keys.partition_key, self.keys.sort_key)
        following = {name: read[-1][name] for name in keys_of_table} if stopped else None
        rcu = max(-(-size // 4096), 1) * (1.0 if request.consistent else 0.5)
        return PartitionAnswer(self._filtered(request, read), len(read), rcu, following)

    def _sort_keys_of(self, request: PartitionQuery) -> list[SortKey]:
        """Return the sort keys between the bounds of a request, in its order."""
        order = self._order[request.partition_key]
        low = 0 if request.low is None else bisect_left(order, request.low)
        high = len(order) if request.high is None else bisect_right(order, request.high)
        if request.start is not None:
            assert request.start[self.keys.partition_key] == {"S": request.partition_key}
            tagged = request.start[self.keys.sort_key]
            position = Decimal(tagged["N"]) if "N" in tagged else tagged["S"]
            if request.descending:
                high = min(high, bisect_left(order, position))
            else:
                low = max(low, bisect_right(order, position))
        return order[low:high][:: -1 if request.descending else 1]

    def _filtered(self, request: PartitionQuery, rows: list[Item]) -> list[Item]:
        condition = request.filter
        if condition is None:
            return rows
        if self.passes is not None:
            return [row for row in rows if self.passes(row)]
        equalities = [re.fullmatch(r"(#\w+) = (:\w+)", part) for part in condition.expression.split(" OR ")]
        if None in equalities:
            raise UsageError(
                f"MemoryMessages does not evaluate the filter {condition.expression!r}",
                hint="set MemoryMessages.passes",
            )
        wanted = [(condition.names[found[1]], condition.values[found[2]]) for found in equalities if found]
        return [row for row in rows if any(row.get(name) == value for name, value in wanted)]

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """Return one row."""
        with self._lock.get():
            return self._partitions.get(partition_key, {}).get(sort_key)

    def put(self, partition_key: str, sort_key: SortKey, attributes: Item) -> bool:
        """Write one row, unless it exists."""
        with self._lock.get():
            rows = self._partitions[partition_key]
            if sort_key in rows:
                return False
            tagged = {"N": number_text(sort_key)} if isinstance(sort_key, Decimal) else {"S": sort_key}
            rows[sort_key] = {**attributes, self.keys.partition_key: {"S": partition_key}, self.keys.sort_key: tagged}
            self._sizes[partition_key, sort_key] = len(str(rows[sort_key]))
            insort(self._order[partition_key], sort_key)
            return True

    def delete(self, partition_key: str, sort_key: SortKey, marked: str) -> None:
        """Delete one row if it has the attribute ``marked``."""
        with self._lock.get():
            if marked in self._partitions.get(partition_key, {}).get(sort_key, {}):
                del self._partitions[partition_key][sort_key], self._sizes[partition_key, sort_key]
                self._order[partition_key].remove(sort_key)

    def size(self) -> TableSize:
        """Return how large the table is."""
        return TableSize(len(self._sizes), sum(self._sizes.values()))

    def scan_keys(
        self,
        segments: int,
        *,
        consistent: bool = True,
        attribute: str | None = None,
        after: Mapping[int, Item | None] = NOTHING_READ,
        max_rcu: float | None = None,
    ) -> Generator[KeysPage, None, None]:
        """Yield the keys of every row, a page for each partition, as those of one segment from its start."""
        names = {self.keys.partition_key, self.keys.sort_key, attribute}
        for rows in self._partitions.values():
            items = [{name: row[name] for name in row.keys() & names} for row in rows.values()]
            yield KeysPage(items, 1.0, 0, items[-1] if items else None)
