"""Reads one page of a history from all of its partitions, in parallel and within a deadline.

Each partition is asked for about its share of the page plus a margin, and for nothing beyond the estimated page end if
one is known (``saltctl.history.page_estimate``). Only a partition that runs dry before the page is full is asked again.
An error of one partition is an error of the page, unless the caller accepts a partial page.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache, partial

from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError
from saltctl.history.cursor import BASE, Position
from saltctl.history.ordered_merge import OrderedMerge, Row
from saltctl.history.page_estimate import estimate_page_end, rows_before_page_end
from saltctl.history.thread_pool import ThreadPool
from saltctl.stores.contracts import Item, MessageStore, PartitionAnswer, PartitionQuery, SortKey

EXPECTED_DRY = 0.3
"""Partitions expected to run dry in the first round; three of four pages then need no second round."""
MAX_ROWS = 1000
"""Rows that one query asks for at most, which bounds the size of an answer."""
_MIN_SPREAD = 4
"""Salts from which on an estimated page end reads less than shares with their margins do."""


@dataclass(frozen=True)
class PageRequest:
    """A page to read.

    Args:
        partitions: partition key and salt of the whole read set, BASE for the base partition.
        query: range, direction, consistency and filter, for any partition.
        limit: rows of the page.
        spread: the number of salts that share the page.
        after, before: the page lies strictly between these positions; None is no bound.
        start: the position of the cursor, if the page continues another one.
        distance: the average distance of that page's rows; 0.0 if it is unknown.
    """

    partitions: list[tuple[str, int]]
    query: PartitionQuery
    limit: int
    spread: int
    after: Position | None = None
    before: Position | None = None
    start: Position | None = None
    distance: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether no row can lie between the bounds. DynamoDB refuses bounds in the wrong order."""
        low, high = self.query.low, self.query.high
        return low is not None and high is not None and low > high  # type: ignore[operator]  # both of one type


@dataclass(eq=False)  # compared by identity
class PartitionRead:
    """One partition of a page: what to ask next, and what was read.

    ``active``: it is expected to hold a share of the page. ``page_end``: the sort key at which its next query stops.
    ``edge``: the sort key at which the query before stopped; its row, if it has one, was read already.
    """

    key: str
    salt: int
    limit: int
    active: bool
    page_end: SortKey | None = None
    edge: SortKey | None = None
    queries: int = 0
    items_read: int = 0
    rows: int = 0
    consumed_rcu: float = 0.0
    seconds: float = 0.0
    error: SaltctlError | None = None
    start: Item | None = field(default=None, repr=False)

    def next_query(self, query: PartitionQuery) -> PartitionQuery:
        """Return the next query of this partition: the range up to the page end, from where it was read to."""
        low, high = query.low, query.high
        if self.page_end is not None:
            low, high = (self.page_end, high) if query.descending else (low, self.page_end)
        elif self.edge is not None and self.start is None:
            low, high = (low, self.edge) if query.descending else (self.edge, high)
        return replace(query, partition_key=self.key, limit=self.limit, low=low, high=high, start=self.start)

    def ask_again(self, wanted: int, depth: int, active: int) -> None:
        """Set the limit for a partition that ran dry at ``depth`` of the page's rows.

        It is the partition's share of the missing rows, judged by its share so far, plus two standard deviations. Few
        rows say little, so one more is counted for each of the ``active`` partitions. If the base partition has rows,
        the time before the first raise begins, and every earlier message lies there. A partition that returned less
        than was asked, because of a filter or large rows, is asked for twice as much.
        """
        missing = wanted - depth
        if self.salt == BASE and self.rows:
            expected = float(missing)
        else:
            expected = missing * min((self.rows + self.active) / (depth + max(active, 1)), 1.0)
        limit = min(math.ceil(expected + 2 * math.sqrt(expected)) + 1, missing + 1)
        if self.rows < self.items_read or (self.start is not None and not self.items_read):
            limit = max(limit, 2 * self.limit)
        self.limit = min(limit, MAX_ROWS)


@dataclass(frozen=True)
class PageRows:
    """The rows of a page, whether more may follow, and how each partition was read."""

    rows: list[Row]
    more: bool
    partitions: list[PartitionRead]


