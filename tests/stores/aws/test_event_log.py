"""The events in the backup table: bounded, complete under concurrency, and no obstacle if they cannot be written."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.event_log import EVENTS_ID, MAX_EVENTS, MAX_IDS, REMOVED, EventLog, EventsItem, LoggedEvent
from tests.stores.aws.backup_helpers import make_item, put_items


def add(backup: BackupTable, first: int, count: int) -> None:
    """Add events, a second apart."""
    for number in range(first, first + count):
        assert EventsItem(backup).append(LoggedEvent(1000.0 + number, "service-started", f"worker-{number}"))


def fill(backup: BackupTable, count: int) -> None:
    """Write an item with as many events at once."""
    events = [
        {"M": {"at": {"S": f"2026-01-01T00:00:{number // 10:02}.{number % 10}00Z"}, "kind": {"S": f"kind-{number}"}}}
        for number in range(count)
    ]
    since = {"S": "2026-01-01T00:00:00.000Z"}
    put_items(backup, {"conversation_id": {"S": EVENTS_ID}, "event_list": {"L": events}, "events_since": since})


def test_events_are_read_as_they_were_written(backup: BackupTable) -> None:
    """In the order of their time, with the time from which on none is missing."""
    assert EventsItem(backup).read().since is None
    late = LoggedEvent(2000.5, "raise", "", ("conv_1", "con\x1bv\N{RIGHT-TO-LEFT OVERRIDE}"))
    early = LoggedEvent(1999.0, "service-late", "worker-1: loop")
    assert EventsItem(backup).append(late)
    assert EventsItem(backup).append(early)
    found = EventsItem(backup).read()
    assert found.events == (early, late)
    assert found.since == 2000.5


def test_the_oldest_events_are_removed(backup: BackupTable) -> None:
    """A full item loses its oldest ones together, and says since when it is complete."""
    fill(backup, MAX_EVENTS - 1)
    add(backup, 0, 2)
    found = EventsItem(backup).read()
    assert len(found.events) == MAX_EVENTS - REMOVED + 1
    assert {event.kind for event in found.events} >= {f"kind-{REMOVED}", "service-started"}
    assert f"kind-{REMOVED - 1}" not in {event.kind for event in found.events}
    assert found.since == found.events[0].at


@pytest.mark.usefixtures("atomic")
def test_concurrent_appends_lose_nothing(backup: BackupTable) -> None:
    """Processes that find the item full at the same time remove its oldest events once."""
    fill(backup, MAX_EVENTS - 3)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: add(backup, number * 2, 2), range(6)))
    found = EventsItem(backup).read()
    assert len([event for event in found.events if event.kind == "service-started"]) == 12
    assert len(found.events) == MAX_EVENTS - 3 - REMOVED + 12


def test_a_loss_of_the_fence_is_noted_once(backup: BackupTable) -> None:
    """Many instances and jobs find the same loss; the next one is after a rebuild."""
    kinds = ("unverified", "unverified", "service-started", "unverified", "verified", "verified", "unverified")
    added = [EventsItem(backup).append(LoggedEvent(1000.0 + at, kind)) for at, kind in enumerate(kinds)]
    assert added == [True, False, True, False, True, True, True]


def test_a_loss_is_noted_in_a_full_item(backup: BackupTable) -> None:
    """That the item is full is told from a loss that was noted before."""
    fill(backup, MAX_EVENTS)
    assert EventsItem(backup).append(LoggedEvent(2e9, "unverified"))
    assert not EventsItem(backup).append(LoggedEvent(2e9 + 1, "unverified"))
    assert EventsItem(backup).read().events[-1] == LoggedEvent(2e9, "unverified")


def test_an_event_is_bounded(backup: BackupTable) -> None:
    """A long detail is cut off, and ids beyond the limit are counted, so that the item stays below 400 KB."""
    log = EventLog(EventsItem(backup), now=lambda: 1000.0)
    log.note("service-late", "ä" * 1000)
    log.note("raise", "by worker-1", [f"{number:0500}" for number in range(5)])
    log.flush(30)
    late, raised = sorted(EventsItem(backup).read().events, key=lambda event: event.kind, reverse=True)
    assert late.detail == "ä" * 250
    assert sum(map(len, raised.conversation_ids)) == MAX_IDS
    assert (raised.detail, raised.more) == ("by worker-1", 3)


def test_what_was_edited_by_hand_is_left_out(backup: BackupTable) -> None:
    """No event is made of it, and it breaks nothing."""
    strange: list[dict[str, Any]] = [{"S": "text"}, {"M": {"at": {"S": "tomorrow"}, "kind": {"S": "raise"}}}, {"M": {}}]
    put_items(backup, {"conversation_id": {"S": EVENTS_ID}, "event_list": {"L": strange}})
    assert EventsItem(backup).read().events == ()
    put_items(backup, {"conversation_id": {"S": EVENTS_ID}, "event_list": {"S": "text"}})
    log = EventLog(EventsItem(backup))
    log.note("verified")
    log.flush(30)
    assert EventsItem(backup).read().events == ()


def test_no_reader_takes_the_events_for_a_conversation(backup: BackupTable) -> None:
    """Neither a scan, from which rebuilds, comparisons and exports take all entries, nor the look for a registry."""
    add(backup, 0, 3)
    pages = list(backup.scan(2))
    assert [page.entries for page in pages if page.entries] == []
    assert [page.damaged for page in pages if page.damaged] == []
    put_items(backup, make_item("conv", 4, 4))
    assert [entry for page in backup.scan(2) for entry in page.entries] == [("conv", 4, 4)]


class Hanging(EventsItem):
    """An item in a table that does not answer."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.appended: list[LoggedEvent] = []

    def append(self, event: LoggedEvent) -> bool:
        """Wait for the answer, which is an error."""
        self.answer.wait()
        self.appended.append(event)
        raise RuntimeError


def test_nothing_waits_for_an_event() -> None:
    """AWS is silent, then fails: noting returns at once, raises nothing, and keeps few events waiting."""
    item = Hanging()
    log = EventLog(item)
    for number in range(100):
        log.note("raise", str(number))
    log.flush(0.01)
    assert item.appended == []
    item.answer.set()
    log.flush(30)
    details = [event.detail for event in item.appended]
    assert details == [str(number) for number in range(len(details))], "in their order"
    assert 1 <= len(details) < 100
