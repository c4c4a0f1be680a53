"""Pages stay complete while retries add rows of a message to other partitions, and across an upgrade of servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import permutations, product
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.history.history import History
from saltctl.history.models import Page, ReadOptions
from saltctl.history.pages import cursor as cursors
from saltctl.history.pages.cursor import BASE, Cursor, Position
from saltctl.salting import partition_key, salt_of
from saltctl.testing import MemoryMessages
from tests.support.inline_pool import InlinePool
from tests.support.lookups import FixedLookups

CONV = "conv"
N = 4
SALTS = (None, 0, 1, 2)
SHARED = Decimal(7)
"""The sort key of the messages that move. One message before it and one after it have sort keys of their own."""
EARLIER, LATER = "e", "l"


class Moving:
    """A conversation whose messages have ids in an attribute, so that several share a sort key."""

    def __init__(self, placed: dict[str, int | None], *, page_bytes: int = 1 << 20) -> None:
        self.store = MemoryMessages("N", page_bytes=page_bytes)
        self.history = History(FixedLookups({CONV: N}), self.store, message_id_from="attribute:id")
        self.history.pool = InlinePool()
        for message_id, salt in placed.items():
            self.add(message_id, salt)

    def add(self, message_id: str, salt: int | None, text: str = "") -> bool:
        """Write a row of a message, as the retry of a write does; return whether the place was free."""
        sort_key = {EARLIER: Decimal(6), LATER: Decimal(8)}.get(message_id, SHARED)
        row = {"id": {"S": message_id}, "text": {"S": text}}
        return self.store.put(partition_key(CONV, salt), sort_key, row)

    def pages(self, options: ReadOptions, between: Callable[[int], object] = lambda number: None) -> Iterator[Page]:
        """Read page after page; call ``between`` with the number of pages so far before each further one."""
        ahead = "after" if options.oldest_first else "before"
        number = 0
        while True:
            page = self.history.page(CONV, options)
            yield page
            number += 1
            assert number < 100, "the pages do not end"
            if page.next_cursor is None:
                return
            between(number)
            turn: dict[str, Any] = {ahead: page.next_cursor}
            options = replace(options, **turn)


def ids(pages: Iterator[Page]) -> list[str]:
    """Return the message ids of pages."""
    return [str(message.message_id) for page in pages for message in page.messages]


@pytest.mark.parametrize("kind", ["S", "N"])
def test_a_retry_under_a_lower_n_between_two_pages_loses_no_message(kind: Literal["S", "N"]) -> None:
    """Four messages share a sort key at N 8, and page 1 has three. The fourth is retried at N 4, on a lower salt."""
    lookups = FixedLookups({CONV: 8})
    history = History(lookups, MemoryMessages(kind), message_id_from="attribute:id")
    sort_key: Any = 7 if kind == "N" else "7"
    for message_id in ("m4", "m7", "m8", "m9"):
        history.put(CONV, sort_key, {"id": message_id})
    assert [salt_of(message_id, 8) for message_id in ("m4", "m7", "m8", "m9")] == [0, 2, 3, 5]
    first = history.page(CONV, ReadOptions(limit=3, oldest_first=True))
    lookups.write_n[CONV] = 4
    assert history.put(CONV, sort_key, {"id": "m9"}).partition_key == f"{CONV}#1"
    second = history.page(CONV, ReadOptions(limit=3, oldest_first=True, after=first.next_cursor))
    assert ids(iter([first, second])) == ["m4", "m7", "m8", "m9"]


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_every_move_between_two_pages_is_harmless(limit: int, oldest_first: bool) -> None:
    """All places of three messages, and each of them retried on the free partition before any page: read once each.

    A message is then on two partitions, whose other rows move no other message.
    """
    expected = [EARLIER, "a", "b", "c", LATER]
    options = ReadOptions(limit=limit, oldest_first=oldest_first)
    for salts, moved, before_page in product(permutations(SALTS, 3), ["a", "b", "c", None], range(1, 5)):
        moving = Moving(dict(zip("abc", salts, strict=True)) | {EARLIER: None, LATER: 0})
        free = next(salt for salt in SALTS if salt not in salts)

        def move(number: int) -> None:
            if number == before_page and moved is not None:  # noqa: B023  # called in this iteration
                assert moving.add(moved, free)  # noqa: B023

        found = ids(moving.pages(options, move))
        assert found == expected[:: 1 if oldest_first else -1], (salts, moved, before_page)


PLACES = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([None, *range(N)]), max_size=8)
MOVES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([None, *range(N)]), st.sampled_from(["", "edited"])),
    max_size=6,
)


@pytest.mark.slow
@given(PLACES, st.lists(MOVES, max_size=8), st.integers(1, 4), st.booleans(), st.sampled_from([10, 1 << 20]))
@settings(max_examples=300, deadline=None)
def test_many_moves_and_copies_with_other_contents(
    placed: dict[str, int | None], moves: list[list[Any]], limit: int, oldest_first: bool, page_bytes: int
) -> None:
    """Retries with the same and with another content: each message is read; twice only if it has several contents."""
    moving = Moving({}, page_bytes=page_bytes)
    before = {message_id for message_id, salt in placed.items() if moving.add(message_id, salt)}
    steps = iter(moves)

    def move(_: int) -> None:
        for message_id, salt, text in next(steps, []):
            if message_id in before:
                moving.add(message_id, salt, text)

    pages = list(moving.pages(ReadOptions(limit=limit, oldest_first=oldest_first), move))
    found = [(str(row.message_id), row.attributes["text"]) for page in pages for row in page.messages]
    assert before <= {message_id for message_id, _ in found}
    edited = {message_id for move in moves for message_id, _, text in move if text}
    if not edited:
        assert len(found) == len(before)


@pytest.mark.parametrize("oldest_first", [False, True])
def test_rows_of_one_id_with_different_contents_are_read_once_each(oldest_first: bool) -> None:
    """A page may end between them, and one of them may be on two partitions."""
    moving = Moving({"a": 3})
    for salt, text in ((None, "x"), (0, "y"), (2, "x")):
        moving.add("a", salt, text)
    options = ReadOptions(limit=1, oldest_first=oldest_first)
    found = [message.attributes["text"] for page in moving.pages(options) for message in page.messages]
    assert sorted(found) == ["", "x", "y"]


def test_a_page_may_end_many_times_within_one_sort_key() -> None:
    """64 salts have one message each at one sort key: pages of 10 in both directions, and back from each cursor."""
    moving = Moving({})
    moving.history.registry = FixedLookups({CONV: 64})
    expected = sorted(f"m{salt}" for salt in range(64))
    for salt in range(64):
        moving.add(f"m{salt}", salt)
    for oldest_first in (True, False):
        pages = list(moving.pages(ReadOptions(limit=10, oldest_first=oldest_first)))
        assert ids(iter(pages)) == expected[:: 1 if oldest_first else -1]
        assert [len(page.messages) for page in pages] == [10] * 6 + [4]
        back = ReadOptions(oldest_first=not oldest_first, limit=100)
        turn: dict[str, Any] = {"before" if oldest_first else "after": pages[2].prev_cursor}
        assert sorted(ids(moving.pages(replace(back, **turn)))) == sorted(ids(iter(pages[:2])))


def test_until_ends_before_a_cursor_at_the_same_sort_key() -> None:
    """``until`` excludes all messages of its sort key, also those before the cursor; ``since`` includes them."""
    moving = Moving({"a": 0, "b": 1, "c": 2, EARLIER: 0})
    cursor = moving.history.page(CONV, ReadOptions(limit=2)).next_cursor
    assert ids(moving.pages(ReadOptions(before=cursor))) == ["a", EARLIER]
    assert ids(moving.pages(ReadOptions(before=cursor, since=7))) == ["a"]
    assert ids(moving.pages(ReadOptions(before=cursor, until=7))) == [EARLIER]
    assert ids(moving.pages(ReadOptions(after=cursor, oldest_first=True, until=8))) == ["c"]


def test_ids_longer_than_a_cursor_and_rows_without_id() -> None:
    """A long id is shortened in the cursor; rows without an id, which others wrote, come first."""
    long_ids = [f"{'x' * 5000}{number}" for number in range(3)]
    moving = Moving({})
    for salt, message_id in enumerate(long_ids):
        moving.add(message_id, salt)
    moving.store.put(CONV, SHARED, {"text": {"S": "no id"}})
    pages = list(moving.pages(ReadOptions(limit=1, oldest_first=True)))
    assert pages[0].messages[0].message_id is None
    assert sorted(ids(iter(pages[1:]))) == long_ids
    assert max(len(page.next_cursor or "") for page in pages) < 400


def version_of(page: Page) -> int:
    """Return the version of a page's cursor."""
    tie = cursors.decode(page.next_cursor or "", CONV, "N").position.tie
    return 2 if tie is None else 3


