"""The rounds of a page: which partitions are queried, in which order, for how many rows, and how they fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, HistoryUnavailableError, ThrottledError
from saltctl.history.pages.cursor import BASE, Cursor, Position
from saltctl.history.pages.plan import MAX_ROWS, PartitionRead, plan, share
from saltctl.history.pages.request import PageRequest
from saltctl.history.pages.scatter_gather import PageRows, ScatterGather
from saltctl.registry.lookups import Lookup
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.inline_pool import InlinePool, ManualClock

N = 4


def request_of(limit: int, **options: Any) -> PageRequest:
    """Return the request of a page of ``conv``, which has four salts, newest first."""
    return PageRequest(Lookup("conv", N, N, "redis", N), PartitionQuery("conv"), limit, **options)


def store_of(
    rows: Mapping[str, range], before_query: Callable[[PartitionQuery], None] = lambda request: None
) -> MemoryMessages:
    """Return a table with a row for each number of each partition."""
    store = MemoryMessages(before_query=before_query)
    for key, numbers in rows.items():
        for number in numbers:
            store.put(key, f"{number:04d}", {"number": {"N": str(number)}})
    return store


def failing(errors: Mapping[str, Exception]) -> Callable[[PartitionQuery], None]:
    """Return a hook that raises the errors of some partitions."""

    def fail(request: PartitionQuery) -> None:
        if error := errors.get(request.partition_key):
            raise error

    return fail


def run(
    store: MemoryMessages,
    request: PageRequest,
    *,
    pool: InlinePool | None = None,
    clock: ManualClock | None = None,
    seconds: float = 10.0,
    allow_partial: bool = False,
) -> PageRows:
    """Run the rounds of a page without threads."""
    clock = clock or ManualClock()
    job = ScatterGather(store, pool or InlinePool(), clock, clock(), clock() + seconds, allow_partial)
    return job.run(request)


def sort_keys(found: PageRows) -> list[str]:
    """Return the sort keys of a page."""
    return [row.sort_key for row in found.rows]


EVEN = {f"conv#{salt}": range(salt, 400, N) for salt in range(N)}
"""400 rows, distributed over the salts in turn."""


def test_the_first_round_queries_every_partition_for_its_share() -> None:
    """The base partition is asked for one row, since the salts share the page."""
    store = store_of(EVEN)
    found = run(store, request_of(50))
    assert [(query.partition_key, query.limit) for query in store.queries] == [
        ("conv", 1),
        *((f"conv#{salt}", share(50, N)) for salt in range(N)),
    ]
    assert sort_keys(found) == [f"{number:04d}" for number in range(399, 349, -1)]
    assert found.more


@pytest.mark.parametrize(
    ("spread", "asked"), [(1, ["base", 1, 1, 1, 1]), (2, [1, "salt", "salt", 1, 1]), (4, [1, *["salt"] * 4])]
)
def test_partitions_that_should_hold_no_row_of_the_page_are_asked_for_one(spread: int, asked: list[Any]) -> None:
    """A page of an earlier N lies on the salts below it, or on the base partition."""
    limits = {"base": share(50, 1), "salt": share(50, spread)}
    start = Cursor(Position("0100", N), spread)
    assert [read.limit for read in plan(request_of(50, start=start))] == [limits.get(each, each) for each in asked]


def test_the_partition_of_the_cursor_is_asked_for_one_row_more() -> None:
    """The row at the cursor is read again and left out."""
    cursor = Position("0100", 2)
    limits = [read.limit for read in plan(request_of(50, start=Cursor(cursor, N), before=cursor))]
    assert limits == [1, share(50, N), share(50, N), share(50, N) + 1, share(50, N)]


def test_only_partitions_that_ran_dry_are_queried_again() -> None:
    """All rows are on one salt: the second round continues there, behind the last row, and asks for the rest."""
    store = store_of({"conv#1": range(100)})
    found = run(store, request_of(50))
    first, second = store.queries[: N + 1], store.queries[N + 1 :]
    assert [query.partition_key for query in first] == ["conv", "conv#0", "conv#1", "conv#2", "conv#3"]
    assert {query.partition_key for query in second} == {"conv#1"}
    assert second[0].start == {"room": {"S": "conv#1"}, "at": {"S": f"{100 - share(50, N):04d}"}}
    assert sort_keys(found) == [f"{number:04d}" for number in range(99, 49, -1)]
    assert [read.queries for read in found.partitions] == [1, 1, 1 + len(second), 1, 1]


def test_the_page_ends_if_every_partition_is_at_its_end() -> None:
    """Fewer rows than the limit: all of them, and no more can follow."""
    found = run(store_of({"conv": range(2), "conv#3": range(2, 4)}), request_of(50))
    assert sort_keys(found) == ["0003", "0002", "0001", "0000"]
    assert not found.more


def test_a_range_without_rows_is_not_queried() -> None:
    """DynamoDB refuses bounds in the wrong order."""
    store = store_of(EVEN)
    request = PageRequest(Lookup("conv", 1, 1, "redis", 1), PartitionQuery("conv", low="5", high="1"), 50)
    found = run(store, request)
    assert (found.rows, found.more, found.partitions, store.queries) == ([], False, [], [])


def test_a_failed_partition_fails_the_page() -> None:
    """The error names every partition that failed, with its own error."""
    errors = {"conv#1": ThrottledError("slow down", hint="wait"), "conv#3": AwsUnavailableError("down")}
    with pytest.raises(HistoryUnavailableError, match=r"'conv#1' \(and 1 more: conv#3\): slow down") as caught:
        run(store_of(EVEN, failing(errors)), request_of(50))
    assert caught.value.partitions == errors
    assert caught.value.hint.startswith("wait\ntry again: --allow-partial")


def test_a_permission_error_is_raised_as_it_is() -> None:
    """It is not reported as an outage, even if another partition had one before."""
    errors = {"conv#0": ThrottledError("slow down"), "conv#2": AccessDeniedError("denied")}
    with pytest.raises(AccessDeniedError, match="denied"):
        run(store_of(EVEN, failing(errors)), request_of(50))


@pytest.mark.parametrize("allow_partial", [False, True])
def test_an_internal_error_is_raised_as_it_is(allow_partial: bool) -> None:
    """A partial page never hides it."""
    with pytest.raises(ZeroDivisionError):
        run(store_of(EVEN, failing({"conv#0": ZeroDivisionError()})), request_of(50), allow_partial=allow_partial)


def test_a_partial_page_has_the_rows_of_the_other_partitions() -> None:
    """The failed partition keeps its error and is not queried again."""
    store = store_of(EVEN, failing({"conv#1": ThrottledError("slow down")}))
    found = run(store, request_of(50), allow_partial=True)
    assert sort_keys(found) == [f"{number:04d}" for number in range(399, 0, -1) if number % N != 1][:50]
    assert {read.key: str(read.error) for read in found.partitions if read.error} == {"conv#1": "slow down"}
    assert "conv#1" not in {query.partition_key for query in store.queries}


def test_a_partition_may_fail_in_a_later_round() -> None:
    """A partial page keeps the rows that it returned before."""
    count = 0

    def fail_second(request: PartitionQuery) -> None:
        nonlocal count
        count += request.partition_key == "conv#1"
        if count > 1:
            raise ThrottledError("slow down")

    found = run(store_of({"conv#1": range(100)}, fail_second), request_of(50), allow_partial=True)
    assert sort_keys(found) == [f"{number:04d}" for number in range(99, 99 - share(50, N), -1)]
    assert [read.key for read in found.partitions if read.error] == ["conv#1"]


def test_a_partition_that_does_not_answer_in_time_is_named() -> None:
    """The error says how long the page waited, from its beginning, by the given clock."""
    clock = ManualClock()

    def take_six_seconds(request: PartitionQuery) -> None:
        clock.now += 6.0 if request.partition_key in ("conv#0", "conv#1") else 0.0

    with pytest.raises(HistoryUnavailableError, match=r"'conv#2' did not answer within 12\.0 s") as caught:
        run(store_of(EVEN, take_six_seconds), request_of(50), pool=InlinePool(held=[3]), clock=clock)
    assert set(caught.value.partitions) == {"conv#2"}


def test_answers_are_in_time_if_they_came_before_the_wait() -> None:
    """The deadline ends the wait; it discards no answer."""
    clock = ManualClock()

    def take_long(request: PartitionQuery) -> None:
        clock.now += 60.0

    assert len(run(store_of(EVEN, take_long), request_of(50), clock=clock).rows) == 50


def test_a_late_partition_is_left_out_of_a_partial_page() -> None:
    """Its error is the timeout; partitions that failed at once keep theirs."""
    clock = ManualClock()

    def take_long(request: PartitionQuery) -> None:
        clock.now += 60.0
        failing({"conv#0": ThrottledError("slow down")})(request)

    found = run(store_of(EVEN, take_long), request_of(50), pool=InlinePool(held=[4]), clock=clock, allow_partial=True)
    errors = {read.key: type(read.error) for read in found.partitions if read.error}
    assert errors == {"conv#0": ThrottledError, "conv#3": AwsUnavailableError}
    assert {row.salt for row in found.rows} == {1, 2}


def test_a_query_that_waits_when_the_page_fails_is_never_sent() -> None:
    """A queued call that runs after the page failed sends no query."""
    store = store_of(EVEN, failing({"conv#0": ThrottledError("slow down")}))
    pool = InlinePool(held=[3, 4])
    with pytest.raises(HistoryUnavailableError):
        run(store, request_of(50), pool=pool)
    sent = len(store.queries)
    assert pool.run_held() == 2
    assert len(store.queries) == sent


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        # The base partition has rows: every earlier message lies there.
        (PartitionRead("conv", BASE, 1, active=False, rows=1, items_read=1), 41),
        # A share of 10 of 50 rows so far, by salt 0 of four.
        (PartitionRead("conv#0", 0, 10, active=True, rows=10, items_read=10), None),
        # A filter left out rows: twice as many as before.
        (PartitionRead("conv#0", 0, 500, active=True, rows=1, items_read=500), MAX_ROWS),
    ],
    ids=["base", "share", "filter"],
)
def test_the_next_limit_follows_from_the_rows_so_far(read: PartitionRead, limit: int | None) -> None:
    """Never more than the missing rows and one, unless rows are filtered out, and never more than MAX_ROWS."""
    read.ask_again(wanted=50, depth=10, active=N)
    assert read.limit == limit if limit else 1 < read.limit <= 41
