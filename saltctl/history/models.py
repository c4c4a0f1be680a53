"""What is read of a history: how it is asked for, and a page of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from saltctl.stores.contracts import Filter, SortKey


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
    """What to read of a history.

    Args:
        limit: messages of a page, 1 to 10,000. Iterating chooses its own and ignores it.
        before, after: cursors; only messages that are older, or newer, than where they point.
        oldest_first: the direction; newest first otherwise.
        since, until: sort keys; from ``since`` on, and below ``until``. Compared as DynamoDB compares
            them: texts by their UTF-8 bytes, so ``2026-07-01`` bounds every time of that day.
        filter: a filter of DynamoDB; what it leaves out is read and paid for.
        consistent: strongly consistent reads; eventual ones cost half and may miss the latest messages.
        allow_partial: return what there is where partitions fail; ``Page.complete`` is then False.
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


EVERYTHING = ReadOptions()


@dataclass(frozen=True, slots=True)
class Shard:
    """What one partition contributed. ``error`` is why it is missing, or None; ``seconds`` is spent waiting for it."""

    partition_key: str
    queries: int
    items_read: int
    items_returned: int
    consumed_rcu: float
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a history.

    ``next_cursor`` goes on in the direction of the page: as ``before``, or as ``after`` when the oldest
    come first; None at the end. ``prev_cursor`` is the position of the first message, and goes the other
    way. ``complete`` is False only where ``allow_partial`` let partitions be left out.
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
