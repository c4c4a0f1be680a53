"""The values of message histories: options and results of reads, writes and searches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from saltctl.registry.lookups import Lookup
from saltctl.salting import number_text
from saltctl.stores.contracts.messages import Filter, Item, PartitionQuery, SortKey, TableKeys
from saltctl.values import LONGEST, check_number

FIND_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``attributes`` is its row as Python values, keys included (see ``saltctl.history.attributes``)."""

    conversation_id: str
    partition_key: str
    sort_key: SortKey
    message_id: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which part of a history to read, and how.

    Args:
        limit: messages of a page, 1 to 10,000. Iterating over pages ignores it.
        before, after: cursors; only messages that are older, or newer, than their position.
        oldest_first: the direction; newest first otherwise.
        since, until: sort keys, ``since`` included and ``until`` excluded. They are compared as DynamoDB compares
            them: strings by their UTF-8 bytes, so ``2026-07-01`` is before every time of that day.
        filter: a filter of DynamoDB; rows that it leaves out are read and paid for.
        consistent: strongly consistent reads; eventual ones cost half and may miss the latest messages.
        allow_partial: return the messages of the other partitions if some have an outage; ``Page.complete`` is then
            False. Other errors, such as a missing permission, are raised.
    """

    limit: int = 50
    before: str | None = None
    after: str | None = None
    oldest_first: bool = False
    since: SortKey | int | None = None
    until: SortKey | int | None = None
    filter: Filter | None = None
    consistent: bool = True
    allow_partial: bool = False


DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True, slots=True)
class Shard:
    """How one partition of a page was read. ``error`` is the reason if it is missing; ``seconds`` is time waited.

    ``hedges`` of the ``queries`` were sent again. Items and read units include those of all copies, if they
    had answered when the page ended.
    """

    partition_key: str
    queries: int
    items_read: int
    items_returned: int
    consumed_rcu: float
    seconds: float
    error: str | None
    hedges: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a history.

    ``messages`` are in the order (sort key, message id), newest first unless the oldest were asked for first.
    ``next_cursor`` continues in the direction of the page: pass it as ``before``, or as ``after`` if the oldest come
    first. It is None at the end. ``prev_cursor`` is the position of the first message, for the other direction.
    ``complete`` is False only if ``allow_partial`` let partitions be left out.
    """

    conversation_id: str
    messages: list[Message]
    next_cursor: str | None
    prev_cursor: str | None
    complete: bool
    max_n: int
    source: Literal["redis", "backup"]
    shards: list[Shard]
    items_read: int
    seconds: float

    @property
    def missing(self) -> list[str]:
        """The partition keys that could not be read."""
        return [shard.partition_key for shard in self.shards if shard.error is not None]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The first queries of a page."""

    lookup: Lookup
    requests: list[PartitionQuery]


@dataclass(frozen=True, slots=True)
class PutResult:
    """The place of a message. ``written`` is False if it existed already: the call was the retry of a write."""

    written: bool
    partition_key: str
    message_id: str


@dataclass(frozen=True, slots=True)
class FindOptions:
    """What is known of a message besides its id.

    Args:
        sort_key: its whole sort key, which makes the search cheap.
        since, until: bounds of its sort key, ``since`` included and ``until`` excluded.
        timeout: seconds after which the search ends.
    """

    sort_key: SortKey | int | None = None
    since: SortKey | int | None = None
    until: SortKey | int | None = None
    timeout: float = FIND_TIMEOUT

    def __post_init__(self) -> None:
        """Refuse a timeout that is none; raises UsageError."""
        check_number("timeout", self.timeout, 0.001, LONGEST, hint="such as --timeout 60s")


@dataclass(frozen=True, slots=True)
class Found:
    """The message, or None if none of ``partition_keys`` has it; and the cost of the search."""

    message: Message | None
    partition_keys: list[str]
    items_read: int
    consumed_rcu: float


def message_id_of(item: Item, keys: TableKeys, attribute: str | None) -> str | None:
    """Return the message id of a row, which decides its salt; None if it has none.

    It is the value of the attribute. If that is None, it is the part of the sort key after the first ``#``, or all of
    the sort key if there is no ``#``. A number has the form of :func:`saltctl.salting.number_text`.
    """
    value = item.get(attribute or keys.sort_key, {})
    if (number := value.get("N")) is not None:
        return number_text(Decimal(number))
    found: str | None = value.get("S")
    if found is None or attribute is not None:
        return found
    time, separator, message_id = found.partition("#")
    return message_id if separator else time
