"""Reads one page of a history from all of its partitions, in parallel and within a deadline.

Each partition is asked for about its share of the page plus a margin, and for nothing beyond the estimated page end if
one is known (``saltctl.history.pages.plan``, ``page_estimate``). Only a partition that runs dry before the page is full
is asked again. The salts of a cooled conversation that have messages below its boundary alone wait until the page
reaches below it.
An error of one partition is an error of the page, unless it is an outage and the caller accepts a partial page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from saltctl.commands import hint_of
from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError
from saltctl.history.attributes import plain
from saltctl.history.pages.hedging import Hedging
from saltctl.history.pages.ordered_merge import OrderedMerge, Row, tie_of
from saltctl.history.pages.plan import PartitionRead, plan, reads_behind
from saltctl.history.pages.request import PageRequest
from saltctl.history.pages.round import Answer, Answers, LateAnswers, Round, Wakes, wait_for
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.stores.contracts.messages import MessageStore, PartitionQuery


@dataclass(frozen=True)
class PageRows:
    """The rows of a page, whether more may follow, and how each partition that was asked was read."""

    rows: list[Row]
    more: bool
    partitions: list[PartitionRead]


@dataclass
class ScatterGather:
    """The rounds of queries of one page.

    Args:
        pool: runs the queries; its size bounds how many are in progress.
        began, deadline: when the page began and when it has to be complete, by the clock, in monotonic seconds.
        allow_partial: continue without partitions that have an outage, unless all of them do.
        id_attribute: the attribute that holds message ids; None if the sort key does.
        hedging: the budget of queries that are sent a second time; None sends none.
        wait: see :class:`Round`.
    """

    store: MessageStore
    pool: ThreadPool
    clock: Callable[[], float]
    began: float
    deadline: float
    allow_partial: bool
    id_attribute: str | None = None
    hedging: Hedging | None = None
    wait: Callable[[Wakes, float], None] = wait_for

    def __post_init__(self) -> None:
        self._late_answers: LateAnswers = []

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
            asked = reads_behind(request, partitions, merge)
        for late_read, answer in self._late_answers.copy():
            late_read.items_read += answer.scanned
            late_read.consumed_rcu += answer.consumed_rcu
        rows = merge.rows()
        more = bool(merge.unfinished) or len(rows) > request.limit
        return PageRows(rows[: request.limit], more, [read for read in partitions if not read.waits])

    def _ask(self, asked: list[PartitionRead], query: PartitionQuery) -> Answers:
        """Run one round of queries, until one has an error that ends the page."""
        # All queries are made first: threads that run already would slow down the making of the others.
        queries = {read: read.next_query(query) for read in asked}
        current = Round(
            self.store,
            self.pool,
            self.clock,
            self.deadline,
            queries,
            self._is_fatal,
            self._late_answers,
            self.hedging,
            self.wait,
        )
        answers = current.run()
        if not any(map(current.failed, answers.values())):
            for read in [read for read in asked if read not in answers]:
                answers[read] = current.errors.get(read) or self._late(read)
        return answers

    def _late(self, read: PartitionRead) -> AwsUnavailableError:
        waited = self.clock() - self.began
        return AwsUnavailableError(
            f"partition key {read.key!r} did not answer within {waited:.1f} s",
            hint="try again, or allow more time: SALTCTL_PAGE_TIMEOUT",
        )

    def _add_all(self, answers: Answers, partitions: list[PartitionRead], merge: OrderedMerge) -> None:
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
            raise self._page_error(errors)

    def too_late(self, request: PageRequest) -> SaltctlError:
        """Return the error if no partition has answered in time."""
        return self._page_error({read.key: self._late(read) for read in plan(request) if not read.waits})

    def _page_error(self, errors: dict[str, SaltctlError]) -> SaltctlError:
        first, *others = errors
        also = f" (and {len(others)} more: {', '.join(others[:5])})" if others else ""
        problem = f"the history would be incomplete without partition key {first!r}{also}: {errors[first].message}"
        other = "" if self.allow_partial else ": --allow-partial shows the messages of the other partitions"
        return partition_error(errors, problem, hint_of(errors[first].hint, f"try again{other}"))

    def _is_fatal(self, error: Exception) -> bool:
        """Return whether an error ends the page: a missing permission or table is missing for all of it."""
        return not (self.allow_partial and isinstance(error, UnavailableError))

    def _add(self, read: PartitionRead, answered: Answer, merge: OrderedMerge) -> None:
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


def partition_error(errors: dict[str, SaltctlError], problem: str, hint: str) -> SaltctlError:
    """Return the error of some partitions: a permission or configuration error as it is, outages as one problem."""
    as_it_is = next((error for error in errors.values() if not isinstance(error, UnavailableError)), None)
    return as_it_is or HistoryUnavailableError(problem, partitions=errors, hint=hint)
