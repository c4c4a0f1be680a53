"""The protocol keeps the promise in every reachable state, and breaks it if any part of it is left out.

``python -m tests.model`` prints the same as a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.model.cases import LIMITS, MUTATIONS, PROTOCOL, REDUNDANT
from tests.model.explore import explore
from tests.model.world import Case

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


EXHAUSTIVE = {
    "a rebuild does not check its note",
    "a checkpoint before what it names is merged",
    "a replica, one raise, failovers without end",
    "a primary is deposed that was not verified",
    "one Redis, one raise, two rebuilds at once, one failure",
    "a raise is told a deposed primary that was never verified",
}
"""Cases of many states, each of which has a smaller one beside it that the gate runs."""


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """One test for each case."""
    marked = [
        pytest.param(case, id=case.name, marks=[pytest.mark.exhaustive] if case.name in EXHAUSTIVE else [])
        for case in cases
    ]
    return pytest.mark.parametrize("case", marked)


@each(PROTOCOL)
def test_the_protocol_keeps_the_promise(case: Case) -> None:
    """After any failure between any two calls, every lookup returns at least the acknowledged N."""
    verdict = explore(case)
    assert verdict.broken is None, str(verdict)


@each(MUTATIONS)
def test_a_mutation_is_caught(case: Case) -> None:
    """Without this part of the protocol an acknowledged N is missed, and the search finds a shortest path to that."""
    verdict = explore(case)
    assert verdict.broken is case.expect, str(verdict)
    assert verdict.path


@each(REDUNDANT)
def test_one_half_of_the_fence_covers_for_the_other(case: Case) -> None:
    """The replication id and the loaded script are each sufficient here, so an error in one of them is harmless."""
    verdict = explore(case)
    assert verdict.broken is None, str(verdict)


@each(LIMITS)
def test_a_known_limit(case: Case) -> None:
    """A failure that the protocol does not cover breaks the promise as expected."""
    verdict = explore(case)
    assert verdict.broken is case.expect, str(verdict)
