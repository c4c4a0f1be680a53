"""Queries that are sent a second time: when, how many, and what the page makes of both copies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, HistoryUnavailableError, ThrottledError
from saltctl.history.models import ReadOptions
from saltctl.history.pages.hedging import CAP, ENOUGH_RECENT, LEAST_SECONDS, QUIET_SECONDS, SLOW, Hedging
from saltctl.history.pages.request import PageRequest, page_request
from saltctl.history.pages.round import Wakes
from saltctl.history.pages.scatter_gather import PageRows, ScatterGather
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.registry.lookups import Lookup
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.stores.throttle_notes import note_throttle
from saltctl.testing import MemoryMessages
from tests.support.forked import in_child
from tests.support.inline_pool import ManualClock

N = 16
PATIENT = 30.0
SLOW_KEY = "conv#3"


def budget(clock: ManualClock | None = None, most: int = 100, earned: int = 1000) -> Hedging:
    """Return a budget to which so many queries have been counted."""
    hedging = Hedging(clock or ManualClock(), most)
    hedging.earn(earned)
    return hedging


def sent(hedging: Hedging, tries: int) -> int:
    """Return how many second copies may be sent, each of which ends at once."""
    count = 0
    for _ in range(tries):
        if hedging.begin():
            count += 1
            hedging.end()
    return count


# The budget.


def test_at_most_three_in_a_hundred_queries_are_sent_again() -> None:
    """Also if every query is slow, from the first one on, and for pages of any size."""
    for size in (1, 5, 65):
        hedging, count = Hedging(ManualClock(), 100), 0
        for queries in range(size, 10_000, size):
            hedging.earn(size)
            count += sent(hedging, size)
            assert count <= 0.03 * queries + 1e-6
        assert count > 0.029 * 9_900


def test_little_is_saved_up() -> None:
    """After a long time without slow queries there is no burst."""
    assert sent(budget(earned=1_000_000), 100) == CAP


def test_second_copies_keep_few_threads_busy() -> None:
    """Of both copies, one may hang until the deadline of its page."""
    hedging = budget(most=2)
    assert [hedging.begin(), hedging.begin(), hedging.begin()] == [True, True, False]
    hedging.end()
    assert hedging.begin()


def test_nothing_is_sent_again_while_dynamodb_throttles() -> None:
    """It is off for some seconds after each response that throttles, also if botocore repeats the request itself."""
    clock = ManualClock()
    hedging = budget(clock)
    signs: list[Callable[[], None]] = [hedging.throttled, note_throttle]
    for throttle in signs:
        assert sent(hedging, 1) == 1
        throttle()
        assert sent(hedging, 1) == 0
        clock.now += QUIET_SECONDS - 0.001
        assert sent(hedging, 1) == 0
        clock.now += 0.002


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_budget_of_its_own() -> None:
    """The child has neither the parent's savings, nor its copies in progress, nor a lock that a thread of it held."""
    hedging = budget(most=1)
    assert hedging.begin()

    def child() -> tuple[int, int]:
        before = sent(hedging, 1)
        hedging.earn(1000)
        return before, sent(hedging, 1)

    assert in_child(child) == (0, 1)
    assert not hedging.begin()


# What is slow.


def test_a_query_is_judged_by_the_others_of_its_round() -> None:
    """Once nine in ten have answered: by how long these took."""
    hedging = budget()
    answered = [0.01] * 17 + [0.02]
    assert hedging.slow_after(answered[:17], 20) is None
    assert hedging.slow_after(answered, 20) == pytest.approx(SLOW * 0.02)
    assert hedging.slow_after([0.00001] * 20, 20) == LEAST_SECONDS


def test_a_query_without_siblings_is_judged_by_the_latest_ones() -> None:
    """By those of other pages of this History, once there are enough."""
    hedging = budget()
    for number in range(ENOUGH_RECENT):
        assert hedging.slow_after([], 1) is None
        hedging.answered(0.1 if number % 10 == 0 else 0.01)
    assert hedging.slow_after([], 1) == pytest.approx(SLOW * 0.1)
    for _ in range(1000):
        hedging.answered(0.005)
    assert hedging.slow_after([], 7) == pytest.approx(SLOW * 0.005)


# Pages. The clock stands still while queries are answered, and moves if the page's thread waits for slow ones.


