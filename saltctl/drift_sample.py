"""A glance at whether Redis and the backup hold the same, for screens and checks that must not take long.

Both ways, since each side can lack what the other has: some buckets of Redis against the backup, and the first
page of the backup against Redis.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, cast

from saltctl.stores.contracts import BackupEntry, BackupPage, BackupStore

BUCKETS = 8
ITEMS = 100
IDS = 400
"""Ids of those buckets that the backup is asked for: four BatchGetItem at most."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A conversation that the two sides disagree on; None is no entry."""

    conversation_id: str
    redis_n: int | None
    backup_n: int | None


@dataclass(frozen=True, slots=True)
class DriftSample:
    """How many conversations were compared, and those that differ."""

    checked: int
    drift: tuple[Difference, ...]


class SampledRedis(Protocol):
    """What is asked of Redis: ``RedisInspection``."""

    def bucket_entries(self, buckets: Sequence[int]) -> dict[str, int]:
        """All that some buckets hold; 0 for what is no number."""
        ...

    def held(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """What is held for some ids; 0 for what is no number."""
        ...


def sample(redis: SampledRedis, backup: BackupStore, buckets: int, chance: random.Random) -> DriftSample:
    """Compare a few hundred conversations.

    Raises:
        RedisUnavailableError, AwsUnavailableError, AccessDeniedError: one side cannot be asked.
        DamagedEntryError: the backup holds an item that saltctl cannot have written.
    """
    some = redis.bucket_entries(chance.sample(range(buckets), min(BUCKETS, buckets)))
    in_redis: dict[str, int | None] = dict(list(some.items())[:IDS])
    # The backup is read after Redis here, and before it below: a raise under way may show as one side behind.
    in_backup: dict[str, int | None] = _max_n(backup.get_many(list(in_redis)))
    others = {conversation_id: max_n for conversation_id, max_n, _ in _first_page(backup).entries}
    in_backup |= others
    in_redis |= redis.held(list(others))
    rows = [Difference(i, in_redis.get(i), in_backup.get(i)) for i in sorted({*in_redis, *in_backup})]
    return DriftSample(len(rows), tuple(row for row in rows if row.redis_n != row.backup_n))


def _max_n(entries: Mapping[str, BackupEntry]) -> dict[str, int | None]:
    return {conversation_id: entry.max_n for conversation_id, entry in entries.items()}


def _first_page(backup: BackupStore) -> BackupPage:
    pages = backup.scan(1, limit=ITEMS)
    with closing(cast("_Closing", pages)):
        return next((page for page in pages if page.entries), BackupPage([], [], 0.0, 0))


class _Closing(Protocol):
    def close(self) -> None: ...
