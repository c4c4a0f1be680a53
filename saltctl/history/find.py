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
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from functools import partial

from saltctl.errors import AwsUnavailableError, SaltctlError, UsageError
from saltctl.history.attributes import plain
from saltctl.history.models import message_id_of
from saltctl.history.scatter_gather import partition_error
from saltctl.history.thread_pool import ThreadPool
from saltctl.stores.contracts.messages import Filter, Item, MessageStore, PartitionQuery, SortKey


@dataclass(eq=False)
class MessageSearch:
    """The search for one message. Its deadline begins with its creation.

    Args:
        id_attribute: the attribute that holds ids; None if the sort key does.
        timeout: seconds that the search may take, by the clock, in monotonic seconds.

    Raises:
        UsageError: the id is not valid UTF-8.
    """

    store: MessageStore
    pool: ThreadPool
    message_id: str
    id_attribute: str | None
    timeout: float = field(kw_only=True)
    clock: Callable[[], float] = field(kw_only=True)
    items_read: int = field(default=0, init=False)
    consumed_rcu: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        try:  # DynamoDB stores UTF-8, and a shell passes any bytes.
            self.message_id.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the message id {self.message_id!r} is not valid UTF-8", hint="copy it from `saltctl history read`"
            ) from None
        self._deadline = self.clock() + self.timeout
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def by_sort_key(self, partition_keys: Sequence[str], sort_key: SortKey) -> Item | None:
        """Return the row of the message, which has this sort key; None if no partition has it.

        Raises HistoryUnavailableError if it was not found, and a partition could not be read in time; or the error of
        a partition, if it is not an outage.
        """
        return self._first_found(partition_keys, partial(self._get, sort_key=sort_key))

    def by_id(self, partition_keys: Sequence[str], since: SortKey | None, until: SortKey | None) -> Item | None:
        """Return the row of the message; None if no partition has it between ``since`` and, excluded, ``until``.

        Raises as :meth:`by_sort_key`.
        """
        if since is not None and until is not None and since >= until:  # type: ignore[operator]  # both of one type
            return None
        # DynamoDB charges for every row that it reads, but sends only keys, or only the rows that match.
        query = PartitionQuery("", low=since, high=until, keys_only=True)
        if (attribute := self.id_attribute) is not None:
            names, values = {"#saltctl_id": attribute}, {":saltctl_id": {"S": self.message_id}}
            query = replace(query, keys_only=False, filter=Filter("#saltctl_id = :saltctl_id", names, values))
        return self._first_found(partition_keys, partial(self._read_partition, query=query))

    def _first_found(self, partition_keys: Sequence[str], search: Callable[[str], Item | None]) -> Item | None:
        """Search all partitions at once; return the first row that is found and stop the other searches."""
        searches = {self.pool.submit(search, key): key for key in partition_keys}
        failed: dict[str, SaltctlError] = {}
        try:
            while searches:
                done = wait(searches, max(self._deadline - self.clock(), 0.0), return_when=FIRST_COMPLETED).done
                if not done:
                    failed |= {key: self._timeout_error(key) for key in searches.values()}
                    break
                for future in done:
                    key, error = searches.pop(future), future.exception()
                    if isinstance(error, SaltctlError):
                        failed[key] = error
                    elif (item := future.result()) is not None:
                        return item
        finally:
            self._stop.set()
            for future in searches:
                future.cancel()
        if not failed:
            return None
        first = next(iter(failed.values()))
        problem = f"the message may be on a partition that could not be read: {', '.join(failed)}. {first.message}"
        raise partition_error(failed, problem, first.hint or "try again")

    def _get(self, key: str, sort_key: SortKey) -> Item | None:
        item = self.store.get(key, sort_key)
        self._count(int(item is not None), 1.0)
        return item if item is not None and self._matches(item) else None

    def _read_partition(self, key: str, query: PartitionQuery) -> Item | None:
        query = replace(query, partition_key=key)
        while not self._stop.is_set():
            answer = self.store.query(query)
            self._count(answer.scanned, answer.consumed_rcu)
            for item in filter(self._matches, answer.items):
                sort_key = plain(item[self.store.keys.sort_key])
                if sort_key != query.high:  # high is inclusive in DynamoDB
                    return self.store.get(key, sort_key) if query.keys_only else item
            if answer.next is None:
                break
            query = replace(query, start=answer.next)
        return None

    def _matches(self, item: Item) -> bool:
        return message_id_of(item, self.store.keys, self.id_attribute) == self.message_id

    def _count(self, items: int, units: float) -> None:
        with self._lock:
            self.items_read += items
            self.consumed_rcu += units

    def _timeout_error(self, key: str) -> AwsUnavailableError:
        return AwsUnavailableError(
            f"partition key {key!r} was not read to its end within {self.timeout:g} s",
            hint="narrow the search with --since and --until, or give the whole --sort-key",
        )
