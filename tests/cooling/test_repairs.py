"""Repairs of cooled conversations: a lost table, a lost item, damage, and a Redis that is behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from saltctl.cooling.cooling import Cooling
from saltctl.registry.compare import Comparison, result_of
from saltctl.registry.drift import ComparisonOptions
from saltctl.registry.lookups import Lookup
from saltctl.registry.mending import find_damage, mend
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import CooledEntry
from saltctl.stores.redis.buckets import RedisBucketReader
from tests.registry.lost_backup import World

pytestmark = pytest.mark.slow
BOUNDARY = "2026-11-27T09:00:00"
SEALED = CooledEntry(16, 1, 1, 1, 1, BOUNDARY)
"""``conv_b``, cooled from 16 to 1."""


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    """Return a verified registry, one of whose conversations was cooled and the other narrowed."""
    world = World(settings)
    times = iter([datetime(2026, 11, 27, 8, minute, tzinfo=UTC) for minute in (0, 0, 0, 0, 0, 0, 10, 10, 10)])
    last = datetime(2026, 11, 27, 8, 10, tzinfo=UTC)
    cooling = Cooling(world.registry, world.history, now=lambda: next(times, last))
    assert cooling.cool("conv_b", 1).phase == "narrowed"
    while cooling.cool("conv_b", 1).phase == "narrowed":
        pass
    assert cooling.cool("conv_a", 2).phase == "narrowed"
    assert world.store.read_unverified(["conv_a", "conv_b"]) == {"conv_a": CooledEntry(4, 2, 1), "conv_b": SEALED}
    yield world
    world.history.close()
    world.registry.close()


def both(world: World, conversation_id: str) -> tuple[Lookup, Lookup]:
    """Return the answers of Redis and of the backup."""
    entry = world.backup.get(conversation_id)
    assert entry is not None
    from_redis = world.registry.lookup(conversation_id)
    assert from_redis.source == "redis"
    world.registry.store = Refusing(world.store)
    from_backup = world.registry.lookup(conversation_id)
    world.registry.store = world.store
    return from_redis, from_backup


class Refusing:
    """A Redis that answers no lookups."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def by_primary(self, conversation_ids: Any) -> dict[str, Any]:
        """Return no primary."""
        return {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_redis_that_was_verified_all_the_time_keeps_the_boundary(world: World) -> None:
    """The table is lost: its cooled entries come from Redis, as do the others."""
    world.delete_table()
    report = world.recover()
    assert report.from_messages == 0
    for answer in both(world, "conv_b"):
        assert (answer.max_n, answer.write_n, answer.recent_n, answer.boundary) == (16, 1, 1, BOUNDARY)
    assert [answer.write_n for answer in both(world, "conv_a")] == [2, 2]
    assert (world.backup.read_item("#registry") or {})["registry_format"] == {"N": "2"}


@pytest.mark.parametrize("keeps", [True, False])
def test_boundaries_are_taken_back_unless_redis_was_verified(world: World, keeps: bool) -> None:
    """A raise that widened the recent salts may be lost with the table. Also in a table that was restored."""
    items = world.items()
    world.delete_table()
    if keeps:
        world.backup.create_table()
        for item in items:
            world.backup.client.put_item(TableName=world.backup.name, Item=item)
    with closing(plain_client_of(world)) as admin:
        for key in admin.keys("salt:r:*"):
            admin.hdel(key, "#fence")
    assert world.recover().uncooled == 2
    for answer in both(world, "conv_b"):
        assert (answer.max_n, answer.recent_n, answer.boundary) == (16, 16, None)
    assert len(list(world.history.messages("conv_b"))) == 40
    assert not compare(world).differing


def plain_client_of(world: World) -> Any:
    """Return a client of the Redis."""
    import redis

    return redis.Redis.from_url(world.settings.require_redis_url(), decode_responses=True)


def compare(world: World, *, repair: bool = False) -> Any:
    """Compare Redis with the backup, and repair what differs."""
    options = ComparisonOptions(segments=1, grace=0.0, adopt=True)
    with closing(RedisBucketReader(world.settings)) as reader:
        registry = world.registry if repair else None
        return result_of(Comparison(world.settings, reader, world.store, world.backup, options, registry).run())


def test_a_comparison_knows_cooled_entries_and_repairs_them(world: World) -> None:
    """A half-done cool-down is no drift and is not undone; a Redis that lacks it is behind, and gets it."""
    assert not compare(world).differing
    with closing(plain_client_of(world)) as admin:
        admin.hset(world.store.key_of("conv_b"), "conv_b", "16")
    (drift,) = compare(world, repair=True).drift
    assert (drift.conversation_id, drift.kind, drift.repaired) == ("conv_b", "behind", True)
    assert world.store.read_unverified(["conv_b"]) == {"conv_b": SEALED}
    entry = world.backup.get("conv_b")
    assert entry is not None
    assert (entry.write_n, entry.target) == (1, 1)


def test_a_lost_item_does_not_leave_a_boundary_in_redis_alone(world: World) -> None:
    """Its readers there would look on few salts, and writers of a new item would spread over all."""
    world.backup.client.delete_item(TableName=world.backup.name, Key={"conversation_id": {"S": "conv_b"}})
    (drift,) = compare(world, repair=True).drift
    assert (drift.kind, drift.repaired) == ("unbacked", True)
    for answer in both(world, "conv_b"):
        assert (answer.max_n, answer.write_n, answer.recent_n, answer.boundary) == (16, 1, 16, None)
    assert not compare(world).differing


@pytest.mark.parametrize("attribute", ["max_n", "cooling"])
def test_a_damaged_item_is_mended_without_its_boundary(world: World, attribute: str) -> None:
    """Nothing proves that it was not widened; a plain item would never win against the epoch in Redis."""
    world.backup.client.update_item(
        TableName=world.backup.name,
        Key={"conversation_id": {"S": "conv_b"}},
        UpdateExpression=f"SET {attribute} = :damage",
        ExpressionAttributeValues={":damage": {"S": "many"}},
    )
    damage = find_damage(world.store, world.backup, "conv_b")
    assert damage is not None
    assert (damage.at_least, damage.epoch) == (16, 1)
    mend(world.registry, world.backup, damage, 16, "mended")
    for answer in both(world, "conv_b"):
        assert (answer.max_n, answer.write_n, answer.recent_n, answer.boundary) == (16, 16, 16, None)


def test_a_damaged_value_in_redis_is_mended_by_the_item(world: World) -> None:
    """The cool-down stays."""
    with closing(plain_client_of(world)) as admin:
        admin.hset(world.store.key_of("conv_b"), "conv_b", "16 1 1 1 1")
    damage = find_damage(world.store, world.backup, "conv_b")
    assert damage is not None
    mend(world.registry, world.backup, damage, damage.at_least, "mended")
    assert world.store.read_unverified(["conv_b"]) == {"conv_b": SEALED}
