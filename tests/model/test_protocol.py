"""The protocol keeps the promise in every state that can be reached, and does not without any of its pieces.

``python -m tests.model`` prints the same as a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.model.cases import LIMITS, MUTATIONS, PROTOCOL, REDUNDANT
from tests.model.explore import explore
from tests.model.world import Case

pytestmark = pytest.mark.long


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """One test for each case."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@each(PROTOCOL)
def test_the_protocol_keeps_the_promise(case: Case) -> None:
    """Whatever happens between any two calls, whoever looks learns at least what was acknowledged."""
    verdict = explore(case)
    assert verdict.broken is None, str(verdict)


@each(MUTATIONS)
def test_a_mutation_is_caught(case: Case) -> None:
    """Without this piece of the protocol something acknowledged is missed, and the shortest way there is found."""
    verdict = explore(case)
    assert verdict.broken is case.expect, str(verdict)
    assert verdict.path


@each(REDUNDANT)
def test_one_half_of_the_fence_covers_for_the_other(case: Case) -> None:
    """The replication id and the loaded script are each enough here: a mistake about one of them is survived."""
    verdict = explore(case)
    assert verdict.broken is None, str(verdict)


@each(LIMITS)
def test_a_known_limit(case: Case) -> None:
    """What the protocol does not cover is known, and how it happens; once it is covered, this says so."""
    verdict = explore(case)
    assert verdict.broken is case.expect, str(verdict)
