"""Reading one segment of a scan, with a simulated clock."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from saltctl.errors import ThrottledError
from saltctl.stores.aws.backup_scan import PAGE_ITEMS, THROTTLING_TIMEOUT, ScanPlan, SegmentReader
from saltctl.stores.aws.scan_parser import ScanClient, ScanPage
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.throttle_notes import throttled_call


class ThrottledTable:
    """Three pages of ten entries. The second is throttled until a time; a refusal takes 10 ms."""

    def __init__(self, until: float) -> None:
        self.now = 0.0
        self.refused = 0
        self.noted: set[str] = set()
        self.limits: set[int] = set()
        self._until = until

    def scan(self, request: dict[str, Any]) -> ScanPage:
        """Answer, or refuse."""
        from botocore.exceptions import ClientError

        self.now += 0.01
        self.limits.add(request["Limit"])
        start = int(request.get("ExclusiveStartKey", {"conversation_id": {"S": "0"}})["conversation_id"]["S"])
        if start == 10 and self.now < self._until:
            self.refused += 1
            raise ClientError({"Error": {"Code": "ProvisionedThroughputExceededException", "Message": "no"}}, "Scan")
        entries: list[tuple[str, Entry, int]] = [(str(number), 2, 2) for number in range(start, start + 10)]
        return ScanPage(entries, consumed_rcu=1.0, last=None if start == 20 else str(start + 10))

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.noted.add(throttled_call())


def segment(table: ThrottledTable, limit: int | None = None, max_rcu: float | None = None) -> SegmentReader:
    """Return a reader of the table's only segment."""
    return SegmentReader(
        cast("ScanClient", table),
        "backup",
        ScanPlan(segments=1, limit=limit, max_rcu=max_rcu),
        stop=threading.Event(),
        sleep=table.sleep,
        clock=lambda: table.now,
    )


def test_a_segment_throttled_for_a_minute_is_read_to_its_end() -> None:
    """Every entry arrives once. Few requests are refused, and no pause is longer than some seconds."""
    table = ThrottledTable(until=60.0)
    found = [entry[0] for page in segment(table).pages(0) for entry in page.entries]
    assert found == [str(number) for number in range(30)]
    assert 5 < table.refused < 60
    assert 60.0 <= table.now < 70.0
    assert table.noted == {"AWS throttles requests for 'backup' (ProvisionedThroughputExceededException)"}
    assert throttled_call() == ""


@pytest.mark.parametrize(
    ("limit", "max_rcu", "expected"),
    [(None, None, PAGE_ITEMS), (7, None, 7), (9_000, None, 9_000), (None, 40.0, 100), (7, 40.0, 7)],
)
def test_a_page_has_a_bounded_number_of_items(limit: int | None, max_rcu: float | None, expected: int) -> None:
    """1 MB of the smallest items are more than a rebuild has memory for, and a slow scan asks for even fewer."""
    table = ThrottledTable(until=0.0)
    next(segment(table, limit, max_rcu).pages(0))
    assert table.limits == {expected}


def test_endless_throttling_raises_an_error() -> None:
    """The pages before are yielded; then the scan raises ThrottledError."""
    table = ThrottledTable(until=1e9)
    pages = segment(table).pages(0)
    assert len(next(pages).entries) == 10
    with pytest.raises(ThrottledError):
        next(pages)
    assert THROTTLING_TIMEOUT < table.now < THROTTLING_TIMEOUT + 10
