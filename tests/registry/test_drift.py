"""Drift: which pairs of numbers are suspected, and how a suspect is classified at its second check."""

from __future__ import annotations

import pytest

from saltctl.errors import (
    DamagedEntryError,
    RaiseIncompleteError,
    RedisUnavailableError,
    SaltctlError,
    WrongTypeError,
)
from saltctl.registry.drift import Drift, DriftKind, Suspect, classify, looks_like_drift, plan_repair, repair
from saltctl.registry.registry import Registry
from saltctl.stores.contracts.registry import BackupEntry
from saltctl.testing import MemoryBackup, MemoryRedis


@pytest.mark.parametrize(
    ("redis_n", "max_n", "write_n", "suspected"),
    [
        (4, 4, 4, False),
        (None, 1, 1, False),
        (1, 1, 1, False),
        (None, 4, 4, True),
        (2, 4, 4, True),
        (8, 4, 4, True),
        (4, 4, 2, True),
        (0, 1, 1, True),
    ],
)
def test_suspects(redis_n: int | None, max_n: int, write_n: int, suspected: bool) -> None:
    """Sides that disagree and raises without a commit are suspected; no entry means an N of 1."""
    assert looks_like_drift(redis_n, max_n, write_n) is suspected


@pytest.mark.parametrize(
    ("redis_n", "entry", "kind"),
    [
        (None, None, "missing"),
        (2, (4, 4), "behind"),
        (0, (4, 4), "unreadable"),
        (8, (4, 4), "unbacked"),
        (4, None, "unbacked"),
        (4, (4, 2), "uncommitted"),
        (4, (4, 4), None),
        (8, (8, 8), None),
        (8, (8, 4), None),
    ],
)
def test_classification(redis_n: int | None, entry: tuple[int, int] | None, kind: DriftKind | None) -> None:
    """The scan saw an N of 4: Redis must hold that by now, and the backup what Redis holds.

    A raise to 8 that is in progress at the second check is not drift: write_n covers what the scan saw.
    """
    held = None if entry is None else BackupEntry("conv", *entry)
    drift = classify(Suspect(0.0, "conv", 4, 4), redis_n, held)
    assert (drift and drift.kind) == kind


def test_a_deleted_item_of_an_unsalted_conversation_is_not_drift() -> None:
    """Redis and the backup have no entry: both mean an N of 1."""
    assert classify(Suspect(0.0, "conv", 1, 1), None, None) is None


def test_drift_has_the_numbers_of_both_sides() -> None:
    """An entry that Redis lacks has the numbers of the scan."""
    assert classify(Suspect(0.0, "conv", 4, 2), None, None) == Drift("conv", None, 4, "missing", 2)


@pytest.mark.parametrize(
    ("redis_n", "write_n", "harmless"), [(None, 1, True), (2, 2, True), (1, 2, False), (None, 4, False)]
)
def test_a_raise_that_did_not_reach_redis(redis_n: int | None, write_n: int, harmless: bool) -> None:
    """While it is not committed, no writer uses a salt that readers leave out; its repair writes to Redis."""
    drift = classify(Suspect(0.0, "conv", 4, write_n), redis_n, None)
    assert drift is not None
    planned = plan_repair(drift, adopt=False, cap=256)
    assert (drift.is_interrupted_raise, planned.planned_n, planned.planned_side) == (harmless, 4, "redis")


@pytest.mark.parametrize("exc", [WrongTypeError("WRONGTYPE"), DamagedEntryError("no number")], ids=["bucket", "item"])
def test_a_repair_that_fails_alone_is_a_problem_of_its_drift(exc: SaltctlError) -> None:
    """It stops no other repair; an outage does."""
    backup, redis = MemoryBackup(), MemoryRedis()
    backup.items["conv"] = BackupEntry("conv", 4, 4, ())
    registry = Registry(redis, backup)
    drift = plan_repair(Drift("conv", None, 4, "missing"), adopt=False, cap=256)
    (primary,) = redis.primaries()
    redis.faults[primary].before["merge"] = exc
    repaired = repair(registry, drift, lambda seconds: None)
    assert (repaired.repaired, exc.message in str(repaired.problem)) == (False, True)
    redis.faults[primary].before["merge"] = RedisUnavailableError("away")
    with pytest.raises(RaiseIncompleteError):
        repair(registry, drift, lambda seconds: None)
