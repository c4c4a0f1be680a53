"""Histories: the results of each call, the requests it sends, and its errors."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    HistoryUnavailableError,
    InvalidConversationIdError,
    SaltctlError,
    SortKeyTakenError,
    StaleLookupError,
    ThrottledError,
    UsageError,
)
from saltctl.history.history import History, uptime
from saltctl.history.models import FindOptions, Page, ReadOptions
from saltctl.history.pages.plan import EXPECTED_DRY, share
from saltctl.registry.lookups import Lookup
from saltctl.salting import partition_key, salt_of
from saltctl.stores.bounded.deadline import remaining
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.inline_pool import InlinePool, ManualClock
from tests.support.lookups import FixedLookups


def fill(history: History, conversation: str, count: int) -> list[str]:
    """Write messages in order and return their ids, newest first."""
    for number in range(count):
        history.put(conversation, f"{number:06d}#m{number}", {"text": f"text {number}"})
    return [f"m{number}" for number in reversed(range(count))]


def ids(messages: Any) -> list[str]:
    """Return the ids of messages."""
    return [message.message_id for message in messages]


def test_put_goes_to_the_salt_of_the_message(history: History, messages: MemoryMessages) -> None:
    """The salt is the CRC-32 of the id modulo N. The rest of the sort key does not count."""
    done = history.put("hot", "2026-07-01T08:00:00Z#m1", {"text": "hi", "n": 7})
    assert done.written
    assert done.partition_key == partition_key("hot", salt_of("m1", 16))
    assert messages.get(done.partition_key, "2026-07-01T08:00:00Z#m1") == {
        "text": {"S": "hi"},
        "n": {"N": "7"},
        "room": {"S": done.partition_key},
        "at": {"S": "2026-07-01T08:00:00Z#m1"},
    }


def test_a_retried_put_is_harmless(history: History, messages: MemoryMessages) -> None:
    """The row exists already, and is not changed."""
    history.put("hot", "t#m1", {"text": "first"})
    again = history.put("hot", "t#m1", {"text": "edited meanwhile"})
    assert not again.written
    assert ids(history.messages("hot")) == ["m1"]
    assert [message.attributes["text"] for message in history.messages("hot")] == ["first"]


@pytest.mark.parametrize("key", ["1.10", "1.7E+9", "2.0", "-0", "0.0000001", "12345678901234567890123456789012345678"])
@pytest.mark.parametrize("message_id_from", ["sort_key", "attribute:id"])
def test_a_retry_in_another_spelling_is_the_same_message(key: str, message_id_from: str, lookups: FixedLookups) -> None:
    """The salt comes from the number as DynamoDB returns it, so every spelling reaches one row."""
    history = History(lookups, MemoryMessages("N"), message_id_from=message_id_from)
    number = Decimal(key)
    spellings: list[Any] = [number, key, f"{number:f}", f"{number:.40E}"]
    puts = [history.put("hot", spelling, {"id": number}) for spelling in spellings]
    assert [put.written for put in puts] == [True, False, False, False]
    assert {(put.partition_key, put.message_id) for put in puts} == {(puts[0].partition_key, puts[0].message_id)}
    assert puts[0].partition_key == partition_key("hot", salt_of(puts[0].message_id, 16))
    page = history.page("hot")
    assert ids(page.messages) == [puts[0].message_id]
    assert page.prev_cursor == history.page("hot", ReadOptions(since=number)).prev_cursor


@pytest.mark.parametrize("key", [True, 1.5, 0.1, None, b"5", "1_0", "\uff11", " 5", "NaN", Decimal("1E+126"), "12h"])
def test_a_sort_key_that_is_not_a_number_is_refused(key: Any, lookups: FixedLookups) -> None:
    """No value becomes another number, in a write, a bound or a search."""
    history = History(lookups, MemoryMessages("N"))
    with pytest.raises(UsageError, match="must be a number"):
        history.put("c", key, {})
    if key is not None:
        for call in (
            lambda: history.page("c", ReadOptions(until=key)),
            lambda: history.find("c", "m", FindOptions(key)),
        ):
            with pytest.raises(UsageError, match="must be a number"):
                call()


@pytest.mark.parametrize("message_id", [b"m1", True, None, {"a"}, ["m1"], ""])
def test_an_id_that_is_neither_string_nor_number_is_refused(message_id: Any, lookups: FixedLookups) -> None:
    """A salt needs an id that every client reads alike."""
    history = History(lookups, MemoryMessages(), message_id_from="attribute:id")
    with pytest.raises(UsageError, match="no id in 'id'"):
        history.put("hot", "t", {"id": message_id})


def test_a_retry_across_a_raise_is_read_once(history: History, lookups: FixedLookups) -> None:
    """The retry writes the same row on a partition of the new N; readers return one message."""
    moved = next(f"m{number}" for number in range(100) if salt_of(f"m{number}", 4) != salt_of(f"m{number}", 16))
    before = history.put("warm", f"t#{moved}", {"text": "hi"})
    lookups.max_n["warm"] = 16
    after = history.put("warm", f"t#{moved}", {"text": "hi"})
    assert before.written
    assert after.written
    assert before.partition_key != after.partition_key
    assert ids(history.page("warm").messages) == [moved]


def test_writers_spread_over_write_n_and_readers_cover_max_n(history: History, lookups: FixedLookups) -> None:
    """During a raise, writers use only partitions that every reader covers."""
    lookups.max_n["c"], lookups.write_n["c"] = 16, 1
    assert history.put("c", "t#m1", {}).partition_key == "c"
    assert len(history.page("c").shards) == 17


def test_every_call_looks_up_again(history: History, lookups: FixedLookups, messages: MemoryMessages) -> None:
    """Lookups are not cached: each page, put and find asks the registry."""
    fill(history, "hot", 3)
    assert lookups.calls == 3
    history.page("hot")
    history.page("hot")
    history.find("hot", "m1")
    assert lookups.calls == 6


@pytest.mark.parametrize("stopped", [0.0, 19.0, 20.0, 3600.0])
def test_no_message_is_sent_long_after_its_lookup(lookups: FixedLookups, stopped: float) -> None:
    """Cooling waits until no writer uses an older lookup. A repeated call looks up again, and writes."""
    uptime, budgets = ManualClock(), []

    class Stopping(FixedLookups):
        def lookup(self, conversation_id: str) -> Lookup:
            uptime.now += stopped  # it also counts if the lookup itself was slow
            return super().lookup(conversation_id)

    class Store(MemoryMessages):
        def put(self, *row: Any) -> bool:
            budgets.append(remaining())
            return super().put(*row)

    store = Store()
    history = History(Stopping(), store, cool_wait=40.0, uptime=uptime)
    if stopped < 20:
        assert history.put("c", "t#m1", {}).written
        assert budgets == [pytest.approx(20 - stopped, abs=1)]  # later attempts of the store are as late
        return
    with pytest.raises(StaleLookupError, match=f"{stopped:,.0f} s have passed since its lookup") as caught:
        history.put("c", "t#m1", {})
    assert (caught.value.exit_code, caught.value.hint, store.size().items) == (69, "repeat the call", 0)
    history.registry = lookups
    assert history.put("c", "t#m1", {}).written


def test_reads_and_writes_with_a_lookup_that_is_known(history: History, lookups: FixedLookups) -> None:
    """They are those of the same names, make no lookup, and their time began with the lookup."""
    fill(history, "hot", 3)
    found, began, looked_up = history.lookup("hot"), history.clock(), history.uptime()
    calls = lookups.calls
    assert history.put_of(found, looked_up, "9#m9", {}).partition_key == f"hot#{salt_of('m9', 16)}"
    assert ids(history.page_of(found).messages)[0] == "m9"
    assert history.find_of(found, "m9").message is not None
    assert lookups.calls == calls
    with pytest.raises(StaleLookupError):
        history.put_of(found, looked_up - history.cool_wait, "9#m8", {})
    history.pool = InlinePool(held=range(100))
    with pytest.raises(HistoryUnavailableError, match="did not answer within 10"):
        history.page_of(found, started=began - history.page_timeout)
    with pytest.raises(HistoryUnavailableError, match="was not read to its end within 60 s"):
        history.find_of(found, "m9", started=began - 60)


def test_the_age_of_a_lookup_includes_the_time_in_which_the_machine_was_suspended() -> None:
    """Linux has a clock that counts it. It is not behind the one that does not count it."""
    before = time.monotonic()
    assert uptime() >= before
    assert History(FixedLookups(), MemoryMessages()).uptime is uptime


def test_another_message_with_the_same_sort_key_is_refused(lookups: FixedLookups) -> None:
    """Two messages may have the same time as their sort key. The second write is an error."""
    store = MemoryMessages("N")
    history = History(lookups, store, message_id_from="attribute:id")
    history.put("c", 1700000000, {"id": "a"})
    assert not history.put("c", 1700000000, {"id": "a"}).written
    with pytest.raises(SortKeyTakenError, match="another message has the sort key"):
        history.put("c", 1700000000, {"id": "b"})


@pytest.mark.parametrize(
    ("sort_key", "attributes", "says"),
    [
        ("", {}, "not empty"),
        (5, {}, "must be a string"),
        ("t#m", {"f": 1.5}, "float"),
        ("t#m", {"room": "x"}, "is a key of the table"),
        ("t#m", None, "must be a mapping, not NoneType"),
        ("t#m", [("text", "x")], "must be a mapping, not list"),
        ("t#m", {1: "x"}, "keys of a map must be strings"),
        ("t#m", {"\ud800": "x"}, "not valid UTF-8"),
        ("t#", {}, "no id"),
    ],
)
def test_a_message_that_cannot_be_stored_is_refused(
    history: History, sort_key: Any, attributes: Any, says: str
) -> None:
    """The error comes before any request, and names the fault."""
    with pytest.raises(UsageError, match=says):
        history.put("c", sort_key, attributes)


def test_an_unknown_conversation_has_an_empty_history(history: History, messages: MemoryMessages) -> None:
    """The empty page is complete and lists the partitions that were read."""
    page = history.page("unknown")
    assert (page.messages, page.complete, page.next_cursor, page.prev_cursor) == ([], True, None, None)
    assert [shard.partition_key for shard in page.shards] == ["unknown"]
    assert len(messages.queries) == 1


@pytest.mark.parametrize("conversation", ["", "a#3", "x" * 3000])
def test_an_invalid_conversation_id_is_refused(history: History, lookups: FixedLookups, conversation: str) -> None:
    """The registry refuses an id that is not valid before any query."""

    class Checked(FixedLookups):
        def lookup(self, conversation_id: str) -> Any:
            from saltctl.salting import check_conversation_id

            return super().lookup(check_conversation_id(conversation_id))

    history.registry = Checked()
    with pytest.raises(InvalidConversationIdError):
        history.page(conversation)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_an_invalid_limit_is_refused(history: History, limit: int) -> None:
    """A page has 1 to 10,000 messages."""
    with pytest.raises(UsageError, match="1 to 10,000"):
        history.page("c", ReadOptions(limit=limit))


def test_a_page_needs_few_rows_more_than_it_returns(history: History, messages: MemoryMessages) -> None:
    """The query of each salt asks for its share and a margin, not for a whole page."""
    expected = fill(history, "hot", 600)
    messages.queries.clear()
    page = history.page("hot", ReadOptions(limit=50))
    assert ids(page.messages) == expected[:50]
    assert page.items_read <= 150  # 800 by the naive fan-out
    assert {query.limit for query in messages.queries[:17]} == {1, share(50, 16)}
    assert sum(shard.items_returned for shard in page.shards) == 50
    assert sum(shard.items_read for shard in page.shards) == page.items_read


@pytest.mark.parametrize("oldest_first", [False, True])
def test_the_next_page_is_queried_up_to_its_estimated_end(
    history: History, lookups: FixedLookups, messages: MemoryMessages, oldest_first: bool
) -> None:
    """If rows are evenly spaced, every query after a cursor ends at the estimated page end."""
    lookups.max_n["hot"] = 64
    expected = fill(history, "hot", 2000)
    options = ReadOptions(limit=50, oldest_first=oldest_first)
    if oldest_first:
        expected.reverse()
    cursor = history.page("hot", options).next_cursor
    options = replace(options, after=cursor) if oldest_first else replace(options, before=cursor)
    requests = history.explain("hot", options).requests
    messages.queries.clear()
    page = history.page("hot", options)
    assert ids(page.messages) == expected[50:100]
    assert len({request.high if oldest_first else request.low for request in requests}) == 1
    assert {request.partition_key: request for request in messages.queries} == {
        request.partition_key: request for request in requests
    }
    assert page.items_read <= 80  # more than 256 if queries ask for shares alone


def written(history: History, lookups: FixedLookups, n: int, seconds: range) -> list[str]:
    """Write a message per second, spread over n salts, and return their ids, newest first."""
    lookups.max_n["c"] = n
    for second in seconds:
        history.put("c", f"{second:08d}#m{second}", {})
    return [f"m{second}" for second in reversed(seconds)]


def test_a_page_with_a_wrong_estimated_end_reads_few_rows(history: History, lookups: FixedLookups) -> None:
    """Before a burst lie five hours without messages: each query then asks for its share, without a page end."""
    older = written(history, lookups, 16, range(2000))
    burst = written(history, lookups, 16, range(20_000, 20_050))
    first = history.page("c")
    assert ids(first.messages) == burst
    page = history.page("c", ReadOptions(before=first.next_cursor))
    assert ids(page.messages) == older[:50]
    assert page.items_read <= 250  # 816 with a page of each
    assert max(shard.queries for shard in page.shards) <= 3


@pytest.mark.parametrize("n", [16, 64])
def test_a_page_that_crosses_the_first_raise_reads_few_rows(history: History, lookups: FixedLookups, n: int) -> None:
    """The base partition has all earlier rows, so the second round asks it alone, for all missing rows."""
    unsalted = written(history, lookups, 1, range(300))
    salted = written(history, lookups, n, range(300, 375))
    first = history.page("c")
    page = history.page("c", ReadOptions(before=first.next_cursor))
    assert ids(page.messages) == (salted + unsalted)[50:100]
    assert max(shard.queries for shard in page.shards) <= 3
    assert page.items_read <= 120


def test_one_partition_needs_no_estimated_end(
    history: History, lookups: FixedLookups, messages: MemoryMessages
) -> None:
    """The limit of the query is enough."""
    lookups.max_n["c"] = 1
    fill(history, "c", 200)
    page = history.page("c", ReadOptions(before=history.page("c").next_cursor))
    assert len(page.messages) == 50
    assert page.items_read == 51  # and the row at the cursor
    assert {query.low for query in messages.queries} == {None}


@pytest.mark.parametrize("spread", [2, 4, 8, 16, 32, 64])
def test_a_share_is_the_least_that_usually_suffices(spread: int) -> None:
    """With one row less, more partitions than EXPECTED_DRY would be expected to run dry."""
    from math import comb

    def expected_dry(asked: int) -> float:
        tail = sum(comb(50, k) * (1 / spread) ** k * (1 - 1 / spread) ** (50 - k) for k in range(asked, 51))
        return spread * tail

    asked = share(50, spread)
    assert expected_dry(asked) <= EXPECTED_DRY < expected_dry(asked - 1)


def test_a_page_of_an_earlier_n_reads_few_rows_of_other_salts(history: History, lookups: FixedLookups) -> None:
    """The cursor holds the number of salts of its page, so the next page reads few rows of other salts."""
    lookups.max_n["c"] = 1
    expected = fill(history, "c", 300)
    lookups.max_n["c"] = 64
    page = history.page("c")
    assert ids(page.messages) == expected[:50]
    page = history.page("c", ReadOptions(before=page.next_cursor))
    assert ids(page.messages) == expected[50:100]
    assert page.items_read <= 50 + 1 + 64
    assert {shard.queries for shard in page.shards} == {1}


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("salts", [1, 4])
def test_bounds_never_widen_what_a_cursor_leaves(
    history: History, lookups: FixedLookups, salts: int, oldest_first: bool
) -> None:
    """The narrower of a bound and a cursor holds at each end, whichever way the pages are turned."""
    lookups.max_n["c"] = salts
    newest_first = fill(history, "c", 20)
    order = newest_first[::-1] if oldest_first else newest_first
    inside = [found for found in order if 5 <= int(found[1:]) < 15]
    bounds = ReadOptions(limit=3, since="000005", until="000015", oldest_first=oldest_first)
    ahead, back = ("after", "before") if oldest_first else ("before", "after")

    def read(options: ReadOptions, **cursors: Any) -> Page:
        return history.page("c", replace(options, **cursors))

    first = read(bounds)
    assert ids(first.messages) == inside[:3]
    # The cursor is between the bounds: the bound at its end is the wider one.
    second = read(bounds, **{ahead: first.next_cursor})
    assert ids(second.messages) == inside[3:6]
    between = read(bounds, **{ahead: first.next_cursor, back: second.next_cursor})
    assert ids(between.messages) == inside[3:5]
    # The cursor is outside the bounds: the bound is the narrower one.
    outside = read(ReadOptions(limit=2, oldest_first=oldest_first)).next_cursor
    assert ids(read(bounds, **{ahead: outside}).messages) == inside[:3]


def test_until_excludes_all_messages_of_its_sort_key(history: History, messages: MemoryMessages) -> None:
    """Also those before a cursor at the same sort key: messages of one time are on several partitions."""
    for salt, at in ((1, "t1"), (1, "t2"), (5, "t2"), (2, "t3")):
        messages.put(f"hot#{salt}", at, {"salt": {"N": str(salt)}})
    newest = history.page("hot", ReadOptions(limit=2))
    assert [message.partition_key for message in newest.messages] == ["hot#2", "hot#1"]
    rest = history.page("hot", ReadOptions(before=newest.next_cursor)).messages
    assert [message.sort_key for message in rest] == ["t2", "t1"]
    earlier = history.page("hot", ReadOptions(before=newest.next_cursor, until="t2")).messages
    assert [message.sort_key for message in earlier] == ["t1"]


def test_reversed_bounds_send_no_query(history: History, messages: MemoryMessages) -> None:
    """DynamoDB refuses such a range, and it is empty."""
    fill(history, "c", 3)
    page = history.page("c", ReadOptions(since="5", until="1"))
    assert (page.messages, page.complete) == ([], True)
    assert messages.queries == []
    assert history.explain("c", ReadOptions(since="5", until="1")).requests == []


def test_explain_reads_no_message(history: History, messages: MemoryMessages) -> None:
    """The page then sends exactly the queries that explain returned."""
    fill(history, "hot", 30)
    plan = history.explain("hot", ReadOptions(limit=20))
    assert messages.queries == []
    history.page("hot", ReadOptions(limit=20))
    asked = {query.partition_key: query for query in reversed(messages.queries)}
    assert [asked[request.partition_key] for request in plan.requests] == plan.requests
    assert [request.partition_key for request in plan.requests] == plan.lookup.read_set()


def test_eventual_reads_ask_for_no_consistency(history: History, messages: MemoryMessages) -> None:
    """Reads are strong by default, on every partition. Eventual reads cost half."""
    fill(history, "hot", 5)
    strong = history.page("hot")
    assert all(query.consistent for query in messages.queries)
    messages.queries.clear()
    eventual = history.page("hot", ReadOptions(consistent=False))
    assert not any(query.consistent for query in messages.queries)
    cost = [sum(shard.consumed_rcu for shard in page.shards) for page in (strong, eventual)]
    assert cost[1] * 2 == cost[0]


def failing(partition: str, error: Exception) -> MemoryMessages:
    """Return a table with one partition that fails."""

    def fail(request: PartitionQuery) -> None:
        if request.partition_key == partition:
            raise error

    return MemoryMessages(before_query=fail)


def test_a_failing_partition_is_an_error_that_names_it(lookups: FixedLookups) -> None:
    """A page is never silently incomplete."""
    store = failing("hot#5", ThrottledError("throttled", hint="wait"))
    with pytest.raises(HistoryUnavailableError, match="incomplete without partition key 'hot#5'") as caught:
        History(lookups, store).page("hot")
    assert set(caught.value.partitions) == {"hot#5"}
    assert caught.value.exit_code == 69


def test_a_permission_error_is_not_an_outage(lookups: FixedLookups) -> None:
    """An error that a retry cannot fix is raised unchanged."""
    with pytest.raises(AccessDeniedError, match="no"):
        History(lookups, failing("hot#5", AccessDeniedError("no"))).page("hot")


def test_an_internal_error_is_not_an_outage(lookups: FixedLookups) -> None:
    """It is not retried and not reported as a missing partition, even if a partial page is allowed."""
    store = failing("hot#5", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        History(lookups, store).page("hot", ReadOptions(allow_partial=True))


@pytest.mark.parametrize(
    "refused", [AccessDeniedError("no"), ConfigurationError("no table"), SaltctlError("internal")], ids=lambda e: e.code
)
def test_a_partial_page_leaves_out_outages_alone(lookups: FixedLookups, refused: SaltctlError) -> None:
    """An error that a retry cannot fix is raised unchanged, also if another partition has an outage."""

    def fail(request: PartitionQuery) -> None:
        if request.partition_key == "hot#2":
            raise ThrottledError("throttled")
        if request.partition_key == "hot#5":
            raise refused

    with pytest.raises(type(refused)) as caught:
        History(lookups, MemoryMessages(before_query=fail)).page("hot", ReadOptions(allow_partial=True))
    assert caught.value is refused


@pytest.mark.parametrize("conversation", ["cold", "hot"])
def test_a_page_of_no_partition_is_not_partial(lookups: FixedLookups, conversation: str) -> None:
    """An outage of all partitions is an error: an empty page would look like an empty history."""

    def fail(request: PartitionQuery) -> None:
        raise ThrottledError("throttled")

    history = History(lookups, MemoryMessages(before_query=fail))
    with pytest.raises(HistoryUnavailableError, match="throttled") as caught:
        history.page(conversation, ReadOptions(allow_partial=True))
    assert "--allow-partial" not in caught.value.hint


def test_a_partial_page_has_what_was_read_before_an_outage(lookups: FixedLookups) -> None:
    """The partition answers the first round of queries and fails in the second: its first rows stay."""
    asked = 0

    def fail(request: PartitionQuery) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise ThrottledError("throttled")

    store = MemoryMessages(page_bytes=1, before_query=fail)
    history = History(lookups, store)
    for number in range(5):
        history.put("cold", f"{number}#m{number}", {})
    page = history.page("cold", ReadOptions(allow_partial=True))
    assert (ids(page.messages), page.missing) == (["m4"], ["cold"])


def test_partial_on_request(lookups: FixedLookups) -> None:
    """A partial page has the messages of the other partitions, in order. It names the missing one."""
    store = failing("hot#5", ThrottledError("throttled"))
    history = History(lookups, store)
    expected = [m for m in fill(history, "hot", 200) if salt_of(m, 16) != 5]
    found: list[str] = []
    for page in history.pages("hot", ReadOptions(allow_partial=True)):
        assert not page.complete
        assert page.missing == ["hot#5"]
        found += ids(page.messages)
    assert found == expected


def test_a_page_has_a_deadline(lookups: FixedLookups) -> None:
    """A partition that does not answer in time is named, and the page does not wait for it."""
    history = History(lookups, MemoryMessages(), page_timeout=0.1)
    history.pool = InlinePool(held=[3, 8])  # of two pages with five queries each
    with pytest.raises(HistoryUnavailableError, match="'warm#2' did not answer within"):
        history.page("warm")
    partial = history.page("warm", ReadOptions(allow_partial=True))
    assert partial.missing == ["warm#2"]


def test_requests_are_bounded(lookups: FixedLookups) -> None:
    """At most ``concurrency`` requests are in progress at once, for any number of salts."""
    lock, running, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=10)

    def count(request: PartitionQuery) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if request.partition_key in ("hot", "hot#0"):
            both.wait()  # breaks unless two are in progress at once
        with lock:
            running -= 1

    with History(lookups, MemoryMessages(before_query=count), concurrency=2) as history:
        history.page("hot")
    assert most == 2


@pytest.mark.slow
def test_pages_of_large_messages_stay_small(lookups: FixedLookups, messages: MemoryMessages) -> None:
    """Iteration adapts the page size to the size of the messages: few of 400 KB, many of 100 bytes."""
    history = History(lookups, messages)
    for number in range(60):
        history.put("c", f"{number:03d}#m{number}", {"text": "x" * 400_000})
    sizes = [len(page.messages) for page in history.pages("c")]
    assert sum(sizes) == 60
    fill(history, "small", 2500)
    assert max(len(page.messages) for page in history.pages("small")) == 1000
