"""Cooled conversations: which partitions a page and a search ask, above and below the boundary."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from saltctl.errors import ConfigurationError, HistoryUnavailableError, ThrottledError
from saltctl.history.history import History
from saltctl.history.models import FindOptions, Page, ReadOptions
from saltctl.salting import partition_key, salt_of
from saltctl.stores.contracts.messages import Filter, PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.lookups import FixedLookups

N = 64
OLD, NEW = range(200), range(200, 400)
"""Numbers of the messages below the boundary, on 64 salts, and from it on."""
BOUNDARY = f"{NEW.start:06d}"


def key(number: int) -> str:
    """Return the sort key of a message."""
    return f"{number:06d}#m{number}"


def write(store: MemoryMessages, conversation: str, numbers: range, n: int) -> None:
    """Write messages as writers do who spread over n salts."""
    for number in numbers:
        text = {"text": {"S": f"text {number % 2}"}}
        store.put(partition_key(conversation, salt_of(f"m{number}", n)), key(number), text)


def ids(page: Page) -> list[int]:
    """Return the numbers of the messages of a page."""
    return [int(str(message.message_id)[1:]) for message in page.messages]


def asked(store: MemoryMessages) -> set[str]:
    """Return the partitions that were queried since the last call; their order is that of threads."""
    found = {query.partition_key for query in store.queries}
    store.queries.clear()
    return found


@pytest.fixture(params=[1, 4], ids="recent_n={}".format)
def recent_n(request: pytest.FixtureRequest) -> int:
    """Return over how many salts new messages spread."""
    return int(request.param)


@pytest.fixture
def recent(recent_n: int) -> list[str]:
    """Return the partitions that have messages from the boundary on."""
    return ["hot", *(f"hot#{salt}" for salt in range(recent_n if recent_n > 1 else 0))]


@pytest.fixture
def cooled(messages: MemoryMessages, lookups: FixedLookups, recent_n: int) -> FixedLookups:
    """Cool ``hot`` from 64 salts. ``mild`` has the same new messages, and always had as few salts."""
    lookups.max_n |= {"hot": N, "mild": recent_n}
    lookups.cooled["hot"] = recent_n, BOUNDARY
    write(messages, "hot", OLD, N)
    for conversation in ("hot", "mild"):
        write(messages, conversation, NEW, recent_n)
    return lookups


@pytest.mark.usefixtures("cooled")
@pytest.mark.parametrize("options", [{}, {"filter": Filter("#t = :t", {"#t": "text"}, {":t": {"S": "text 1"}})}])
def test_new_pages_cost_what_those_of_a_conversation_with_few_salts_cost(
    history: History, messages: MemoryMessages, options: dict[str, Any]
) -> None:
    """Down to the boundary every page sends equal queries, reads equal rows and takes equal read units."""
    messages.page_bytes = 1000  # a partition needs many queries

    def cost(conversation: str, **bounds: Any) -> list[Any]:
        newest = history.page(conversation, ReadOptions(limit=40, **options))
        assert len(newest.messages) == 40
        pages = [newest, *history.pages(conversation, ReadOptions(**options, **bounds))]
        read = [[replace(shard, partition_key="", seconds=0.0) for shard in page.shards] for page in pages]
        return [(ids(page), shards, page.items_read) for page, shards in zip(pages, read, strict=True)]

    assert cost("hot", since=BOUNDARY) == cost("mild")


@pytest.mark.usefixtures("cooled")
def test_a_page_that_ends_at_the_boundary_says_that_more_follow(
    history: History, messages: MemoryMessages, recent: list[str]
) -> None:
    """The old salts were not asked, so something may be there. The next page reads it."""
    page = history.page("hot", ReadOptions(limit=len(NEW)))
    assert ids(page) == list(reversed(NEW))
    assert [shard.partition_key for shard in page.shards] == recent
    assert asked(messages) == set(recent)
    assert page.next_cursor is not None
    older = history.page("hot", ReadOptions(limit=20, before=page.next_cursor))
    assert ids(older) == list(reversed(OLD))[:20]
    assert len(older.shards) == N + 1


def test_more_follow_if_all_partitions_that_were_asked_are_at_their_end(
    history: History, messages: MemoryMessages, lookups: FixedLookups
) -> None:
    """The page is full, no recent partition has another row, and the old salts were not asked: one has the last row."""
    lookups.max_n["hot"], lookups.cooled["hot"] = N, (4, BOUNDARY)
    write(messages, "hot", range(200, 210), 4)
    messages.put("hot#63", key(7), {})
    page = history.page("hot", ReadOptions(limit=10))
    assert ids(page) == list(reversed(range(200, 210)))
    assert len(page.shards) == 5
    assert ids(history.page("hot", ReadOptions(before=page.next_cursor))) == [7]


@pytest.mark.parametrize("limit", [len(NEW) + 1, len(NEW) + 60])
@pytest.mark.usefixtures("cooled")
def test_a_page_that_reaches_below_the_boundary_asks_the_old_salts(
    history: History, messages: MemoryMessages, recent: list[str], limit: int
) -> None:
    """They are asked once the recent partitions are read to the boundary, and for nothing from it on."""
    page = history.page("hot", ReadOptions(limit=limit))
    assert ids(page) == list(reversed(range(NEW.stop)))[:limit]
    old = [query for query in messages.queries if query.partition_key not in recent]
    assert {query.high for query in old} == {BOUNDARY}
    assert messages.queries.index(old[0]) >= len(recent)
    assert len(asked(messages)) == N + 1
    assert page.items_read <= 3 * limit


@pytest.mark.usefixtures("cooled")
def test_old_salts_wait_until_a_filter_leaves_the_page_unfilled_at_the_boundary(
    history: History, messages: MemoryMessages, recent: list[str]
) -> None:
    """The newest page with a filter asks the recent partitions again and again before any old salt."""
    messages.page_bytes = 1
    few = Filter("#t = :t", {"#t": "text"}, {":t": {"S": "text 1"}})
    page = history.page("hot", ReadOptions(limit=100, filter=few))
    assert ids(page) == list(reversed(range(NEW.start + 1, NEW.stop, 2)))
    assert asked(messages) == set(recent)


@pytest.mark.usefixtures("cooled")
@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize(
    ("bounds", "numbers"),
    [
        ({"since": BOUNDARY}, NEW),
        ({"since": key(250), "until": key(260)}, range(250, 260)),
        ({"until": BOUNDARY}, OLD),
        ({"until": key(150)}, range(150)),
        ({"since": key(190), "until": key(210)}, range(190, 210)),
        ({}, range(NEW.stop)),
    ],
)
def test_bounds_choose_the_partitions(
    history: History,
    messages: MemoryMessages,
    recent: list[str],
    bounds: dict[str, Any],
    numbers: range,
    oldest_first: bool,
) -> None:
    """Only pages that may have messages below the boundary ask an old salt, and only for these."""
    options = ReadOptions(limit=30, oldest_first=oldest_first, **bounds)
    found: list[int] = []
    while True:
        page = history.page("hot", options)
        found += ids(page)
        reaches_below = bool(page.messages) and min(ids(page)) < NEW.start
        filled_above = not oldest_first and bool(page.messages) and min(ids(page)) >= NEW.start
        expected_few = numbers.start >= NEW.start or (filled_above and len(page.messages) == 30)
        queries, few = list(messages.queries), len(asked(messages)) == len(recent)
        assert few or not expected_few
        assert not (few and reaches_below)
        assert all(str(query.high) <= BOUNDARY for query in queries if query.partition_key not in recent)
        if page.next_cursor is None:
            break
        turn: dict[str, Any] = {"after" if oldest_first else "before": page.next_cursor}
        options = replace(options, **turn)
    assert found == (list(numbers) if oldest_first else list(reversed(numbers)))


@pytest.mark.usefixtures("cooled")
def test_pages_after_a_new_cursor_ask_the_recent_partitions(
    history: History, messages: MemoryMessages, recent: list[str]
) -> None:
    """A reader that follows a conversation asks from its newest message on."""
    cursor = history.page("hot", ReadOptions(limit=5)).prev_cursor
    write(messages, "hot", range(NEW.stop, NEW.stop + 3), len(recent) - 1 or 1)
    messages.queries.clear()
    for oldest_first in (True, False):
        page = history.page("hot", ReadOptions(after=cursor, oldest_first=oldest_first))
        assert sorted(ids(page)) == [NEW.stop, NEW.stop + 1, NEW.stop + 2]
        assert page.next_cursor is None
        assert asked(messages) == set(recent)


@pytest.mark.usefixtures("cooled")
@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_row_at_the_boundary_is_not_read_from_an_old_salt(
    history: History, messages: MemoryMessages, oldest_first: bool
) -> None:
    """Whether it is read does not depend on where a page ends: the audit finds it, and no page does."""
    for sort_key in (BOUNDARY, key(250)):
        messages.put("hot#63", sort_key, {"text": {"S": "orphan"}})
    for limit in (50, 300):
        options = ReadOptions(oldest_first=oldest_first)
        history.first_page = history.largest_page = limit
        found = [message.attributes["text"] for message in history.messages("hot", options)]
        assert len(found) == NEW.stop
        assert "orphan" not in found


def test_a_retry_across_a_cool_down_is_read_once(
    history: History, messages: MemoryMessages, cooled: FixedLookups, recent: list[str]
) -> None:
    """The message is on an old salt, and its retry on a recent partition, with one sort key below the boundary."""
    number = next(n for n in OLD if partition_key("hot", salt_of(f"m{n}", N)) not in recent)
    write(messages, "hot", range(number, number + 1), cooled.cooled["hot"][0])
    for options in (ReadOptions(), ReadOptions(oldest_first=True)):
        found = [message.message_id for message in history.messages("hot", options)]
        assert len(found) == NEW.stop == len(set(found))


def test_a_raise_of_a_cooled_conversation_adds_recent_partitions(
    history: History, messages: MemoryMessages, cooled: FixedLookups
) -> None:
    """The boundary stays, and a page asks as many partitions as new messages are on. Without old salts none waits."""
    cooled.cooled["hot"] = 16, BOUNDARY
    write(messages, "hot", range(400, 500), 16)
    assert ids(history.page("hot")) == list(reversed(range(450, 500)))
    assert len(asked(messages)) == 17
    cooled.cooled["hot"] = N, BOUNDARY
    assert ids(history.page("hot")) == list(reversed(range(450, 500)))
    assert len(asked(messages)) == N + 1


def test_numbers_are_boundaries_too(lookups: FixedLookups) -> None:
    """The boundary is compared as a number. A boundary of another type than the table's sort keys is refused."""
    store = MemoryMessages("N")
    history = History(lookups, store, message_id_from="attribute:id")
    lookups.max_n["hot"], lookups.cooled["hot"] = N, (1, Decimal(10))
    store.put("hot#9", Decimal(9), {"id": {"S": "m9"}})
    store.put("hot", Decimal(100), {"id": {"S": "m100"}})
    assert ids(history.page("hot", ReadOptions(since=10))) == [100]
    assert asked(store) == {"hot"}
    assert ids(history.page("hot")) == [100, 9]
    lookups.cooled["hot"] = 1, "10"
    for call in (lambda: history.page("hot"), lambda: history.find("hot", "m9")):
        with pytest.raises(ConfigurationError, match="boundary '10' of 'hot'"):
            call()


