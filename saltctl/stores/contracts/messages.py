"""The messages table: its values, and what operations may expect of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

Item = Mapping[str, Mapping[str, Any]]
"""A row as DynamoDB's low-level client returns it: attribute name → ``{"S": …}`` and so on."""

SortKey = str | Decimal
"""A sort key: a string, or a number."""


@dataclass(frozen=True, slots=True)
class TableKeys:
    """The key names of a messages table, and the type of its sort key: text or number."""

    partition_key: str
    sort_key: str
    sort_type: Literal["S", "N"]


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is, as DescribeTable says: about six hours old (documented)."""

    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter expression of DynamoDB. Its names and values are placeholders as DynamoDB wants them.

    A filter is applied after reading: rows that it leaves out are paid for, and may not name the keys.
    """

    expression: str
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionQuery:
    """One request for rows of one partition. ``low`` and ``high`` are sort keys and included.

    ``limit`` counts rows before the filter; None is as many as fit in 1 MB. ``start`` goes on where an
    earlier answer to the same query ended.
    """

    partition_key: str
    descending: bool = True
    limit: int | None = None
    low: SortKey | None = None
    high: SortKey | None = None
    start: Item | None = None
    consistent: bool = True
    filter: Filter | None = None
    keys_only: bool = False


@dataclass(frozen=True, slots=True)
class PartitionAnswer:
    """Some rows of a partition, in the order asked for.

    ``next`` is the key up to which the partition was read; None, and nothing else, means to its end: an
    empty or short answer may have one. ``scanned`` counts rows before the filter; ``consumed_rcu`` is 0
    where DynamoDB does not say.
    """

    items: Sequence[Item]
    scanned: int
    consumed_rcu: float
    next: Item | None


@dataclass(frozen=True, slots=True)
class KeysPage:
    """The partition keys of one page of a scan, one for each row."""

    partition_keys: Sequence[str]
    consumed_rcu: float


class MessageStore(Protocol):
    """The messages table: rows of (partition key, sort key), and a sort key is there once in a partition.

    All methods raise ConfigurationError where the table is missing or its keys are no text and no text or
    number, AccessDeniedError, ThrottledError and AwsUnavailableError (after retries); where a partition
    is asked, the message names it. Thread-safe.
    """

    @property
    def keys(self) -> TableKeys:
        """The table's key names, asked for once."""
        ...

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Ask one partition once."""
        ...

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """Strongly consistent read of one row."""
        ...

    def put(self, partition_key: str, sort_key: SortKey, attributes: Item) -> bool:
        """Write one row unless it exists; whether it was written now. Safe to repeat."""
        ...

    def size(self) -> TableSize:
        """How large the table is."""
        ...

    def scan_keys(self, segments: int, *, consistent: bool = True) -> Generator[KeysPage, None, None]:
        """The partition key of every row that existed before the call, by parallel scans, in no order.

        Waits out throttling, within reason. Closing the iterator stops it.
        """
        ...
