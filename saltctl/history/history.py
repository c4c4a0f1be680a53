"""Salted writes and complete reads: what application servers do with messages.

The promise, as far as it is kept here: a read returns every message that was acknowledged before it
began, or it says that it is incomplete and which partitions are missing. Every call looks the conversation
up anew; nothing is cached for readers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Protocol, Self

from saltctl.errors import SortKeyTakenError, UsageError
from saltctl.history import cursor as cursors
from saltctl.history.attributes import plain_item, tagged
from saltctl.history.cursor import BASE, Cursor, Position
from saltctl.history.find import FindOptions, Found, Search
from saltctl.history.message_ids import MessageIds
from saltctl.history.models import EVERYTHING, Message, Page, ReadOptions, Shard
from saltctl.history.ordered_merge import Merge, Row
from saltctl.history.page_estimate import horizon_of, pace_of, rows_within
from saltctl.history.scatter_gather import Gathered, Gathering, Partition, plan, query_of, sort_key_of
from saltctl.history.workers import Workers
from saltctl.registry.registry import Lookup, Registry
from saltctl.salting import partition_key, salt_of, split_partition_key
from saltctl.settings import Settings
from saltctl.stores.contracts import Item, MessageStore, PartitionQuery, SortKey

CONCURRENCY = 72
"""Requests in flight at once, over all callers of one History: as many as the client keeps connections. A page of 64
salts has 65 partitions; one that had to wait for its turn would take twice as long."""
MAX_LIMIT = 10_000
_FIRST_PAGE = 100
_LARGEST_PAGE = 1000
_PAGE_BYTES = 4 << 20
"""What iterating over a whole history aims at in memory, whatever size its messages have."""
_RCU_BYTES = 4096
_ERA = 12
"""The last rows of a page show under which N the next ones were written: the chance that twelve rows miss
the upper half of the salts is 1 in 4,096."""

_MANY = 4
"""Salts from which on a horizon reads less than shares with their margins do."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """Where a message is. ``written`` is False where it was there already: the retry of a write."""

    written: bool
    partition_key: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests that a page would begin with."""

    lookup: Lookup
    requests: list[PartitionQuery]


class Lookups(Protocol):
    """What a history asks of a registry."""

    def lookup(self, conversation_id: str) -> Lookup:
        """How many salts a conversation has now."""
        ...


