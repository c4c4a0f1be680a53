"""One page of a history by scatter-gather: how much to ask of which partition, in parallel, by a deadline.

Each partition is asked for about its share of the page and a margin, and for nothing beyond the horizon
where one is known (see ``saltctl.history.page_estimate``); only one that runs dry before the page is full is asked
again. An error of one partition is an error of the page, unless the caller takes what there is and says so.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache, partial

from saltctl.errors import AwsUnavailableError, HistoryUnavailableError, SaltctlError, UnavailableError
from saltctl.history.cursor import BASE, Position
from saltctl.history.ordered_merge import Merge, Row
from saltctl.history.page_estimate import rows_within
from saltctl.history.workers import Workers
from saltctl.stores.contracts import Item, MessageStore, PartitionAnswer, PartitionQuery, SortKey

DRY = 0.3
"""Partitions expected to run dry in the first round, at which three of four pages need no second one."""
MOST = 1000
"""Rows that one request asks for at most, so that no answer is larger than it needs to be."""


@dataclass(eq=False)  # each is itself: two of them are never the same
class Partition:
    """A partition of one gathering: what will be asked of it, and what was learned.

    ``active`` is whether a share of the page is expected of it. ``horizon`` is the sort key that its next
    query does not read beyond, and ``horizon_row`` the one at which its row was read already, if it has one.
    """

    key: str
    salt: int
    limit: int
    active: bool
    horizon: SortKey | None = None
    horizon_row: SortKey | None = None
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

    The smallest number at which no more than 0.3 partitions are expected to run dry, that is, to hold as
    many of the page's rows or more (the rows fall on the partitions like balls into bins). For 50 rows of
    16 salts it is 8, where an even split would be 3.1: five pages of six take one round, and 2.6 rows are
    read for each one returned. One less reads 2.3, and half of the pages take two rounds; that is no
    cheaper either, because DynamoDB charges every query for the next full 4 KB (documented).
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


def plan(
    salts: Iterable[tuple[str, int]],
    wanted: int,
    spread: int,
    *,
    position: Position | None,
    horizon: SortKey | None = None,
) -> list[Partition]:
    """What to ask of each partition at first.

    The salts below ``spread`` share the page, or what should lie before the horizon. The others, and the
    base partition of a salted history, are asked for one row, which shows where they begin. The row at the
    cursor is read again, to compare equal rows with it, and comes on top.
    """
    each = min(share(wanted if horizon is None else rows_within(wanted), spread), MOST)
    partitions = []
    for key, salt in salts:
        active = spread == 1 if salt == BASE else salt < spread != 1
        again = position is not None and position.salt == salt
        partitions.append(Partition(key, salt, (each if active else 1) + again, active, horizon))
    return partitions


def query_of(partition: Partition, template: PartitionQuery) -> PartitionQuery:
    """The next query of a partition: the template's range as far as the horizon, from where it was read to."""
    low, high = template.low, template.high
    if partition.horizon is not None:
        low, high = (partition.horizon, high) if template.descending else (low, partition.horizon)
    elif partition.horizon_row is not None and partition.start is None:
        low, high = (low, partition.horizon_row) if template.descending else (partition.horizon_row, high)
    return replace(
        template, partition_key=partition.key, limit=partition.limit, low=low, high=high, start=partition.start
    )


class _Answers:
    """What the requests of one round come back with. Whoever waits is woken once, since waking costs more than taking.

    Args:
        expected: how many.
        until_one_fails: or only until an exception is among them.
    """

    def __init__(self, expected: int, *, until_one_fails: bool) -> None:
        self._missing = expected
        self._until_one_fails = until_one_fails
        self._found: list[tuple[Partition, _Answered | Exception]] = []
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self.over = False
        """Whether nobody waits any more."""

    def put(self, partition: Partition, answer: _Answered | Exception) -> None:
        """Hand one over."""
        with self._lock:
            self._found.append((partition, answer))
            self._missing -= 1
            enough = not self._missing or (self._until_one_fails and isinstance(answer, Exception))
        if enough:
            self._enough.set()

    def wait(self, seconds: float) -> list[tuple[Partition, _Answered | Exception]]:
        """Those that are there when there are enough, or after so many seconds."""
        try:
            self._enough.wait(seconds)
        finally:
            self.over = True
        with self._lock:
            return list(self._found)


