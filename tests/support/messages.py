"""A messages table in memory that answers as DynamoDB does, and histories to put into it."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from saltctl.history.attributes import Item
from saltctl.history.cursor import SortKey
from saltctl.registry.registry import Lookup
from saltctl.stores.contracts import KeysPage, PartitionAnswer, PartitionQuery, TableKeys, TableSize


class MemoryMessages:
    """A ``MessageStore``: pages cut at a number of bytes, empty pages, filters by a function, an account of requests.

    Args:
        sort_type: the type of the sort key.
        page_bytes: where pages are cut; DynamoDB's is 1 MB.
        before_query: called with each request, in its thread: raises, waits, writes.
    """

    def __init__(
        self,
        sort_type: Literal["S", "N"] = "S",
        *,
        page_bytes: int = 1 << 20,
        before_query: Callable[[PartitionQuery], None] = lambda request: None,
    ) -> None:
        self.keys = TableKeys("room", "at", sort_type)
        self.queries: list[PartitionQuery] = []
        self.page_bytes = page_bytes
        self.before_query = before_query
        self.passes: Callable[[Item], bool] = lambda item: True
        self._partitions: dict[str, dict[SortKey, Item]] = {}
        self._order: dict[str, list[Any]] = {}
        self._sizes: dict[str, dict[SortKey, int]] = {}
        self._lock = threading.Lock()

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Ask one partition, and answer as DynamoDB would."""
        self.before_query(request)
        with self._lock:
            self.queries.append(request)
            return self._answer(request)

    def _answer(self, request: PartitionQuery) -> PartitionAnswer:
        rows = self._partitions.get(request.partition_key, {})
        order = self._order.get(request.partition_key, [])
        low = 0 if request.low is None else bisect_left(order, request.low)
        high = len(order) if request.high is None else bisect_right(order, request.high)
        if request.start is not None:
            assert request.start[self.keys.partition_key] == {"S": request.partition_key}
            position = self._untag(request.start[self.keys.sort_key])
            if request.descending:
                high = min(high, bisect_left(order, position))
            else:
                low = max(low, bisect_right(order, position))
        chosen = order[low:high]
        if request.descending:
            chosen.reverse()
        size = 0
        read: list[Item] = []
        for key in chosen:
            # DynamoDB says that there may be more as soon as it stops because of a limit, also at the end.
            if len(read) == request.limit or (read and size > self.page_bytes):
                break
            read.append(rows[key])
            size += self._sizes[request.partition_key][key]
        stopped = bool(read) and (len(read) < len(chosen) or len(read) == request.limit)
        last = read[-1] if stopped else None
        return PartitionAnswer(
            [item for item in read if request.filter is None or self.passes(item)],
            len(read),
            max(-(-size // 4096), 1) * (1.0 if request.consistent else 0.5),
            None if last is None else {name: last[name] for name in (self.keys.partition_key, self.keys.sort_key)},
        )

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """One row."""
        with self._lock:
            return self._partitions.get(partition_key, {}).get(sort_key)

    def put(self, partition_key: str, sort_key: SortKey, attributes: Item) -> bool:
        """One row, unless it exists."""
        with self._lock:
            rows = self._partitions.setdefault(partition_key, {})
            if sort_key in rows:
                return False
            tagged = {"N": str(sort_key)} if isinstance(sort_key, Decimal) else {"S": sort_key}
            rows[sort_key] = {
                **attributes,
                self.keys.partition_key: {"S": partition_key},
                self.keys.sort_key: tagged,
            }
            self._sizes.setdefault(partition_key, {})[sort_key] = len(str(rows[sort_key]))
            order = self._order.setdefault(partition_key, [])
            order.insert(bisect_left(order, sort_key), sort_key)
            return True

    def size(self) -> TableSize:
        """How large the table is."""
        sizes = [size for partition in self._sizes.values() for size in partition.values()]
        return TableSize(len(sizes), sum(sizes))

    def scan_keys(self, segments: int, *, consistent: bool = True) -> Generator[KeysPage, None, None]:
        """The partition key of every row; a page for each partition."""
        for key, rows in self._partitions.items():
            yield KeysPage([key] * len(rows), 1.0)

    def _untag(self, value: Mapping[str, Any]) -> SortKey:
        return Decimal(value["N"]) if "N" in value else str(value["S"])


@dataclass
class FixedLookups:
    """A registry that says what it is told: max_n by conversation, 1 for any other."""

    max_n: dict[str, int] = field(default_factory=dict)
    write_n: dict[str, int] = field(default_factory=dict)
    calls: int = 0

    def lookup(self, conversation_id: str) -> Lookup:
        """How many salts a conversation has."""
        self.calls += 1
        max_n = self.max_n.get(conversation_id, 1)
        return Lookup(conversation_id, max_n, self.write_n.get(conversation_id, max_n), "redis")
