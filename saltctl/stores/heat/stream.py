"""The stream of heat reports and its consumer group.

Delivery is at least once: an entry is delivered to one consumer, stays pending until it is acknowledged, and
comes back where its consumer reads its own pending entries again or another one claims them. Whatever
handles entries must therefore be idempotent. Nothing here acknowledges by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from saltctl.errors import StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.scripts import script

GROUP = "saltctl"
FIRST_ID = "0-0"
_ABOVE_ALL = f"{2**63}-0"
REPORTS_A_CALL = 1000
COUNTED_ENTRIES = 100_000
"""Entries that are counted one by one where Redis does not know the lag; above that it stays unknown."""
_PAGE = 10_000


class Entry(NamedTuple):
    """An entry: its id and its flat fields; None where it was trimmed while it was pending."""

    id: str
    fields: list[bytes] | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one look for abandoned entries brought. ``deleted`` were trimmed: their ids alone are left."""

    cursor: str
    entries: list[Entry]
    deleted: list[str]


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """One consumer of a group. ``idle_s``: seconds since it last asked for anything."""

    name: str
    pending: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class TrimLoss:
    """Entries that were removed before the group had read them: between two ids, both exclusive."""

    entries: int
    after_id: str
    before_id: str | None


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One consumer group. ``lag``: entries it has not read, None where that cannot be known."""

    name: str
    lag: int | None
    pending: int
    oldest_pending_id: str | None
    last_delivered_id: str
    consumers: tuple[ConsumerInfo, ...]
    loss: TrimLoss | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The stream as it is now."""

    key: str
    length: int
    first_id: str | None
    last_id: str | None
    groups: tuple[GroupInfo, ...]

    def group(self, name: str) -> GroupInfo | None:
        """A group by its name."""
        return next((group for group in self.groups if group.name == name), None)


