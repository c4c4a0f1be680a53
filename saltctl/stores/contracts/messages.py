"""Contracts of the messages table."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, Protocol

Item = Mapping[str, Mapping[str, Any]]
"""A row as DynamoDB's low-level client returns it: attribute name → ``{"S": …}`` and so on."""

SortKey = str | Decimal
"""A sort key: a string, or a number."""

NOTHING_READ: Mapping[int, Item | None] = MappingProxyType({})
"""The position of a scan before its first page, by segment: see ``MessageStore.scan_keys``."""


@dataclass(frozen=True, slots=True)
class TableKeys:
    """The key names of a messages table, and the type of its sort key: string or number."""

    partition_key: str
    sort_key: str
    sort_type: Literal["S", "N"]


@dataclass(frozen=True, slots=True)
class TableSize:
    """The size of a table, from DescribeTable: about six hours old (documented)."""

    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter expression of DynamoDB with the placeholders of its names and values.

    DynamoDB filters after reading: excluded rows are paid for. A filter must not name the keys.
    """

    expression: str
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionQuery:
    """One request for rows of one partition. ``low`` and ``high`` are sort keys, both inclusive.

    ``limit`` counts rows before the filter; None is as many as fit in 1 MB. ``start`` resumes after an earlier answer
    to the same query.
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
    """Some rows of a partition, in the requested order.

    ``next`` is the last key that was read; only None means the end of the partition: an empty or short answer may have
    one. ``scanned`` counts rows before the filter; ``consumed_rcu`` is 0 if DynamoDB does not report it.
    """

    items: Sequence[Item]
    scanned: int
    consumed_rcu: float
    next: Item | None


@dataclass(frozen=True, slots=True)
class KeysPage:
    """The rows of one page of a scan, with their keys and the requested attribute alone.

    ``last`` is the key up to which the segment is read, None at its end. A scan that waits yields pages of segment -1.
    """

    items: Sequence[Item]
    consumed_rcu: float
    segment: int = -1
    last: Item | None = None


class MessageStore(Protocol):
    """The messages table. A sort key exists once in a partition.

    All methods raise ConfigurationError if the table is missing or its keys have other types (partition key: string;
    sort key: string or number), AccessDeniedError, ThrottledError and AwsUnavailableError (after retries). Errors
    about a partition name it. Thread-safe.
    """

    @property
    def keys(self) -> TableKeys:
        """The table's key names, which are requested once."""

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Send one query to one partition."""

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """Return one row by a strongly consistent read; None if it does not exist."""

    def put(self, partition_key: str, sort_key: SortKey, attributes: Item) -> bool:
        """Write one row unless it exists; return whether this call wrote it. Safe to repeat."""

    def size(self) -> TableSize:
        """Return the size of the table."""

    def scan_keys(
        self,
        segments: int,
        *,
        consistent: bool = True,
        attribute: str | None = None,
        after: Mapping[int, Item | None] = NOTHING_READ,
        max_rcu: float | None = None,
    ) -> Generator[KeysPage, None, None]:
        """Yield the keys of every row that existed before the call, by parallel scans, in no order.

        With ``attribute``, rows have that one, too, if they have it. ``after`` is the ``last`` key of each segment of
        an earlier scan with as many segments, which continues there. ``max_rcu`` limits the read units a second.

        Throttling slows the scan down; it fails only if throttling lasts. Closing the generator stops it.
        """
