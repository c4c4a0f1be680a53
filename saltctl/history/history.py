"""Salted writes and complete reads of messages, for application servers.

The part of the promise that is kept here: a read returns every message that was acknowledged before it began, or it
says that it is incomplete and which partitions are missing. Every call looks up the conversation again; nothing is
cached for readers.

A page: ``History`` looks up the conversation and prepares the request, ``ScatterGather`` reads its rows from all
partitions, and ``History`` makes the page of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from decimal import Decimal
from typing import Any, Self

from saltctl.errors import (
    ConfigurationError,
    MismatchedResponseError,
    SortKeyTakenError,
    StaleLookupError,
    UsageError,
)
from saltctl.forks import importing
from saltctl.history import cursor as cursors
from saltctl.history.attributes import exact_number, plain_item, tagged
from saltctl.history.cursor import BASE, FIRST, Cursor, Position
from saltctl.history.find import MessageSearch
from saltctl.history.models import (
    DEFAULT_OPTIONS,
    FindOptions,
    Found,
    Message,
    Page,
    PutResult,
    ReadOptions,
    ReadPlan,
    message_id_of,
)
from saltctl.history.page_estimate import average_distance
from saltctl.history.scatter_gather import PageRequest, PageRows, ScatterGather, plan
from saltctl.history.thread_pool import ThreadPool
from saltctl.registry.lookups import Lookup, Lookups
from saltctl.registry.registry import Registry
from saltctl.salting import find_set, number_text, partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.messages import Item, MessageStore, PartitionQuery, SortKey
from saltctl.values import LONGEST, check_number, check_whole

CONCURRENCY = 72
"""Requests in progress at once, over all callers of one History: as many as the client keeps connections. A page of 64
salts has 65 partitions; if one of them had to wait for its turn, the page would take twice as long."""
MAX_LIMIT = 10_000
_PAGE_RCU = 1024
"""Read units of a page when a whole history is read: 4 MB of memory, for messages of any size."""
_LAST_ROWS = 12
"""The last rows of a page show under which N the next ones were written: the chance that twelve rows miss the upper
half of the salts is 1 in 4,096."""
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def uptime() -> float:
    """Return monotonic seconds that also pass while the machine is suspended, if the platform has such a clock."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