class History:
    """The messages of all conversations. Thread-safe; open one a process and share it.

    >>> history = History.open()                                                      # doctest: +SKIP
    >>> history.put("conv_abc123", "2026-07-01T08:00:00Z#m1", {"text": "hello"})      # doctest: +SKIP
    >>> page = history.page("conv_abc123", ReadOptions(limit=20))                     # doctest: +SKIP
    >>> older = history.page("conv_abc123", ReadOptions(before=page.next_cursor))     # doctest: +SKIP

    Args:
        registry: where conversations are looked up, each time.
        store: the messages table.
        message_id_from: the setting of that name.
        page_timeout: seconds that one page may take.
        concurrency: requests in flight at once.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        registry: Lookups,
        store: MessageStore,
        *,
        message_id_from: str = "sort_key",
        page_timeout: float = 10.0,
        concurrency: int = CONCURRENCY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.store = store
        self.message_ids = MessageIds.of(message_id_from)
        self.page_timeout = page_timeout
        self.clock = clock
        self._concurrency = concurrency
        self._owned: Registry | None = None

    @classmethod
    def open(cls, settings: Settings | None = None) -> History:
        """Open the registry and the messages table that the settings name.

        Raises:
            ConfigurationError: no Redis is configured, or a setting cannot be used.
        """
        from saltctl.settings import load_settings
        from saltctl.stores.aws.messages_table import MessagesTable

        settings = settings or load_settings()
        registry = Registry.open(settings)
        history = cls.over(settings, registry, MessagesTable(settings))
        history._owned = registry
        return history

    @classmethod
    def over(cls, settings: Settings, registry: Lookups, store: MessageStore) -> Self:
        """A history over a given registry and store, which stay their owner's to close."""
        return cls(registry, store, message_id_from=settings.message_id_from, page_timeout=settings.page_timeout)

    @cached_property
    def pool(self) -> Workers:
        """Where requests run."""
        return Workers(self._concurrency, "history")

    def close(self) -> None:
        """Give up the threads, and the connections of a registry that was opened here."""
        if "pool" in self.__dict__:
            self.pool.shutdown(wait=False, cancel_futures=True)
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        """Itself; closed when the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # Writing.

    def put(self, conversation_id: str, sort_key: SortKey | int, attributes: Mapping[str, Any]) -> PutResult:
        """Write one message, on the salt that its id gives it, unless it is there.

        Safe to repeat: a retry lands on the same row, or, across a raise, on an equal row that reads
        return once. The message id comes from the sort key or an attribute, by ``message_id_from``.

        Args:
            conversation_id: the conversation.
            sort_key: such as ``2026-07-01T08:00:00.000Z#m1``; a number where the table's is one.
            attributes: everything else, as Python values (see ``saltctl.history.attributes``).

        Raises:
            SortKeyTakenError: a message with another id is there; nothing was written.
            UsageError: the sort key is of the wrong type, an attribute cannot be stored, or there is no id.
            UnavailableError: not known to be written; repeat it.
            InvalidConversationIdError, AccessDeniedError, ConfigurationError: as ``Registry.lookup``.
        """
        keys = self.store.keys
        found = self.registry.lookup(conversation_id)
        key = self.sort_key(sort_key)
        row = {name: tagged(value) for name, value in attributes.items()}
        if taken := {keys.partition_key, keys.sort_key} & row.keys():
            raise UsageError(f"{min(taken)!r} is a key of the table and no attribute", hint="leave it out")
        message_id = self.message_ids.read({**row, keys.sort_key: tagged(key)}, keys)
        if not message_id:
            raise UsageError(
                f"the message has no id in {self.message_ids.attribute or keys.sort_key!r}",
                hint="the setting message_id_from (SALTCTL_MESSAGE_ID_FROM) says where ids are",
            )
        # write_n, not max_n: readers look before writers leap.
        partition = partition_key(conversation_id, salt_of(message_id, found.write_n))
        if self.store.put(partition, key, row):
            return PutResult(True, partition, message_id)
        held = self.store.get(partition, key)
        if held is not None and self.message_ids.read(held, keys) != message_id:
            raise SortKeyTakenError(
                f"another message has the sort key {key} in {partition!r}: nothing was written",
                hint="a sort key has to be unique in its conversation, as timestamp#message_id is",
            )
        return PutResult(False, partition, message_id)

    # Reading.

    def page(self, conversation_id: str, options: ReadOptions = EVERYTHING) -> Page:
        """One page of the history: every message, or an error.

        A conversation that nobody knows has an empty history, which is a result: ``shards`` says where
        it was looked for.

        Raises:
            HistoryUnavailableError: partitions cannot be read, and ``allow_partial`` is not set.
            InvalidCursorError: a cursor is damaged or belongs elsewhere.
            UsageError: options that cannot be.
            InvalidConversationIdError, UnavailableError, AccessDeniedError, ConfigurationError: as
                ``Registry.lookup``, and the same of the messages table.
        """
        started = self.clock()
        reading = self._prepare(conversation_id, options)
        gathered = Gathered([], False, reading.partitions)
        if reading.worthwhile:
            job = Gathering(
                self.store,
                self.pool,
                clock=self.clock,
                until=started + self.page_timeout,
                allow_partial=options.allow_partial,
            )
            gathered = job.run(reading.partitions, reading.merge, reading.template, options.limit)
        return self._page(reading, gathered, started)

    def pages(self, conversation_id: str, options: ReadOptions = EVERYTHING) -> Iterator[Page]:
        """The whole history, page by page, each of a size that keeps memory flat.

        Every page is looked up anew, so a raise between two of them is noticed. Raises as :meth:`page`.
        """
        limit = _FIRST_PAGE
        while True:
            page = self.page(conversation_id, replace(options, limit=limit))
            yield page
            if page.next_cursor is None:
                return
            if options.oldest_first:
                options = replace(options, after=page.next_cursor)
            else:
                options = replace(options, before=page.next_cursor)
            limit = _next_limit(page, consistent=options.consistent)

    def messages(self, conversation_id: str, options: ReadOptions = EVERYTHING) -> Iterator[Message]:
        """Every message of the history, in order, in flat memory. Raises as :meth:`page`.

        With ``allow_partial`` use :meth:`pages`, which says what is missing.
        """
        for page in self.pages(conversation_id, options):
            yield from page.messages

    def explain(self, conversation_id: str, options: ReadOptions = EVERYTHING) -> Plan:
        """The requests that :meth:`page` would begin with; looks the conversation up and reads no message."""
        reading = self._prepare(conversation_id, options)
        requests = [query_of(partition, reading.template) for partition in reading.partitions if reading.worthwhile]
        return Plan(reading.lookup, requests)

    def find(self, conversation_id: str, message_id: str, options: FindOptions | None = None) -> Found:
        """One message by its id, on the log2(N) + 1 partitions that can hold it (see ``saltctl.history.find``).

        Raises:
            HistoryUnavailableError: it was not found, and a partition could not be read, or not in time.
            UsageError: the id is no valid Unicode, as no message's is.
            InvalidConversationIdError, UnavailableError, AccessDeniedError, ConfigurationError: as ``page``.
        """
        return Search(self, conversation_id, message_id, options or FindOptions()).run()

    def message(self, conversation_id: str, item: Item) -> Message:
        """A row of the table as a message."""
        return self._message(conversation_id, sort_key_of(item, self.store.keys.sort_key), item)

    def _message(self, conversation_id: str, sort_key: SortKey, item: Item) -> Message:
        keys = self.store.keys
        attributes = plain_item(item)
        return Message(
            conversation_id, attributes[keys.partition_key], sort_key, self.message_ids.read(item, keys), attributes
        )

    def _prepare(self, conversation_id: str, options: ReadOptions) -> _Reading:
        if not 1 <= options.limit <= MAX_LIMIT:
            raise UsageError(f"a page has 1 to {MAX_LIMIT:,} messages, not {options.limit}", hint="--limit 50")
        found = self.registry.lookup(conversation_id)
        keys = self.store.keys
        before, after = (
            None if text is None else cursors.decode(text, conversation_id, keys.sort_type)
            for text in (options.before, options.after)
        )
        since, until = (None if bound is None else self.sort_key(bound) for bound in (options.since, options.until))
        # Exclusive at a whole sort key: the position before all of its partitions.
        lower = after.position if after else None
        upper = before.position if before else None
        if until is not None and (upper is None or until <= upper.sort_key):
            upper = Position(until, BASE)
        start = after if options.oldest_first else before
        spread = min(start.spread, found.max_n) if start else (1 if options.oldest_first else found.max_n)
        template = PartitionQuery(
            conversation_id,
            descending=not options.oldest_first,
            low=max((key for key in (since, lower and lower.sort_key) if key is not None), default=None),
            high=None if upper is None else upper.sort_key,
            consistent=options.consistent,
            filter=options.filter,
        )
        salts = [(key, _place(key, conversation_id)) for key in found.read_set]
        merge = Merge(
            (salt for _, salt in salts),
            descending=template.descending,
            after=lower,
            before=upper,
            partition_attribute=keys.partition_key,
        )
        partitions = plan(
            salts,
            options.limit,
            spread,
            position=start.position if start else None,
            horizon=_horizon(start.pace, template, options.limit, spread) if start else None,
        )
        return _Reading(found, options, template, merge, partitions, spread)

    def _page(self, reading: _Reading, gathered: Gathered, started: float) -> Page:
        conversation_id = reading.lookup.conversation_id
        rows = gathered.rows
        messages = [self._message(conversation_id, row.sort_key, row.item) for row in rows]
        spread = _spread(rows[-_ERA:]) or reading.spread
        # Four digits are more than a guess needs, and keep cursors short.
        pace = float(f"{pace_of(rows[0].sort_key, rows[-1].sort_key, len(rows)):.4g}") if rows else 0.0

        def cursor(row: Row) -> str:
            return cursors.encode(Cursor(row.position, spread, pace), conversation_id)

        return Page(
            conversation_id,
            messages,
            # More may follow only where something came: with nothing, everything was read to its end.
            cursor(rows[-1]) if rows and gathered.more else None,
            cursor(rows[0]) if rows else None,
            not any(partition.error for partition in gathered.partitions),
            reading.lookup.max_n,
            reading.lookup.source,
            _shards(gathered),
            sum(partition.items_read for partition in gathered.partitions),
            self.clock() - started,
        )

    def sort_key(self, value: SortKey | int) -> SortKey:
        """A sort key of the table's type, exact; UsageError where the value cannot be one."""
        keys = self.store.keys
        if keys.sort_type == "S":
            if not isinstance(value, str) or not value:
                raise UsageError(f"the sort key {keys.sort_key!r} is a text that is not empty, and not {value!r}")
            tagged(value)
            return value
        try:
            number = Decimal(value)
        except InvalidOperation:
            raise UsageError(f"the sort key {keys.sort_key!r} is a number, and {value!r} is none") from None
        tagged(number)  # refuses what DynamoDB would round
        return number


