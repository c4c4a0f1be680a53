"""Searches for one message: which partitions are read, when a search ends, and how it fails."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from saltctl.errors import AccessDeniedError, HistoryUnavailableError, ThrottledError, UsageError
from saltctl.history.find import MessageSearch
from saltctl.history.history import History
from saltctl.history.models import FindOptions, ReadOptions
from saltctl.salting import find_set, partition_key, read_set, salt_of
from saltctl.stores.contracts.messages import Item, PartitionQuery, SortKey
from saltctl.testing import MemoryMessages
from tests.support.inline_pool import InlinePool, ManualClock
from tests.support.lookups import FixedLookups

KEYS = ["conv#2", "conv#0", "conv"]
"""The partitions of the unit cases, in the order of the search."""


def put_100(history: History, conversation: str) -> None:
    """Write the messages m0 to m99."""
    for number in range(100):
        history.put(conversation, f"{number:06d}#m{number}", {"text": f"text {number}"})


class RecordingStore(MemoryMessages):
    """A table that records the partition key of each read of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_of_gets: list[str] = []

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """Record the partition key and return the row."""
        self.keys_of_gets.append(partition_key)
        return super().get(partition_key, sort_key)


def failing_store(errors: Mapping[str, Exception]) -> MemoryMessages:
    """Return a table that raises the errors of some partitions."""

    def fail(request: PartitionQuery) -> None:
        if error := errors.get(request.partition_key):
            raise error

    return MemoryMessages(before_query=fail)


def search_of(
    store: MemoryMessages, *, pool: InlinePool | None = None, clock: ManualClock | None = None
) -> MessageSearch:
    """Return a search for m1 without threads, with a timeout of 10 s."""
    return MessageSearch(store, pool or InlinePool(), "m1", None, timeout=10.0, clock=clock or ManualClock())


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_find_reads_few_partitions(history: History, lookups: FixedLookups, messages: MemoryMessages, n: int) -> None:
    """The message is found on log2(N) + 1 partitions, under any N of the write."""
    lookups.write_n["hot"] = n
    history.put("hot", "t#wanted", {"text": "here"})
    found = history.find("hot", "wanted")
    assert found.message is not None
    assert found.message.attributes["text"] == "here"
    assert len(found.partition_keys) <= 5
    assert {query.partition_key for query in messages.queries} <= set(find_set("hot", "wanted", 16))


@pytest.mark.parametrize("message_id", ["\udc80", "m\ud800"])
def test_an_id_that_is_not_valid_utf_8_is_refused(history: History, message_id: str) -> None:
    """A shell passes any bytes; DynamoDB stores UTF-8."""
    with pytest.raises(UsageError, match="not valid UTF-8"):
        history.find("hot", message_id)


def test_find_by_sort_key_sends_no_query(history: History, messages: MemoryMessages) -> None:
    """A search with the whole sort key needs one read per partition."""
    put_100(history, "hot")
    found = history.find("hot", "m50", FindOptions(sort_key="000050#m50"))
    assert found.message is not None
    assert messages.queries == []
    assert found.items_read <= 5
    assert history.find("hot", "m51", FindOptions(sort_key="000050#m50")).message is None


@given(st.integers(1, 40), st.sampled_from([8, 12, 32, 64]), st.integers(0, 500).map("m{}".format))
@hypothesis_settings(max_examples=100)
def test_a_message_is_found_under_any_n_of_the_past(written: int, now: int, message_id: str) -> None:
    """Other programs may have written under an N that is no power of two, before saltctl raised it."""
    if written > now:
        written, now = now, written
    store = MemoryMessages()
    key = partition_key("conv", salt_of(message_id, written))
    store.put(key, f"t#{message_id}", {})
    with History(FixedLookups({"conv": now}), store) as history:
        for options in (FindOptions(), FindOptions(sort_key=f"t#{message_id}")):
            found = history.find("conv", message_id, options).message
            assert found is not None
            assert found.partition_key == key