def id_order(entry_id: str) -> tuple[int, int]:
    """A stream id as what it is compared by: milliseconds since the epoch, and a sequence number."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


class HeatStream:
    """``{prefix}:heat``. Thread-safe, but for two readers of one consumer name.

    All methods raise RedisUnavailableError (StreamLostError where stream or group are gone) and
    AccessDeniedError. Only ``append_reports`` has the short deadline of lookups.

    Args:
        settings: names the Redis and the prefix.
        block: the longest that ``read_new`` is going to wait, in seconds.
    """

    def __init__(self, settings: Settings, *, block: float = 1.0) -> None:
        self.key = f"{settings.key_prefix}:heat"
        self.group = GROUP
        self._connections = Connections(settings, timeout=settings.redis_timeout, retries=0)
        shared = self._connections
        self._reports = Connections(settings, timeout=settings.lookup_timeout, retries=0, beside=shared)
        # A client of its own: its deadline has to exceed the time that Redis is told to wait.
        self._blocking = Connections(settings, timeout=settings.redis_timeout + block, retries=0, beside=shared)

    def _ask_all(
        self, commands: Sequence[tuple[Any, ...]], accept: Callable[[Exception], bool] = lambda _: False
    ) -> list[Any]:
        return self._connections.ask_of(self.key, commands, accept=accept)

    def _ask(self, *command: Any, connections: Connections | None = None) -> Any:
        """One command, its reply as Redis sent it; not tried again."""
        return (connections or self._connections).ask_of(self.key, [command])[0]

    def close(self) -> None:
        """Close the connections."""
        for connections in (self._connections, self._reports, self._blocking):
            connections.close()

    def group_exists(self) -> bool:
        """Whether the stream and its consumer group are there."""
        if not self._ask("EXISTS", self.key):
            return False
        return self.group.encode() in {_facts(flat)["name"] for flat in self._ask("XINFO", "GROUPS", self.key)}

    def create_group(self) -> None:
        """Create the group at the stream's beginning, and the stream with it; no error where it exists."""
        create = ("XGROUP", "CREATE", self.key, self.group, "0", "MKSTREAM")
        self._ask_all([create], accept=lambda error: str(error).startswith("BUSYGROUP"))

    # Adding.

    def append(self, fields: dict[str, str | int]) -> None:
        """Add one entry."""
        flat = [part for pair in fields.items() for part in pair]
        self._ask("XADD", self.key, "*", *flat)

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Add reports, pipelined, with the short deadline of lookups, and never tried again.

        Raises what the first one raised that was refused; others may have been added.
        """
        for start in range(0, len(reports), REPORTS_A_CALL):
            commands = [("XADD", self.key, "*", *r.fields()) for r in reports[start : start + REPORTS_A_CALL]]
            self._reports.ask_of(self.key, commands)

    # Reading as a consumer.

    def read_new(self, consumer: str, count: int, block: float = 0.0) -> list[Entry]:
        """Entries that no consumer has had, waiting up to ``block`` seconds for the first; 0 means not at all.

        Where this fails the entries may have been delivered all the same: read your own pending ones next.
        """
        wait = ("BLOCK", max(int(block * 1000), 1)) if block else ()
        reply = self._ask(
            *("XREADGROUP", "GROUP", self.group, consumer, "COUNT", count, *wait, "STREAMS", self.key, ">"),
            connections=self._blocking,
        )
        return _entries(reply[0][1]) if reply else []

    def read_own(self, consumer: str, after: str, count: int) -> list[Entry]:
        """Entries that this consumer was given and has not acknowledged, above an id; never waits."""
        reply = self._ask("XREADGROUP", "GROUP", self.group, consumer, "COUNT", count, "STREAMS", self.key, after)
        return _entries(reply[0][1]) if reply else []

    def send_heartbeat(self, consumer: str) -> None:
        """A sign of life: makes the consumer known, and its idle time zero.

        Redis 7.0 does neither for a read that finds nothing new (measured on 7.0.15), so that an instance with
        nothing to do would look dead. Reading one's own pending entries, above all there can be, does both.
        """
        self.read_own(consumer, _ABOVE_ALL, 1)

    def claim(self, consumer: str, idle: float, cursor: str, count: int) -> Claimed:
        """Take over entries that others have held for ``idle`` seconds, from a cursor (at first ``0-0``) on."""
        reply = self._ask("XAUTOCLAIM", self.key, self.group, consumer, int(idle * 1000), cursor, "COUNT", count)
        # Redis 7 names what was trimmed in a third element, and has dropped it from the pending entries.
        deleted = [entry_id.decode() for entry_id in (reply[2] if len(reply) > 2 else ())]
        return Claimed(reply[0].decode(), _entries(entry for entry in reply[1] if entry), deleted)

    def acknowledge(self, ids: Sequence[str]) -> int:
        """Acknowledge entries; how many were still pending. Safe to repeat."""
        done = 0
        for start in range(0, len(ids), REPORTS_A_CALL):
            done += self._ask("XACK", self.key, self.group, *ids[start : start + REPORTS_A_CALL])
        return done

    # Looking after it.

    def trim(self, keep_from: float) -> int:
        """Remove what every group has read and acknowledged and what is older than a time (seconds since the epoch).

        Never more: an unread or pending entry of any group, and all above it, stay.
        """
        return int(self._ask("EVAL", script("trim_stream", "heat"), 1, self.key, max(int(keep_from * 1000), 0)))

    def delete_idle_consumers(self, idle: float, name: str | None = None) -> list[str]:
        """Remove consumers, or the named one, that hold nothing and were silent for ``idle`` seconds; their names."""
        names = self._ask(
            "EVAL", script("delete_idle_consumers", "heat"), 1, self.key, self.group, int(idle * 1000), name or ""
        )
        return [name.decode("utf-8", "backslashreplace") for name in names]

    # Looking, without changing anything.

    def range(self, first: str, last: str, count: int) -> list[Entry]:
        """Entries from one id to another; ``-`` and ``+`` are the ends, and ``(`` in front excludes one."""
        return _entries(self._ask("XRANGE", self.key, first, last, "COUNT", count))

    def pending(self, first: str, count: int, *, consumer: str | None = None) -> list[tuple[str, str, float]]:
        """(id, consumer, seconds since delivery) of pending entries of the group from an id on."""
        of = () if consumer is None else (consumer,)
        rows = self._ask("XPENDING", self.key, self.group, first, "+", count, *of)
        return [(row[0].decode(), row[1].decode("utf-8", "backslashreplace"), row[2] / 1000) for row in rows]

    def get(self, ids: Sequence[str]) -> dict[str, list[bytes]]:
        """The fields of entries by id; trimmed ones are left out."""
        found: dict[str, list[bytes]] = {}
        for start in range(0, len(ids), REPORTS_A_CALL):
            wanted = ids[start : start + REPORTS_A_CALL]
            for reply in self._ask_all([("XRANGE", self.key, entry_id, entry_id) for entry_id in wanted]):
                found.update((entry.id, entry.fields or []) for entry in _entries(reply))
        return found

    def info(self) -> StreamInfo:
        """Length, ends, groups and consumers now; raises StreamLostError where there is no stream."""
        stream, groups = self._ask_all(
            [("XINFO", "STREAM", self.key), ("XINFO", "GROUPS", self.key)],
            accept=lambda error: "no such key" in str(error),
        )
        if isinstance(stream, Exception) or isinstance(groups, Exception):
            raise StreamLostError(f"there is no heat stream {self.key!r} in Redis", hint="saltctl setup")
        facts = _facts(stream)
        first, last = (_id_of(facts[name]) for name in ("first-entry", "last-entry"))
        found = [self._group(_facts(flat), facts, first) for flat in groups]
        last_id = last or (facts["last-generated-id"].decode() if facts["entries-added"] else None)
        return StreamInfo(self.key, facts["length"], first, last_id, tuple(found))

    def _group(self, group: dict[str, Any], stream: dict[str, Any], first: str | None) -> GroupInfo:
        name = group["name"].decode("utf-8", "backslashreplace")
        pending, consumers = self._ask_all(
            [("XPENDING", self.key, group["name"]), ("XINFO", "CONSUMERS", self.key, group["name"])]
        )
        delivered = group["last-delivered-id"].decode()
        return GroupInfo(
            name=name,
            lag=self._lag(group, stream, first, delivered),
            pending=group["pending"],
            oldest_pending_id=None if pending[1] is None else pending[1].decode(),
            last_delivered_id=delivered,
            consumers=tuple(
                ConsumerInfo(c["name"].decode("utf-8", "backslashreplace"), c["pending"], c["idle"] / 1000)
                for c in map(_facts, consumers)
            ),
            loss=_loss(group, stream, first, delivered),
        )

    def _lag(self, group: dict[str, Any], stream: dict[str, Any], first: str | None, delivered: str) -> int | None:
        """How many entries the group has not read.

        Redis' own figure is null after XDEL or for a group that was created in the middle, and too high once
        unread entries were trimmed (measured on redis 7.0.15 and valkey 9.1.2), so it comes last but one.
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
        while counted < COUNTED_ENTRIES:
            page = self.range(f"({entry_id}", "+", _PAGE)
            counted += len(page)
            if len(page) < _PAGE:
                return counted
            entry_id = page[-1].id
        return None


def _loss(group: dict[str, Any], stream: dict[str, Any], first: str | None, delivered: str) -> TrimLoss | None:
    """The proof that entries were removed unread, as long as there is one.

    Where the first entry is above the last one delivered, everything there is is unread; what was ever added
    less what the group has read must be all of it, and what is missing was removed.
    """
    if first is not None and id_order(first) <= id_order(delivered):
        return None
    read = group.get("entries-read")
    if read is None:
        # A group that was created at 0 has read nothing until it has read something.
        if delivered != FIRST_ID:
            return None
        read = 0
    lost = stream["entries-added"] - read - stream["length"]
    return TrimLoss(lost, delivered, first) if lost > 0 else None


def _entries(reply: Any) -> list[Entry]:
    return [Entry(entry_id.decode(), fields) for entry_id, fields in reply]


def _facts(flat: Sequence[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _id_of(entry: Any) -> str | None:
    return None if not entry else entry[0].decode()
