"""The buckets of the registry: their keys, their own fields, and a reader of many entries at once.

A bucket is a hash, ``{prefix}:r:{number}``, of conversation id → entry (``contracts.entries``). Conversation ids hold
no ``#``, so the fields ``#fence`` and ``#rebuild`` cannot collide with an entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.errors import ReadBrokenError, WrongTypeError
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry, parse_cooled
from saltctl.stores.contracts.registry import DamagedEntry
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.errors import naming_key, redirection

FENCE = "#fence"
"""Names the layout and the replication id of the primary that was verified."""
REBUILD = "#rebuild"
"""The token of a rebuild in progress, or of an interrupted one."""
UNREADABLE = 0
"""Stands for a value that is not an entry: a lookup of it is an error, and a merge overwrites it."""
BUCKETS_A_CALL = 256
"""Buckets in one call of a script."""
BUCKETS_A_BATCH = 256
"""Buckets that are read in one batch of commands. With a hundred entries each, the replies are about a megabyte."""
_MAX_DIGITS = 10
_COMMANDS_A_BATCH = 4096
"""HMGET commands in one batch. Each names few ids if the entries are spread thinly."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """The keys of one registry's buckets.

    ``prefix`` is a key without its number, ``count`` the number of buckets, ``layout`` the name that fences carry.
    """

    prefix: str
    count: int
    layout: str

    @classmethod
    def of(cls, settings: Settings) -> Buckets:
        """Return the buckets that the settings describe."""
        return cls(f"{settings.key_prefix}:r:", settings.buckets, settings.layout)

    def key(self, number: int) -> str:
        """Return the key of a bucket."""
        return f"{self.prefix}{number}"

    def key_of(self, conversation_id: str) -> str:
        """Return the key of the bucket of a conversation."""
        return f"{self.prefix}{bucket_of(conversation_id, self.count)}"

    def keys(self, numbers: range | None = None) -> Iterator[str]:
        """Yield the keys of these buckets, or of all."""
        return map(self.key, range(self.count) if numbers is None else numbers)


class RedisBucketReader:
    """Reads many entries at once, whether or not Redis is verified. Not for routing. Thread-safe.

    Every method raises RedisUnavailableError, AccessDeniedError and ConfigurationError. Without ``connections``
    nothing is retried: a comparison must notice that a server went away.
    """

    def __init__(self, settings: Settings, *, connections: Connections | None = None) -> None:
        self._connections = connections or Connections(settings, timeout=settings.redis_timeout, retries=0)
        self._buckets = Buckets.of(settings)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def replication_ids(self) -> dict[str, str]:
        """Return the replication id of each primary: it changes at a restart and at a failover. Empty for a replica."""
        found = {}
        for primary in self._connections.primaries():
            with self._connections.errors(primary):
                info = self._connections.info(primary, "replication")
            found[primary] = str(info.get("master_replid", "")) if info.get("role") == "master" else ""
        return found

    def read(self, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each id, in their order: None without one, UNREADABLE if its value is none."""
        positions: dict[str, list[int]] = defaultdict(list)
        for position, conversation_id in enumerate(conversation_ids):
            positions[self._buckets.key_of(conversation_id)].append(position)
        found: list[Entry | None] = [None] * len(conversation_ids)
        commands = [("HMGET", key, *(conversation_ids[p] for p in at)) for key, at in positions.items()]
        for at, values in zip(positions.values(), self._ask(commands), strict=True):
            for position, value in zip(at, values, strict=True):
                found[position] = None if value is None else _entry_or_unreadable(value)
        return found

    def bucket_exists(self) -> bool:
        """Return whether any bucket exists."""
        return any(self._ask([("EXISTS", self._buckets.key(number)) for number in range(self._buckets.count)]))

    def fence_layouts(self) -> set[str]:
        """Return the layouts, with registry ids, that the fences of all buckets name."""
        # HGET would take any string for its reply.
        replies = self._ask([("HMGET", self._buckets.key(number), FENCE) for number in range(self._buckets.count)])
        fences = (fence.decode("utf-8", "replace") for [fence] in replies if fence is not None)
        return {fence.rpartition(":")[0] or fence for fence in fences}

    def count_entries(self, buckets: Sequence[int]) -> list[int]:
        """Return the number of entries of each bucket."""
        keys = map(self._buckets.key, buckets)
        replies = self._ask([c for key in keys for c in (("HLEN", key), ("HMGET", key, FENCE, REBUILD))])
        return [fields - sum(value is not None for value in own) for fields, own in zip(replies, replies, strict=True)]

    def read_buckets(self, buckets: Sequence[int], fences: Collection[str] = ()) -> Iterator[tuple[str, Entry]]:
        """Yield every entry of these buckets; UNREADABLE if its value is none. One batch is in memory.

        Bytes of an id that are not UTF-8 become lone surrogates, which no conversation id has. A bucket without one
        of these ``fences`` lost entries since it was verified; without ``fences`` they are not checked.

        Raises:
            ReadBrokenError: a bucket has none of the fences.
        """
        expected = {fence.encode() for fence in fences}
        for start in range(0, len(buckets), BUCKETS_A_BATCH):
            commands = [("HGETALL", self._buckets.key(b)) for b in buckets[start : start + BUCKETS_A_BATCH]]
            for reply in self._ask(commands):
                # In the same reply as the entries: whatever deletes entries deletes the fence with them.
                fields = dict(zip(reply[::2], reply[1::2], strict=True))
                if expected and fields.get(FENCE.encode()) not in expected:
                    raise read_broken("lost entries")
                for name, value in fields.items():
                    if not name.startswith(b"#"):
                        yield name.decode("utf-8", "surrogateescape"), _entry_or_unreadable(value)

    def read_all(self, layout: str | None) -> Iterator[tuple[str, Entry]]:
        """Yield every entry, as :meth:`read_buckets` does; of a verified Redis, check that it stays so.

        ``layout`` is the one that the fences of a verified Redis name; None for one that is not.

        Raises:
            ReadBrokenError: Redis lost entries, restarted or failed over before the end, so some may be missing.
        """
        before = self.replication_ids()
        fences = [f"{layout}:{replication_id}" for replication_id in before.values()] if layout else ()
        yield from self.read_buckets(range(self._buckets.count), fences)
        if self.replication_ids() != before:
            raise read_broken("restarted or failed over")

    def _ask(self, commands: Sequence[tuple[str, ...]]) -> Iterator[Any]:
        """Yield the replies, in order. Raises the first error reply; follows a slot that is moving."""
        for start in range(0, len(commands), _COMMANDS_A_BATCH):
            batch = commands[start : start + _COMMANDS_A_BATCH]
            by_primary: dict[str, list[int]] = defaultdict(list)
            for position, command in enumerate(batch):
                by_primary[self._connections.primary_of(command[1])].append(position)
            replies: list[Any] = [None] * len(batch)
            for primary, positions in by_primary.items():
                with self._connections.errors(primary):
                    found = self._connections.ask_all(primary, [batch[position] for position in positions])
                    for position, reply in zip(positions, found, strict=True):
                        if redirection(reply):
                            [replies[position]] = self._connections.ask_of(batch[position][1], [batch[position]])
                        elif isinstance(reply, Exception):
                            raise naming_key(reply, batch[position][1])
                        else:
                            replies[position] = reply
            yield from replies


