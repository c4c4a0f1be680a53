"""The start of a command, compared with the import of its libraries."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from saltctl import __version__
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_most, times
from tests.benchmarks.servers import child_environment

BARE, TYPER, CLIENTS, VERSION, GET = (
    "python: pass",
    "python: import typer",
    "python: typer, redis, a DynamoDB client",
    "saltctl --version",
    "saltctl registry get",
)
GOALS = {VERSION: (TYPER, 1.4), GET: (CLIENTS, 1.2)}
_MAKE_CLIENTS = "import typer, redis, boto3; boto3.client('dynamodb')"
CONVERSATION, MAX_N = "conv_hot_01", 2


@dataclass(frozen=True, slots=True)
class StartupResult:
    """The seconds of every run, by command, and the entry that ``registry get`` printed."""

    seconds: dict[str, list[float]]
    printed: Mapping[str, object]

    def tables(self) -> list[Table]:
        """Return the table."""
        rows = []
        for name, figures in self.seconds.items():
            floor, bound = GOALS.get(name, ("", 0.0))
            ratio = median_ratio(figures, self.seconds[floor]) if floor else 0.0
            rows.append(
                (
                    name,
                    f"{median(figures) * 1e3:.0f}",
                    f"{min(figures) * 1e3:.0f}",
                    f"{ratio:.2f}" if floor else "",
                    at_most(ratio, bound) if floor else "",
                )
            )
        return [
            Table(
                "startup",
                ("", "median ms", "best ms", "x floor", "goal"),
                rows,
                (
                    f"{times(len(self.seconds[BARE]), 'round')} in turn. The floors: import typer; import typer, "
                    "redis, boto3 and make a DynamoDB client. registry get reads the backup as well as Redis.",
                ),
            )
        ]


def run(*, quick: bool = False) -> StartupResult:
    """Run the benchmark in a local environment.

    Raises:
        WrongResultError: a command failed, or its output was wrong.
    """
    with tempfile.TemporaryDirectory(prefix="saltctl-benchmark-") as directory, LocalEnvironment() as environment:
        environment.rebuild()
        with Registry.open(environment.settings) as registry:
            registry.raise_to(CONVERSATION, MAX_N, reason="benchmark")
        variables = child_environment() | environment.variables()
        commands = _commands()
        if not quick:
            # Every contender has its byte code in a cache, outside the source tree.
            variables.pop("PYTHONDONTWRITEBYTECODE", None)
            variables["PYTHONPYCACHEPREFIX"] = directory
            for command in commands.values():
                _run(command, variables)
        printed = json.loads(_run(commands[GET], variables))
        record = printed[0] if isinstance(printed, list) else printed
        version = _run(commands[VERSION], variables).strip()
        if version != f"saltctl {__version__}" or (record["max_n"], record["source"]) != (MAX_N, "redis"):
            raise WrongResultError(f"the commands printed {version!r} and {record!r}")

        def timed(command: Sequence[str]) -> float:
            started = time.perf_counter()
            _run(command, variables)
            return time.perf_counter() - started

        seconds = interleave(
            {name: lambda command=command: timed(command) for name, command in commands.items()},  # type: ignore[misc]
            1 if quick else 15,
        )
    return StartupResult(seconds, record)


def _commands() -> dict[str, list[str]]:
    installed = Path(sys.executable).with_name("saltctl")
    saltctl = [str(installed)] if installed.exists() else [sys.executable, "-m", "saltctl"]
    python = [sys.executable, "-c"]
    return {
        BARE: [*python, "pass"],
        TYPER: [*python, "import typer"],
        VERSION: [*saltctl, "--version"],
        CLIENTS: [*python, _MAKE_CLIENTS],
        GET: [*saltctl, "registry", "get", CONVERSATION, "-o", "json"],
    }


def _run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrongResultError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr}")
    return done.stdout
