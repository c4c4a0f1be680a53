"""Finds one message by its id, on the few partitions that can hold it.

N grows by doubling, so a message that was written under any N up to max_n is on one of log2(N) + 1 partitions
(``salting.find_set``). The cost depends on what else is known:

- the sort key: one strongly consistent read of one row on each of them;
- only the id: those partitions are read, newest first, until the message is found, because DynamoDB cannot look up a
  row by the end of its sort key or by an attribute. The size of log2(N) + 1 of N partitions, ``since`` and ``until``,
  and a deadline bound the cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from typing import Protocol

from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError, UsageError
from saltctl.history.models import FindOptions, Found, Message, MessageIdRule
from saltctl.history.scatter_gather import sort_key_of
from saltctl.history.thread_pool import ThreadPool
from saltctl.registry.registry import Lookups
from saltctl.salting import find_set
from saltctl.stores.contracts import Filter, Item, MessageStore, PartitionQuery, SortKey


class SearchedHistory(Protocol):
    """The part of ``History`` that a search uses."""

    registry: Lookups
    store: MessageStore
    message_ids: MessageIdRule
    clock: Callable[[], float]

    @property
    def pool(self) -> ThreadPool:
        """The threads that run requests."""
        ...

    def message(self, conversation_id: str, item: Item) -> Message:
        """Return a row of the table as a message."""
        ...

    def sort_key(self, value: SortKey | int) -> SortKey:
        """Return a sort key of the table's type."""
        ...


class MessageSearch:
    """The search for one message."""

    def __init__(self, history: SearchedHistory, conversation_id: str, message_id: str, options: FindOptions) -> None:
        self._history = history
        self._conversation_id = conversation_id
        self._message_id = message_id
        self._options = options
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._items_read = 0
        self._consumed_rcu = 0.0

    def run(self) -> Found:
        """Search. Raises as ``History.find``."""
        _check_message_id(self._message_id)
        until = self._history.clock() + self._options.timeout
        keys = find_set(
            self._conversation_id, self._message_id, self._history.registry.lookup(self._conversation_id).max_n
        )
        ask = self._by_id if self._options.sort_key is None else self._by_sort_key
        running = {self._history.pool.submit(ask, key): key for key in keys}
        failed: dict[str, SaltctlError] = {}
        try:
            while running:
                timeout = max(until - self._history.clock(), 0.0)
                done, _ = wait(running, timeout=timeout, return_when=FIRST_COMPLETED)
                if not done:
                    failed |= {key: self._late(key) for key in running.values()}
                    break
                for future in done:
                    key = running.pop(future)
                    try:
                        item = future.result()
                    except SaltctlError as exc:
                        failed[key] = exc
                        continue
                    if item is not None:
                        message = self._history.message(self._conversation_id, item)
                        return Found(message, keys, self._items_read, self._consumed_rcu)
        finally:
            self._stop.set()
            for future in running:
                future.cancel()
        if failed:
            # It may be just where nobody could look: "not found" would be a lie.
            raise _unanswered(failed)
        return Found(None, keys, self._items_read, self._consumed_rcu)

    def _by_sort_key(self, key: str) -> Item | None:
        assert self._options.sort_key is not None
        item = self._history.store.get(key, self._history.sort_key(self._options.sort_key))
        self._count(int(item is not None), 1.0)
        return item if item is not None and self._matches(item) else None

    def _by_id(self, key: str) -> Item | None:
        history = self._history
        since, until = (
            None if bound is None else history.sort_key(bound) for bound in (self._options.since, self._options.until)
        )
        attribute = history.message_ids.attribute
        request = PartitionQuery(
            key,
            low=since,
            high=until,
            # Either only keys travel, or only what matches; the partition is read and paid for all the same.
            keys_only=attribute is None,
            filter=None if attribute is None else self._filter(attribute),
        )
        if since is not None and until is not None and since >= until:  # type: ignore[operator]  # of one type
            return None
        while not self._stop.is_set():
            answer = history.store.query(request)
            self._count(answer.scanned, answer.consumed_rcu)
            for item in answer.items:
                sort_key = sort_key_of(item, history.store.keys.sort_key)
                if self._matches(item) and sort_key != until:
                    return item if attribute is not None else history.store.get(key, sort_key)
            if answer.next is None:
                return None
            request = replace(request, start=answer.next)
        return None

    def _filter(self, attribute: str) -> Filter:
        return Filter("#saltctl_id = :saltctl_id", {"#saltctl_id": attribute}, {":saltctl_id": {"S": self._message_id}})

    def _matches(self, item: Item) -> bool:
        return self._history.message_ids.id_of(item, self._history.store.keys) == self._message_id

    def _count(self, items: int, units: float) -> None:
        with self._lock:
            self._items_read += items
            self._consumed_rcu += units

    def _late(self, key: str) -> AwsUnavailableError:
        return AwsUnavailableError(
            f"partition key {key!r} was not read through within {self._options.timeout:g} s",
            hint="narrow the search with --since and --until, or give the whole --sort-key",
        )


def _check_message_id(message_id: str) -> None:
    """Refuse what no message can have for an id: DynamoDB stores UTF-8, and a shell hands over any bytes."""
    try:
        message_id.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{message_id!r} is no message id: it is not valid UTF-8", hint="copy it from `saltctl history read`"
        ) from None


def _unanswered(failed: dict[str, SaltctlError]) -> SaltctlError:
    for error in failed.values():
        if not isinstance(error, UnavailableError):
            return error
    first = next(iter(failed.values()))
    return HistoryUnavailableError(
        f"the message may be where it could not be looked for: {', '.join(failed)}. {first.message}",
        partitions=failed,
        hint=first.hint or "try again",
    )
