"""Each weak point is found in memory in few rounds, by the check that aims at it."""

from __future__ import annotations

import pytest

from tests.canary.memory import World, failed
from tests.checker.mutants import MUTANTS


@pytest.mark.parametrize("aged", [False, True])
@pytest.mark.parametrize(
    ("mutant", "check", "rounds"),
    [
        ("redis-before-backup", "unfinished-raise", 1),
        ("commit-before-redis", "unfinished-raise", 1),
        ("joins-a-read-in-flight", "shared-read", 1),
        ("boundary-in-the-past", "cool", 4),
    ],
)
def test_a_mutant_is_found_by_its_check(mutant: str, check: str, rounds: int, aged: bool) -> None:
    """A raise in another order, a read that joins one in progress, and a boundary below messages.

    Also if all reserved conversations were raised and cooled before, so that their max_n stays.
    """
    world = World()
    if aged:
        world.age()
    with world.canary(classes=MUTANTS[mutant].classes) as canary:
        found = failed(world.rounds(canary, rounds))
    assert any(one.startswith(check) for one in found), found
