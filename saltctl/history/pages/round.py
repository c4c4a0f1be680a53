"""One round of queries of a page: its answers, and the slow queries that are sent again."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from queue import Empty, SimpleQueue

from saltctl.errors import AwsUnavailableError, ThrottledError, UnavailableError
from saltctl.history.pages.hedging import SIBLINGS, Hedging, enough
from saltctl.history.pages.ordered_merge import Row
from saltctl.history.pages.plan import PartitionRead
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.messages import MessageStore, PartitionAnswer, PartitionQuery

Answer = tuple[PartitionAnswer, list[Row], float]
"""An answer, its rows, and the seconds that it took."""
Answers = dict[PartitionRead, Answer | Exception]
LateAnswers = list[tuple[PartitionRead, PartitionAnswer]]
Wakes = SimpleQueue[None]


def wait_for(wakes: Wakes, seconds: float) -> None:
    """Wait until one of the queries has something to say, or for so many seconds."""
    with suppress(Empty):
        wakes.get(timeout=seconds)


@dataclass(eq=False)
class Round:
    """The answers of one round of queries. The waiting thread is woken once, since waking costs more than reading.

    If slow queries are sent again, it is woken once more, when most have answered. The first answer of any copy
    counts. An outage of one copy is none of the partition while another one may still answer; any other error is.

    Args:
        queries: the query of each partition.
        is_fatal: whether an error ends the page.
        late_answers: gets the answers that come after that of another copy: they are paid for.
        hedging: the budget of more copies; None sends none.
        wait: waits for a wake, or for some seconds.
    """

    store: MessageStore
    pool: ThreadPool
    clock: Callable[[], float]
    deadline: float
    queries: Mapping[PartitionRead, PartitionQuery]
    is_fatal: Callable[[Exception], bool]
    late_answers: LateAnswers
    hedging: Hedging | None = None
    wait: Callable[[Wakes, float], None] = wait_for
    answers: Answers = field(default_factory=dict, init=False)
    errors: dict[PartitionRead, Exception] = field(default_factory=dict, init=False)
    """The latest error of each partition, also if another copy of its query may still answer."""
    over: bool = field(default=False, init=False)
    _complete: bool = field(default=False, init=False)
    _most_answered: bool = field(default=False, init=False)
    _wakes: Wakes = field(default_factory=SimpleQueue, init=False)
    _began: dict[PartitionRead, float] = field(default_factory=dict, init=False)
    _seconds: list[float] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _copies: dict[PartitionRead, int] = field(default_factory=dict, init=False)
    """The copies in progress, of the queries that were sent again or have ended."""
    _added: Counter[PartitionRead] = field(default_factory=Counter, init=False)
    """The copies that the budget paid for."""
    _judged: Counter[PartitionRead] = field(default_factory=Counter, init=False)
    """How often a query was found slow, whether or not there was a budget or a thread for another copy."""
    _latest: dict[PartitionRead, float] = field(default_factory=dict, init=False)
    """When the latest copy of a query began, if it was sent again."""

    def run(self) -> Answers:
        """Send the queries, and return the answers at the end of the round: some may be missing at the deadline."""
        if self.hedging is not None:
            self.hedging.earn(len(self.queries))
        try:
            for read, query in self.queries.items():
                self.pool.start(partial(self.ask, read, query))
            while not self._complete and (left := self.deadline - self.clock()) > 0:
                self.wait(self._wakes, min(left, self._send_slow_again()))
        finally:
            self.over = True
        return self.answers.copy()

    def ask(self, read: PartitionRead, query: PartitionQuery) -> None:
        """Send one copy of a query, and keep its answer, or its error for the page's thread.

        It is not sent if the round is over, or if another copy has answered. To add to a dict is atomic, and the last
        thread to do so sees all answers.
        """
        if self.over or read in self.answers:
            self._end_copy(read)
            return
        started = self.clock()
        began = self._began.setdefault(read, started)
        try:
            with TimeBudget(self.deadline - started):  # a thread is free again once its page has ended
                answer = self.store.query(query)
            ended = self.clock()
            # Rows are made here, while other partitions have still to answer.
            name, kind = self.store.keys.sort_key, self.store.keys.sort_type
            exact = Decimal if kind == "N" else str
            rows = [Row(exact(item[name][kind]), read.salt, item) for item in answer.items]
        except Exception as exc:
            self._fail(read, exc)
        else:
            result = answer, rows, ended - began
            if self.hedging is not None:
                self._seconds.append(ended - began)  # before the page's thread may be woken for it
                self.hedging.answered(ended - started)
            if self.answers.setdefault(read, result) is not result:
                self.late_answers.append((read, answer))
            self._end_copy(read)  # after the answer is there: another copy may fail at this moment
            self._wake(read)

    def failed(self, answer: Answer | Exception) -> bool:
        """Return whether an answer is an error that ends the page."""
        return isinstance(answer, Exception) and self.is_fatal(answer)

    def _fail(self, read: PartitionRead, error: Exception) -> None:
        """Keep the error of one copy; it is that of the partition if no other copy can mend it."""
        cut_off = type(error) is AwsUnavailableError and self.clock() >= self.deadline
        if not cut_off:  # else by the page's own limit, which the page's thread reports, whoever notices it first
            self.errors[read] = error
        last = self._end_copy(read)
        if self.hedging is not None and isinstance(error, ThrottledError):
            self.hedging.throttled()
        if not cut_off and (last or not isinstance(error, UnavailableError)):
            self.answers.setdefault(read, error)
            self._wake(read)

    def _wake(self, read: PartitionRead) -> None:
        """Wake the page's thread if the round is complete, or as soon as it can be said which queries are slow."""
        queries = len(self.queries)
        if len(self.answers) == queries or self.failed(self.answers[read]):
            self._complete = True
            self._wakes.put(None)
        elif queries >= SIBLINGS and not self._most_answered and len(self._seconds) >= enough(queries):
            self._most_answered = True
            self._wakes.put(None)

    # More copies. The page's thread sends them.

    def _send_slow_again(self) -> float:
        """Send the slow queries again; return the seconds until another one is slow."""
        wait, now = math.inf, self.clock()
        slow_after = None if self.hedging is None else self.hedging.slow_after(self._seconds, len(self.queries))
        if self.hedging is None or slow_after is None:
            return wait
        for read, query in self.queries.items():
            if read in self.answers or self._judged[read] == self.hedging.copies - 1:
                continue
            # One that waits for a thread is not slow: another copy would wait, too.
            if (left := self._latest.get(read, self._began.get(read, now)) + slow_after - now) > 0:
                wait = min(wait, left)
                continue
            self._judged[read] += 1
            self._latest[read] = now
            if self.pool.in_progress < self.pool.max_threads and self.hedging.begin():
                self._send_again(read, query, self.hedging)
            wait = min(wait, slow_after)
        return wait

    def _send_again(self, read: PartitionRead, query: PartitionQuery, hedging: Hedging) -> None:
        with self._lock:
            if self._copies.get(read) == 0:  # it has ended at this moment
                hedging.end()
                return
            self._copies[read] = self._copies.get(read, 1) + 1
            self._added[read] += 1
        if self.pool.start_if_free(partial(self.ask, read, query)):
            read.hedges += 1
        elif self._end_copy(read) and read in self.errors:  # the others have failed at this moment
            self.answers.setdefault(read, self.errors[read])
            self._wake(read)

    def _end_copy(self, read: PartitionRead) -> bool:
        """Note the end of one copy of a query; return whether no other one is in progress."""
        if self.hedging is None:
            return True
        with self._lock:
            left = self._copies[read] = self._copies.get(read, 1) - 1
        if not left:
            for _ in range(self._added.pop(read, 0)):
                self.hedging.end()
        return not left
