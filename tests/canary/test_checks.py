"""Each weak point is found in memory in few rounds, by the check that aims at it; and the children that it forks."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from saltctl.canary.checks.fork import _Child
from saltctl.canary.checks.outcomes import Unjudged
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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_forked_child_without_the_handlers_of_its_parent(signum: signal.Signals) -> None:
    """Ctrl-C reaches the child, too: an exception of the parent's handler there would go on with the parent's work."""
    reading, writing = os.pipe()
    before = signal.signal(signum, lambda *_: os.write(writing, b"handled"))

    def work() -> dict[str, Any]:
        """Get the signal."""
        os.kill(os.getpid(), signum)
        return {}

    try:
        with _Child(work) as child, pytest.raises(Unjudged, match="did not answer"):
            child.answer()
        os.kill(os.getpid(), signum)
    finally:
        signal.signal(signum, before)
        os.close(writing)
    with os.fdopen(reading, "rb") as handled:
        assert handled.read() == b"handled", "once, by the parent"
