"""``python -m tests.checker [--minutes M | --seconds S] [--seed N] [--topology NAME] [--mutant NAME]``.

A long run consists of runs of half a minute. Each has its own servers and its own seed, counted up from the first.
The program exits with 3 at the first run that breaks the promise, and prints the command that repeats it. The same
seed gives the same faults at the same times and the same choices of every process. The calls in progress when a
fault is injected may differ.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from saltctl.local.servers import dummy_credentials, without_server_settings
from saltctl.stores.aws.client import preload_boto3
from tests.checker.mutants import MUTANTS
from tests.checker.run import Outcome, RunOptions, run, total
from tests.checker.schedule import FAULTS, Plan
from tests.support.dynamodb_local import DIRECTORY_VARIABLE, INSTALL_HINT, DynamoLocal

ONE_RUN = 30.0
GROUP_FAULT_INTERVAL = 2.5
"""Seconds between faults of servers that fail over on their own, since that takes them a few seconds."""


def main() -> int:
    """Run until the time is over, and return the exit code."""
    arguments = _arguments()
    left = arguments.seconds if arguments.minutes is None else 60 * arguments.minutes
    until = time.monotonic() + left
    options, directed = _options(arguments)
    _remove_configuration()
    outcomes: list[Outcome] = []
    while not outcomes or (time.monotonic() < until and not outcomes[-1].violations):
        seconds = min(ONE_RUN, left)
        plan = Plan(arguments.seed + len(outcomes), seconds, FAULTS[options.topology])
        if options.topology != "pair":
            plan = replace(plan, fault_interval=GROUP_FAULT_INTERVAL)
        plan = replace(plan, **directed)
        directory = Path(tempfile.mkdtemp(prefix="saltctl-checker-"))
        outcomes.append(run(plan, directory, options))
        if outcomes[-1].violations:
            sys.stderr.write(f"the promise was broken; logs: {directory / 'logs'}\n")
            sys.stderr.write(f"repeat the faults: {_repeat_command(arguments, plan)}\n")
        else:
            shutil.rmtree(directory)
        _print_outcome(outcomes[-1], as_json=arguments.json)
    if arguments.minutes is not None:
        sys.stdout.write(json.dumps({"runs": len(outcomes), **total(outcomes)}, indent=2) + "\n")
    return 3 if outcomes[-1].violations else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.checker", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the faults and of every process's choices")
    parser.add_argument("--seconds", type=float, default=ONE_RUN, help="duration of one short run")
    parser.add_argument("--minutes", type=float, help="duration of a long run")
    parser.add_argument(
        "--engine", choices=("valkey", "redis"), default="valkey", help="redis is the redis-server on PATH"
    )
    parser.add_argument("--topology", choices=sorted(FAULTS), default="pair", help="how the Redis servers are arranged")
    parser.add_argument(
        "--dynamodb",
        action="store_true",
        help=f"use DynamoDB Local, from the directory in {DIRECTORY_VARIABLE}, instead of moto",
    )
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break the protocol in this way; the run must fail")
    parser.add_argument("--directed", action="store_true", help="use the faults that show the mutant fastest")
    parser.add_argument("--json", action="store_true", help="print the outcome of each run as one line of JSON")
    return parser.parse_args()


def _repeat_command(arguments: argparse.Namespace, plan: Plan) -> str:
    """Return the command that repeats the faults of one run."""
    command = f"python -m tests.checker --seed {plan.seed} --seconds {plan.seconds:g}"
    command += f" --engine {arguments.engine} --topology {arguments.topology}"
    command += " --dynamodb" if arguments.dynamodb else ""
    if arguments.mutant:
        command += f" --mutant {arguments.mutant}" + (" --directed" if arguments.directed else "")
    return command


def _options(arguments: argparse.Namespace) -> tuple[RunOptions, dict[str, Any]]:
    """Return the options of the run, and the values of its plan that differ from the defaults."""
    options = RunOptions(arguments.topology)
    if arguments.engine == "redis":
        found = shutil.which("redis-server")
        if found is None:
            sys.exit("redis-server is not installed")
        options = replace(options, binary=Path(found))
    if arguments.dynamodb:
        emulator = DynamoLocal.find(os.environ.get(DIRECTORY_VARIABLE))
        if emulator is None:
            sys.exit(INSTALL_HINT)
        options = replace(options, dynamodb=emulator)
    if arguments.mutant is None:
        return options, {}
    mutant = MUTANTS[arguments.mutant]
    options = replace(options, classes=mutant.classes, stop_at_loss=True)
    return options, dict(mutant.directed) if arguments.directed else {}


def _remove_configuration() -> None:
    """Remove the user's configuration and credentials from the environment."""
    environment = without_server_settings(os.environ)
    kept = {name: value for name, value in environment.items() if not name.startswith("SALTCTL_")}
    os.environ.clear()
    os.environ.update(kept | dummy_credentials())
    missing = "/nonexistent"
    os.environ.update(AWS_CONFIG_FILE=missing, AWS_SHARED_CREDENTIALS_FILE=missing, XDG_CONFIG_HOME=missing)
    preload_boto3()


def _print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(outcome.as_json()) + "\n")
    else:
        sys.stdout.write(f"seed {outcome.seed}, {outcome.seconds:g} s: {len(outcome.violations)} violations\n")
        sys.stdout.write(f"  operations: {_counts(outcome.operations)}\n  faults: {_counts(outcome.faults)}\n")
        sys.stdout.write(f"  cooling: {_counts(outcome.cooling)}\n")
        for violation in outcome.violations[:10]:
            sys.stdout.write(f"  {violation.check} in {violation.conversation}: {violation.message}\n")
    sys.stdout.flush()


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


if __name__ == "__main__":
    sys.exit(main())
