"""Cooling keeps the promise in every state of some worlds, and breaks it if any part of it is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.model.cooling import MISSES_IN_BACKUP, MISSES_IN_REDIS, CoolingCase, CoolingWorld, explore
from tests.model.cooling_mutations import (
    LARGEST_WRITE_N,
    SMALLEST_RECENT_N,
    AsksNewSaltsOnly,
    CommitsAnyEpoch,
    CompletesByMaxN,
    LeavesHalfDone,
    RaisesInRedisFirst,
    RaisesMaxNAlone,
    SealsAnyEpoch,
    SealsByMaxN,
    SealsDespiteRaise,
    SkipsRedis,
    TakesTimeEarly,
    TrustsRedis,
    WithoutCap,
)
from tests.model.cooling_processes import CoolingCode
from tests.model.failures import Failure
from tests.model.mutations import CommitBeforeRedis, SkipsUnverified
from tests.model.replay import Process
from tests.model.search import search
from tests.model.servers import Reply

OLDER: dict[str, Any] = {"raises": (), "rebuilds": 0, "failures": 0, "older": (4,), "hours": 2}
"""A cool-down, and a raise by a client that knows no cooled entries, which began before it."""
ALONE: dict[str, Any] = {"raises": (), "rebuilds": 0, "failures": 0}
"""A cool-down, and nothing else."""
RAISED: dict[str, Any] = {"rebuilds": 0, "failures": 0}
"""A cool-down and raises."""
REBUILT: dict[str, Any] = {"raises": (), "failures": 0}
"""A cool-down and rebuilds, of a verified Redis."""

PROTOCOL = (
    CoolingCase("two sealers and a raise", cools=(1, 1), **RAISED),
    CoolingCase("a raise is in flight when cooling begins", start=2, **RAISED),
    CoolingCase("a rebuild, failures without end", raises=(), failures=None),
    CoolingCase("a rebuild that is resumed, one failure", CoolingCode(resumes=True), raises=()),
    CoolingCase("a raise and a rebuild", failures=0),
    CoolingCase("a raise, and another process completes it", completes=True, **RAISED),
    CoolingCase("a client of an older format", **OLDER),
    CoolingCase("scheduled messages and a raise", scheduled=True, **RAISED),
    CoolingCase("two cool-downs to different N", cools=(2, 1), epochs=2, hours=2, **ALONE),
)
LONG = (
    CoolingCase("raises to 2 and to 4", raises=(2, 4), **RAISED),
    CoolingCase("two cool-downs in two hours, a raise", epochs=2, hours=2, **RAISED),
    CoolingCase("a raise to a new N, and readers that are left with two salts", raises=(8,), cools=(2,), **RAISED),
)
EXHAUSTIVE = (
    CoolingCase("a raise is in flight when cooling begins, and a rebuild", start=2, failures=0),
    CoolingCase("a raise, and a rebuild that is resumed", CoolingCode(resumes=True), failures=0),
    CoolingCase("a raise and a rebuild, one failure"),
    CoolingCase("two cool-downs in two hours, a raise and a rebuild", epochs=2, hours=2, failures=0),
    CoolingCase("two cool-downs at once, a raise", epochs=2, cools=(1, 1), **RAISED),
    CoolingCase("two cool-downs to different N, a raise", epochs=2, cools=(2, 1), **RAISED),
)

MUTATIONS = (
    CoolingCase("no margin", CoolingCode(margin=0.0), expect=MISSES_IN_BACKUP, **ALONE),
    CoolingCase(
        "a seal without step 2", CoolingCode(registry=SkipsRedis, cooling=TrustsRedis), expect=MISSES_IN_BACKUP, **ALONE
    ),
    CoolingCase("a seal despite a raise", CoolingCode(backup=SealsDespiteRaise), expect=MISSES_IN_BACKUP, **RAISED),
    CoolingCase("the larger write_n in a merge", patches=LARGEST_WRITE_N, expect=MISSES_IN_BACKUP, **ALONE),
    CoolingCase("a raise: Redis first", CoolingCode(registry=RaisesInRedisFirst), expect=MISSES_IN_BACKUP, **RAISED),
    CoolingCase(
        "a raise: commit before Redis", CoolingCode(registry=CommitBeforeRedis), expect=MISSES_IN_REDIS, **RAISED
    ),
    CoolingCase("a raise of max_n alone", CoolingCode(backup=RaisesMaxNAlone), expect=MISSES_IN_BACKUP, **RAISED),
    CoolingCase("the smaller recent_n in a merge", patches=SMALLEST_RECENT_N, expect=MISSES_IN_REDIS, **RAISED),
    CoolingCase("a seal by max_n", CoolingCode(backup=SealsByMaxN), expect=MISSES_IN_BACKUP, **RAISED),
    CoolingCase(
        "the time of step 2 before that step", CoolingCode(cooling=TakesTimeEarly), expect=MISSES_IN_BACKUP, **ALONE
    ),
    CoolingCase("Redis is trusted to have step 2", CoolingCode(cooling=TrustsRedis), expect=MISSES_IN_BACKUP, **OLDER),
    CoolingCase(
        "salt 0 is not asked", CoolingCode(cooling=AsksNewSaltsOnly), scheduled=True, expect=MISSES_IN_BACKUP, **ALONE
    ),
    CoolingCase(
        "step 2 skips an unverified Redis, which is trusted to have it",
        CoolingCode(store=SkipsUnverified, cooling=TrustsRedis),
        raises=(),
        may_fail=(Failure.KILL,),
        expect=MISSES_IN_BACKUP,
    ),
    CoolingCase(
        "half done by max_n, and no cap",
        CoolingCode(rebuild=CompletesByMaxN, registry=WithoutCap),
        expect=MISSES_IN_BACKUP,
        **REBUILT,
    ),
)
"""The first five are those of the abstract model of cooling."""

LONG_MUTATIONS = (
    CoolingCase(
        "step 2 skips an unverified Redis",
        CoolingCode(store=SkipsUnverified),
        raises=(),
        hours=2,
        expect=MISSES_IN_BACKUP,
    ),
    CoolingCase(
        "a seal of any epoch",
        CoolingCode(backup=SealsAnyEpoch),
        cools=(1, 1),
        epochs=2,
        expect=MISSES_IN_BACKUP,
        **RAISED,
    ),
    CoolingCase(
        "a commit in any epoch",
        CoolingCode(backup=CommitsAnyEpoch),
        raises=(4, 4),
        epochs=2,
        expect=MISSES_IN_REDIS,
        **RAISED,
    ),
)

REDUNDANT = (
    CoolingCase("Redis is trusted to have step 2, and no older client", CoolingCode(cooling=TrustsRedis), raises=()),
    CoolingCase("a raise stays half done", CoolingCode(cooling=LeavesHalfDone), start=2, **RAISED),
    CoolingCase("no cap", CoolingCode(registry=WithoutCap), **RAISED),
    CoolingCase("half done by max_n", CoolingCode(rebuild=CompletesByMaxN), **REBUILT),
)

LIMITS = (
    CoolingCase(
        "a client of an older format, and a cooler that stalls for longer than the wait",
        cools=(1, 1),
        expect=MISSES_IN_BACKUP,
        **OLDER,
    ),
    CoolingCase("a deposed primary answers for longer than the margin", deposed=True, expect=MISSES_IN_BACKUP, **ALONE),
)
"""Such a cooler does its step 2 over what the client has written, when another one has taken the time already. And a
writer who asks a deposed primary gets the N from before the cool-down, at any time. For a raise that N is too small,
which is harmless; for a cool-down it is too large.
"""


class Distinct(CoolingWorld):
    """A world in which processes with different answers are in different states, whatever they do next."""

    def _local(self, process: Process, replies: tuple[Reply, ...]) -> int:
        return self._locals.number(replies)


def each(cases: Sequence[CoolingCase], *, long: Sequence[CoolingCase] = ()) -> pytest.MarkDecorator:
    """One test for each case."""
    marked = [pytest.param(case, marks=pytest.mark.long) for case in long]
    return pytest.mark.parametrize("case", [*cases, *marked], ids=lambda case: case.name)


def assert_holds(case: CoolingCase) -> None:
    """No reader misses a message, in any state."""
    found = explore(case)
    assert not found.broken, str(found)


@each(PROTOCOL, long=LONG)
def test_cooling_keeps_the_promise(case: CoolingCase) -> None:
    """After any failure between any two calls, readers look on the partition of every acknowledged message."""
    assert_holds(case)


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@each(EXHAUSTIVE)
def test_cooling_keeps_the_promise_in_larger_worlds(case: CoolingCase) -> None:
    """As above."""
    assert_holds(case)


@each(MUTATIONS, long=LONG_MUTATIONS)
def test_a_mutation_of_cooling_is_caught(case: CoolingCase) -> None:
    """Without this part of the protocol a reader misses a message, and the search finds a shortest path to that."""
    found = explore(case)
    assert found.broken == case.expect, str(found)


@each(REDUNDANT)
def test_a_part_of_cooling_that_another_one_covers_for(case: CoolingCase) -> None:
    """Left out, it loses no message of clients that know cooled entries: the condition of step 1 is enough for raises.

    Step 2 is repeated for clients that do not know them. The cap of a writer's N covers for a wrong write_n.
    """
    assert_holds(case)


@each(LIMITS)
def test_a_known_limit_of_cooling(case: CoolingCase) -> None:
    """What the protocol does not cover loses a message as expected."""
    found = explore(case)
    assert found.broken == case.expect, str(found)


def test_processes_that_are_taken_for_one_do_the_same() -> None:
    """Servers and messages reach the same states, as many more as there are of processes."""
    reached = []
    for kind in (CoolingWorld, Distinct):
        world = kind(CoolingCase("two coolers", cools=(1, 2), **ALONE))
        states: set[int] = set()

        def note(state: int, world: CoolingWorld = world, states: set[int] = states) -> str:
            states.add(state)
            return world.broken(state)

        assert not search(world.start(), world.steps, note).broken
        reached.append((len(states), {world.without_processes(state) for state in states}))
    (merged, servers), (distinct, same) = reached
    assert servers == same
    assert merged < distinct
