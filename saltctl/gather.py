"""One page of a history by scatter-gather: how much to ask of which partition, in parallel, by a deadline.

Each partition is asked for about its share of the page and a margin; only one that runs dry before the
page is full is asked again. An error of one partition is an error of the page, unless the caller takes
what there is and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache

from saltctl.attributes import Item
from saltctl.cursor import BASE, Position, SortKey
from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError
from saltctl.merge import Merge, Row
from saltctl.stores.contracts import MessageStore, PartitionAnswer, PartitionQuery

DRY = 0.6
"""Partitions expected to run dry in the first round, at which more than half of all pages need no second one."""
MOST = 1000
"""Rows that one request asks for at most, so that no answer is larger than it needs to be."""


@dataclass(eq=False)  # each is itself: two of them are never the same
class Partition:
    """A partition of one gathering: what will be asked of it, and what was learned."""

    key: str
    salt: int
    limit: int
    queries: int = 0
    items_read: int = 0
    rows: int = 0
    consumed_rcu: float = 0.0
    seconds: float = 0.0
    error: SaltctlError | None = None
    query: PartitionQuery | None = field(default=None, repr=False)
    start: Item | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Gathered:
    """A page's rows, whether more may follow, and each partition's account."""

    rows: list[Row]
    more: bool
    partitions: list[Partition]


_Answered = tuple[PartitionAnswer, list[Row], float]
"""An answer, its rows, and the seconds that it took."""


@lru_cache(maxsize=1024)
def share(wanted: int, spread: int) -> int:
    """How many rows to ask of each of ``spread`` partitions for a page of ``wanted`` rows.

    The smallest number at which no more than 0.6 partitions are expected to run dry, that is, to hold as
    many of the page's rows or more (the rows fall on the partitions like balls into bins). More than half
    of all pages then take one round. For 50 rows of 16 salts it is 7, where an even split would be 3.1: one
    less reads 2.0 instead of 2.3 rows for each one returned, and makes five pages of six take two rounds.
    """
    if spread == 1:
        return wanted
    chance = 1 / spread
    tail = 1.0  # the chance that a partition holds ``asked`` or more of the rows
    for asked in range(wanted):
        if spread * tail <= DRY:
            return asked
        tail -= math.exp(
            math.lgamma(wanted + 1)
            - math.lgamma(asked + 1)
            - math.lgamma(wanted - asked + 1)
            + asked * math.log(chance)
            + (wanted - asked) * math.log1p(-chance)
        )
    return wanted


def plan(salts: Iterable[tuple[str, int]], wanted: int, spread: int, *, position: Position | None) -> list[Partition]:
    """What to ask of each partition at first.

    The salts below ``spread`` share the page. The others, and the base partition of a salted history, are
    asked for one row, which shows where they begin. The row at the cursor is read again, to compare equal
    rows with it, and comes on top.
    """
    each = min(share(wanted, spread), MOST)
    partitions = []
    for key, salt in salts:
        active = spread == 1 if salt == BASE else salt < spread != 1
        again = position is not None and position.salt == salt
        partitions.append(Partition(key, salt, (each if active else 1) + again))
    return partitions


class Gathering:
    """The rounds of one page.

    Args:
        store: the messages table.
        pool: where requests run; bounded by whoever made it.
        clock: monotonic seconds.
        until: when the page has to be there, by that clock.
        allow_partial: go on without partitions that fail.
    """

    def __init__(
        self,
        store: MessageStore,
        pool: Executor,
        *,
        clock: Callable[[], float],
        until: float,
        allow_partial: bool,
    ) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._began = clock()
        self._until = until
        self._allow_partial = allow_partial

    def run(self, partitions: list[Partition], merge: Merge, template: PartitionQuery, wanted: int) -> Gathered:
        """Ask until ``wanted`` rows are certain or every partition was read to its end.

        Raises:
            HistoryUnavailableError: a partition failed or was too late, and partial pages are not allowed.
            SaltctlError: what a partition failed of, where that is no outage: permission, configuration.
        """
        by_salt = {partition.salt: partition for partition in partitions}
        for partition in partitions:
            partition.query = replace(template, partition_key=partition.key, limit=partition.limit)
        asking = partitions
        while asking:
            self._round(asking, merge)
            if merge.certain() >= wanted:
                break
            behind = merge.lagging(wanted)
            asking = [by_salt[salt] for salt in behind]
            for partition in asking:
                assert partition.query is not None
                partition.limit = _more(partition, wanted, behind[partition.salt])
                partition.query = replace(partition.query, start=partition.start, limit=partition.limit)
        certain = merge.certain()
        rows = merge.rows()[: min(wanted, certain)]
        return Gathered(rows, not merge.finished or certain > wanted, partitions)

    def _round(self, asking: list[Partition], merge: Merge) -> None:
        futures = {self._pool.submit(self._ask, partition): partition for partition in asking}
        # Strict reads fail at once; partial ones wait for what the others have.
        waiting = wait(
            futures,
            timeout=max(self._until - self._clock(), 0.0),
            return_when="ALL_COMPLETED" if self._allow_partial else FIRST_EXCEPTION,
        )
        failed = {futures[future]: future.exception() for future in waiting.done if future.exception() is not None}
        if not failed or self._allow_partial:
            failed |= {futures[future]: self._late(futures[future]) for future in waiting.not_done}
        for future in waiting.not_done:
            future.cancel()
        for partition, cause in failed.items():
            if not isinstance(cause, SaltctlError):
                raise cause or AssertionError
            partition.error = cause
            merge.give_up(partition.salt)
        if failed and not self._allow_partial:
            raise _failure({partition.key: partition.error for partition in failed if partition.error})
        for future in waiting.done:
            if futures[future] not in failed:
                self._take(futures[future], future, merge)

    def _ask(self, partition: Partition) -> _Answered:
        assert partition.query is not None
        started = self._clock()
        answer = self._store.query(partition.query)
        seconds = self._clock() - started
        # Here and not in _take: while other partitions have still to answer.
        keys = self._store.keys
        name, salt = keys.sort_key, partition.salt
        if keys.sort_type == "S":
            return answer, [Row(item[name]["S"], salt, item) for item in answer.items], seconds
        return answer, [Row(sort_key_of(item, name), salt, item) for item in answer.items], seconds

    def _take(self, partition: Partition, future: Future[_Answered], merge: Merge) -> None:
        answer, rows, seconds = future.result()
        partition.queries += 1
        partition.items_read += answer.scanned
        partition.rows += len(answer.items)
        partition.consumed_rcu += answer.consumed_rcu
        partition.seconds += seconds
        # Where it was read to is LastEvaluatedKey, not the last row: a filter may have left rows out.
        reached = None if answer.next is None else sort_key_of(answer.next, self._store.keys.sort_key)
        partition.start = answer.next
        merge.add(partition.salt, rows, reached)

    def _late(self, partition: Partition) -> AwsUnavailableError:
        waited = self._clock() - self._began
        return AwsUnavailableError(
            f"partition key {partition.key!r} did not answer within {waited:.1f} s",
            hint="try again, or allow more time: SALTCTL_PAGE_TIMEOUT",
        )


def sort_key_of(item: Mapping[str, Mapping[str, str]], name: str) -> SortKey:
    """The sort key of a row or key: a text, or an exact number."""
    value = item[name]
    return value["S"] if "S" in value else Decimal(value["N"])


def _more(partition: Partition, wanted: int, depth: int) -> int:
    """How many rows to ask of a partition that ran dry at ``depth`` of the page's rows.

    Its share of what is missing, judged by its share so far, and a margin of two standard deviations. One
    that gave less than was asked, because of a filter or large rows, is asked for twice as much.
    """
    missing = wanted - depth
    expected = missing * min(partition.rows / depth, 1.0) if depth else float(missing)
    ask = min(math.ceil(expected + 2 * math.sqrt(expected)) + 1, missing + 1)
    if partition.rows < partition.items_read or not partition.items_read:
        ask = max(ask, 2 * partition.limit)
    return min(ask, MOST)


def _failure(partitions: dict[str, SaltctlError]) -> SaltctlError:
    """The error of a page: a permission or a configuration as it is, outages as an incomplete history."""
    for error in partitions.values():
        if not isinstance(error, UnavailableError):
            return error
    first, *others = partitions
    also = f" (and {len(others)} more: {', '.join(others[:5])})" if others else ""
    cause = partitions[first]
    return HistoryUnavailableError(
        f"the history would be incomplete without partition key {first!r}{also}: {cause.message}",
        partitions=partitions,
        hint=f"try again; --allow-partial shows what the other partitions hold. {cause.hint}".strip(),
    )