def test_only_messages_that_share_a_sort_key_need_the_new_version() -> None:
    """Servers of earlier releases refuse it. The copies of one message share no sort key."""
    moving = Moving({EARLIER: None, LATER: 0, "a": 2})
    moving.add("a", 1)
    pages = list(moving.pages(ReadOptions(limit=1)))
    assert [version_of(page) for page in pages[:2]] == [2, 2]
    moving.add("b", 0)
    pages = list(moving.pages(ReadOptions(limit=1)))
    assert [version_of(page) for page in pages[:3]] == [2, 3, 3]


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_cursor_of_an_earlier_release_loses_no_message(oldest_first: bool) -> None:
    """It names a partition. Its server returned the messages up to that one; then a message moves, in all ways."""
    for salts, moved in product(permutations(SALTS, 3), ["a", "b", "c", None]):
        ordered = sorted(zip(salts, "abc", strict=True), key=lambda each: BASE if each[0] is None else each[0])
        ordered = ordered[:: 1 if oldest_first else -1]
        for returned in range(1, 4):
            moving = Moving(dict(zip("abc", salts, strict=True)) | {EARLIER: None, LATER: 0})
            free = next(salt for salt in SALTS if salt not in salts)
            salt, last = ordered[returned - 1]
            old = cursors.encode(Cursor(Position(SHARED, BASE if salt is None else salt), 4), CONV)
            if moved is not None:
                moving.add(moved, free)
            turn: dict[str, Any] = {"after" if oldest_first else "before": old}
            found = ids(moving.pages(ReadOptions(limit=4, oldest_first=oldest_first, **turn)))
            assert {message_id for _, message_id in ordered[returned:]} <= set(found)
            assert len(found) == len(set(found))
            assert last not in found
            assert (LATER in found) is oldest_first
            assert (EARLIER in found) is not oldest_first


