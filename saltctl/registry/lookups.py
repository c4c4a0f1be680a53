"""The answer to a lookup, and the one attempt at a time to ask a server again after it failed."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol
from weakref import ref

from saltctl.errors import UsageError
from saltctl.forks import Process
from saltctl.salting import check_conversation_id, read_set
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.messages import SortKey


class Lookup(NamedTuple):
    """The answer to one lookup.

    Readers cover ``max_n`` salts and the base partition; writers spread over ``write_n`` salts. Both are 1 for an
    unsalted conversation.

    If the conversation was cooled, there is a ``boundary``, a sort key. Messages from it on are on ``recent_n`` salts
    and the base partition, and readers need not look further; older ones may be on any of the ``max_n`` salts.
    Without a boundary ``recent_n`` is ``max_n``.
    """

    conversation_id: str
    max_n: int
    write_n: int
    source: Literal["redis", "backup"]
    recent_n: int
    boundary: SortKey | None = None

    @property
    def salted(self) -> bool:
        """Whether the conversation has salts besides its base partition."""
        return self.max_n > 1

    def covers_as(self, other: Lookup) -> bool:
        """Return whether readers query the same partitions for each sort key as by another lookup."""
        return (self.max_n, self.recent_n, self.boundary) == (other.max_n, other.recent_n, other.boundary)

    @property
    def old_salts(self) -> range:
        """The salts that have messages below the boundary alone; none without a boundary."""
        if self.recent_n >= self.max_n:
            return range(0)
        return range(self.recent_n if self.recent_n > 1 else 0, self.max_n)

    def read_set(self, since: SortKey | int | None = None) -> list[str]:
        """Return the partition keys that a complete read covers, the base partition first.

        ``since``: the lowest sort key of the read, which needs few partitions if it is not below the boundary.

        Raises:
            UsageError: ``since`` has another type than the sort keys of the conversation.
        """
        return read_set(self.conversation_id, self.max_n if self.is_below(since) else self.recent_n)

    def is_below(self, sort_key: SortKey | int | None) -> bool:
        """Return whether messages from this sort key on may be on any of the ``max_n`` salts; None is the lowest.

        Raises:
            UsageError: the sort key has another type than those of the conversation.
        """
        boundary = self.boundary
        if boundary is None or sort_key is None:
            return True
        if isinstance(boundary, str) and isinstance(sort_key, str):
            return sort_key < boundary
        if isinstance(boundary, Decimal) and isinstance(sort_key, int | Decimal):
            return sort_key < boundary
        kind = "a string" if isinstance(boundary, str) else "a number"
        raise UsageError(f"the sort keys of {self.conversation_id!r} are {kind}, not {sort_key!r:.60}")


def lookup_of(conversation_id: str, entry: Entry, source: Literal["redis", "backup"], write_n: int) -> Lookup:
    """Return the answer that an entry gives. Writers spread over at most what readers of any message cover."""
    if isinstance(entry, int):
        return Lookup(conversation_id, entry, min(write_n, entry), source, entry)
    boundary, max_n = entry.boundary, entry.max_n
    recent_n = max_n if boundary is None else entry.recent_n
    return Lookup(conversation_id, max_n, min(write_n, recent_n, max_n), source, recent_n, boundary)


def unique_ids(conversation_ids: Iterable[str]) -> list[str]:
    """Return valid ids in their order, each once.

    Raises:
        UsageError: it is one string, or nothing that holds ids.
        InvalidConversationIdError: one of them cannot be a conversation id.
    """
    if isinstance(conversation_ids, str | bytes) or not isinstance(conversation_ids, Iterable):
        raise UsageError(f"{conversation_ids!r:.60} is not a list of conversation ids", hint='pass a list, as ["conv"]')
    return list(dict.fromkeys(map(check_conversation_id, conversation_ids)))


class Lookups(Protocol):
    """Answers lookups: a Registry, or a substitute in a test."""

    def lookup(self, conversation_id: str) -> Lookup:
        """Return how many salts a conversation has now."""
        ...


class Attempt:
    """The one lookup that tries a server again; the block is told whether it is that one.

    An attempt is over with its block, even if the exception of a signal handler comes before it is taken off the list:
    the list holds a weak reference.
    """

    def __init__(self, attempts: dict[tuple[str, Process], ref[Attempt]], key: tuple[str, Process]) -> None:
        self._attempts, self._key = attempts, key

    def __enter__(self) -> bool:
        mine = ref(self)
        alone = self._attempts.setdefault(self._key, mine)() in (self, None)
        if alone:
            self._attempts[self._key] = mine
        return alone

    def __exit__(self, *_: object) -> None:
        attempt = self._attempts.get(self._key)
        if attempt is not None and attempt() is self:
            self._attempts.pop(self._key, None)
