"""Reads of random histories: the pages are all messages, sorted, each exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.history import cursor as cursors
from saltctl.history.history import History
from saltctl.history.models import Page, ReadOptions
from saltctl.salting import partition_key, salt_of
from saltctl.stores.contracts.messages import Filter, Item
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
    """A history as it was written, and its expected positions: each message at its lowest partition."""

    store: MemoryMessages
    lookups: FixedLookups
    positions: dict[tuple[Any, int], str] = field(default_factory=dict)

    def write(self, message: Sent, n: int) -> None:
        """Write under n as ``History.put`` does, but also messages with equal sort keys."""
        salt = salt_of(message.message_id, n)
        row: Item = {"id": {"S": message.message_id}, "kept": {"BOOL": message.kept}}
        at = Decimal(message.time) if self.store.keys.sort_type == "N" else f"{message.time:03d}"
        place = -1 if salt is None else salt
        if not self.store.put(partition_key(CONV, salt), at, row):
            return
        known = [key for key, found in self.positions.items() if found == message.message_id and key[0] == at]
        if known:
            place = min(place, known[0][1])
            del self.positions[known[0]]
        self.positions[(at, place)] = message.message_id

    def expected(self, *, oldest_first: bool) -> list[str]:
        """Return all ids in order."""
        return [self.positions[key] for key in sorted(self.positions, reverse=not oldest_first)]

    def history(self) -> History:
        """Return the history under test."""
        return History(self.lookups, self.store, message_id_from="attribute:id", concurrency=4)


NS = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def histories(draw: st.DrawFn) -> Truth:
    """Draw a conversation with raises, retries after raises, and few times, so that sort keys collide."""
    store = MemoryMessages(draw(st.sampled_from(["S", "N"])), page_bytes=draw(st.sampled_from([100, 400, 1 << 20])))
    max_n = draw(NS)
    truth = Truth(store, FixedLookups({CONV: max_n}))
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
        # A raise only doubles N: a retry is never made under a smaller one.
        if message.retry_n is not None and message.retry_n >= message.n:
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
    kept = {
        key: found
        for key, found in truth.positions.items()
        if any(
            (row := truth.store.get(partition_key(CONV, None if salt == -1 else salt), key[0]))
            and row["id"]["S"] == found
            and row["kept"]["BOOL"]
            for salt in range(-1, 16)
        )
    }
    with truth.history() as history:
        pages = list(all_pages(history, ReadOptions(limit=limit, oldest_first=oldest_first, filter=KEPT)))
    expected = [kept[key] for key in sorted(kept, reverse=not oldest_first)]
    assert [found for page in pages for found in ids(page)] == expected
    assert all(len(page.messages) == limit for page in pages[:-1])


@given(histories(), st.integers(1, 10), st.integers(0, 12), st.integers(0, 12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_since_and_until_bound_the_history(
    truth: Truth, limit: int, since: int, until: int, oldest_first: bool
) -> None:
    """``since`` is included and ``until`` excluded. Reversed bounds have no messages between them."""

    def key(time: int) -> Any:
        return time if truth.store.keys.sort_type == "N" else f"{time:03d}"

    options = ReadOptions(limit=limit, oldest_first=oldest_first, since=key(since), until=key(until))
    with truth.history() as history:
        found = [message for page in all_pages(history, options) for message in ids(page)]
    inside = {position: message for position, message in truth.positions.items() if since <= int(position[0]) < until}
    assert found == [inside[position] for position in sorted(inside, reverse=not oldest_first)]


@given(
    histories(), st.lists(st.tuples(NS, st.integers(0, 12)), min_size=1, max_size=8), st.integers(1, 8), st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_n_grows_between_pages(truth: Truth, raises: list[tuple[int, int]], limit: int, oldest_first: bool) -> None:
    """Raises, writes and retries between pages: each message from before the first page is read exactly once.

    A message that is written meanwhile is read at most once.
    """
    before = list(truth.expected(oldest_first=oldest_first))
    by_id = {found: key for key, found in truth.positions.items()}
    options = ReadOptions(limit=limit, oldest_first=oldest_first)
    found: list[str] = []
    with truth.history() as history:
        for page in all_pages(history, options):
            found += ids(page)
            if raises:
                n, time = raises.pop()
                truth.lookups.max_n[CONV] = max(truth.lookups.max_n[CONV], n)
                write_n = truth.lookups.max_n[CONV]
                truth.write(Sent(time, f"late{len(raises)}", write_n, None, True), write_n)
                # A client that got no answer retries an old write under the new N.
                for message_id in before[:3]:
                    at, _ = by_id[message_id]
                    row = next(
                        row
                        for salt in (None, *range(16))
                        if (row := truth.store.get(partition_key(CONV, salt), at)) and row["id"]["S"] == message_id
                    )
                    retried = Sent(int(at), message_id, write_n, None, bool(row["kept"]["BOOL"]))
                    truth.write(retried, write_n)
    assert [message for message in found if not message.startswith("late")] == before
    assert len(found) == len(set(found))


@given(histories())
@settings(max_examples=50, deadline=None)
def test_iteration_reads_the_whole_history(truth: Truth) -> None:
    """``messages`` returns the whole history, with any page size."""
    with truth.history() as history:
        found = [str(message.message_id) for message in history.messages(CONV)]
    assert found == truth.expected(oldest_first=False)
