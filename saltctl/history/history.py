"""Salted writes and complete reads of messages, for application servers.

The part of the promise that is kept here: a read returns every message that was acknowledged before it began, or it
says that it is incomplete and which partitions are missing. Every call looks up the conversation again; nothing is
cached for readers.

A page: ``History`` looks up the conversation, ``page_request`` prepares the request, ``ScatterGather`` reads its rows
from all partitions, and ``page_of_rows`` makes the page of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Self

from saltctl.errors import ConfigurationError, closed
from saltctl.forks import importing
from saltctl.history.find import MessageSearch, checked_options
from saltctl.history.models import (
    DEFAULT_OPTIONS,
    FindOptions,
    Found,
    Message,
    Page,
    PutResult,
    ReadOptions,
    ReadPlan,
)
from saltctl.history.pages.hedging import Hedging
from saltctl.history.pages.page import page_of_rows
from saltctl.history.pages.plan import plan
from saltctl.history.pages.request import check_options, page_request
from saltctl.history.pages.scatter_gather import ScatterGather
from saltctl.history.pages.sharing import SharedReads
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.history.rows import bound_of, message_of
from saltctl.history.writing import MessageWriter
from saltctl.registry.lookups import Lookup, Lookups
from saltctl.registry.registry import Registry
from saltctl.salting import find_set
from saltctl.settings import Settings
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.messages import Item, MessageStore, SortKey
from saltctl.values import LONGEST, check_flag, check_number, check_whole

CONCURRENCY = 72
"""Requests in progress at once, over all callers of one History: as many as the client keeps connections. A page of 64
salts has 65 partitions; if one of them had to wait for its turn, the page would take twice as long."""
_PAGE_RCU = 1024
"""Read units of a page when a whole history is read: 4 MB of memory, for messages of any size."""
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
        hedge_reads: send a query that takes longer than others again: see ``saltctl.history.pages.hedging``.
        share_reads: let readers of one page at the same time share a read: see ``saltctl.history.pages.sharing``.
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
    hedge_reads: bool = False
    share_reads: bool = False
    clock: Callable[[], float] = time.monotonic
    uptime: Callable[[], float] = uptime
    shared_reads: ClassVar[type[SharedReads]] = SharedReads
    _owned: list[Any] = field(default_factory=list, init=False)
    """What :meth:`open` opened."""

    def __post_init__(self, message_id_from: str) -> None:
        check_number("page_timeout", self.page_timeout, 0.001, LONGEST)
        check_number("cool_wait", self.cool_wait, 0.001, LONGEST)
        for name in ("concurrency", "first_page", "largest_page"):
            check_whole(name, getattr(self, name), 1)
        for name in ("hedge_reads", "share_reads"):
            check_flag(name, getattr(self, name))
        self.id_attribute = message_id_from.partition("attribute:")[2] or None
        """The attribute that holds message ids; None if the sort key does."""
        self.pool = ThreadPool(self.concurrency, "history")
        """The threads that run requests."""
        self._hedging = Hedging(self.clock, max(self.concurrency // 8, 1)) if self.hedge_reads else None
        self._shared = self.shared_reads(self.clock) if self.share_reads else None

    @classmethod
    def open(cls, settings: Settings | None = None, *, registry: Lookups | None = None) -> History:
        """Open the registry and the messages table of the settings.

        ``registry``: one that is open already, to share it; the caller closes it.

        Raises:
            ConfigurationError: no Redis is configured, or a setting cannot be used.
        """
        with importing:
            from saltctl.settings import settings_or_loaded
            from saltctl.stores.aws.messages_table import MessagesTable

        settings = settings_or_loaded(settings)
        owned: list[Any] = [MessagesTable(settings)]
        if registry is None:
            owned.append(registry := Registry.open(settings))
        history = cls.over(settings, registry, owned[0])
        history._owned = owned
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
            hedge_reads=settings.hedge_reads,
            share_reads=settings.share_reads,
            **more,
        )

    def close(self) -> None:
        """End the threads, and close what :meth:`open` opened. What is called after that raises UsageError."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for one in self._owned:
            one.close()

    def __enter__(self) -> Self:
        """Return the history itself, which is closed at the end of the block. Raises UsageError if it is closed."""
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the history, as :meth:`close` does."""
        self.close()

    def _check_open(self) -> None:
        if self.pool.is_closed:
            raise closed("history")

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
        self._check_open()
        _, looked_up = self.store.keys, self.uptime()  # the keys first: the first request for them may take long
        return self.put_of(self.registry.lookup(conversation_id), looked_up, sort_key, attributes)

    def put_of(
        self, found: Lookup, looked_up: float, sort_key: SortKey | int, attributes: Mapping[str, Any]
    ) -> PutResult:
        """Write one message as :meth:`put`, with a lookup that was made for this write alone.

        ``looked_up`` is :attr:`uptime` just before the lookup.
        """
        writer = MessageWriter(self.store, self.id_attribute, self.uptime, self.cool_wait / 2)
        return writer.put(found, looked_up, sort_key, attributes)

    # Reading.

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up a conversation, as every read does. Raises as ``Registry.lookup``.

        It is a ConfigurationError, too, if its boundary cannot be a sort key of the table.
        """
        self._check_open()
        return self.check(self.registry.lookup(conversation_id))

    def check(self, found: Lookup) -> Lookup:
        """Return the answer of the registry, unless its boundary cannot be a sort key of the table."""
        if found.boundary is not None and isinstance(found.boundary, str) != (self.store.keys.sort_type == "S"):
            raise ConfigurationError(
                f"the boundary {found.boundary!r:.60} of {found.conversation_id!r} has another type than the sort keys",
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
        check_options(options)
        with TimeBudget(self.page_timeout):
            return self.page_of(self.lookup(conversation_id), options, started=started)

    def page_of(self, found: Lookup, options: ReadOptions = DEFAULT_OPTIONS, *, started: float | None = None) -> Page:
        """Read one page as :meth:`page`, with the answer of :meth:`lookup`, which was made for this read alone.

        ``started`` is :attr:`clock` just before the lookup, when the time of the page began; None is now.
        """
        started = self.clock() if started is None else started
        deadline = started + self.page_timeout
        job = ScatterGather(
            self.store,
            self.pool,
            self.clock,
            started,
            deadline,
            options.allow_partial,
            self.id_attribute,
            self._hedging,
        )
        with TimeBudget(deadline - self.clock()):
            keys = self.store.keys
            request = page_request(found, options, keys)
            read = partial(job.run, request)
            if self._shared is None or options.filter is not None:  # a filter has mappings, which are no key
                rows = read()
            else:
                key = request, options.allow_partial
                rows = self._shared.read(key, deadline, read, partial(job.too_late, request))
            return page_of_rows(found, rows, keys, self.id_attribute, self.clock() - started)

    def pages(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Page]:
        """Read a whole history page by page, each of a size that keeps memory flat. Raises as :meth:`page`.

        Every page looks up the conversation again, so it sees a raise between two pages.
        """
        check_options(options)
        following: ReadOptions | None = replace(options, limit=self.first_page)
        while following is not None:
            page = self.page(conversation_id, following)
            yield page
            following = self.after(page, following)

    def after(self, page: Page, options: ReadOptions) -> ReadOptions | None:
        """Return how to read the page after one that was read with these options; None if it is the last."""
        if page.next_cursor is None:
            return None
        limit = self.first_page
        units = sum(shard.consumed_rcu for shard in page.shards) * (1 if options.consistent else 2)
        if units and page.items_read:  # judge by the size of the messages that were read
            limit = int(min(max(_PAGE_RCU * page.items_read / units, 10), self.largest_page))
        turn: dict[str, Any] = {"after" if options.oldest_first else "before": page.next_cursor}
        return replace(options, limit=limit, **turn)

    def messages(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Message]:
        """Yield every message of a history, in order, in flat memory. Raises as :meth:`page`.

        With ``allow_partial`` use :meth:`pages`, which names the missing partitions.
        """
        for page in self.pages(conversation_id, options):
            yield from page.messages

    def explain(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> ReadPlan:
        """Return the first queries of :meth:`page`; look up the conversation and read no message."""
        return self.explain_of(self.lookup(conversation_id), options)

    def explain_of(self, found: Lookup, options: ReadOptions = DEFAULT_OPTIONS) -> ReadPlan:
        """Return the first queries as :meth:`explain`, with the answer of :meth:`lookup`."""
        request = page_request(found, options, self.store.keys)
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
        options, started = checked_options(message_id, options), self.clock()
        with TimeBudget(options.timeout):
            return self.find_of(self.lookup(conversation_id), message_id, options, started=started)

    def find_of(
        self,
        found: Lookup,
        message_id: str | int | Decimal,
        options: FindOptions | None = None,
        *,
        started: float | None = None,
    ) -> Found:
        """Find one message as :meth:`find`, with the answer of :meth:`lookup`, which was made for this search alone.

        ``started`` is :attr:`clock` just before the lookup, when the time of the search began; None is now.
        """
        options = options or FindOptions()
        search = MessageSearch(
            self.store,
            self.pool,
            message_id,
            self.id_attribute,
            timeout=options.timeout,
            clock=self.clock,
            started=started,
        )
        with TimeBudget(search.deadline - self.clock()):
            item = self._search(search, found, options)
        message = None if item is None else message_of(found.conversation_id, item, self.store.keys, self.id_attribute)
        return Found(message, search.searched, search.items_read, search.consumed_rcu)

    def _search(self, search: MessageSearch, found: Lookup, options: FindOptions) -> Item | None:
        keys = self.store.keys
        sort_key, since, until = (bound_of(value, keys) for value in (options.sort_key, options.since, options.until))
        partitions = _likely_and_others(found, search.spellings, since if sort_key is None else sort_key)
        if sort_key is not None:
            return search.by_sort_key(*partitions, sort_key=sort_key)
        return search.by_id(*partitions, since=since, until=until)


def _likely_and_others(found: Lookup, spellings: list[str], since: SortKey | None) -> tuple[list[str], list[str]]:
    """Return the partitions that may have a message from a sort key on: the likely ones, and all others."""
    sizes = (found.recent_n, found.max_n) if found.is_below(since) else (found.recent_n,)
    likely = [key for n in sizes for spelling in spellings for key in find_set(found.conversation_id, spelling, n)]
    return list(dict.fromkeys(likely)), [key for key in found.read_set(since) if key not in likely]
