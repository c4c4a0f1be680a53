"""Buckets as comparisons see them, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.errors import RedisUnavailableError
from saltctl.local.servers import LocalRedis
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.redis.buckets import FENCE, REBUILD, UNREADABLE, Buckets, RedisBucketReader, parse_entry
from saltctl.stores.redis.registry import RedisRegistry


@pytest.fixture
def reader(settings: Settings) -> Iterator[RedisBucketReader]:
    """A reader of the test's Redis."""
    made = RedisBucketReader(settings)
    yield made
    made.close()


def test_entries_by_id_and_by_bucket(reader: RedisBucketReader, store: RedisRegistry, settings: Settings) -> None:
    """Both ways show the same entries; the fence and the token are not entries; order is kept."""
    entries = {f"conv_{number}": 2 << number % 5 for number in range(300)}
    for conversation_id, n in entries.items():
        store.merge(conversation_id, n)
    (session,) = store.sessions()
    session.mark_buckets("token")
    asked = [*entries, "absent"]
    assert reader.read(asked) == [*entries.values(), None]
    every = range(settings.buckets)
    assert dict(reader.read_buckets(every)) == entries
    assert sum(reader.count_entries(every)) == len(entries)
    session.set_fence("token")
    session.close()
    assert sum(reader.count_entries(every)) == len(entries)


def test_damaged_values_and_ids(reader: RedisBucketReader, settings: Settings, admin: Any) -> None:
    """A damaged value differs from a missing entry, and ids that are not UTF-8 keep their bytes."""
    bucket = bucket_of("conv", settings.buckets)
    key = f"{settings.key_prefix}:r:{bucket}"
    admin.hset(key, mapping={"conv": "many", b"odd\xff": "4", FENCE: "x", REBUILD: "y"})
    assert reader.read(["conv"]) == [UNREADABLE]
    assert dict(reader.read_buckets([bucket])) == {"conv": UNREADABLE, "odd\udcff": 4}
    assert reader.count_entries([bucket]) == [2]


def test_replication_ids_change_with_a_restart(reader: RedisBucketReader, redis_server: LocalRedis) -> None:
    """The same server has the same replication id, and a restarted one has another."""
    before = reader.replication_ids()
    assert reader.replication_ids() == before
    redis_server.kill()
    with pytest.raises(RedisUnavailableError):
        reader.read(["conv"])
    redis_server.start()
    assert reader.replication_ids() != before


def test_many_ids_take_one_command_for_each_bucket(store: RedisRegistry, settings: Settings, admin: Any) -> None:
    """A dry run of a rebuild reads a page without a round trip for each entry."""
    ids = [f"conv_{number}" for number in range(2000)]
    admin.config_resetstat()
    assert store.read_unverified(ids) == dict.fromkeys(ids)
    commands = admin.info("commandstats")
    assert commands["cmdstat_hmget"]["calls"] <= settings.buckets
    assert "cmdstat_hget" not in commands


def test_keys_are_those_of_the_layout() -> None:
    """A bucket's key has the prefix and its number; a conversation's bucket is its CRC-32 modulo their number."""
    buckets = Buckets.of(Settings(key_prefix="chat", buckets=16))
    assert list(buckets.keys(range(2))) == ["chat:r:0", "chat:r:1"]
    assert len(list(buckets.keys())) == 16
    assert buckets.key_of("conv") == buckets.key(bucket_of("conv", 16))
    assert buckets.layout == "v2:16"


def test_a_count_is_a_number_or_an_error() -> None:
    """No entry is None; a value that is not a salt count is never taken for a default."""
    assert parse_entry(None, "redis:6379", "a") is None
    assert parse_entry(b"8", "redis:6379", "a") == 8
    for value in (b"0", b"-4", b"many", b"", b"1_6", b" 4", b"+4", b"4\n", b"9" * 5000):
        with pytest.raises(RedisUnavailableError, match="redis:6379 holds a value that is not a salt count for 'a'"):
            parse_entry(value, "redis:6379", "a")
