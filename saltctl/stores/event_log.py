"""The newest events of a registry, which Redis would lose: an item of the backup table, for ``saltctl incident``.

No result depends on them. Nothing waits for a write, apart from the end of a command, and none is on the way of a
lookup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import accumulate
from typing import Any

from saltctl.stores.aws.backup_items import BackupItems, number_attribute, string_attribute
from saltctl.times import iso_utc, parse_iso

EVENTS_ID = "#events"
MAX_EVENTS = 200
"""Events that are kept. With the limits below, the item has less than 330 KB of the 400 KB that DynamoDB allows."""
REMOVED = 50
"""The oldest events, which are removed together once the item is full."""
MAX_DETAIL = 500
"""UTF-8 bytes of a detail; the rest is cut off."""
MAX_IDS = 1000
"""UTF-8 bytes of all conversation ids of one event; ids beyond them are left out."""
FLUSH_SECONDS = 1.0
_MAX_WAITING = 16
"""Events of a process that wait to be written, after which others are left out: AWS does not answer."""
_ATTEMPTS = 4
Kind = str
"""``unverified``, ``verified``, ``rebuilt`` (in part), ``backup-lost``, ``recovered``, ``raise``, ``cooled``,
``repaired``, or ``service-started``, ``-stopped`` and ``-late``."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event. ``at`` is in seconds since the epoch.

    A ``raise``, ``cooled`` or ``repaired`` is about ``conversation_ids``, and as many ``more`` that do not fit.
    """

    at: float
    kind: Kind
    detail: str = ""
    conversation_ids: tuple[str, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class LoggedEvents:
    """The events of the item, in the order of their time. ``since``: no event from then on was removed.

    ``since`` is in seconds since the epoch; None before the first event.
    """

    since: float | None
    events: tuple[LoggedEvent, ...]


class EventsItem:
    """The item. Thread-safe, and safe for several processes: an append removes no event of another one."""

    def __init__(self, items: BackupItems) -> None:
        self._items = items

    def append(self, event: LoggedEvent) -> bool:
        """Add an event, and remove the oldest ones if the item is full; return whether it was added.

        A second ``unverified`` without a ``verified`` in between is not added: every instance and cron job that tries
        a rebuild would add one.
        """
        # Not size(event_list) alone: an item that was edited by hand may have anything there.
        condition = "(attribute_not_exists(event_list) OR size(event_list) < :most)"
        if event.kind == "unverified":
            condition += " AND (attribute_not_exists(fence_state) OR fence_state <> :kind)"
        values = {":none": {"L": []}, ":new": {"L": [_encode(event)]}, ":most": {"N": str(MAX_EVENTS)}}
        values |= {":at": {"S": iso_utc(event.at)}}
        update = (
            "SET event_list = list_append(if_not_exists(event_list, :none), :new), "
            "events_since = if_not_exists(events_since, :at)"
        )
        if event.kind in ("unverified", "verified"):
            update += ", fence_state = :kind"
            values[":kind"] = {"S": event.kind}
        for _ in range(_ATTEMPTS):
            if self._items.update_item(EVENTS_ID, update, condition, values) is not None:
                return True
            if not self._remove_oldest() and event.kind == "unverified":
                return False
        return False

    def _remove_oldest(self) -> bool:
        """Remove the oldest events if the item is full; return whether this call did."""
        removed = ", ".join(f"event_list[{place}]" for place in range(REMOVED))
        full = {":most": {"N": str(MAX_EVENTS)}, ":true": {"BOOL": True}}
        update = f"SET events_removed = :true REMOVE {removed}"
        return self._items.update_item(EVENTS_ID, update, "size(event_list) >= :most", full) is not None

    def read(self) -> LoggedEvents:
        """Read all events. What saltctl cannot have written is left out, and so are repetitions of a request."""
        item = self._items.read_item(EVENTS_ID) or {}
        found = [_decode(element) for element in item.get("event_list", {}).get("L", [])]
        events = sorted(dict.fromkeys(event for event in found if event is not None), key=lambda event: event.at)
        since = _seconds(string_attribute(item, "events_since"))
        if "events_removed" in item:
            since = events[0].at if events else None
        return LoggedEvents(since, tuple(events))


@dataclass(eq=False)
class EventLog:
    """Writes events to the item, one after the other, in a thread. Thread-safe.

    No method raises an exception or waits for AWS, apart from :meth:`flush`: what an event describes has happened,
    and must not be delayed. An event that cannot be written is lost.
    """

    item: EventsItem
    _: KW_ONLY
    now: Callable[[], float] = time.time
    _waiting: list[threading.Thread] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def note(self, kind: Kind, detail: str = "", conversation_ids: Collection[str] = (), *, more: int = 0) -> None:
        """Write an event of this moment, about these conversations and ``more``. Ids that do not fit are counted."""
        ids = _first_ids(conversation_ids)
        event = LoggedEvent(self.now(), kind, _cut(detail), ids, len(conversation_ids) - len(ids) + more)
        with self._lock:
            self._waiting = [thread for thread in self._waiting if thread.is_alive()]
            if len(self._waiting) >= _MAX_WAITING:
                return
            before = self._waiting[-1] if self._waiting else None
            thread = threading.Thread(target=self._write, args=(event, before), name="saltctl-events", daemon=True)
            with suppress(RuntimeError):  # the system has no thread left
                thread.start()
                self._waiting.append(thread)

    def _write(self, event: LoggedEvent, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        with suppress(Exception):
            self.item.append(event)

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until all events are written, at most so many seconds: a process that ends would lose them."""
        with self._lock:
            last = self._waiting[-1] if self._waiting else None
        if last is not None:
            last.join(timeout)


def _cut(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[:MAX_DETAIL].decode("utf-8", "ignore")


def _first_ids(ids: Collection[str]) -> tuple[str, ...]:
    """Return as many of the ids as an event holds."""
    lengths = accumulate(len(one.encode("utf-8", "backslashreplace")) for one in ids)
    return tuple(one for one, length in zip(ids, lengths, strict=True) if length <= MAX_IDS)


def _encode(event: LoggedEvent) -> dict[str, Any]:
    attributes: dict[str, Any] = {"at": {"S": iso_utc(event.at)}, "kind": {"S": event.kind}}
    if event.detail:  # DynamoDB Local refuses empty strings
        attributes["detail"] = {"S": event.detail}
    if event.conversation_ids:
        attributes["conversation_ids"] = {"L": [{"S": one} for one in event.conversation_ids]}
    if event.more:
        attributes["more"] = {"N": str(event.more)}
    return {"M": attributes}


def _decode(element: Mapping[str, Any]) -> LoggedEvent | None:
    """Return the event; None if it is not one."""
    attributes = element.get("M", {})
    at, kind = _seconds(string_attribute(attributes, "at")), string_attribute(attributes, "kind")
    ids: Sequence[Mapping[str, Any]] = attributes.get("conversation_ids", {}).get("L", [])
    if at is None or not kind:
        return None
    named, more = tuple(str(one["S"]) for one in ids if "S" in one), int(number_attribute(attributes, "more"))
    return LoggedEvent(at, kind, string_attribute(attributes, "detail"), named, more)


def _seconds(text: str) -> float | None:
    """Return the seconds since the epoch of an ISO 8601 time; None if it is not one."""
    try:
        return parse_iso(text).timestamp()
    except (ValueError, OverflowError):
        return None