class Gathering:
    """The rounds of one page.

    Args:
        store: the messages table.
        workers: where requests run; bounded by whoever made them.
        clock: monotonic seconds.
        until: when the page has to be there, by that clock.
        allow_partial: go on without partitions that fail.
    """

    def __init__(
        self,
        store: MessageStore,
        workers: Workers,
        *,
        clock: Callable[[], float],
        until: float,
        allow_partial: bool,
    ) -> None:
        self._store = store
        self._workers = workers
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
        sharing = sum(partition.active for partition in partitions)
        asking = partitions
        while asking:
            for partition in asking:
                partition.query = query_of(partition, template)
            self._round(asking, merge)
            if merge.certain() >= wanted:
                break
            behind = merge.lagging(wanted)
            asking = [by_salt[salt] for salt in behind]
            for partition in asking:
                partition.limit = _more(partition, wanted, behind[partition.salt], sharing)
        certain = merge.certain()
        rows = merge.rows()[: min(wanted, certain)]
        return Gathered(rows, not merge.finished or certain > wanted, partitions)

    def _round(self, asking: list[Partition], merge: Merge) -> None:
        # Strict reads fail at once; partial ones wait for what the others have.
        answers = _Answers(len(asking), until_one_fails=not self._allow_partial)
        for partition in asking:
            self._workers.start(partial(self._answer, partition, answers))
        found = answers.wait(max(self._until - self._clock(), 0.0))
        failed: dict[Partition, Exception] = {}
        for partition, answer in found:
            if isinstance(answer, Exception):
                failed[partition] = answer
            else:
                self._take(partition, answer, merge)
        if not failed or self._allow_partial:
            late = set(asking).difference(partition for partition, _ in found)
            failed |= {partition: self._late(partition) for partition in late}
        for partition, cause in failed.items():
            if not isinstance(cause, SaltctlError):
                raise cause
            partition.error = cause
            merge.give_up(partition.salt)
        if failed and not self._allow_partial:
            raise _failure({partition.key: partition.error for partition in failed if partition.error})

    def _answer(self, partition: Partition, answers: _Answers) -> None:
        if answers.over:
            return  # nobody waits for it any more
        try:
            answers.put(partition, self._ask(partition))
        except Exception as exc:  # handed over: the page's thread raises it
            answers.put(partition, exc)

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

    def _take(self, partition: Partition, answered: _Answered, merge: Merge) -> None:
        answer, rows, seconds = answered
        partition.queries += 1
        partition.items_read += answer.scanned
        partition.rows += len(answer.items)
        partition.consumed_rcu += answer.consumed_rcu
        partition.seconds += seconds
        # Where it was read to is LastEvaluatedKey, not the last row: a filter may have left rows out.
        reached = None if answer.next is None else sort_key_of(answer.next, self._store.keys.sort_key)
        if partition.horizon_row is not None:
            rows = [row for row in rows if row.sort_key != partition.horizon_row]
            partition.horizon_row = None
        if partition.horizon is not None:
            if reached is None:  # to the horizon, and not to the partition's end
                reached = partition.horizon_row = partition.horizon
            partition.horizon = None
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


def _more(partition: Partition, wanted: int, depth: int, sharing: int) -> int:
    """How many rows to ask of a partition that ran dry at ``depth`` of the page's rows.

    Its share of what is missing, judged by its share so far, and a margin of two standard deviations. Few rows say
    little: one more is counted for each of the ``sharing`` partitions that a share is expected of, which is all there
    is to go by where nothing lay before the horizon. Where the base partition has rows, the time before the first
    raise begins, and everything before it lies there. A partition that gave less than was asked, because of a filter
    or large rows, is asked for twice as much.
    """
    missing = wanted - depth
    if partition.salt == BASE and partition.rows:
        expected = float(missing)
    else:
        expected = missing * min((partition.rows + partition.active) / (depth + max(sharing, 1)), 1.0)
    ask = min(math.ceil(expected + 2 * math.sqrt(expected)) + 1, missing + 1)
    if partition.rows < partition.items_read or (partition.start is not None and not partition.items_read):
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
