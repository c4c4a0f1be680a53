"""A glance at whether Redis and the backup hold the same, for screens and checks that must not take long."""

from __future__ import annotations

import random
from collections.abc import Mapping

from saltctl.registry.compare import Comparison, ComparisonOptions, result_of
from saltctl.registry.compare_events import ComparisonReport, Sample
from saltctl.settings import Settings
from saltctl.stores.contracts import BackupStore
from saltctl.stores.redis.buckets import BucketReader

CONVERSATIONS = 300
"""How many are compared, about: one page of the backup and a few buckets of Redis."""


class _NotAsked:
    """Whether Redis is verified is asked elsewhere, and takes longer than the sample."""

    def verified(self) -> Mapping[str, bool]:
        return {}


def compare_sample(
    settings: Settings, backup: BackupStore, entries: int, chance: random.Random, *, most_buckets: int = 2**20
) -> ComparisonReport:
    """Compare about 300 conversations, both ways, another part each time.

    Args:
        settings: those of the registry.
        backup: what Redis is compared with.
        entries: how many there are, about.
        chance: chooses the part.
        most_buckets: looked into in Redis, however few entries they hold; each costs some 15 µs.

    Raises:
        RedisUnavailableError, AwsUnavailableError, AccessDeniedError: one side cannot be asked.
        ConfigurationError: the backup table is bound to another layout.
    """
    parts = min(max(entries // CONVERSATIONS, settings.buckets // most_buckets, 1), settings.buckets)
    options = ComparisonOptions(segments=1, sample=Sample(chance.randint(1, parts), parts))
    reader = BucketReader(settings)
    try:
        return result_of(Comparison.over(settings, reader, _NotAsked(), backup, options).run())
    finally:
        reader.close()
