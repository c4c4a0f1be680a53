"""What Redis holds, bucket by bucket, verified or not: for comparisons and exports, never for routing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import FENCE, REBUILD

UNREADABLE = 0
"""Stands for a value that is no salt count: lookups of it are errors, and a merge writes over it."""
BUCKETS_AT_ONCE = 256
"""Buckets in one batch of commands. With a hundred entries each these are about a megabyte of answers."""
_COMMANDS_AT_ONCE = 4096
"""Commands in one batch of HMGETs; few ids each, where entries are spread thinly."""


class RedisBucketReader:
    """Reads many entries at once. Thread-safe.

    Every method raises RedisUnavailableError, AccessDeniedError and ConfigurationError, and is never tried
    again by itself: whoever compares wants to know that a server went away.
    """

    def __init__(self, settings: Settings, *, connections: Connections | None = None) -> None:
        self._connections = connections or Connections(settings, timeout=settings.redis_timeout, retries=0)
        self._buckets = settings.buckets
        self._stem = f"{settings.key_prefix}:r:"

    def close(self) -> None:
        """Give up the connections."""
        self._connections.close()

    def replication_ids(self) -> dict[str, str]:
        """The replication id of each primary: another one means that it restarted or failed over."""
        found = {}
        for primary in self._connections.primaries():
            with self._connections.errors(primary):
                info = self._connections.client(primary).execute_command("INFO", "replication")
            found[primary] = str(info.get("master_replid", ""))
        return found

    def read(self, conversation_ids: Sequence[str]) -> list[int | None]:
        """What Redis holds for each id, in their order: None without an entry, UNREADABLE for nonsense."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, conversation_id in enumerate(conversation_ids):
            places[bucket_of(conversation_id, self._buckets)].append(place)
        found: list[int | None] = [None] * len(conversation_ids)
        commands = [("HMGET", self._key(b), *(conversation_ids[p] for p in at)) for b, at in places.items()]
        for at, values in zip(places.values(), self._ask(commands), strict=True):
            for place, value in zip(at, values, strict=True):
                found[place] = _number(value)
        return found

    def count_entries(self, buckets: Sequence[int]) -> list[int]:
        """How many entries each bucket has."""
        commands: list[tuple[str, ...]] = []
        for bucket in buckets:
            commands += (("HLEN", self._key(bucket)), ("HMGET", self._key(bucket), FENCE, REBUILD))
        answers = list(self._ask(commands))
        own = (sum(value is not None for value in values) for values in answers[1::2])
        return [fields - ours for fields, ours in zip(answers[::2], own, strict=True)]

    def read_buckets(self, buckets: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Every entry of these buckets, UNREADABLE for nonsense; one batch of buckets in memory.

        Ids that are no UTF-8 come with their odd bytes as lone surrogates, which no conversation id has.
        """
        for start in range(0, len(buckets), BUCKETS_AT_ONCE):
            commands = [("HGETALL", self._key(bucket)) for bucket in buckets[start : start + BUCKETS_AT_ONCE]]
            for answer in self._ask(commands):
                for name, value in zip(answer[::2], answer[1::2], strict=True):
                    if not name.startswith(b"#"):
                        yield name.decode("utf-8", "surrogateescape"), _number(value) or UNREADABLE

    def _key(self, bucket: int) -> str:
        return f"{self._stem}{bucket}"

    def _ask(self, commands: Sequence[tuple[str, ...]]) -> Iterator[Any]:
        """The replies, in order; the first error reply ends it."""
        for start in range(0, len(commands), _COMMANDS_AT_ONCE):
            batch = commands[start : start + _COMMANDS_AT_ONCE]
            by_primary: dict[str, list[int]] = defaultdict(list)
            for place, command in enumerate(batch):
                by_primary[self._connections.primary_of(command[1])].append(place)
            replies: list[Any] = [None] * len(batch)
            for primary, places in by_primary.items():
                with self._connections.errors(primary):
                    for place, reply in zip(places, self._ask_primary(primary, batch, places), strict=True):
                        if isinstance(reply, Exception):
                            raise reply
                        replies[place] = reply
            yield from replies

    def _ask_primary(self, primary: str, batch: Sequence[tuple[str, ...]], places: Sequence[int]) -> list[Any]:
        return self._connections.ask_all(primary, [batch[place] for place in places])


def _number(value: bytes | None) -> int | None:
    if value is None:
        return None
    return int(value) if value.isdigit() else UNREADABLE
