"""Finds one message by its id: first on the few partitions that are likely to hold it, then on all others.

N grows by doubling, so a message that was written under any N up to max_n is on one of log2(N) + 1 partitions
(``salting.find_set``). Other programs may have written under an N that is no power of two, or with another spelling
of a number. So only the whole read set proves that a message does not exist. From the boundary of a cooled
conversation on, that is the few recent partitions. The cost depends on the known facts:

- With the sort key, it is one strongly consistent read of one row on each of them.
- With the id alone, they are read, newest first, until the message is found. DynamoDB cannot look up a row by the end
  of its sort key or by an attribute. Bounds of the sort key and a deadline limit the cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial

from saltctl.errors import AwsUnavailableError, SaltctlError, UsageError
from saltctl.history.attributes import exact_number, plain
from saltctl.history.models import FindOptions, message_id_of
from saltctl.history.pages.scatter_gather import partition_error
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.salting import number_text
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.messages import Filter, Item, MessageStore, PartitionQuery, SortKey
from saltctl.values import check_kind


@dataclass(eq=False)
class MessageSearch:
    """The search for one message.

    Args:
        message_id: a string, which may be a number in any spelling, or a number.
        id_attribute: the attribute that holds ids; None if the sort key does.
        timeout: seconds that the search may take, by the clock, in monotonic seconds.
        started: when this time began, by the clock; None is now.

    Raises:
        UsageError: the id is not valid UTF-8, neither a string nor a number, or a number that DynamoDB cannot store.
    """

    store: MessageStore
    pool: ThreadPool
    message_id: str | int | Decimal
    id_attribute: str | None
    timeout: float = field(kw_only=True)
    clock: Callable[[], float] = field(kw_only=True)
    started: float | None = field(default=None, kw_only=True)
    items_read: int = field(default=0, init=False)
    consumed_rcu: float = field(default=0.0, init=False)

    searched: list[str] = field(default_factory=list, init=False)
    """The partitions that were searched."""

    def __post_init__(self) -> None:
        self._text, self._number = text_and_number(self.message_id)
        self.deadline = (self.clock() if self.started is None else self.started) + self.timeout
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @property
    def spellings(self) -> list[str]:
        """The id as it was given and, if it is a number, as DynamoDB returns it: salts come from one of them."""
        given = [spelling for spelling in (self._text, self._number) if spelling is not None]
        return list(dict.fromkeys(given))

    def by_sort_key(
        self, partition_keys: Sequence[str], others: Sequence[str] = (), *, sort_key: SortKey
    ) -> Item | None:
        """Return the row of the message, which has this sort key; None if no partition has it.

        The ``others`` are searched only if the ``partition_keys`` do not have it. Raises HistoryUnavailableError if it
        was not found, and a partition could not be read in time; or the error of a partition, if it is not an outage.
        """
        return self._first_found((partition_keys, others), partial(self._get, sort_key=sort_key))

    def by_id(
        self,
        partition_keys: Sequence[str],
        others: Sequence[str] = (),
        *,
        since: SortKey | None = None,
        until: SortKey | None = None,
    ) -> Item | None:
        """Return the row of the message; None if no partition has it between ``since`` and, excluded, ``until``.

        The order and the errors are those of :meth:`by_sort_key`.
        """
        if since is not None and until is not None and since >= until:  # type: ignore[operator]  # both of one type
            return None
        # DynamoDB charges for every row that it reads, but sends only keys, or only the rows that match.
        query = PartitionQuery("", low=since, high=until, keys_only=True)
        if (attribute := self.id_attribute) is not None:
            tagged = {":saltctl_id": {"S": self._text}, ":saltctl_number": {"N": self._number}}
            values = {name: value for name, value in tagged.items() if None not in value.values()}
            condition = Filter(
                " OR ".join(f"#saltctl_id = {name}" for name in values), {"#saltctl_id": attribute}, values
            )
            query = replace(query, keys_only=False, filter=condition)
        return self._first_found((partition_keys, others), partial(self._read_partition, query=query))

    def _first_found(self, rounds: Sequence[Sequence[str]], search: Callable[[str], Item | None]) -> Item | None:
        """Search one group of partitions after the other, until the row is found."""
        failed: dict[str, SaltctlError] = {}
        try:
            for partition_keys in rounds:
                self.searched += partition_keys
                if (item := self._search_all(partition_keys, search, failed)) is not None:
                    return item
        finally:
            self._stop.set()
        if not failed:
            return None
        first = next(iter(failed.values()))
        problem = f"the message may be on a partition that could not be read: {', '.join(failed)}. {first.message}"
        raise partition_error(failed, problem, first.hint or "try again")

    def _search_all(
        self, partition_keys: Sequence[str], search: Callable[[str], Item | None], failed: dict[str, SaltctlError]
    ) -> Item | None:
        """Search partitions at once; return the first row that is found, and add the errors to ``failed``."""
        searches = {self.pool.submit(self._bounded, search, key): key for key in partition_keys}
        try:
            while searches:
                done = wait(searches, max(self.deadline - self.clock(), 0.0), return_when=FIRST_COMPLETED).done
                if not done:
                    failed.update((key, self._timeout_error(key)) for key in searches.values())
                    break
                for future in done:
                    key, error = searches.pop(future), future.exception()
                    if isinstance(error, SaltctlError):
                        failed[key] = error
                    elif (item := future.result()) is not None:
                        return item
        finally:
            for future in searches:
                future.cancel()
        return None

    def _bounded(self, search: Callable[[str], Item | None], key: str) -> Item | None:
        """Search one partition in a thread of the pool, which is free again once the search has ended."""
        with TimeBudget(self.deadline - self.clock()):
            return search(key)

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
                if sort_key == query.high:  # high is inclusive in DynamoDB
                    continue
                row = self.store.get(key, sort_key) if query.keys_only else item
                if row is not None:  # it may have been deleted since
                    return row
            if answer.next is None:
                break
            query = replace(query, start=answer.next)
        return None

    def _matches(self, item: Item) -> bool:
        """Compare ids; the string 1.10 is another id than 1.1, but the number is not."""
        keys, attribute = self.store.keys, self.id_attribute
        wanted = self._number if "N" in item.get(attribute or keys.sort_key, {}) else self._text
        return wanted is not None and message_id_of(item, keys, attribute) == wanted

    def _count(self, items: int, units: float) -> None:
        with self._lock:
            self.items_read += items
            self.consumed_rcu += units

    def _timeout_error(self, key: str) -> AwsUnavailableError:
        return AwsUnavailableError(
            f"partition key {key!r} was not read to its end within {self.timeout:g} s",
            hint="narrow the search with --since and --until, or give the whole --sort-key",
        )


def checked_options(message_id: str | int | Decimal, options: FindOptions | None) -> FindOptions:
    """Return the options of a search, before anything is asked; raises UsageError for what cannot be searched."""
    text_and_number(message_id)
    if options is None:
        return FindOptions()
    check_kind("options", options, FindOptions, 'pass FindOptions(since="2026-07-01")')
    return options


def text_and_number(message_id: str | int | Decimal) -> tuple[str | None, str | None]:
    """Return an id as a string and as a number, None for the form that it cannot have."""
    if not isinstance(message_id, str):
        return None, number_text(exact_number(message_id))
    try:  # DynamoDB stores UTF-8, and a shell passes any bytes.
        message_id.encode()
        return message_id, number_text(exact_number(message_id))
    except UnicodeEncodeError:
        raise UsageError(
            f"the message id {message_id!r} is not valid UTF-8", hint="copy it from `saltctl history read`"
        ) from None
    except UsageError:  # it is not a number, or not one that a table can hold
        return message_id, None
