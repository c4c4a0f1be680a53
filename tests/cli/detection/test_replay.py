"""``saltctl stream replay``: its table of raises, and how it is resumed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.cli.detection.helpers import HOSTILE, report
from tests.support import Rebuilder
from tests.support.redis_servers import find_engine

pytestmark = pytest.mark.slow


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Every installed server."""
    return find_engine(request.param)


def test_a_replay_shows_its_raises_as_a_table(
    saltctl: Runner, stream: HeatStream, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of them below the counts, hostile ids made harmless."""
    rebuild()
    report(stream, HOSTILE, "conv", writes=3000)
    monkeypatch.setenv("COLUMNS", "80")
    lines = saltctl("stream", "replay", "-o", "table").out.splitlines()
    assert [line.split() for line in lines[-2:]] == [["[/]\\x1b[2Jconv", "1", "4"], ["conv", "1", "4"]]


def test_a_replay_that_ended_early_prints_the_command_that_resumes_it(
    configured: Settings, registry: Registry, rebuild: Rebuilder, saltctl: Runner
) -> None:
    """The command has the end of the range and the rate, and starts with the entry after the last one."""
    rebuild()
    HeatStream(configured).create_group()
    for number in range(5):
        report(HeatStream(configured), f"conv_{number}")
    last = HeatStream(configured).range("-", "+", 4)[-1].id
    read = []
    words = ["stream", "replay", "--from", "1h", "--to", last, "--rate", "100", "--max-events", "1"]
    while words:
        outcome = saltctl(*words, "-o", "json")
        read += [raised["conversation_id"] for raised in outcome.json["raises"]]
        words = shlex.split(outcome.told.partition("to resume: saltctl ")[2])
    assert read == [f"conv_{number}" for number in range(4)]
    assert outcome.code == 0


def test_a_range_that_ends_before_it_begins_is_refused(configured: Settings, saltctl: Runner) -> None:
    """Exit 2: it would be drained without an entry read."""
    outcome = saltctl("stream", "replay", "--from", "1h", "--to", "2h", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (2, "usage")
