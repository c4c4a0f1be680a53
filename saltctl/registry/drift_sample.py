"""A quick comparison of a small sample, for screens and checks that must not take long."""

from __future__ import annotations

import random

from saltctl.registry.compare import Comparison, ComparisonOptions, ComparisonReport, Sample, result_of
from saltctl.settings import Settings
from saltctl.stores.contracts.registry import BackupStore
from saltctl.stores.redis.buckets import RedisBucketReader

CONVERSATIONS = 300
"""How many conversations are compared, approximately: one page of the backup and a few buckets of Redis."""


def compare_sample(
    settings: Settings, backup: BackupStore, entries: int, rng: random.Random, *, max_buckets: int = 2**20
) -> ComparisonReport:
    """Compare about 300 conversations, both ways, in a random part of the registry. Does not check the fence.

    Args:
        settings: the settings of the registry.
        backup: the backup table.
        entries: the approximate number of entries in the registry.
        rng: chooses the part.
        max_buckets: the largest number of buckets to read in Redis, even if they hold few entries; each costs about
            15 µs.

    Raises:
        RedisUnavailableError, AwsUnavailableError, AccessDeniedError: one side cannot be read.
        ConfigurationError: the backup table is bound to another layout.
    """
    parts = min(max(entries // CONVERSATIONS, settings.buckets // max_buckets, 1), settings.buckets)
    options = ComparisonOptions(segments=1, sample=Sample(rng.randint(1, parts), parts))
    reader = RedisBucketReader(settings)
    try:
        return result_of(Comparison(settings, reader, None, backup, options).run())
    finally:
        reader.close()
