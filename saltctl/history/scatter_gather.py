"""Reads one page of a history from all of its partitions, in parallel and within a deadline.

Each partition is asked for about its share of the page plus a margin, and for nothing beyond the estimated page end if
one is known (``saltctl.history.page_estimate``). Only a partition that runs dry before the page is full is asked again.
The salts of a cooled conversation that have messages below its boundary alone wait until the page reaches below it.
An error of one partition is an error of the page, unless it is an outage and the caller accepts a partial page.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from saltctl.commands import hint_of
from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError
from saltctl.history.attributes import plain
from saltctl.history.cursor import BASE, Cursor, Position
from saltctl.history.models import Shard
from saltctl.history.ordered_merge import OrderedMerge, Row, tie_of
from saltctl.history.page_estimate import estimate_page_end, rows_before_page_end
from saltctl.history.thread_pool import ThreadPool
from saltctl.registry.lookups import Lookup
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.messages import Item, MessageStore, PartitionAnswer, PartitionQuery, SortKey

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
        query: range, direction, consistency and filter, for any partition of the read set.
        limit: rows of the page.
        after, before: the page lies strictly between these positions; None is no bound.
        start: the cursor, if the page continues another one.
    """

    lookup: Lookup
    query: PartitionQuery
    limit: int
    after: Position | None = None
    before: Position | None = None
    start: Cursor | None = None

    @property
    def begins_recent(self) -> bool:
        """Whether the page begins at or above the boundary of a cooled conversation: on its recent partitions."""
        boundary, high = self.lookup.boundary, self.query.high
        if boundary is None:
            return False
        if not self.lookup.is_below(self.query.low):
            return True
        return self.query.descending and (high is None or high > boundary)  # type: ignore[operator]  # one type


@dataclass(eq=False)  # compared by identity
class PartitionRead:
    """One partition of a page: what to ask next, and what was read.

    ``active``: it is expected to hold a share of the page. ``page_end``: the sort key at which its next query stops.
    ``edge``: the sort key at which the query before stopped; its row, if it has one, was read already.
    ``below``: the boundary of a cooled conversation, if only rows below it are read. ``waits``: the partition is not
    asked yet, because the page may be full before it reaches below the boundary.
    """

    key: str
    salt: int
    limit: int
    active: bool
    page_end: SortKey | None = None
    edge: SortKey | None = None
    below: SortKey | None = None
    waits: bool = False
    queries: int = 0
    items_read: int = 0
    rows: int = 0
    consumed_rcu: float = 0.0
    seconds: float = 0.0
    error: SaltctlError | None = None
    start: Item | None = field(default=None, repr=False)

    def only_below(self, boundary: Any, *, waits: bool) -> None:
        """Read only the rows below the boundary; if it waits, only once the page reaches below it."""
        self.below, self.waits = boundary, waits
        self.active = self.active or waits
        if waits or (self.page_end is not None and self.page_end >= boundary):
            self.page_end = None

    def next_query(self, query: PartitionQuery) -> PartitionQuery:
        """Return the next query of this partition: the range up to the page end, from where it was read to."""
        low, high = query.low, query.high
        if self.below is not None and (high is None or high > self.below):  # type: ignore[operator]  # one type
            high = self.below
        if self.page_end is not None:
            low, high = (self.page_end, high) if query.descending else (low, self.page_end)
        elif self.edge is not None and self.start is None:
            low, high = (low, self.edge) if query.descending else (self.edge, high)
        return replace(query, partition_key=self.key, limit=self.limit, low=low, high=high, start=self.start)

    def ask_again(self, wanted: int, depth: int, active: int) -> None:
        """Set the limit for a partition that ran dry at ``depth`` of the page's rows, or waited until that depth.

        It is the partition's share of the missing rows, judged by its share so far, plus two standard deviations. Few
        rows say little, so one more is counted for each of the ``active`` partitions. If the base partition has rows,
        the time before the first raise begins, and every earlier message lies there. A partition that returned less
        than was asked, because of a filter or large rows, is asked for twice as much. One that waited is asked for its
        share, since its rows begin there.
        """
        missing = wanted - depth
        if self.waits:
            self.waits, self.limit = False, min(share(missing, active), MAX_ROWS)
            return
        if self.salt == BASE and self.rows:
            expected = float(missing)
        else:
            expected = missing * min((self.rows + self.active) / (depth + max(active, 1)), 1.0)
        limit = min(math.ceil(expected + 2 * math.sqrt(expected)) + 1, missing + 1)
        if self.rows < self.items_read or (self.start is not None and not self.items_read):
            limit = max(limit, 2 * self.limit)
        self.limit = min(limit, MAX_ROWS)

    def shard(self, returned: int) -> Shard:
        """Return how it was read, for a page that returned so many of its rows."""
        error = self.error.message if self.error else None
        return Shard(self.key, self.queries, self.items_read, returned, self.consumed_rcu, self.seconds, error)