@dataclass(frozen=True)
class _Reading:
    """A page about to be read."""

    lookup: Lookup
    options: ReadOptions
    template: PartitionQuery
    merge: Merge
    partitions: list[Partition]
    spread: int

    @property
    def worthwhile(self) -> bool:
        """Whether anything can lie between the bounds; DynamoDB refuses bounds that are the wrong way round."""
        low, high = self.template.low, self.template.high
        return low is None or high is None or low <= high  # type: ignore[operator]  # both of the table's type


def _horizon(pace: float, template: PartitionQuery, wanted: int, spread: int) -> SortKey | None:
    """How far the page after a cursor reaches; None where nobody can say, or where it would save nothing."""
    begin, end = (template.high, template.low) if template.descending else (template.low, template.high)
    if begin is None or spread < _MANY:
        return None
    horizon = horizon_of(begin, pace, rows_within(wanted), descending=template.descending)
    if horizon is None or not _between(horizon, begin, end, descending=template.descending):
        return None
    return horizon


def _between(key: Any, begin: Any, end: Any, *, descending: bool) -> bool:
    """Whether a sort key is beyond where a range begins and before where it ends, if it ends."""
    if descending:
        return bool(key < begin and (end is None or key > end))
    return bool(key > begin and (end is None or key < end))


