"""Complete reads over real requests to moto and DynamoDB Local."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from saltctl.errors import SortKeyTakenError
from saltctl.history.audit import Audit, Auditor
from saltctl.history.history import History
from saltctl.history.models import FindOptions, Page, ReadOptions
from saltctl.settings import Settings
from saltctl.stores.contracts.messages import Filter
from tests.stores.aws.test_messages_table import make_table
from tests.support.lookups import FixedLookups

CONV = "conv"


def fill(history: History, lookups: FixedLookups, sort: str, large: bool) -> list[Any]:
    """Write a history under N = 1, 2, 4, 8 with retries across raises; return its sort keys, oldest first."""
    chance = random.Random(5)
    keys: list[Any] = []
    for number in range(36):
        lookups.max_n[CONV] = 1 << min(number // 9, 3)
        message_id = f"m{chance.getrandbits(32):08x}"
        key: Any = Decimal(number) / 7 if sort == "N" else f"2026-07-01T08:{number:02d}:00Z#{message_id}"
        key = Decimal(f"{key:.5f}") if sort == "N" else key
        attributes = {"id": message_id, "even": number % 2 == 0, "text": "x" * (350_000 if large else 20)}
        history.put(CONV, key, attributes)
        if number % 5 == 0:
            lookups.max_n[CONV] = 8
            history.put(CONV, key, attributes)
            lookups.max_n[CONV] = 1 << min(number // 9, 3)
        keys.append(key)
    lookups.max_n[CONV] = 8
    return keys


def all_pages(history: History, options: ReadOptions) -> list[Page]:
    """Read all pages."""
    pages = [history.page(CONV, options)]
    while (cursor := pages[-1].next_cursor) is not None:
        turn: dict[str, Any] = {"after" if options.oldest_first else "before": cursor}
        options = replace(options, **turn)
        pages.append(history.page(CONV, options))
    return pages


@pytest.mark.slow
@pytest.mark.parametrize(("sort", "large"), [("S", False), ("N", False), ("S", True)])
def test_paging_equals_the_sorted_truth(dynamodb: Settings, sort: str, large: bool) -> None:
    """Both directions, bounds, filters, and rows so large that every page is cut at 1 MB."""
    table = make_table(dynamodb, sort=sort)
    lookups = FixedLookups()
    with History(lookups, table, message_id_from="attribute:id", page_timeout=60.0) as history:
        keys = fill(history, lookups, sort, large)
        even = Filter("#even = :yes", {"#even": "even"}, {":yes": {"BOOL": True}})
        for options, expected in (
            (ReadOptions(limit=13), keys[::-1]),
            (ReadOptions(limit=11, oldest_first=True), keys),
            (ReadOptions(limit=10, since=keys[3], until=keys[30], consistent=False), keys[3:30][::-1]),
            (ReadOptions(limit=7, filter=even), keys[::2][::-1]),
        ):
            pages = all_pages(history, options)
            assert len(pages) > 2
            assert [message.sort_key for page in pages for message in page.messages] == expected
            assert all(shard.consumed_rcu > 0 for page in pages for shard in page.shards if shard.items_returned)
        *_, audited = Auditor(history, CONV, cap=16).run()
        assert isinstance(audited, Audit)
        assert audited.complete
        rows = sum(partition.messages for partition in audited.partitions)
        assert rows - audited.duplicates == len(keys)
        found = history.find(CONV, str(history.page(CONV).messages[20].message_id))
        assert found.message is not None
        assert found.message.sort_key == keys[::-1][20]


@pytest.mark.parametrize("message_id_from", ["sort_key", "attribute:id"])
def test_numbers_in_any_spelling_are_one_message(dynamodb: Settings, message_id_from: str) -> None:
    """Retries, searches, bounds and cursors agree with the numbers that DynamoDB returns."""
    table = make_table(dynamodb, sort="N")
    spellings = ["1700000000.10", "1.7E+9", "2.0", "-1E-7", "-0", "100", "9.9E+30"]
    numbers = [Decimal(spelling) for spelling in spellings]
    with History(FixedLookups({CONV: 16}), table, message_id_from=message_id_from) as history:
        for number in numbers:
            assert history.put(CONV, number, {"id": number, "text": "hello"}).written
            assert not history.put(CONV, f"{number:f}0" if "." in f"{number:f}" else number, {"id": number}).written
        messages = list(history.messages(CONV))
        assert [message.sort_key for message in messages] == sorted(numbers, reverse=True)
        for message in messages:
            for wanted in (str(message.message_id), message.sort_key):
                for options in (FindOptions(), FindOptions(sort_key=message.sort_key)):
                    found = history.find(CONV, wanted, options).message
                    assert found is not None
                    assert found.sort_key == message.sort_key
        pages = all_pages(history, ReadOptions(limit=2, oldest_first=True, since="0.0", until="1.70E9"))
        assert [int(message.sort_key) for page in pages for message in page.messages] == [0, 2, 100]


@pytest.mark.parametrize(("sort", "oldest_first"), [("S", True), ("N", False)])
def test_a_retry_on_a_lower_salt_between_two_pages_loses_no_message(
    dynamodb: Settings, sort: str, oldest_first: bool
) -> None:
    """Messages share a sort key, and the pages end between them. Before each page all are retried under another N."""
    lookups, key = FixedLookups({CONV: 8}), "7" if sort == "S" else Decimal(7)
    attributes = [{"id": f"m{number}", "tags": {"b", "a"}, "at": Decimal("1.50")} for number in (4, 7, 8, 9)]
    with History(lookups, make_table(dynamodb, sort=sort), message_id_from="attribute:id") as history:
        for row in attributes:
            history.put(CONV, key, row)
        options = ReadOptions(limit=1, oldest_first=oldest_first)
        found: list[str | None] = []
        for n in (4, 2, 1, 8, 8):
            page = history.page(CONV, options)
            found += [message.message_id for message in page.messages]
            lookups.write_n[CONV] = n
            with suppress(SortKeyTakenError):  # under a small N there is room for a few of them
                for row in attributes:
                    history.put(CONV, key, row)
            turn: dict[str, Any] = {"after" if oldest_first else "before": page.next_cursor}
            options = replace(options, **turn)
            if page.next_cursor is None:
                break
    expected = ["m4", "m7", "m8", "m9"]
    assert found == expected[:: 1 if oldest_first else -1]