def test_only_the_whole_read_set_proves_that_a_message_does_not_exist(history: History) -> None:
    """A miss names every partition; a hit on a likely one names these alone."""
    history.put("hot", "t#m1", {})
    assert history.find("hot", "m1").partition_keys == find_set("hot", "m1", 16)
    missed = history.find("hot", "m2")
    assert missed.message is None
    assert sorted(missed.partition_keys) == sorted(read_set("hot", 16))


SPELLINGS = ["1700000000.50", "1700000000.5", "17000000005E-1", "+1700000000.500"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("message_id_from", ["sort_key", "attribute:id"])
def test_an_id_that_is_a_number_is_found_in_any_spelling(spelling: str, message_id_from: str) -> None:
    """Also the row of an earlier version, whose salt came from another spelling, and without its sort key."""
    store = MemoryMessages("N")
    with History(FixedLookups({"conv": 64}), store, message_id_from=message_id_from) as history:
        old = Decimal("1700000001.50")
        store.put(partition_key("conv", salt_of("1700000001.50", 64)), old, {"id": {"N": "1700000001.5"}})
        put = history.put("conv", Decimal(spelling), {"id": Decimal(spelling)})
        assert put.message_id == "1700000000.5"
        given_ids: list[str | Decimal] = [*SPELLINGS, Decimal(spelling)]
        for wanted in given_ids:
            for options in (FindOptions(), FindOptions(sort_key=spelling)):
                found = history.find("conv", wanted, options).message
                assert found is not None
                assert found.message_id == put.message_id
        earlier = history.find("conv", "1700000001.5").message
        assert earlier is not None
        assert earlier.sort_key == old


def test_strings_are_not_compared_as_numbers(lookups: FixedLookups) -> None:
    """The string 1.10 is another id than the string 1.1, and than the number."""
    history = History(lookups, MemoryMessages(), message_id_from="attribute:id")
    history.put("hot", "a", {"id": "1.1"})
    assert history.find("hot", "1.10").message is None
    history.put("hot", "b", {"id": "1.10"})
    history.put("hot", "c", {"id": Decimal("7.0")})
    found = [history.find("hot", wanted).message for wanted in ("1.1", "1.10", "7", "7.00")]
    assert [message and message.sort_key for message in found] == ["a", "b", "c", "c"]
    assert history.find("hot", Decimal("1.1")).message is None


@pytest.mark.parametrize("message_id", [True, 1.5, None, b"m1", Decimal("NaN"), 10**40 + 1])
def test_an_id_that_no_message_can_have_is_refused(history: History, message_id: Any) -> None:
    """It is an error of the caller, not a message that does not exist."""
    with pytest.raises(UsageError):
        history.find("hot", message_id)


@given(
    st.sampled_from(["S", "N"]),
    st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True),
    st.integers(0, 9),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
)
@hypothesis_settings(max_examples=150)
def test_since_is_included_and_until_excluded(
    sort_type: Literal["S", "N"], times: list[int], wanted: int, since: int | None, until: int | None
) -> None:
    """A message with the sort key of a bound is found exactly if a read with these bounds returns it."""

    def key(time: int | None) -> Any:
        return time if time is None or sort_type == "N" else f"{time}"

    store = MemoryMessages(sort_type)
    with History(FixedLookups({"conv": 4}), store, message_id_from="attribute:id") as history:
        for time in times:
            history.put("conv", key(time), {"id": f"m{time}"})
        found = history.find("conv", f"m{wanted}", FindOptions(since=key(since), until=key(until))).message
        page = history.page("conv", ReadOptions(since=key(since), until=key(until)))
    inside = (since is None or wanted >= since) and (until is None or wanted < until)
    assert (found is not None) is (wanted in times and inside)
    assert (f"m{wanted}" in [message.message_id for message in page.messages]) is (wanted in times and inside)


def test_a_row_that_was_deleted_meanwhile_does_not_end_the_search() -> None:
    """An older row of the same id is found."""

    class Deleting(RecordingStore):
        def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
            return None if sort_key == "b#m1" else super().get(partition_key, sort_key)

    store = Deleting()
    for time in ("a", "b"):
        store.put("conv", f"{time}#m1", {})
    item = search_of(store).by_id(["conv"])
    assert item is not None
    assert item["at"] == {"S": "a#m1"}