@dataclass(frozen=True)
class PageRows:
    """The rows of a page, whether more may follow, and how each partition that was asked was read."""

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
    """Return what to ask of each partition in the first round; nothing if no row can lie between the bounds.

    In a cooled conversation a page at or above the boundary asks the recent partitions alone. A page that begins there
    and may reach below it lets the old salts wait. The old salts are read below the boundary alone.

    The salts below the spread share the page, or the rows before the estimated page end. The other salts, and the base
    partition of a salted history, are asked for one row, which shows where they begin. The row at the cursor is read
    again, to compare equal rows with it, and comes on top.
    """
    query, start, wanted, lookup = request.query, request.start, request.limit, request.lookup
    if query.low is not None and query.high is not None and query.low > query.high:  # type: ignore[operator]  # one type
        return []  # DynamoDB refuses such bounds
    recent, old = request.begins_recent, lookup.old_salts
    spread = lookup.recent_n if recent else lookup.max_n
    if start is not None:
        spread = min(start.spread, spread)
    elif not query.descending:
        spread = 1  # the oldest messages are from before the first raise
    begin, bound = (query.high, query.low) if query.descending else (query.low, query.high)
    page_end, rows = None, rows_before_page_end(wanted)
    if start is not None and begin is not None and spread >= _MIN_SPREAD:
        page_end = estimate_page_end(begin, start.distance, rows, descending=query.descending, bound=bound)
        wanted = wanted if page_end is None else rows
    limit = min(share(wanted, spread), MAX_ROWS)
    reads = []
    for salt, key in enumerate(lookup.read_set(query.low), BASE):
        active = spread == 1 if salt == BASE else salt < spread != 1
        again = start is not None and start.position.salt == salt
        read = PartitionRead(key, salt, (limit if active else 1) + again, active, page_end)
        if salt in old:
            read.only_below(lookup.boundary, waits=recent)
        reads.append(read)
    return reads


_Answer = tuple[PartitionAnswer, list[Row], float]
"""An answer, its rows, and the seconds that it took."""
_Answers = dict[PartitionRead, _Answer | Exception]


@dataclass
class _Round:
    """The answers of one round of queries. The waiting thread is woken once, since waking costs more than reading."""

    store: MessageStore
    clock: Callable[[], float]
    deadline: float
    expected: int
    is_fatal: Callable[[Exception], bool]
    answers: _Answers = field(default_factory=dict)
    complete: threading.Event = field(default_factory=threading.Event)
    over: bool = False

    def ask(self, read: PartitionRead, query: PartitionQuery) -> None:
        """Send a query, unless the round is over, and keep its answer, or its error for the page's thread.

        Needs no lock: to add to a dict is atomic, and the last thread to do so sees all answers.
        """
        if self.over:
            return
        try:
            started = self.clock()
            with TimeBudget(self.deadline - started):  # a thread is free again once its page has ended
                answer = self.store.query(query)
            seconds = self.clock() - started
            # Rows are made here, while other partitions have still to answer.
            name, kind = self.store.keys.sort_key, self.store.keys.sort_type
            exact = Decimal if kind == "N" else str
            rows = [Row(exact(item[name][kind]), read.salt, item) for item in answer.items]
            self.answers[read] = answer, rows, seconds
        except Exception as exc:
            if type(exc) is AwsUnavailableError and self.clock() >= self.deadline:
                return  # cut off by the page's own limit, which the page's thread reports, whoever notices it first
            self.answers[read] = exc
        if len(self.answers) == self.expected or self.failed(self.answers[read]):
            self.complete.set()

    def failed(self, answer: _Answer | Exception) -> bool:
        """Return whether an answer is an error that ends the page."""
        return isinstance(answer, Exception) and self.is_fatal(answer)