def test_a_message_that_comes_to_the_sort_key_of_a_cursor_is_read() -> None:
    """Also if its id is below that of the cursor's message, which is not read again from another partition."""
    moving = Moving({EARLIER: None, "b": 2, LATER: 0})
    first = moving.history.page(CONV, ReadOptions(limit=2, oldest_first=True))
    for message_id, salt in (("b", 1), ("a", 0), ("c", None)):
        moving.add(message_id, salt)
    rest = ReadOptions(oldest_first=True, after=first.next_cursor)
    assert ids(moving.pages(rest)) == ["a", "c", LATER]
    assert set(ids(moving.pages(replace(rest, limit=1)))) == {"a", "b", "c", LATER}


def test_earlier_releases_understand_the_cursors_of_this_one() -> None:
    """If no other message has the sort key, the string is the one that they return."""
    old = "5gljJTZJmXNbMiwiMmIyMzUxMjdmNjA4IiwiUyIsIjIwMjYtMDctMDFUMDg6MDA6MDAuMDAwWiNtMSIsMyw0LDEzMzUuMF0"
    cursor = Cursor(Position("2026-07-01T08:00:00.000Z#m1", 3), 4, 1335.0)
    assert cursors.encode(cursor, CONV) == old
    assert cursors.decode(old, CONV, "S") == cursor