def test_find_by_attribute(lookups: FixedLookups) -> None:
    """If ids are an attribute, the search compares the attribute."""
    store = MemoryMessages("N")
    history = History(lookups, store, message_id_from="attribute:id")
    for number in range(20):
        history.put("hot", number, {"id": f"id{number}"})
    found = history.find("hot", "id7")
    assert found.message is not None
    assert found.message.sort_key == Decimal(7)


def test_find_within_bounds(history: History) -> None:
    """The search reads only rows between ``since`` and ``until``."""
    put_100(history, "c")
    found = history.find("c", "m50", FindOptions(since="000040", until="000060"))
    assert found.message is not None
    assert found.items_read <= 21
    assert history.find("c", "m50", FindOptions(since="000060")).message is None
    assert history.find("c", "m50", FindOptions(since="000060", until="000040")).message is None


def test_find_within_one_bound(history: History) -> None:
    """Each bound holds without the other one; ``until`` is excluded."""
    put_100(history, "c")
    for options in (FindOptions(until="000051"), FindOptions(since="000050#m50")):
        assert history.find("c", "m50", options).message is not None
    for options in (FindOptions(until="000050#m50"), FindOptions(since="000051")):
        assert history.find("c", "m50", options).message is None


@pytest.mark.parametrize("until", ["000040", "000050"])
def test_bounds_without_anything_between_them_send_no_query(
    history: History, messages: MemoryMessages, until: str
) -> None:
    """DynamoDB refuses reversed bounds."""
    put_100(history, "c")
    assert history.find("c", "m50", FindOptions(since="000050", until=until)).message is None
    assert messages.queries == []


def test_find_reads_keys_or_lets_dynamodb_filter(lookups: FixedLookups) -> None:
    """Without a known sort key every row of a partition is read, but few are sent."""
    for id_from in ("sort_key", "attribute:id"):
        store = RecordingStore()
        history = History(lookups, store, message_id_from=id_from)
        written = history.put("hot", "t#m1", {"id": "m1", "text": "hi"})
        found = history.find("hot", "m1").message
        assert found is not None
        assert found.attributes["text"] == "hi"
        assert {query.keys_only for query in store.queries} == {id_from == "sort_key"}
        filters = {query.filter and tuple(query.filter.values.values()) == ({"S": "m1"},) for query in store.queries}
        assert filters == {None if id_from == "sort_key" else True}
        assert store.keys_of_gets == ([written.partition_key] if id_from == "sort_key" else [])


def test_find_by_sort_key_returns_no_other_message(lookups: FixedLookups) -> None:
    """Messages of one time have one sort key if ids are an attribute. The rows that were read are counted."""
    history = History(lookups, MemoryMessages(), message_id_from="attribute:id")
    history.put("c", "t", {"id": "m1"})
    found = history.find("c", "m2", FindOptions(sort_key="t"))
    assert (found.message, found.items_read, found.consumed_rcu) == (None, 1, 1.0)
    found = history.find("c", "m1", FindOptions(sort_key="t"))
    assert found.message is not None
    assert history.find("c", "m1", FindOptions(sort_key="u")).items_read == 0


def test_find_reads_a_partition_to_its_end(lookups: FixedLookups) -> None:
    """Page after page; every row is read once and paid once."""
    history = History(lookups, MemoryMessages(page_bytes=500))
    put_100(history, "c")
    found = history.find("c", "m0")
    assert found.message is not None
    assert (found.items_read, found.consumed_rcu > 10) == (100, True)
    assert history.find("c", "unknown").items_read == 100


def test_find_does_not_wait_for_other_partitions(lookups: FixedLookups) -> None:
    """The first answer with the message ends the search, and no partition is asked for another page."""
    began, released, asked_again = threading.Event(), threading.Event(), threading.Event()
    _, other, *_ = find_set("hot", "m99", 16)

    def let_the_first_answer_first(request: PartitionQuery) -> None:
        if request.partition_key == other:
            began.set()
            released.wait()
            if request.start is not None:
                asked_again.set()
        began.wait()

    with History(lookups, MemoryMessages(page_bytes=50, before_query=let_the_first_answer_first)) as history:
        put_100(history, "hot")
        try:
            assert history.find("hot", "m99", FindOptions(timeout=1e6)).message is not None
        finally:
            released.set()
        assert not asked_again.wait(0.2)


