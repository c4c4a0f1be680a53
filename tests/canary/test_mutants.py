"""In a local environment in trouble the canary finds each mutant of the checker, and raises no alarm without one."""

from __future__ import annotations

import logging
import time

import pytest

from saltctl.canary.canary import Canary
from saltctl.canary.report import CHECK_NAMES, CanaryReport
from saltctl.errors import SaltctlError
from saltctl.testing import local_environment
from tests.canary.memory import failed, judged
from tests.canary.trouble import Trouble
from tests.checker.mutants import MUTANTS, REAL

ROUNDS = 15
"""Rounds within which a mutant is found: about a minute on an idle machine."""
LOST_TABLES = {"trusts-any-table", "recovery-skips-messages"}
IN_THE_GATE = {"no-fence", "overwriting-rebuild"}
logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_THE_GATE else pytest.mark.exhaustive) for name in MUTANTS]
)
def test_a_mutant_is_found(name: str) -> None:
    """The report names the conversation and the messages; how long it took is logged."""
    with local_environment() as environment:
        trouble = Trouble(environment, MUTANTS[name].classes, name in LOST_TABLES)
        trouble.rebuild()
        with (
            trouble.going_on(),
            Canary.open(trouble.settings, classes=MUTANTS[name].classes, allow_cooling=True) as canary,
        ):
            began, found, number = time.monotonic(), list[str](), 0
            while number < ROUNDS and not found:
                try:
                    report = canary.run()
                except SaltctlError:  # the table is lost
                    time.sleep(0.5)
                else:
                    found, number = failed([report]), number + 1
            seconds = time.monotonic() - began
            logger.warning("%s: round %d, %.1f s, %d kills: %s", name, number, seconds, trouble.kills, found)
    assert found


@pytest.mark.exhaustive
def test_the_real_classes_raise_no_alarm() -> None:
    """For a minute and at least as many rounds, with two canaries; every check is judged at some time."""
    with local_environment() as environment:
        trouble = Trouble(environment, REAL)
        trouble.rebuild()
        with (
            trouble.going_on(),
            Canary.open(trouble.settings, allow_cooling=True) as canary,
            Canary.open(trouble.settings, allow_cooling=True) as other,
        ):
            deadline, reports = time.monotonic() + 60.0, list[CanaryReport]()
            while time.monotonic() < deadline or len(reports) < ROUNDS:
                reports += [canary.run(), other.run()]
        logger.warning("%d rounds, %d kills, %d rebuilds", len(reports), trouble.kills, trouble.rebuilds)
    assert failed(reports) == []
    assert judged(reports) == set(CHECK_NAMES)
    assert trouble.kills
