"""Every source of failure against every command: the exit code, a hint, and an end while a server stays silent."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import pytest

from saltctl.cli.main import run
from saltctl.errors import ExitCode
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Outcome, seeded_tables
from tests.cli.faults.faults import FAULTS, Fault
from tests.support.exports import row, write_export
from tests.support.forked import Child

TIMES = {
    "redis": {"SALTCTL_LOOKUP_TIMEOUT": "0.1", "SALTCTL_REDIS_TIMEOUT": "0.4"},
    "aws": {"SALTCTL_AWS_TIMEOUT": "0.8", "SALTCTL_PAGE_TIMEOUT": "1.6"},
}
"""The settings of the side that fails. A command sends several requests, one after the other; some are repeated."""
PATIENT = {f"SALTCTL_{name}_TIMEOUT": "20" for name in ("LOOKUP", "REDIS", "AWS", "PAGE")}
"""The settings for a side that answers, with a refusal: on a busy machine it takes its time."""
SECONDS = 40.0
"""Seconds after which a command is taken for one that waits as long as the server is silent."""
Codes = int | Mapping[int, int]
"""The exit code if a side fails: of every failure, or by the failure's own code."""


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        args: the command line.
        redis, aws: its exit codes if this side fails, for commands that answer in part or do not need it. Otherwise
            it ends with the exit code of the failure.
        output: whether it has ``--output``.
    """

    args: tuple[str, ...]
    redis: Codes
    aws: Codes
    output: bool = True

    def expected(self, fault: Fault) -> int:
        """Return the exit code that a fault must have."""
        line = " ".join(self.args)
        for beginning in sorted(fault.but, key=len, reverse=True):
            if line.startswith(beginning):
                return fault.but[beginning]
        codes = self.redis if fault.side == "redis" else self.aws
        return codes if isinstance(codes, int) else codes.get(fault.code, fault.code)


def command(line: str, redis: Codes = MappingProxyType({}), aws: Codes = MappingProxyType({}), **more: bool) -> Command:
    """Make a command from its line and its exit codes without Redis and without AWS."""
    return Command(tuple(line.split()), redis, aws, **more)


COMMANDS = (
    command("setup"),
    command("registry get conv_hot_01", redis={69: 0}, aws={69: 4}),
    command("registry get conv_hot_01 conv_0001", redis={69: 0}, aws={69: 4}),
    command("registry set conv_0001 4 --yes", redis={69: 4}),
    command("registry set conv_0001 4 --dry-run", redis={69: 0}),
    command("registry cool conv_hot_01 --to 1 --yes"),
    command("registry list", redis={69: 0}),
    command("registry list --source backup --timeout 5s", redis=0),
    command("registry export", redis={69: 0}, output=False),
    command("registry discover", redis=0),
    command("registry import {directory}/entries --yes", redis=4),
    command("compare"),
    command("rebuild"),
    command("rebuild --dry-run"),
    command("rebuild --if-needed"),
    command("recover --dry-run"),
    command("history read conv_hot_01", redis=0),
    command("history find conv_hot_12 ma5abd5f5b05b", redis=0),
    command("history audit conv_hot_01", redis=0),
    command("history audit --all --for 1ms --sample-items 0", redis=0),
    command("stream status --window 50ms", aws=3),
    command("stream peek", aws=0),
    command("stream replay --dry-run"),
    command("stream replay"),
    command("stream dead list", aws=0),
    command("service status --window 50ms", aws={69: 4}),
    command("throttle scan", redis=3),
    command("throttle alarms list", redis=0),
    command("status", redis=0, aws=0),
    command("doctor", redis=3, aws=3),
    command("incident", redis=4, aws=4),
    command("heat", redis=4, aws=4),
    command("config show", redis=0, aws=0),
    command("registry discover --from-export {directory}/export", redis=0),
    command("canary --dry-run", redis=0, aws=0),
    command("canary", redis={69: 4}),
)


@pytest.fixture(scope="module")
def environment(moto: LocalMoto) -> Iterator[LocalEnvironment]:
    """A seeded environment of its own: some commands change what the side that works holds."""
    with seeded_tables(moto, "faults") as seeded:
        yield seeded


def run_in_child(args: tuple[str, ...]) -> Outcome:
    """Run a command in a child, which has credentials and connections of its own."""

    def work() -> tuple[int, str, str]:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = run(args)
        return code, out.getvalue(), err.getvalue()

    return Outcome(*Child(work).result(SECONDS))


def report_heat(environment: LocalEnvironment) -> None:
    """Report heat that a replay turns into a raise, so that it needs AWS."""
    with closing(HeatStream(environment.settings)) as stream:
        stream.append_reports([HeatReport("conv_0003", "app", int(time.time()), 100_000)])


def pairs() -> Iterator[object]:
    """Yield each fault with each command; the gate runs one command a fault."""
    for (place, fault), (number, tried) in product(enumerate(FAULTS), enumerate(COMMANDS)):
        every_day = number == place % len(COMMANDS)
        marks = pytest.mark.slow if every_day else (pytest.mark.long, pytest.mark.exhaustive)
        yield pytest.param(fault, tried, marks=marks, id=f"{fault.name}-{' '.join(tried.args)}")


@pytest.mark.parametrize(("fault", "tried"), list(pairs()))
def test_a_fault_has_its_exit_code(
    fault: Fault, tried: Command, environment: LocalEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command ends with the code of the failure, or with its own if it does without this side, and names a remedy."""
    report_heat(environment)
    (tmp_path / "entries").write_text(json.dumps({"conversation_id": f"new-{uuid4().hex}", "max_n": 4}) + "\n")
    write_export(tmp_path / "export", {"a": [row("x", "m")]}, environment.settings.messages_table)
    variables = environment.variables() | (TIMES[fault.side] if fault.code == ExitCode.UNAVAILABLE else PATIENT)
    with fault.setup(tmp_path, environment.moto.url) as more:
        for name, value in (variables | dict(more)).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        args = tuple(arg.format(directory=tmp_path) for arg in tried.args)
        outcome = run_in_child((*args, "-o", "json") if tried.output else args)
    assert outcome.code == tried.expected(fault), outcome
    assert "Traceback" not in outcome.err
    if outcome.code not in (0, 3, 4):
        error = outcome.error if tried.output else {"message": outcome.err, "hint": outcome.err}
        assert fault.error in error["message"] + error["hint"]
        assert error["hint"]
