"""``saltctl drill``: its verdict is its exit code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saltctl.local import drills
from saltctl.local.drills.drill import Drill, Step
from tests.cli.conftest import Runner


@pytest.fixture
def small_drills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two drills that need no servers: one that passes and one that does not."""

    def passes() -> Iterator[Step]:
        yield Step("water is wet", True, "measured: 1 of 1")

    def fails() -> Iterator[Step]:
        yield Step("water is wet", True)
        yield Step("\x1b[31mfire is cold", False, "it was not")

    monkeypatch.setattr(drills, "DRILLS", {"good": Drill("good", "one", passes), "bad": Drill("bad", "two", fails)})


def test_a_failed_step_is_exit_3(saltctl: Runner, small_drills: None) -> None:
    """One step that is not ok fails its scenario and the whole."""
    outcome = saltctl("drill", "-o", "json")
    assert outcome.code == 3
    assert outcome.json["passed"] is False
    assert [scenario["passed"] for scenario in outcome.json["scenarios"]] == [True, False]
    assert outcome.json["scenarios"][1]["steps"][1]["detail"] == "it was not"


def test_named_drills_run_alone(saltctl: Runner, small_drills: None) -> None:
    """Only the drills that were named run, each once."""
    outcome = saltctl("drill", "good", "good", "-o", "json")
    assert outcome.code == 0
    assert [scenario["name"] for scenario in outcome.json["scenarios"]] == ["good"]


def test_people_see_each_step(saltctl: Runner, small_drills: None) -> None:
    """The table shows every step with its figures and a verdict, and nothing raw."""
    outcome = saltctl("drill", "-o", "table")
    assert "water is wet" in outcome.out
    assert "measured: 1 of 1" in outcome.out
    assert "FAILED: bad" in outcome.out
    assert "\x1b[31mfire" not in outcome.out


def test_an_unknown_drill_is_a_usage_error(saltctl: Runner) -> None:
    """An unknown name is exit 2, with the command that lists the drills."""
    outcome = saltctl("drill", "no-such", "-o", "json")
    assert outcome.code == 2
    assert outcome.error["hint"] == "saltctl drill --list"
