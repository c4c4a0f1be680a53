"""Searches for one message: which partitions are read, when a search ends, and how it fails."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal

import pytest

from saltctl.errors import AccessDeniedError, HistoryUnavailableError, ThrottledError, UsageError
from saltctl.history.find import MessageSearch
from saltctl.history.history import History
from saltctl.history.models import FindOptions
from saltctl.salting import find_set
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
    assert search.by_id(KEYS, None, None) is None
    assert [query.partition_key for query in store.queries] == KEYS
    assert search.items_read == 1


def test_a_failed_partition_is_not_reported_as_not_found() -> None:
    """The error names the failed partitions alone, each with its own error."""
    errors = {"conv#0": ThrottledError("slow down", hint="wait"), "conv": ThrottledError("busy")}
    with pytest.raises(HistoryUnavailableError) as caught:
        search_of(failing_store(errors)).by_id(KEYS, None, None)
    assert caught.value.partitions == errors
    assert set(KEYS) - set(caught.value.partitions) == {"conv#2"}


def test_a_message_is_found_although_another_partition_failed() -> None:
    """The found row is the result; the failed partition can add nothing to it."""
    store = failing_store({"conv#2": ThrottledError("slow down")})
    store.put("conv", "t#m1", {})
    item = search_of(store).by_id(KEYS, None, None)
    assert item == store.get("conv", "t#m1")
    assert item is not None


def test_a_timeout_names_the_partition_that_was_not_read() -> None:
    """The deadline counts from the creation of the search, by the given clock."""
    clock = ManualClock()
    search = search_of(MemoryMessages(), pool=InlinePool(held=[1]), clock=clock)
    clock.now += 10.0
    with pytest.raises(HistoryUnavailableError, match=r"'conv#0' was not read to its end within 10 s") as caught:
        search.by_id(KEYS, None, None)
    assert set(caught.value.partitions) == {"conv#0"}
    assert "--since" in caught.value.hint


@pytest.mark.parametrize(("denied", "throttled"), [("conv#2", "conv"), ("conv", "conv#2")])
def test_a_permission_error_wins_over_an_outage(denied: str, throttled: str) -> None:
    """A retry cannot fix it, whichever partition failed first."""
    store = failing_store({denied: AccessDeniedError("denied"), throttled: ThrottledError("slow down")})
    with pytest.raises(AccessDeniedError, match="denied"):
        search_of(store).by_id(KEYS, None, None)


@pytest.mark.parametrize("by_sort_key", [False, True])
def test_a_hit_on_the_second_partition_ends_the_search(by_sort_key: bool) -> None:
    """The search does not wait for the first partition, and its queued request is never sent."""
    store = RecordingStore()
    store.put("conv#0", "t#m1", {})
    pool = InlinePool(held=[0])
    search = search_of(store, pool=pool)
    item = search.by_sort_key(KEYS, "t#m1") if by_sort_key else search.by_id(KEYS, None, None)
    assert item is not None
    assert item["room"] == {"S": "conv#0"}
    assert pool.run_held() == 1
    assert "conv#2" not in {*store.keys_of_gets, *(query.partition_key for query in store.queries)}