@dataclass(eq=False, repr=False)
class History:
    """The messages of all conversations. Thread-safe; open one per process and share it.

    >>> history = History.open()                                                      # doctest: +SKIP
    >>> history.put("conv_abc123", "2026-07-01T08:00:00Z#m1", {"text": "hello"})      # doctest: +SKIP
    >>> page = history.page("conv_abc123", ReadOptions(limit=20))                     # doctest: +SKIP
    >>> older = history.page("conv_abc123", ReadOptions(before=page.next_cursor))     # doctest: +SKIP

    Args:
        registry: looks up a conversation before each read and write.
        store: the messages table.
        message_id_from: the setting of that name.
        page_timeout: seconds that one page may take.
        concurrency: requests in progress at once.
        first_page, largest_page: messages of the first page, and of any page, when a whole history is read.
        cool_wait: seconds between the two phases of cooling. A message is sent within half of them after its lookup.
        clock: monotonic seconds.
        uptime: monotonic seconds that also pass while the machine is suspended.
    """

    registry: Lookups
    store: MessageStore
    _: KW_ONLY
    message_id_from: InitVar[str] = "sort_key"
    page_timeout: float = 10.0
    concurrency: int = CONCURRENCY
    first_page: int = 100
    largest_page: int = 1000
    cool_wait: float = 600.0
    clock: Callable[[], float] = time.monotonic
    uptime: Callable[[], float] = uptime
    _owned_registry: Registry | None = field(default=None, init=False)

    def __post_init__(self, message_id_from: str) -> None:
        check_number("page_timeout", self.page_timeout, 0.001, LONGEST)
        check_number("cool_wait", self.cool_wait, 0.001, LONGEST)
        for name in ("concurrency", "first_page", "largest_page"):
            check_whole(name, getattr(self, name), 1)
        self.id_attribute = message_id_from.partition("attribute:")[2] or None
        """The attribute that holds message ids; None if the sort key does."""
        self.pool = ThreadPool(self.concurrency, "history")
        """The threads that run requests."""

    @classmethod
    def open(cls, settings: Settings | None = None) -> History:
        """Open the registry and the messages table of the settings.

        Raises:
            ConfigurationError: no Redis is configured, or a setting cannot be used.
        """
        with importing:
            from saltctl.settings import load_settings
            from saltctl.stores.aws.messages_table import MessagesTable

        settings = settings or load_settings()
        registry = Registry.open(settings)
        history = cls.over(settings, registry, MessagesTable(settings))
        history._owned_registry = registry
        return history

    @classmethod
    def over(cls, settings: Settings, registry: Lookups, store: MessageStore, **more: Any) -> Self:
        """Make a history over a registry and a store, which the caller closes. ``more`` arguments are the class's."""
        return cls(
            registry,
            store,
            message_id_from=settings.message_id_from,
            page_timeout=settings.page_timeout,
            cool_wait=settings.cool_wait,
            **more,
        )

    def close(self) -> None:
        """End the threads, and close the registry if :meth:`open` opened it."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self._owned_registry is not None:
            self._owned_registry.close()

    def __enter__(self) -> Self:
        """Return the history itself, which is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the history, as :meth:`close` does."""
        self.close()

    # Writing.

    def put(self, conversation_id: str, sort_key: SortKey | int, attributes: Mapping[str, Any]) -> PutResult:
        """Write one message, on the salt of its id, unless it exists.

        Safe to repeat: a retry reaches the same row or, across a raise, writes an equal row that reads return once.
        The message id comes from the sort key or from an attribute, by ``message_id_from``.

        Args:
            conversation_id: the conversation.
            sort_key: such as ``2026-07-01T08:00:00.000Z#m1``; a number if the table's sort key is one.
            attributes: everything else, as Python values (see ``saltctl.history.attributes``).

        Raises:
            SortKeyTakenError: a message with another id has this sort key; nothing was written.
            UsageError: an argument has the wrong type, an attribute cannot be stored, or there is no message id.
            StaleLookupError: the process was stopped after its lookup; nothing was written; repeat the call.
            UnavailableError: the message may or may not be written; repeat the call.
            InvalidConversationIdError, AccessDeniedError, ConfigurationError: as ``Registry.lookup``.
        """
        keys, looked_up = self.store.keys, self.uptime()
        found = self.registry.lookup(conversation_id)
        key = self.sort_key(sort_key)
        if not isinstance(attributes, Mapping):
            raise UsageError(f"attributes must be a mapping, not {type(attributes).__name__}", hint="pass {} for none")
        row = tagged(attributes)["M"]
        if taken := {keys.partition_key, keys.sort_key} & row.keys():
            raise UsageError(f"{min(taken)!r} is a key of the table, not an attribute", hint="leave it out")
        message_id = message_id_of({**row, keys.sort_key: tagged(key)}, keys, self.id_attribute)
        if not message_id:
            raise UsageError(
                f"the message has no id in {self.id_attribute or keys.sort_key!r}: it must be a string or a number",
                hint="set message_id_from (SALTCTL_MESSAGE_ID_FROM) to the attribute that holds ids",
            )
        # write_n, not max_n: readers look before writers leap.
        partition = partition_key(conversation_id, salt_of(message_id, found.write_n))
        if self._put_in_time(looked_up, partition, key, row):
            return PutResult(True, partition, message_id)
        held = self.store.get(partition, key)
        if held is None:
            raise MismatchedResponseError(
                f"DynamoDB says that {partition!r} has a row of this message, and has none", hint="repeat the call"
            )
        if message_id_of(held, keys, self.id_attribute) != message_id:
            raise SortKeyTakenError(
                f"another message has the sort key {key} in {partition!r}: nothing was written",
                hint="a sort key must be unique in its conversation, such as timestamp#message_id",
            )
        return PutResult(False, partition, message_id)

    def _put_in_time(self, looked_up: float, partition: str, key: SortKey, row: Item) -> bool:
        """Write a row unless it exists; return whether it was written. Send it only while its lookup is recent.

        Cooling makes readers look away from a salt once every lookup that names it must be out of use.
        """
        age, oldest = self.uptime() - looked_up, self.cool_wait / 2
        if age >= oldest:
            raise StaleLookupError(
                f"the message was not written to {partition!r}: {age:,.0f} s have passed since its lookup, and after "
                f"{oldest:,.0f} s readers may not cover this partition",
                hint="repeat the call",
            )
        with TimeBudget(oldest - age):  # the store may try several times
            return self.store.put(partition, key, row)

    # Reading.

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up a conversation, as every read does. Raises as ``Registry.lookup``.

        It is a ConfigurationError, too, if its boundary cannot be a sort key of the table.
        """
        found = self.registry.lookup(conversation_id)
        if found.boundary is not None and isinstance(found.boundary, str) != (self.store.keys.sort_type == "S"):
            raise ConfigurationError(
                f"the boundary {found.boundary!r:.60} of {conversation_id!r} has another type than the sort keys",
                hint="check SALTCTL_MESSAGES_TABLE and SALTCTL_BACKUP_TABLE",
            )
        return found

    def page(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> Page:
        """Read one page of a history: every message of it, or an error.

        An unknown conversation has an empty history, which is a result; ``shards`` names the partitions that were read.

        Raises:
            HistoryUnavailableError: partitions cannot be read, and ``allow_partial`` is not set; or none can be read.
            InvalidCursorError: a cursor is damaged or belongs to another conversation.
            UsageError: options that cannot be used.
            InvalidConversationIdError, UnavailableError, AccessDeniedError, ConfigurationError: as
                ``Registry.lookup``, and the same of the messages table.
        """
        started = self.clock()
        deadline = started + self.page_timeout
        job = ScatterGather(
            self.store, self.pool, self.clock, deadline, options.allow_partial, id_attribute=self.id_attribute
        )
        with TimeBudget(self.page_timeout):
            request = self._prepare(conversation_id, options)
            return self._make_page(request, job.run(request), started)

    def pages(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Page]:
        """Read a whole history page by page, each of a size that keeps memory flat. Raises as :meth:`page`.

        Every page looks up the conversation again, so it sees a raise between two pages.
        """
        options = replace(options, limit=self.first_page)
        while (page := self.page(conversation_id, options)).next_cursor is not None:
            yield page
            limit = self.first_page
            units = sum(shard.consumed_rcu for shard in page.shards) * (1 if options.consistent else 2)
            if units and page.items_read:  # judge by the size of the messages that were read
                limit = int(min(max(_PAGE_RCU * page.items_read / units, 10), self.largest_page))
            turn: dict[str, Any] = {"after" if options.oldest_first else "before": page.next_cursor}
            options = replace(options, limit=limit, **turn)
        yield page

    def messages(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Message]:
        """Yield every message of a history, in order, in flat memory. Raises as :meth:`page`.

        With ``allow_partial`` use :meth:`pages`, which names the missing partitions.
        """
        for page in self.pages(conversation_id, options):
            yield from page.messages

    def explain(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> ReadPlan:
        """Return the first queries of :meth:`page`; look up the conversation and read no message."""
        request = self._prepare(conversation_id, options)
        reads = [read for read in plan(request) if not read.waits]
        return ReadPlan(request.lookup, [read.next_query(request.query) for read in reads])

    def find(self, conversation_id: str, message_id: str | int | Decimal, options: FindOptions | None = None) -> Found:
        """Find one message by its id: first on the log2(N) + 1 likely partitions, then on all others.

        In a cooled conversation, a sort key or ``since`` from the boundary on limits this to the recent partitions.

        See ``saltctl.history.find``. An id that is a number is found in any spelling.

        Raises:
            HistoryUnavailableError: it was not found, and a partition could not be read, or not in time.
            UsageError: no message can have this id: it is not valid Unicode, or another type.
            InvalidConversationIdError, UnavailableError, AccessDeniedError, ConfigurationError: as ``page``.
        """
        options = options or FindOptions()
        with TimeBudget(options.timeout):
            return self._find(conversation_id, message_id, options)

    def _find(self, conversation_id: str, message_id: str | int | Decimal, options: FindOptions) -> Found:
        search = MessageSearch(
            self.store, self.pool, message_id, self.id_attribute, timeout=options.timeout, clock=self.clock
        )
        found = self.lookup(conversation_id)
        sort_key, since = self._bound(options.sort_key), self._bound(options.since)
        partitions = _likely_and_others(found, search.spellings, since if sort_key is None else sort_key)
        if sort_key is not None:
            item = search.by_sort_key(*partitions, sort_key=sort_key)
        else:
            item = search.by_id(*partitions, since=since, until=self._bound(options.until))
        message = None if item is None else self.message(conversation_id, item)
        return Found(message, search.searched, search.items_read, search.consumed_rcu)

    def message(self, conversation_id: str, item: Item) -> Message:
        """Return a row of the table as a message."""
        keys, row = self.store.keys, plain_item(item)
        message_id = message_id_of(item, keys, self.id_attribute)
        return Message(conversation_id, row[keys.partition_key], row[keys.sort_key], message_id, row)

    def sort_key(self, value: SortKey | int) -> SortKey:
        """Return a sort key of the table's type, exact; raise UsageError if the value cannot be one."""
        keys = self.store.keys
        if keys.sort_type == "S":
            if not isinstance(value, str) or not value:
                raise UsageError(
                    f"the sort key {keys.sort_key!r} must be a string that is not empty, not {value!r:.60}"
                )
            tagged(value)
            return value
        try:
            return Decimal(number_text(exact_number(value)))
        except UsageError as exc:
            raise UsageError(f"the sort key {keys.sort_key!r} must be a number: {exc.message}", hint=exc.hint) from None

    def _bound(self, value: SortKey | int | None) -> SortKey | None:
        return None if value is None else self.sort_key(value)

    def _prepare(self, conversation_id: str, options: ReadOptions) -> PageRequest:
        check_whole("limit", options.limit, 1, MAX_LIMIT, hint="such as --limit 50")
        lookup = self.lookup(conversation_id)
        before, after = (
            None if text is None else cursors.decode(text, conversation_id, self.store.keys.sort_type)
            for text in (options.before, options.after)
        )
        since, until = self._bound(options.since), self._bound(options.until)
        lower = after.position if after else None
        upper = before.position if before else None
        if until is not None and (upper is None or until <= upper.sort_key):
            upper = Position(until, BASE, FIRST)  # before every message of that sort key: the bound is exclusive
        query = PartitionQuery(
            conversation_id,
            descending=not options.oldest_first,
            low=max((key for key in (since, lower and lower.sort_key) if key is not None), default=None),
            high=upper and upper.sort_key,
            consistent=options.consistent,
            filter=options.filter,
        )
        start = after if options.oldest_first else before
        return PageRequest(lookup, query, options.limit, after=lower, before=upper, start=start)

    def _make_page(self, request: PageRequest, found: PageRows, started: float) -> Page:
        lookup, rows = request.lookup, found.rows
        next_cursor = prev_cursor = None
        if rows:
            highest = max(row.salt for row in rows[-_LAST_ROWS:])
            spread = 1 if highest == BASE else 1 << max(highest, 1).bit_length()
            # Four digits are enough for an estimate, and keep cursors short.
            distance = float(f"{average_distance(rows[0].sort_key, rows[-1].sort_key, len(rows)):.4g}")
            prev_cursor, next_cursor = (
                cursors.encode(Cursor(row.position, spread, distance), lookup.conversation_id)
                for row in (rows[0], rows[-1])
            )
        returned = Counter(row.salt for row in rows)
        return Page(
            lookup.conversation_id,
            [self.message(lookup.conversation_id, row.item) for row in rows],
            next_cursor if found.more else None,  # a page without rows was read to the end of every partition
            prev_cursor,
            not any(read.error for read in found.partitions),
            lookup.max_n,
            lookup.source,
            [read.shard(returned.get(read.salt, 0)) for read in found.partitions],
            sum(read.items_read for read in found.partitions),
            self.clock() - started,
        )


def _likely_and_others(found: Lookup, spellings: list[str], since: SortKey | None) -> tuple[list[str], list[str]]:
    """Return the partitions that may have a message from a sort key on: the likely ones, and all others."""
    sizes = (found.recent_n, found.max_n) if found.is_below(since) else (found.recent_n,)
    likely = [key for n in sizes for spelling in spellings for key in find_set(found.conversation_id, spelling, n)]
    return list(dict.fromkeys(likely)), [key for key in found.read_set(since) if key not in likely]