@dataclass
class Pages:
    """Reads pages of a conversation in which queries of SLOW_KEY do what the test says."""

    pool: ThreadPool = field(default_factory=lambda: ThreadPool(72, "hedging"))
    clock: ManualClock = field(default_factory=ManualClock)
    n: int = N
    allow_partial: bool = False
    copies: int = 2

    def __post_init__(self) -> None:
        self.both_ended = threading.Event()
        outer = self

        class Noted(Hedging):
            def end(self) -> None:
                super().end()
                outer.both_ended.set()

        self.hedging = Noted(self.clock, 9, self.copies)
        self.hedging.earn(1000)
        self.on_query: list[Callable[[], None]] = []
        """What the queries of SLOW_KEY do, the first one first. The others are answered at once."""
        self.sent: list[str] = []
        self.store = MemoryMessages(before_query=self._before_query)
        for number in range(400):
            self.store.put(f"conv#{number % N}", f"{number:04d}", {})

    def _before_query(self, query: PartitionQuery) -> None:
        self.sent.append(query.partition_key)
        if query.partition_key == SLOW_KEY and self.on_query:
            self.on_query.pop(0)()

    def wait(self, wakes: Wakes, seconds: float) -> None:
        """Let the time pass until a query is slow; else wait for the answers."""
        if seconds < 1:
            self.clock.now += seconds
        else:
            wakes.get(timeout=PATIENT)

    def read(self, limit: int = 20) -> PageRows:
        """Read a page."""
        began = self.clock()
        job = ScatterGather(
            self.store, self.pool, self.clock, began, began + 10, self.allow_partial, None, self.hedging, self.wait
        )
        return job.run(self.request(limit))

    def request(self, limit: int) -> PageRequest:
        """Return the request of the newest page."""
        found = Lookup("conv", self.n, self.n, "redis", self.n)
        return page_request(found, ReadOptions(limit=limit), self.store.keys)


def expected(rows: PageRows) -> bool:
    """Return whether a page has the newest messages, newest first."""
    return [row.sort_key for row in rows.rows] == [f"{number:04d}" for number in range(399, 379, -1)]


@contextmanager
def hanging() -> Iterator[tuple[Callable[[], None], threading.Event]]:
    """Yield what a query does that hangs, and the event that releases it; it is set at the end of the block."""
    released = threading.Event()

    def hang() -> None:
        assert released.wait(PATIENT)

    try:
        yield hang, released
    finally:
        released.set()


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_first_answer_of_either_copy_wins() -> None:
    """The page does not wait for a query that hangs, and says what it has sent."""
    pages = Pages()
    with hanging() as (hang, _):
        pages.on_query = [hang]
        found = pages.read()
        assert expected(found)
        assert pages.clock() < 1001
        (slow,) = [read.shard(0) for read in found.partitions if read.key == SLOW_KEY]
        assert (slow.hedges, slow.queries) == (1, 2)
        assert sum(read.hedges for read in found.partitions) == 1
        assert pages.sent.count(SLOW_KEY) == 2
    assert pages.both_ended.wait(PATIENT)


def test_a_third_copy_is_sent_if_the_second_one_is_slow_too() -> None:
    """It is the last one. Each is judged from its own beginning, and the budget gets back what all of them took."""
    pages = Pages(copies=3)
    with hanging() as (hang, _):
        pages.on_query = [hang, hang]
        found = pages.read()
        assert expected(found)
        (slow,) = [read.shard(0) for read in found.partitions if read.key == SLOW_KEY]
        assert (slow.hedges, slow.queries) == (2, 3)
    pages.pool.shutdown(wait=True)
    assert sum(pages.hedging.begin() for _ in range(20)) == 6  # of eight that were saved; nine may be in progress


def test_no_copy_is_sent_after_the_third() -> None:
    """The page waits for one of them, once there is nothing more to send."""
    pages = Pages(copies=3)
    with hanging() as (hang, released):

        def wait(wakes: Wakes, seconds: float) -> None:
            if seconds > 1 and pages.clock() > 1000:
                until(lambda: pages.sent.count(SLOW_KEY) >= 3)
                released.set()
            Pages.wait(pages, wakes, seconds)

        pages.wait = wait  # type: ignore[method-assign]
        pages.on_query = [hang] * 3
        assert expected(pages.read())
        assert pages.sent.count(SLOW_KEY) == 3


def test_what_both_copies_cost_is_counted() -> None:
    """If both have answered when the page ends: items and read units are those of both."""
    pages, usual = Pages(), Pages()
    for number in range(400, 430):  # so many on one partition that it has to be asked again
        for each in (pages, usual):
            each.store.put(SLOW_KEY, f"{number:04d}", {})
    with hanging() as (hang, released):

        def let_the_first_one_end() -> None:
            """The page's second query of this partition begins after both copies of the first have ended."""
            released.set()
            assert pages.both_ended.wait(PATIENT)

        pages.on_query = [hang, lambda: None, let_the_first_one_end]
        (slow,) = [read for read in pages.read(30).partitions if read.key == SLOW_KEY]
    (one,) = [read for read in usual.read(30).partitions if read.key == SLOW_KEY]
    assert (one.queries, slow.queries, slow.shard(0).queries) == (3, 3, 4)
    assert one.items_read < slow.items_read < 2 * one.items_read
    assert one.consumed_rcu < slow.consumed_rcu < 2 * one.consumed_rcu


