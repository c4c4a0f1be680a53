"""The history checker: a short run of the real thing, in which every kind of fault occurs, and runs that must fail.

Each run is the command that the README names, in a process of its own. A run that fails says its seed, and the same
seed has the same faults at the same times and the same choices of every process. What the machine does is not in
it: which call was under way when a fault struck differs from run to run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checker.mutants import MUTANTS
from tests.checker.schedule import Fault

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SEED = 4
SECONDS = 18


def run_checker(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the outcome of the last run, and what was said on stderr."""
    command = [sys.executable, "-W", "error", "-m", "tests.checker", "--json", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.timeout(300)
def test_no_fault_breaks_the_promise(tmp_path: Path) -> None:
    """Every kind of fault, raisers and rebuilds and services killed, and nothing lost, invented, doubled or lowered."""
    code, outcome, said = run_checker(tmp_path, "--seed", str(SEED), "--seconds", str(SECONDS))
    print(json.dumps({name: value for name, value in outcome.items() if name != "violations"}, indent=2))  # noqa: T201  its figures are wanted
    assert (code, outcome["violations"]) == (0, []), said
    assert set(outcome["faults"]) == set(Fault), outcome["faults"]
    assert all(
        outcome["operations"][kind] for kind in ("puts", "reads", "lookups", "raises", "raises, maybe", "samples")
    )
    assert outcome["raisers_killed"]
    assert outcome["services"]["killed"]
    assert outcome["rebuilds"]["completed"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_checker_can_fail(tmp_path: Path, name: str) -> None:
    """With one piece of the protocol left out, the checker finds a lost message or raise within seconds."""
    code, outcome, said = run_checker(tmp_path, "--mutant", name, "--directed", "--seconds", "60")
    assert code == 3, outcome
    assert {"missing", "lost raise"} & {violation["check"] for violation in outcome["violations"]}
    assert f"the same faults again: python -m tests.checker --seed {outcome['seed']}" in said
