"""Reads of random histories, raised and cooled: the pages are all messages, sorted, each exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.history.history import History
from saltctl.history.models import Page, ReadOptions
from saltctl.history.pages import cursor as cursors
from saltctl.salting import partition_key, read_set, salt_of
from saltctl.stores.contracts.messages import Filter, Item, PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.lookups import FixedLookups

pytestmark = pytest.mark.slow

CONV = "conv"
KEPT = Filter("kept = :yes")
"""The memory store filters by a function; the expression says only that there is a filter."""


@dataclass(frozen=True)
class Sent:
    """One message of a random history. ``retry_n`` is the N of a retry, if there was one."""

    time: int
    message_id: str
    n: int
    retry_n: int | None
    kept: bool


@dataclass
class Truth:
    """A history as it was written: the time and the id of each message, and whether a filter keeps it."""

    store: MemoryMessages
    lookups: FixedLookups
    written: dict[tuple[int, str], bool] = field(default_factory=dict)

    def write(self, message: Sent, n: int) -> None:
        """Write under n as ``History.put`` does, but also messages with equal sort keys.

        From the boundary on, messages are written under at most recent_n.
        """
        row: Item = {"id": {"S": message.message_id}, "kept": {"BOOL": message.kept}}
        at, found = self.key(message.time), self.lookups.lookup(CONV)
        n = n if found.is_below(at) else min(n, found.recent_n)
        if self.store.put(partition_key(CONV, salt_of(message.message_id, n)), at, row):
            self.written[message.time, message.message_id] = message.kept

    def key(self, time: int) -> Any:
        """Return the sort key of a time."""
        return Decimal(time) if self.store.keys.sort_type == "N" else f"{time:03d}"

    def raise_to(self, n: int) -> None:
        """Raise the conversation, which keeps the boundary that it may have."""
        self.lookups.max_n[CONV] = max(self.lookups.max_n[CONV], n)
        if cooled := self.lookups.cooled.get(CONV):
            self.lookups.cooled[CONV] = max(cooled[0], n), cooled[1]

    def cool(self, n: int) -> None:
        """Cool the conversation with the lowest boundary: just above the newest row on the salts from n on."""
        found = self.lookups.lookup(CONV)
        n, low = min(n, found.recent_n), found.boundary or self.key(0)
        old = [key for key in read_set(CONV, found.max_n) if key not in read_set(CONV, n)]
        newest = [row for key in old for row in self.store.query(PartitionQuery(key, limit=1)).items]
        times = [int(next(iter(row[self.store.keys.sort_key].values()))) for row in newest]
        self.lookups.cooled[CONV] = n, max([low, *(self.key(time + 1) for time in times)])

    def expected(self, *, oldest_first: bool, kept: bool = False, times: range = range(100)) -> list[str]:
        """Return the ids in order: of all messages, or of those that a filter keeps, at some times."""
        ordered = sorted(self.written.items(), reverse=not oldest_first)
        return [found for (time, found), passes in ordered if time in times and (passes or not kept)]

    def history(self) -> History:
        """Return the history under test."""
        return History(self.lookups, self.store, message_id_from="attribute:id", concurrency=4)


NS = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def histories(draw: st.DrawFn) -> Truth:
    """Draw a conversation with raises, retries after raises, and few times, so that sort keys collide.

    It may have a boundary, which may be above or below all messages.
    """
    store = MemoryMessages(draw(st.sampled_from(["S", "N"])), page_bytes=draw(st.sampled_from([100, 400, 1 << 20])))
    max_n = draw(NS)
    truth = Truth(store, FixedLookups({CONV: max_n}))
    if (boundary := draw(st.none() | st.integers(0, 13))) is not None:
        truth.lookups.cooled[CONV] = min(draw(NS), max_n), truth.key(boundary)
    below = st.sampled_from([n for n in (1, 2, 4, 8, 16) if n <= max_n])
    sent = draw(
        st.lists(
            st.builds(
                Sent,
                time=st.integers(0, 12),
                message_id=st.integers(0, 10_000).map("m{}".format),
                n=below,
                retry_n=st.none() | below,
                kept=st.booleans(),
            ),
            max_size=60,
            unique_by=lambda message: message.message_id,
        )
    )
    for message in sent:
        truth.write(message, message.n)
        if message.retry_n is not None:
            truth.write(message, message.retry_n)
    store.passes = lambda item: bool(item["kept"]["BOOL"])
    return truth


def all_pages(history: History, options: ReadOptions) -> Iterator[Page]:
    """Read page after page, as a client that keeps cursors does."""
    while True:
        page = history.page(CONV, options)
        yield page
        if page.next_cursor is None:
            return
        turn: dict[str, Any] = {"after" if options.oldest_first else "before": page.next_cursor}
        options = replace(options, **turn)


def ids(page: Page) -> list[str]:
    """Return the message ids of a page."""
    return [str(message.message_id) for message in page.messages]


@given(histories(), st.integers(1, 70), st.booleans())
@settings(max_examples=300, deadline=None)
def test_paging_equals_the_sorted_truth(truth: Truth, limit: int, oldest_first: bool) -> None:
    """For any N of each write, the pages together are all messages, in order, each exactly once."""
    with truth.history() as history:
        pages = list(all_pages(history, ReadOptions(limit=limit, oldest_first=oldest_first)))
    assert [found for page in pages for found in ids(page)] == truth.expected(oldest_first=oldest_first)
    assert all(len(page.messages) == limit for page in pages[:-1])
    assert all(page.complete for page in pages)


@given(histories(), st.integers(1, 20), st.integers(1, 20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_cursor_divides_the_history_in_two(truth: Truth, first: int, limit: int, oldest_first: bool) -> None:
    """The pages before and after a cursor together are all messages, each exactly once."""
    with truth.history() as history:
        page = history.page(CONV, ReadOptions(limit=first, oldest_first=oldest_first))
        if page.next_cursor is None:
            return
        older = all_pages(history, ReadOptions(limit=limit, before=page.next_cursor))
        newer = all_pages(history, ReadOptions(limit=limit, after=page.next_cursor, oldest_first=True))
        older_ids = [found for page in older for found in ids(page)]
        newer_ids = [found for page in newer for found in ids(page)]
        middle = ids(page)[-1]
    assert [*older_ids[::-1], middle, *newer_ids] == truth.expected(oldest_first=True)


@given(histories(), st.integers(1, 20), st.lists(st.sampled_from([0.001, 0.1, 1.0, 40.0]), min_size=1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_wrong_estimated_page_end_loses_no_message(
    truth: Truth, limit: int, distances: list[float], oldest_first: bool
) -> None:
    """A cursor with a wrong distance costs requests but loses no message."""
    options = ReadOptions(limit=limit, oldest_first=oldest_first)
    found: list[str] = []
    with truth.history() as history:
        for number in count():
            page = history.page(CONV, options)
            found += ids(page)
            if page.next_cursor is None:
                break
            true = cursors.decode(page.next_cursor, CONV, truth.store.keys.sort_type)
            wrong = cursors.encode(replace(true, distance=distances[number % len(distances)]), CONV)
            options = replace(options, after=wrong) if oldest_first else replace(options, before=wrong)
    assert found == truth.expected(oldest_first=oldest_first)


@given(histories(), st.integers(1, 20), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_filter_leaves_out_exactly_the_rows_that_do_not_pass(truth: Truth, limit: int, oldest_first: bool) -> None:
    """Pages with a filter are full, and together are exactly the messages that pass it."""
    with truth.history() as history:
        pages = list(all_pages(history, ReadOptions(limit=limit, oldest_first=oldest_first, filter=KEPT)))
    expected = truth.expected(oldest_first=oldest_first, kept=True)
    assert [found for page in pages for found in ids(page)] == expected
    assert all(len(page.messages) == limit for page in pages[:-1])


@given(histories(), st.integers(1, 10), st.integers(0, 12), st.integers(0, 12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_since_and_until_bound_the_history(
    truth: Truth, limit: int, since: int, until: int, oldest_first: bool
) -> None:
    """``since`` is included and ``until`` excluded. Reversed bounds have no messages between them."""
    options = ReadOptions(limit=limit, oldest_first=oldest_first, since=truth.key(since), until=truth.key(until))
    with truth.history() as history:
        found = [message for page in all_pages(history, options) for message in ids(page)]
    assert found == truth.expected(oldest_first=oldest_first, times=range(since, until))


CHANGES = st.lists(st.tuples(NS, st.integers(0, 12), st.none() | NS), min_size=1, max_size=8)


@given(histories(), CHANGES, st.integers(1, 8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_n_changes_between_pages(
    truth: Truth, changes: list[tuple[int, int, int | None]], limit: int, oldest_first: bool
) -> None:
    """Raises, cool-downs, writes and retries between pages: each message from before is read exactly once.

    It may be read twice if another one got its sort key meanwhile.
    """
    before = truth.expected(oldest_first=oldest_first)
    old = list(truth.written.items())
    options = ReadOptions(limit=limit, oldest_first=oldest_first)
    found: list[str] = []
    with truth.history() as history:
        for page in all_pages(history, options):
            found += ids(page)
            if changes:
                n, time, cool_to = changes.pop()
                truth.raise_to(n)
                truth.write(Sent(time, f"late{len(changes)}", n, None, True), n)
                # Clients that got no answer retry old writes under the N of now.
                for (at, message_id), kept in old:
                    truth.write(Sent(at, message_id, n, None, kept), n)
                if cool_to is not None:
                    truth.cool(cool_to)
    late = {time for time, message_id in truth.written if message_id.startswith("late")}
    undisturbed = [message_id for message_id in before if not any((time, message_id) in truth.written for time in late)]
    assert [message_id for message_id in found if message_id in set(undisturbed)] == undisturbed
    assert set(before) <= set(found)


@given(histories())
@settings(max_examples=50, deadline=None)
def test_iteration_reads_the_whole_history(truth: Truth) -> None:
    """``messages`` returns the whole history, with any page size."""
    with truth.history() as history:
        found = [str(message.message_id) for message in history.messages(CONV)]
    assert found == truth.expected(oldest_first=False)