def fail(error: Exception) -> Callable[[], None]:
    """Return what a query does that fails."""

    def raise_it() -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("error", [AwsUnavailableError("an outage"), ThrottledError("AWS throttles")])
@pytest.mark.parametrize("first_fails", [True, False])
def test_an_outage_of_one_copy_is_none_of_the_partition(error: Exception, first_fails: bool) -> None:
    """While the other copy is in progress, it may still answer; whichever of them fails."""
    pages, second = Pages(), threading.Event()

    def wait_for_the_failure() -> None:
        """Answer only once the other copy has failed."""
        second.set()
        until(lambda: pages.pool.in_progress == 1)

    def fail_once_both_are_sent() -> None:
        assert second.wait(PATIENT)
        raise error

    def first() -> None:
        assert second.wait(PATIENT)
        wait_for_the_failure()

    def fail_at_once() -> None:
        second.set()
        raise error

    pages.on_query = [fail_once_both_are_sent, wait_for_the_failure] if first_fails else [first, fail_at_once]
    assert expected(pages.read())
    assert pages.both_ended.wait(PATIENT)
    assert pages.hedging.begin() is not isinstance(error, ThrottledError)


def test_a_partition_fails_if_both_copies_fail() -> None:
    """With the error of the one that failed last."""
    pages, second = Pages(), threading.Event()

    def fail_once_both_are_sent() -> None:
        assert second.wait(PATIENT)
        raise AwsUnavailableError("the first")

    def fail_last() -> None:
        second.set()
        until(lambda: pages.pool.in_progress == 1)
        raise AwsUnavailableError("the second")

    pages.on_query = [fail_once_both_are_sent, fail_last]
    with pytest.raises(HistoryUnavailableError, match="the second") as caught:
        pages.read()
    assert list(caught.value.partitions) == [SLOW_KEY]


def test_a_refusal_ends_the_page_at_once() -> None:
    """A missing permission is missing for both copies, so the page does not wait for the one that hangs."""
    pages = Pages()
    with hanging() as (hang, _):
        pages.on_query = [hang, fail(AccessDeniedError("no permission"))]
        with pytest.raises(AccessDeniedError):
            pages.read()


def test_the_error_of_one_copy_is_told_if_the_other_one_is_too_late() -> None:
    """It says more than that the partition did not answer."""
    pages, second = Pages(), threading.Event()

    def wait(wakes: Wakes, seconds: float) -> None:
        """Let the deadline pass once one copy has failed."""
        if seconds > 1 and pages.clock() > 1000:
            until(lambda: pages.pool.in_progress == 1)
            pages.clock.now += seconds
        else:
            Pages.wait(pages, wakes, seconds)

    def fail_once_both_are_sent() -> None:
        assert second.wait(PATIENT)
        raise AwsUnavailableError("an outage")

    pages.wait = wait  # type: ignore[method-assign]
    with hanging() as (hang, _):

        def second_hangs() -> None:
            second.set()
            hang()

        pages.on_query = [fail_once_both_are_sent, second_hangs]
        with pytest.raises(HistoryUnavailableError, match="an outage"):
            pages.read()


class FullPool(ThreadPool):
    """A pool that has a thread for each query of a page, and none for a second copy."""

    def start_if_free(self, call: Callable[[], object]) -> bool:
        """Run nothing."""
        return False


@pytest.mark.parametrize("reason", ["all threads are busy", "no budget", "throttled"])
def test_a_second_copy_that_cannot_help_is_not_sent(reason: str) -> None:
    """Then the page waits for the first one."""
    pages = Pages(FullPool(72, "full") if reason == "all threads are busy" else ThreadPool(72, "hedging"))
    if reason == "no budget":
        while pages.hedging.begin():
            pages.hedging.end()
        pages.both_ended.clear()
    elif reason == "throttled":
        note_throttle()
    answered = threading.Event()

    def answer_once_it_was_slow() -> None:
        until(lambda: pages.clock() > 1000)
        answered.set()

    pages.on_query = [answer_once_it_was_slow]
    found = pages.read()
    assert expected(found)
    assert answered.is_set()
    assert not any(read.hedges for read in found.partitions)
    assert pages.sent.count(SLOW_KEY) == 1


def test_a_call_that_would_wait_for_a_thread_is_not_started() -> None:
    """With ``start_if_free``; nor is one in a pool that was shut down."""
    pool = ThreadPool(1, "one")
    with hanging() as (hang, _):
        assert pool.start_if_free(hang)
        assert not pool.start_if_free(hang)
    until(lambda: not pool.in_progress)
    pool.shutdown()
    assert not pool.start_if_free(hang)


def test_without_hedging_a_query_is_sent_once() -> None:
    """However long it takes."""
    pages = Pages()
    pages.hedging = None  # type: ignore[assignment]

    def answer_later() -> None:
        pages.clock.now += 5

    pages.on_query = [answer_later]
    assert expected(pages.read())
    assert pages.sent.count(SLOW_KEY) == 1