@dataclass
class ScatterGather:
    """The rounds of queries of one page.

    Args:
        pool: runs the queries; its size bounds how many are in progress.
        deadline: when the page has to be complete, by the clock, in monotonic seconds.
        allow_partial: continue without partitions that have an outage, unless all of them do.
        id_attribute: the attribute that holds message ids; None if the sort key does.
    """

    store: MessageStore
    pool: ThreadPool
    clock: Callable[[], float]
    deadline: float
    allow_partial: bool
    id_attribute: str | None = None

    def __post_init__(self) -> None:
        self._began = self.clock()

    def run(self, request: PageRequest) -> PageRows:
        """Query until the page's rows are final or every partition was read to its end.

        Raises HistoryUnavailableError if a partition failed or was too late; if partial pages are allowed, only if all
        of them did. An error that is not an outage (permission, configuration) is raised as it is.
        """
        partitions = plan(request)
        merge = OrderedMerge(
            # What waits has no row at or above the boundary: it counts as read down to there.
            unfinished={read.salt: read.below if read.waits else None for read in partitions},
            descending=request.query.descending,
            after=request.after,
            before=request.before,
            tie_of=partial(tie_of, keys=self.store.keys, id_attribute=self.id_attribute),
        )
        asked = [read for read in partitions if not read.waits]
        while asked:
            self._add_all(self._ask(asked, request.query), partitions, merge)
            asked = _reads_behind(request, partitions, merge)
        rows = merge.rows()
        more = bool(merge.unfinished) or len(rows) > request.limit
        return PageRows(rows[: request.limit], more, [read for read in partitions if not read.waits])

    def _ask(self, asked: list[PartitionRead], query: PartitionQuery) -> _Answers:
        """Run one round of queries, until one has an error that ends the page."""
        current = _Round(self.store, self.clock, self.deadline, len(asked), self._is_fatal)
        # All queries are made first: threads that run already would slow down the making of the others.
        for read, next_query in [(read, read.next_query(query)) for read in asked]:
            self.pool.start(partial(current.ask, read, next_query))
        try:
            current.complete.wait(max(self.deadline - self.clock(), 0.0))
        finally:
            current.over = True
        answers = current.answers.copy()
        if not any(map(current.failed, answers.values())):
            waited = self.clock() - self._began
            for read in [read for read in asked if read not in answers]:
                problem = f"partition key {read.key!r} did not answer within {waited:.1f} s"
                hint = "try again, or allow more time: SALTCTL_PAGE_TIMEOUT"
                answers[read] = AwsUnavailableError(problem, hint=hint)
        return answers

    def _add_all(self, answers: _Answers, partitions: list[PartitionRead], merge: OrderedMerge) -> None:
        for read, answer in answers.items():
            if isinstance(answer, SaltctlError):
                read.error = answer
                merge.add(read.salt, [], None)  # nothing more comes from it
            elif isinstance(answer, Exception):
                raise answer
            else:
                self._add(read, answer, merge)
        errors = {read.key: read.error for read in partitions if read.error}
        nothing_read = all(read.error and not read.queries for read in partitions)
        if nothing_read or any(map(self._is_fatal, errors.values())):
            first, *others = errors
            also = f" (and {len(others)} more: {', '.join(others[:5])})" if others else ""
            problem = f"the history would be incomplete without partition key {first!r}{also}: {errors[first].message}"
            other = "" if self.allow_partial else ": --allow-partial shows the messages of the other partitions"
            raise partition_error(errors, problem, hint_of(errors[first].hint, f"try again{other}"))

    def _is_fatal(self, error: Exception) -> bool:
        """Return whether an error ends the page: a missing permission or table is missing for all of it."""
        return not (self.allow_partial and isinstance(error, UnavailableError))

    def _add(self, read: PartitionRead, answered: _Answer, merge: OrderedMerge) -> None:
        answer, rows, seconds = answered
        read.queries += 1
        read.items_read += answer.scanned
        read.rows += len(rows)
        read.consumed_rcu += answer.consumed_rcu
        read.seconds += seconds
        # It was read up to LastEvaluatedKey, not up to its last row: a filter may have left rows out.
        reached = None if answer.next is None else plain(answer.next[self.store.keys.sort_key])
        if read.below is not None:
            rows = [row for row in rows if row.sort_key < read.below]
        if read.edge is not None:
            rows = [row for row in rows if row.sort_key != read.edge]
            read.edge = None
        if read.page_end is not None:
            if reached is None:  # up to the page end, which is not the end of the partition
                reached = read.edge = read.page_end
            read.page_end = None
        read.start = answer.next
        merge.add(read.salt, rows, reached)


def _reads_behind(request: PageRequest, partitions: list[PartitionRead], merge: OrderedMerge) -> list[PartitionRead]:
    """Return the partitions to ask in the next round, with their limits; none if the page's rows are final.

    Those that wait are asked only if all others were read down to the boundary: these may still fill the page.
    """
    behind, boundary = merge.partitions_behind(request.limit), request.lookup.boundary
    asked = [read for read in partitions if read.salt in behind]
    if boundary is not None and any(merge.unfinished[read.salt] > boundary for read in asked):
        asked = [read for read in asked if not read.waits]
    begun = any(read.waits for read in asked)
    active = sum(read.active for read in partitions if begun or not read.waits)
    for read in asked:
        read.ask_again(request.limit, behind[read.salt], active)
    return asked


def partition_error(errors: dict[str, SaltctlError], problem: str, hint: str) -> SaltctlError:
    """Return the error of some partitions: a permission or configuration error as it is, outages as one problem."""
    as_it_is = next((error for error in errors.values() if not isinstance(error, UnavailableError)), None)
    return as_it_is or HistoryUnavailableError(problem, partitions=errors, hint=hint)
