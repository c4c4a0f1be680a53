"""A little of the fuzzing each time; ``python -m tests.fuzz`` does as much as there is time for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from tests.fuzz.__main__ import fuzz
from tests.fuzz.entry_points import ENTRY_POINTS
from tests.fuzz.world import Outcome, World, check_output

INPUTS = 40


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Servers for all of it."""
    with World() as started:
        yield started


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_hostile_input_is_answered_as_documented(world: World, name: str) -> None:
    """No defect, no raw character, no secret, a documented exit code, whatever is fed to an entry point."""
    assert fuzz(world, ENTRY_POINTS[name], INPUTS, first=1) >= INPUTS


@pytest.mark.parametrize(
    ("out", "err", "code"),
    [
        ("\x1b[2J", "", 0),
        ("", "\u202e", 0),
        ("", "Traceback (most recent call last)", 0),
        ("password Tr0ub4dor-and-3", "", 0),
        ("{", "", 0),
        ("", "", 6),
        ("", '{"error": {"exit_code": 2}}', 6),
    ],
)
def test_what_must_not_be_printed_is_noticed(out: str, err: str, code: int) -> None:
    """The check of outputs fails where it has to: a fuzzer that cannot fail shows nothing."""
    with pytest.raises((AssertionError, ValueError)):
        check_output(Outcome(("registry", "get", "-o", "json"), code, out, err))


def test_a_wrong_exit_code_is_noticed(world: World) -> None:
    """So does the check of exit codes, and the fuzzer with it."""

    def strict(world: World, data: st.DataObject) -> None:
        data.draw(st.booleans())
        world.checked(["registry", "get", "a#1"], {0})

    with pytest.raises(AssertionError, match="exit 6"):
        fuzz(world, strict, 5, first=1)