def read_broken(reason: str) -> ReadBrokenError:
    """Return the error of a read during which Redis lost entries, or may have."""
    return ReadBrokenError(
        f"Redis {reason} while its entries were read: some are missing",
        hint="run it again: it reads the backup until Redis is verified again\nsaltctl rebuild",
    )


def parse_entry(value: Any, primary: str, conversation_id: str) -> Entry | None:
    """Return the entry of a conversation, None without one.

    Raises:
        WrongTypeError: the value is not an entry. Never a default: a reader that took it for "unsalted" would show an
            empty chat.
    """
    if value is None:
        return None
    entry = _entry_or_unreadable(value)
    if entry == UNREADABLE:
        problem = f"holds a value that is not a salt count for {conversation_id!r}"
        raise WrongTypeError(f"Redis at {primary} {problem}", hint=DamagedEntry(conversation_id, problem).cure)
    return entry


def _entry_or_unreadable(value: bytes) -> Entry:
    # As the merge reads it. Python alone would accept "1_6", which a merge would overwrite by a lower number.
    if value.isdigit():
        return int(value) if len(value) <= _MAX_DIGITS else UNREADABLE
    try:
        return parse_cooled(value.decode()) or UNREADABLE
    except UnicodeDecodeError:
        return UNREADABLE
