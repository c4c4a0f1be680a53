"""``saltctl drill``: its verdict is its exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import typer

from saltctl.cli.local.drill import run_drills
from saltctl.cli.output import OutputFormat
from saltctl.local.drills.drill import Drill, Step
from tests.cli.conftest import Runner


def passes() -> Iterator[Step]:
    """One step that is ok."""
    yield Step("water is wet", True, "measured: 1 of 1")


def fails() -> Iterator[Step]:
    """One step that is ok, and one that is not."""
    yield Step("water is wet", True)
    yield Step("\x1b[31mfire is cold", False, "it was not")


DRILLS = {"good": Drill("good", "one", passes), "bad": Drill("bad", "two", fails)}
"""Drills that need no servers."""


def test_a_failed_step_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    """One step that is not ok fails its scenario and the whole."""
    with pytest.raises(typer.Exit) as exit_:
        run_drills(DRILLS, None, "json")
    assert exit_.value.exit_code == 3
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is False
    assert [scenario["passed"] for scenario in result["scenarios"]] == [True, False]
    assert result["scenarios"][1]["steps"][1]["detail"] == "it was not"


def test_named_drills_run_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the drills that were named run, each once."""
    run_drills(DRILLS, ["good", "good"], "json")
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert [scenario["name"] for scenario in result["scenarios"]] == ["good"]


@pytest.mark.parametrize("chosen", ["table", None])
def test_people_see_each_step(chosen: OutputFormat | None, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, also the default in a pipe, shows every step with its figures and a verdict, and nothing raw."""
    with pytest.raises(typer.Exit):
        run_drills(DRILLS, None, chosen)
    out, err = capsys.readouterr()
    assert err == ""
    assert "water is wet" in out
    assert "measured: 1 of 1" in out
    assert "FAILED: bad" in out
    assert "\x1b[31mfire" not in out


def test_an_unknown_drill_is_a_usage_error(saltctl: Runner) -> None:
    """An unknown name is exit 2, with the command that lists the drills."""
    outcome = saltctl("drill", "no-such", "-o", "json")
    assert outcome.code == 2
    assert outcome.error["hint"] == "saltctl drill --list"
