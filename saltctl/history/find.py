"""Finds one message by its id, on the few partitions that can hold it.

N grows by doubling, so a message that was written under any N up to max_n is on one of log2(N) + 1 partitions
(``salting.find_set``). The cost depends on what is known besides the id:

- With the sort key, it is one strongly consistent read of one row on each of them.
- With the id alone, they are read, newest first, until the message is found. DynamoDB cannot look up a row by the end
  of its sort key or by an attribute. Bounds of the sort key and a deadline limit the cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial

from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError, UsageError
from saltctl.history.attributes import plain
from saltctl.history.models import MessageIdRule
from saltctl.history.thread_pool import ThreadPool
from saltctl.stores.contracts import Filter, Item, MessageStore, PartitionQuery, SortKey


class MessageSearch:
    """The search for one message. Its deadline begins with its creation.

    Args:
        store: the messages table.
        pool: runs the requests.
        message_ids: how the id of a message is read from its row.
        message_id: the message.
        timeout: seconds that the search may take.
        clock: monotonic seconds.

    Raises:
        UsageError: the id is not valid UTF-8.
    """

    def __init__(
        self,
        store: MessageStore,
        pool: ThreadPool,
        message_ids: MessageIdRule,
        message_id: str,
        *,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        _check_message_id(message_id)
        self._store = store
        self._pool = pool
        self._message_ids = message_ids
        self._message_id = message_id
        self._timeout = timeout
        self._clock = clock
        self._deadline = clock() + timeout
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.items_read = 0
        self.consumed_rcu = 0.0

    def by_sort_key(self, partition_keys: Sequence[str], sort_key: SortKey) -> Item | None:
        """Return the row of the message, which has this sort key; None if no partition has it.

        Raises:
            HistoryUnavailableError: it was not found, and a partition could not be read in time.
            SaltctlError: the error of a partition, if it is not an outage.
        """
        return self._first_found(partition_keys, partial(self._get, sort_key=sort_key))

    def by_id(self, partition_keys: Sequence[str], since: SortKey | None, until: SortKey | None) -> Item | None:
        """Return the row of the message; None if no partition has it between ``since`` and, excluded, ``until``.

        Raises as :meth:`by_sort_key`.
        """
        if since is not None and until is not None and since >= until:  # type: ignore[operator]  # both of one type
            return None
        attribute = self._message_ids.attribute
        query = PartitionQuery(
            "",
            low=since,
            high=until,
            # DynamoDB charges for every row that it reads, but sends only keys, or only the rows that match.
            keys_only=attribute is None,
            filter=None if attribute is None else self._filter(attribute),
        )
        return self._first_found(partition_keys, partial(self._read_partition, query=query))

    def _first_found(self, partition_keys: Sequence[str], search: Callable[[str], Item | None]) -> Item | None:
        """Search all partitions at once; return the first row that is found and stop the other searches."""
        searches = {self._pool.submit(search, key): key for key in partition_keys}
        failed: dict[str, SaltctlError] = {}
        try:
            while searches:
                done = wait(searches, max(self._deadline - self._clock(), 0.0), return_when=FIRST_COMPLETED).done
                if not done:
                    failed |= {key: self._timeout_error(key) for key in searches.values()}
                    break
                for future in done:
                    item = _result(future, searches.pop(future), failed)
                    if item is not None:
                        return item
        finally:
            self._stop.set()
            for future in searches:
                future.cancel()
        if failed:  # the message may be on one of these partitions
            raise _search_error(failed)
        return None

    def _get(self, key: str, sort_key: SortKey) -> Item | None:
        item = self._store.get(key, sort_key)
        self._count(int(item is not None), 1.0)
        return item if item is not None and self._matches(item) else None

    def _read_partition(self, key: str, query: PartitionQuery) -> Item | None:
        query = replace(query, partition_key=key)
        while not self._stop.is_set():
            answer = self._store.query(query)
            self._count(answer.scanned, answer.consumed_rcu)
            for item in answer.items:
                # ``high`` is inclusive in DynamoDB
                if self._matches(item) and (sort_key := plain(item[self._store.keys.sort_key])) != query.high:
                    return self._store.get(key, sort_key) if query.keys_only else item
            if answer.next is None:
                return None
            query = replace(query, start=answer.next)
        return None

    def _filter(self, attribute: str) -> Filter:
        return Filter("#saltctl_id = :saltctl_id", {"#saltctl_id": attribute}, {":saltctl_id": {"S": self._message_id}})

    def _matches(self, item: Item) -> bool:
        return self._message_ids.id_of(item, self._store.keys) == self._message_id

    def _count(self, items: int, units: float) -> None:
        with self._lock:
            self.items_read += items
            self.consumed_rcu += units

    def _timeout_error(self, key: str) -> AwsUnavailableError:
        return AwsUnavailableError(
            f"partition key {key!r} was not read to its end within {self._timeout:g} s",
            hint="narrow the search with --since and --until, or give the whole --sort-key",
        )


def _result(future: Future[Item | None], key: str, failed: dict[str, SaltctlError]) -> Item | None:
    """Return the row that a search found; None, and the error in ``failed``, if it failed."""
    try:
        return future.result()
    except SaltctlError as exc:
        failed[key] = exc
        return None


def _check_message_id(message_id: str) -> None:
    """Refuse an id that no message can have: DynamoDB stores UTF-8, and a shell passes any bytes."""
    try:
        message_id.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the message id {message_id!r} is not valid UTF-8", hint="copy it from `saltctl history read`"
        ) from None


def _search_error(failed: dict[str, SaltctlError]) -> SaltctlError:
    """Return the error of a search: a permission or configuration error as it is, outages as one error."""
    for error in failed.values():
        if not isinstance(error, UnavailableError):
            return error
    first = next(iter(failed.values()))
    return HistoryUnavailableError(
        f"the message may be on a partition that could not be read: {', '.join(failed)}. {first.message}",
        partitions=failed,
        hint=first.hint or "try again",
    )