@lru_cache(maxsize=1024)
def share(wanted: int, spread: int) -> int:
    """Return how many rows to ask of each of ``spread`` partitions for a page of ``wanted`` rows.

    It is the smallest number at which at most EXPECTED_DRY partitions are expected to hold as many of the page's rows
    or more (rows fall on partitions like balls into bins). For 50 rows of 16 salts it is 8; an even split would be 3.1.
    Five pages of six then take one round, and 2.6 rows are read for each one returned. With 7, 2.3 rows are read and
    half of the pages take two rounds. That is not cheaper, because DynamoDB charges each query for the next full 4 KB
    (documented).
    """
    if spread == 1:
        return wanted
    chance = 1 / spread
    tail = 1.0  # the chance that a partition holds ``limit`` or more of the rows
    for limit in range(wanted):
        if spread * tail <= EXPECTED_DRY:
            return limit
        tail -= math.exp(
            math.lgamma(wanted + 1)
            - math.lgamma(limit + 1)
            - math.lgamma(wanted - limit + 1)
            + limit * math.log(chance)
            + (wanted - limit) * math.log1p(-chance)
        )
    return wanted


def plan(request: PageRequest) -> list[PartitionRead]:
    """Return what to ask of each partition in the first round; nothing if the page is empty.

    The salts below the spread share the page, or the rows before the estimated page end. The other salts, and the base
    partition of a salted history, are asked for one row, which shows where they begin. The row at the cursor is read
    again, to compare equal rows with it, and comes on top.
    """
    if request.is_empty:
        return []
    page_end = _page_end(request)
    wanted = request.limit if page_end is None else rows_before_page_end(request.limit)
    limit = min(share(wanted, request.spread), MAX_ROWS)
    reads = []
    for key, salt in request.partitions:
        active = request.spread == 1 if salt == BASE else salt < request.spread != 1
        again = request.start is not None and request.start.salt == salt
        reads.append(PartitionRead(key, salt, (limit if active else 1) + again, active, page_end))
    return reads


def _page_end(request: PageRequest) -> SortKey | None:
    """Return the estimated sort key at the end of the page; None if it is unknown or would save nothing."""
    query = request.query
    begin, end = (query.high, query.low) if query.descending else (query.low, query.high)
    if begin is None or request.spread < _MIN_SPREAD:
        return None
    rows = rows_before_page_end(request.limit)
    return estimate_page_end(begin, request.distance, rows, descending=query.descending, bound=end)


_Answer = tuple[PartitionAnswer, list[Row], float]
"""An answer, its rows, and the seconds that it took."""


class _Round:
    """The answers of one round of queries. The waiting thread is woken once, since waking costs more than reading.

    Args:
        expected: the number of queries.
        stop_at_error: stop waiting at the first exception.
    """

    def __init__(self, expected: int, *, stop_at_error: bool) -> None:
        self._missing = expected
        self._stop_at_error = stop_at_error
        self._answers: list[tuple[PartitionRead, _Answer | Exception]] = []
        self._lock = threading.Lock()
        self._complete = threading.Event()
        self.over = False
        """Whether the round has ended; later answers are ignored."""

    def put(self, read: PartitionRead, answer: _Answer | Exception) -> None:
        """Add an answer."""
        with self._lock:
            self._answers.append((read, answer))
            self._missing -= 1
            complete = not self._missing or (self._stop_at_error and isinstance(answer, Exception))
        if complete:
            self._complete.set()

    def wait(self, seconds: float) -> list[tuple[PartitionRead, _Answer | Exception]]:
        """Return the answers when the round is complete, or after so many seconds."""
        try:
            self._complete.wait(seconds)
        finally:
            self.over = True
        with self._lock:
            return list(self._answers)


