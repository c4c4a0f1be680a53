"""A short fuzzing run; ``python -m tests.fuzz`` is the long one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from tests.fuzz.__main__ import fuzz
from tests.fuzz.command_runner import CommandRunner, Outcome, check_output
from tests.fuzz.entry_points import ENTRY_POINTS

INPUTS, MANY_INPUTS = 14, 40


@pytest.fixture(scope="module")
def runner() -> Iterator[CommandRunner]:
    """Servers for all tests of this module."""
    with CommandRunner() as started:
        yield started


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_much_hostile_input_is_answered_as_documented(runner: CommandRunner, name: str) -> None:
    """The same with about three times as many inputs, for which an everyday run has no time."""
    assert fuzz(runner, ENTRY_POINTS[name], MANY_INPUTS, first=1) >= MANY_INPUTS


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_hostile_input_is_answered_as_documented(runner: CommandRunner, name: str) -> None:
    """Every input leads to a documented exit code, without an internal error, a raw character or a secret."""
    assert fuzz(runner, ENTRY_POINTS[name], INPUTS, first=1) >= INPUTS


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
def test_forbidden_output_is_found(out: str, err: str, code: int) -> None:
    """The check of outputs fails for each kind of forbidden output."""
    with pytest.raises((AssertionError, ValueError)):
        check_output(Outcome(("registry", "get", "-o", "json"), code, out, err))


@pytest.mark.slow
def test_a_wrong_exit_code_is_found(runner: CommandRunner) -> None:
    """The fuzzer fails if a command exits with an undocumented code."""

    def strict(runner: CommandRunner, data: st.DataObject) -> None:
        data.draw(st.booleans())
        runner.run_checked(["registry", "get", "a#1"], {0})

    with pytest.raises(AssertionError, match="exit 6"):
        fuzz(runner, strict, 5, first=1)