@pytest.mark.usefixtures("cooled")
def test_explain_shows_the_first_round_without_the_old_salts(
    history: History, messages: MemoryMessages, recent: list[str]
) -> None:
    """A page that begins above the boundary asks the recent partitions first, one below it asks all."""
    for options, expected in ((ReadOptions(), recent), (ReadOptions(until=BOUNDARY), history.explain("hot").lookup)):
        plan = history.explain("hot", options)
        keys = expected if isinstance(expected, list) else expected.read_set()
        assert [request.partition_key for request in plan.requests] == keys
        assert messages.queries == []


def test_a_partial_page_reads_the_old_salts_without_the_recent_ones(
    cooled: FixedLookups, messages: MemoryMessages, recent: list[str]
) -> None:
    """It names what is missing. Only an outage of all partitions is an error."""
    down = set(recent)

    def fail(request: PartitionQuery) -> None:
        if request.partition_key in down:
            raise ThrottledError("throttled")

    messages.before_query = fail
    with History(cooled, messages) as history:
        page = history.page("hot", ReadOptions(allow_partial=True))
        assert page.missing == recent
        assert ids(page)
        assert max(ids(page)) < NEW.start
        down |= {f"hot#{salt}" for salt in range(N)}
        with pytest.raises(HistoryUnavailableError, match="'hot' \\(and 64 more"):
            history.page("hot", ReadOptions(allow_partial=True))
        down.clear()
        down.add("hot#63")
        assert history.page("hot").complete
        with pytest.raises(HistoryUnavailableError, match="'hot#63'"):
            history.page("hot", ReadOptions(limit=300))


@pytest.mark.usefixtures("cooled")
def test_a_message_is_found_above_and_below_the_boundary(history: History, recent: list[str]) -> None:
    """With a sort key, or a bound, from the boundary on, only recent partitions are searched. All else searches all."""
    for number in (0, OLD[-1], NEW[0], NEW[-1]):
        for options in (FindOptions(), FindOptions(sort_key=key(number)), FindOptions(since=key(number))):
            found = history.find("hot", f"m{number}", options)
            assert found.message is not None
            assert found.message.sort_key == key(number)
            above = number in NEW and options != FindOptions()
            assert set(found.partition_keys) <= set(recent) or not above
    assert set(history.find("hot", "none", FindOptions(sort_key=BOUNDARY)).partition_keys) == set(recent)
    for options in (FindOptions(), FindOptions(sort_key=key(OLD[-1])), FindOptions(since=key(OLD[-1]))):
        assert len(history.find("hot", "none", options).partition_keys) == N + 1
    assert history.find("hot", f"m{NEW[0]}").partition_keys[0] in recent