class ScatterGather:
    """The rounds of queries of one page.

    Args:
        store: the messages table.
        pool: runs the queries; its size bounds how many are in progress.
        clock: monotonic seconds.
        deadline: when the page has to be complete, by that clock.
        allow_partial: continue without partitions that fail.
    """

    def __init__(
        self,
        store: MessageStore,
        pool: ThreadPool,
        *,
        clock: Callable[[], float],
        deadline: float,
        allow_partial: bool,
    ) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._began = clock()
        self._deadline = deadline
        self._allow_partial = allow_partial

    def run(self, request: PageRequest) -> PageRows:
        """Query until the page's rows are final or every partition was read to its end.

        Raises:
            HistoryUnavailableError: a partition failed or was too late, and partial pages are not allowed.
            SaltctlError: the error of a partition, if it is not an outage: permission, configuration.
        """
        partitions = plan(request)
        by_salt = {read.salt: read for read in partitions}
        active = sum(read.active for read in partitions)
        merge = OrderedMerge(
            by_salt,
            descending=request.query.descending,
            after=request.after,
            before=request.before,
            partition_attribute=self._store.keys.partition_key,
        )
        asked = partitions
        while asked:
            self._run_round(asked, request.query, merge)
            if merge.final_count() >= request.limit:
                break
            behind = merge.partitions_behind(request.limit)
            asked = [by_salt[salt] for salt in behind]
            for read in asked:
                read.ask_again(request.limit, behind[read.salt], active)
        final = merge.final_count()
        rows = merge.rows()[: min(request.limit, final)]
        return PageRows(rows, not merge.finished or final > request.limit, partitions)

    def _run_round(self, asked: list[PartitionRead], query: PartitionQuery, merge: OrderedMerge) -> None:
        # A complete read fails at the first error; a partial one waits for the other partitions.
        answers = _Round(len(asked), stop_at_error=not self._allow_partial)
        # All queries are made first: threads that run already would slow down the making of the others.
        queries = [read.next_query(query) for read in asked]
        for read, next_query in zip(asked, queries, strict=True):
            self._pool.start(partial(self._answer, read, next_query, answers))
        found = answers.wait(max(self._deadline - self._clock(), 0.0))
        failed: dict[PartitionRead, Exception] = {}
        for read, answer in found:
            if isinstance(answer, Exception):
                failed[read] = answer
            else:
                self._add(read, answer, merge)
        if not failed or self._allow_partial:
            late = set(asked).difference(read for read, _ in found)
            failed |= {read: self._timeout_error(read) for read in late}
        for read, cause in failed.items():
            if not isinstance(cause, SaltctlError):
                raise cause
            read.error = cause
            merge.drop_partition(read.salt)
        if failed and not self._allow_partial:
            raise _page_error({read.key: read.error for read in failed if read.error})

    def _answer(self, read: PartitionRead, query: PartitionQuery, answers: _Round) -> None:
        if answers.over:
            return
        try:
            answers.put(read, self._query(read, query))
        except Exception as exc:  # the page's thread raises it
            answers.put(read, exc)

    def _query(self, read: PartitionRead, query: PartitionQuery) -> _Answer:
        started = self._clock()
        answer = self._store.query(query)
        seconds = self._clock() - started
        # Rows are made here, while other partitions have still to answer.
        keys = self._store.keys
        name, salt = keys.sort_key, read.salt
        if keys.sort_type == "S":
            return answer, [Row(item[name]["S"], salt, item) for item in answer.items], seconds
        return answer, [Row(sort_key_of(item, name), salt, item) for item in answer.items], seconds

    def _add(self, read: PartitionRead, answered: _Answer, merge: OrderedMerge) -> None:
        answer, rows, seconds = answered
        read.queries += 1
        read.items_read += answer.scanned
        read.rows += len(answer.items)
        read.consumed_rcu += answer.consumed_rcu
        read.seconds += seconds
        # It was read up to LastEvaluatedKey, not up to its last row: a filter may have left rows out.
        reached = None if answer.next is None else sort_key_of(answer.next, self._store.keys.sort_key)
        if read.edge is not None:
            rows = [row for row in rows if row.sort_key != read.edge]
            read.edge = None
        if read.page_end is not None:
            if reached is None:  # up to the page end, which is not the end of the partition
                reached = read.edge = read.page_end
            read.page_end = None
        read.start = answer.next
        merge.add(read.salt, rows, reached)

    def _timeout_error(self, read: PartitionRead) -> AwsUnavailableError:
        waited = self._clock() - self._began
        return AwsUnavailableError(
            f"partition key {read.key!r} did not answer within {waited:.1f} s",
            hint="try again, or allow more time: SALTCTL_PAGE_TIMEOUT",
        )


def sort_key_of(item: Mapping[str, Mapping[str, str]], name: str) -> SortKey:
    """Return the sort key of a row or key: a string or an exact number."""
    value = item[name]
    return value["S"] if "S" in value else Decimal(value["N"])


def _page_error(errors: dict[str, SaltctlError]) -> SaltctlError:
    """Return the error of a page: a permission or configuration error as it is, outages as an incomplete history."""
    for error in errors.values():
        if not isinstance(error, UnavailableError):
            return error
    first, *others = errors
    also = f" (and {len(others)} more: {', '.join(others[:5])})" if others else ""
    cause = errors[first]
    return HistoryUnavailableError(
        f"the history would be incomplete without partition key {first!r}{also}: {cause.message}",
        partitions=errors,
        hint=f"try again; --allow-partial shows the messages of the other partitions. {cause.hint}".strip(),
    )