def _place(key: str, conversation_id: str) -> int:
    salt = None if key == conversation_id else split_partition_key(key)[1]
    return BASE if salt is None else salt


def _spread(rows: list[Row]) -> int:
    """Over how many salts a page was spread, as a power of two; 1 for the base partition, 0 for no rows."""
    highest = max((row.salt for row in rows), default=None)
    if highest is None:
        return 0
    return 1 if highest == BASE else 1 << max(highest, 1).bit_length()


def _shards(gathered: Gathered) -> list[Shard]:
    returned: dict[int, int] = {}
    for row in gathered.rows:
        returned[row.salt] = returned.get(row.salt, 0) + 1
    return [
        Shard(
            partition.key,
            partition.queries,
            partition.items_read,
            returned.get(partition.salt, 0),
            partition.consumed_rcu,
            partition.seconds,
            partition.error.message if partition.error else None,
        )
        for partition in gathered.partitions
    ]


def _next_limit(page: Page, *, consistent: bool) -> int:
    """How many messages to ask for next, judged by the size of those that were read."""
    units = sum(shard.consumed_rcu for shard in page.shards) * (1 if consistent else 2)
    if not units or not page.items_read:
        return _FIRST_PAGE
    return int(min(max(_PAGE_BYTES * page.items_read / (units * _RCU_BYTES), 10), _LARGEST_PAGE))
