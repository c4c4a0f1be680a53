"""The stream of heat reports and its consumer group.

Delivery is at least once. An entry is delivered to one consumer and stays pending until it is acknowledged. It is
delivered again if its consumer reads its own pending entries, or if another consumer claims it. Code that handles
entries must therefore be idempotent. This module never acknowledges on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saltctl.errors import StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import FIRST_ID, ConsumerInfo, Entry, GroupInfo, StreamInfo, TrimLoss, id_order
from saltctl.stores.heat.report import HeatReport, to_entries
from saltctl.stores.heat.store import HeatStore
from saltctl.stores.redis.connections import Connections

GROUP = "saltctl"
COMMANDS_PER_CALL = 1000
MAX_ENTRIES = 500_000
"""Entries that are kept if nothing else trims the stream; the oldest are removed above that. With 20 reports each they
take 230 MB if ids have 12 characters, 480 MB if they have 36; with one each 32 or 44 MB (measured).
A service that reads the stream trims far below. Entries that were not read are counted as lost."""
MAX_COUNTED_ENTRIES = 100_000
"""Limit for counting unread entries one by one if Redis does not know the lag. Above it the lag is unknown."""
_PAGE = 10_000


class HeatStream(HeatStore):
    """The stream ``{prefix}:heat``. Thread-safe if each consumer name is used by one thread.

    Methods also raise StreamLostError if the stream or the group does not exist. Only ``append_reports`` has the
    short deadline of lookups. ``block`` is the longest wait that ``read_new`` will be called with, in seconds.
    ``max_entries``: as MAX_ENTRIES.
    """

    name = "heat"
    group = GROUP

    def __init__(self, settings: Settings, *, block: float = 1.0, max_entries: int = MAX_ENTRIES) -> None:
        super().__init__(settings)
        self._add = ("XADD", self.key, "MAXLEN", "~", max_entries, "*")
        shared = self._connections
        self._reports = Connections(settings, timeout=settings.lookup_timeout, retries=0, share=shared)
        # The deadline of a blocking read must exceed the time for which Redis blocks.
        self._blocking = Connections(settings, timeout=settings.redis_timeout + block, retries=0, share=shared)

    def close(self) -> None:
        """Close the connections."""
        for connections in (self._connections, self._reports, self._blocking):
            connections.close()

    def group_exists(self) -> bool:
        """Return whether the stream and its consumer group exist."""
        return not self.missing()

    def missing(self) -> str:
        """Return that the stream, or its consumer group, does not exist; empty if both do."""
        if not self._ask("EXISTS", self.key):
            return f"there is no heat stream {self.key!r}"
        if self.group.encode() in {_to_dict(flat)["name"] for flat in self._ask("XINFO", "GROUPS", self.key)}:
            return ""
        return no_group(self.key, self.group)

    def create_group(self) -> None:
        """Create the group at the beginning of the stream, and the stream if needed. Does nothing if it exists."""
        create = ("XGROUP", "CREATE", self.key, self.group, "0", "MKSTREAM")
        self._connections.ask_of(self.key, [create], accept=lambda error: str(error).startswith("BUSYGROUP"))

    def append(self, fields: dict[str, str | int]) -> None:
        """Add one entry."""
        flat = [part for pair in fields.items() for part in pair]
        self._ask(*self._add, *flat)

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Add reports in a pipeline, with the short deadline of lookups and without retries.

        Raises the error of the first entry that was refused; other reports may have been added.
        """
        commands = [(*self._add, *fields) for fields in to_entries(reports)]
        for start in range(0, len(commands), COMMANDS_PER_CALL):
            self._reports.ask_of(self.key, commands[start : start + COMMANDS_PER_CALL])

    def read_new(self, consumer: str, count: int, block: float = 0.0) -> list[Entry]:
        """Read entries that were never delivered. Wait up to ``block`` seconds for the first; 0 does not wait.

        If this fails, Redis may have delivered the entries: read the consumer's pending entries next.
        """
        wait = ("BLOCK", max(int(block * 1000), 1)) if block else ()
        command = ("XREADGROUP", "GROUP", self.group, consumer, "COUNT", count, *wait, "STREAMS", self.key, ">")
        reply = self._blocking.ask_of(self.key, [command])[0]
        return _entries(reply[0][1]) if reply else []

    def read_own(self, consumer: str, after: str, count: int) -> list[Entry]:
        """Read the consumer's own pending entries above an id. Never waits."""
        reply = self._ask("XREADGROUP", "GROUP", self.group, consumer, "COUNT", count, "STREAMS", self.key, after)
        return _entries(reply[0][1]) if reply else []

    def send_heartbeat(self, consumer: str) -> None:
        """Create the consumer if needed, and reset its idle time.

        Redis 7.0 does neither for a read that finds no new entries (measured on 7.0.15), so an instance without
        work would look dead. A read of the consumer's own pending entries does both.
        """
        id_above_all = f"{2**63}-0"
        self.read_own(consumer, id_above_all, 1)

    def claim(self, consumer: str, idle: float, cursor: str, count: int) -> tuple[str, list[Entry], list[str]]:
        """Claim entries that were pending for ``idle`` seconds, from a cursor on (``0-0`` for the first page).

        Return the next cursor (``0-0`` after the last page), the entries, and the ids of trimmed ones.
        """
        reply = self._ask("XAUTOCLAIM", self.key, self.group, consumer, int(idle * 1000), cursor, "COUNT", count)
        # The third element of the reply (Redis 7) has the ids of trimmed entries, which are not pending any more.
        deleted = [entry_id.decode() for entry_id in (reply[2] if len(reply) > 2 else ())]
        return reply[0].decode(), _entries(entry for entry in reply[1] if entry), deleted

    def acknowledge(self, ids: Sequence[str]) -> int:
        """Acknowledge entries. Return how many of them were pending. Safe to repeat."""
        done = 0
        for start in range(0, len(ids), COMMANDS_PER_CALL):
            done += self._ask("XACK", self.key, self.group, *ids[start : start + COMMANDS_PER_CALL])
        return done

    def trim(self, keep_from: float) -> int:
        """Remove entries that all groups have acknowledged. Return how many.

        Unread and pending entries of any group stay, and so do all entries above them, and entries from
        ``keep_from`` (seconds since the epoch) on.
        """
        return int(self._run_script("trim_stream", min(max(int(keep_from * 1000), 0), 2**63)))

    def delete_idle_consumers(self, idle: float, name: str | None = None) -> list[str]:
        """Delete consumers (or the named one) without pending entries that were idle for ``idle`` seconds.

        Return the names of the deleted consumers.
        """
        names = self._run_script("delete_idle_consumers", self.group, int(idle * 1000), name or "")
        return [name.decode("utf-8", "backslashreplace") for name in names]

    def range(self, first: str, last: str, count: int) -> list[Entry]:
        """Return entries between two ids. ``-`` and ``+`` are the ends; a leading ``(`` makes a bound exclusive."""
        return _entries(self._ask("XRANGE", self.key, first, last, "COUNT", count))

    def pending(self, first: str, count: int) -> list[tuple[str, str, float]]:
        """Return (id, consumer, seconds since delivery) of the group's pending entries from an id on."""
        rows = self._ask("XPENDING", self.key, self.group, first, "+", count)
        return [(row[0].decode(), row[1].decode("utf-8", "backslashreplace"), row[2] / 1000) for row in rows]

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return entries by id. Trimmed entries have no fields."""
        commands = [("XRANGE", self.key, entry_id, entry_id) for entry_id in ids]
        replies: list[Any] = []
        for start in range(0, len(ids), COMMANDS_PER_CALL):
            replies += self._connections.ask_of(self.key, commands[start : start + COMMANDS_PER_CALL])
        return [Entry(entry_id, reply[0][1] if reply else None) for entry_id, reply in zip(ids, replies, strict=True)]

    def info(self) -> StreamInfo:
        """Return length, first and last id, groups and consumers. Raises StreamLostError if there is no stream."""
        commands = [("XINFO", "STREAM", self.key), ("XINFO", "GROUPS", self.key)]
        stream, groups = self._connections.ask_of(self.key, commands, accept=lambda error: "no such key" in str(error))
        if isinstance(stream, Exception) or isinstance(groups, Exception):
            raise StreamLostError(f"there is no heat stream {self.key!r}", hint="saltctl setup")
        facts = _to_dict(stream)
        first, last = (entry and entry[0].decode() for entry in (facts["first-entry"], facts["last-entry"]))
        found = [self._group(_to_dict(flat), facts, first) for flat in groups]
        last_id = last or (facts["last-generated-id"].decode() if facts["entries-added"] else None)
        newest = id_order(facts["last-generated-id"].decode())[0] / 1000
        return StreamInfo(facts["length"], first, last_id, tuple(found), facts["entries-added"], newest)

    def _group(self, group: dict[str, Any], stream: dict[str, Any], first: str | None) -> GroupInfo:
        name = group["name"].decode("utf-8", "backslashreplace")
        commands = [("XPENDING", self.key, group["name"]), ("XINFO", "CONSUMERS", self.key, group["name"])]
        pending, consumers = self._connections.ask_of(self.key, commands)
        delivered = group["last-delivered-id"].decode()
        return GroupInfo(
            name=name,
            lag=self._lag(group, stream, first, delivered),
            pending=group["pending"],
            oldest_pending_id=None if pending[1] is None else pending[1].decode(),
            last_delivered_id=delivered,
            consumers=tuple(
                ConsumerInfo(c["name"].decode("utf-8", "backslashreplace"), c["pending"], c["idle"] / 1000)
                for c in map(_to_dict, consumers)
            ),
            loss=_loss(group, stream, first, delivered),
            trimmed_pending=self._trimmed_pending(group, first, pending[1]),
        )

    def _trimmed_pending(self, group: dict[str, Any], first: str | None, oldest: bytes | None) -> int:
        """Return how many pending entries are below the first entry of the stream, and so cannot be read any more."""
        if oldest is None or first is None:
            return int(group["pending"])
        if id_order(oldest.decode()) >= id_order(first):
            return 0
        return len(self._ask("XPENDING", self.key, group["name"], "-", f"({first}", _PAGE))

    def _lag(self, group: dict[str, Any], stream: dict[str, Any], first: str | None, delivered: str) -> int | None:
        """Return the number of entries that the group has not read, or None.

        The lag of XINFO is null after XDEL and for a group that was created in the middle. It is too high after
        unread entries were trimmed (measured on redis 7.0.15 and valkey 9.1.2).
        """
        length: int = stream["length"]
        if first is None or id_order(delivered) >= id_order(stream["last-generated-id"].decode()):
            return 0
        if id_order(first) > id_order(delivered):
            return length
        lag: int | None = group.get("lag")
        return lag if lag is not None and lag < length else self._count_after(delivered)

    def _count_after(self, entry_id: str) -> int | None:
        counted = 0
        while counted < MAX_COUNTED_ENTRIES:
            page = self.range(f"({entry_id}", "+", _PAGE)
            counted += len(page)
            if len(page) < _PAGE:
                return counted
            entry_id = page[-1].id
        return None


def _loss(group: dict[str, Any], stream: dict[str, Any], first: str | None, delivered: str) -> TrimLoss | None:
    """Return how many entries were removed before the group read them, or None if that cannot be proved.

    If the first entry is above the last delivered one, all entries of the stream are unread. Their number must be
    the number of entries ever added, less the number that the group has read. The difference was removed.
    """
    if first is not None and id_order(first) <= id_order(delivered):
        return None
    read = group.get("entries-read")
    if read is None:
        # A group that was created at 0 and has delivered nothing has read no entries.
        if delivered != FIRST_ID:
            return None
        read = 0
    lost = stream["entries-added"] - read - stream["length"]
    return TrimLoss(lost, delivered, first) if lost > 0 else None


def _entries(reply: Any) -> list[Entry]:
    # The constructor of a named tuple takes twice as long (measured).
    return [tuple.__new__(Entry, (entry_id.decode(), fields)) for entry_id, fields in reply]


def _to_dict(flat: Sequence[Any]) -> dict[str, Any]:
    return {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def no_group(key: str, group: str) -> str:
    """Return that a stream has no consumer group of the service."""
    return f"the heat stream {key!r} has no consumer group {group!r}"
