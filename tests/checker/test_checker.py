"""The checker: a short run with every kind of fault, which must pass, and runs with mutants, which must fail.

Each run is a process with the documented command. A failed run prints its seed. The same seed gives the same faults
at the same times and the same choices of every process. The calls in progress when a fault is injected may differ.
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
from tests.checker.run import LOSSES
from tests.checker.schedule import FAULTS, PAIR_FAULTS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SEED = 2
SECONDS = 18


def run_checker(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the outcome of the last run, and the standard error output."""
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
    """Every kind of fault occurs, raisers, rebuilds and services are killed, and the promise holds."""
    code, outcome, stderr = run_checker(tmp_path, "--seed", str(SEED), "--seconds", str(SECONDS))
    print(json.dumps({name: value for name, value in outcome.items() if name != "violations"}, indent=2))  # noqa: T201  to show the counts of a failed test
    assert (code, outcome["violations"]) == (0, []), stderr
    assert set(outcome["faults"]) == set(PAIR_FAULTS), outcome["faults"]
    assert all(
        outcome["operations"][kind] for kind in ("puts", "reads", "lookups", "raises", "raises, maybe", "samples")
    )
    assert {"narrowed", "sealed"} <= set(outcome["cooling"])
    assert outcome["raisers_killed"]
    assert outcome["services"]["killed"]
    assert outcome["forks"]
    assert outcome["cancelled"]
    assert outcome["rebuilds"]["completed"]
    assert set(outcome["losses"]) == {"table", "table and Redis"}
    assert any(result.startswith("completed") for result in outcome["recoveries"])


@pytest.mark.timeout(300)
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MUTANTS)
def test_the_checker_can_fail(tmp_path: Path, name: str) -> None:
    """With a broken protocol, the checker finds a lost message or raise: within seconds, on an idle machine."""
    code, outcome, stderr = run_checker(tmp_path, "--mutant", name, "--directed", "--seconds", "180")
    assert code == 3, outcome
    assert set(LOSSES) & {violation["check"] for violation in outcome["violations"]}
    assert f"repeat the faults: python -m tests.checker --seed {outcome['seed']}" in stderr


@pytest.mark.timeout(300)
@pytest.mark.exhaustive
@pytest.mark.parametrize("topology", ["cluster", "sentinel"])
def test_servers_that_fail_over_on_their_own_keep_the_promise(tmp_path: Path, topology: str) -> None:
    """Every kind of fault that they can have occurs."""
    code, outcome, stderr = run_checker(tmp_path, "--topology", topology, "--seed", str(SEED), "--seconds", "45")
    assert (code, outcome["violations"]) == (0, []), stderr
    assert set(outcome["faults"]) == set(FAULTS[topology]), outcome["faults"]
    assert outcome["operations"]["puts"]
    assert outcome["rebuilds"]["completed"]


@pytest.mark.timeout(300)
@pytest.mark.exhaustive
@pytest.mark.parametrize("topology", ["cluster", "sentinel"])
def test_the_checker_can_fail_there(tmp_path: Path, topology: str) -> None:
    """Lookups that trust a Redis without a fence lose a message."""
    arguments = ("--topology", topology, "--mutant", "no-fence", "--directed", "--seconds", "180")
    code, outcome, _ = run_checker(tmp_path, *arguments)
    assert code == 3, outcome