def test_find_fails_if_the_message_may_be_on_a_failed_partition(lookups: FixedLookups) -> None:
    """The message may be on the partition that failed. If another partition has it, the search succeeds."""
    store = failing_store({find_set("hot", "m1", 16)[0]: ThrottledError("throttled")})
    history = History(lookups, store)
    with pytest.raises(HistoryUnavailableError, match="may be on a partition that could not be read"):
        history.find("hot", "m1")
    lookups.write_n["hot"] = 1
    history.put("hot", "t#m1", {})
    assert history.find("hot", "m1").message is not None


def test_find_has_a_deadline(lookups: FixedLookups) -> None:
    """The error of a search that takes too long names the partitions that were not read."""
    released = threading.Event()

    def hang(request: PartitionQuery) -> None:
        released.wait(30)

    history = History(lookups, MemoryMessages(before_query=hang))
    try:
        with pytest.raises(HistoryUnavailableError, match="could not be read: c"):
            history.find("c", "m1", FindOptions(timeout=0.05))
    finally:
        released.set()


def test_a_message_on_no_partition_is_not_found() -> None:
    """Every partition was read to its end, so the result is None and not an error."""
    store = MemoryMessages()
    store.put("conv#0", "t#m2", {})
    search = search_of(store)
    assert search.by_id(KEYS) is None
    assert [query.partition_key for query in store.queries] == KEYS
    assert search.items_read == 1


def test_a_failed_partition_is_not_reported_as_not_found() -> None:
    """The error names the failed partitions alone, each with its own error."""
    errors = {"conv#0": ThrottledError("slow down", hint="wait"), "conv": ThrottledError("busy")}
    with pytest.raises(HistoryUnavailableError) as caught:
        search_of(failing_store(errors)).by_id(KEYS)
    assert caught.value.partitions == errors
    assert set(KEYS) - set(caught.value.partitions) == {"conv#2"}


def test_a_message_is_found_although_another_partition_failed() -> None:
    """The found row is the result; the failed partition can add nothing to it."""
    store = failing_store({"conv#2": ThrottledError("slow down")})
    store.put("conv", "t#m1", {})
    item = search_of(store).by_id(KEYS)
    assert item == store.get("conv", "t#m1")
    assert item is not None


def test_a_timeout_names_the_partition_that_was_not_read() -> None:
    """The deadline counts from the creation of the search, by the given clock."""
    clock = ManualClock()
    search = search_of(MemoryMessages(), pool=InlinePool(held=[1]), clock=clock)
    clock.now += 10.0
    with pytest.raises(HistoryUnavailableError, match=r"'conv#0' was not read to its end within 10 s") as caught:
        search.by_id(KEYS)
    assert set(caught.value.partitions) == {"conv#0"}
    assert "--since" in caught.value.hint


@pytest.mark.parametrize(("denied", "throttled"), [("conv#2", "conv"), ("conv", "conv#2")])
def test_a_permission_error_wins_over_an_outage(denied: str, throttled: str) -> None:
    """A retry cannot fix it, whichever partition failed first."""
    store = failing_store({denied: AccessDeniedError("denied"), throttled: ThrottledError("slow down")})
    with pytest.raises(AccessDeniedError, match="denied"):
        search_of(store).by_id(KEYS)


@pytest.mark.parametrize("by_sort_key", [False, True])
def test_a_hit_on_the_second_partition_ends_the_search(by_sort_key: bool) -> None:
    """The search does not wait for the first partition, and its queued request is never sent."""
    store = RecordingStore()
    store.put("conv#0", "t#m1", {})
    pool = InlinePool(held=[0])
    search = search_of(store, pool=pool)
    item = search.by_sort_key(KEYS, sort_key="t#m1") if by_sort_key else search.by_id(KEYS)
    assert item is not None
    assert item["room"] == {"S": "conv#0"}
    assert pool.run_held() == 1
    assert "conv#2" not in {*store.keys_of_gets, *(query.partition_key for query in store.queries)}
