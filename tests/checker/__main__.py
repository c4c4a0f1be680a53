"""``python -m tests.checker [--minutes M | --seconds S] [--seed N] [--mutant NAME]``.

A long run is many runs of half a minute, each with servers and a seed of its own, counted up from the first. Ends
with 3 at the first one that breaks the promise, and says how to repeat it: the same seed has the same faults at the
same times, and every process makes the same choices. Which calls are under way when a fault strikes is not in it.
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
from tests.checker.run import Outcome, Wishes, run, total
from tests.checker.schedule import Plan
from tests.support.dynamodb_local import DIRECTORY_VARIABLE, INSTALL_HINT, DynamoLocal

ONE_RUN = 30.0


def main() -> int:
    """Run until the time is over; the exit code."""
    arguments = _arguments()
    left = arguments.seconds if arguments.minutes is None else 60 * arguments.minutes
    until = time.monotonic() + left
    wishes, directed = _wishes(arguments)
    _no_configuration()
    outcomes: list[Outcome] = []
    while not outcomes or (time.monotonic() < until and not outcomes[-1].violations):
        seconds = min(ONE_RUN, left)
        plan = replace(Plan(arguments.seed + len(outcomes), seconds), **directed)
        directory = Path(tempfile.mkdtemp(prefix="saltctl-checker-"))
        outcomes.append(run(plan, directory, wishes))
        if outcomes[-1].violations:
            sys.stderr.write(f"the promise was broken; what everybody saw is in {directory / 'logs'}\n")
            sys.stderr.write(f"the same faults again: {_again(arguments, plan)}\n")
        else:
            shutil.rmtree(directory)
        _say(outcomes[-1], as_json=arguments.json)
    if arguments.minutes is not None:
        sys.stdout.write(json.dumps({"runs": len(outcomes), **total(outcomes)}, indent=2) + "\n")
    return 3 if outcomes[-1].violations else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.checker", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="the schedule of faults and every process's choices")
    parser.add_argument("--seconds", type=float, default=ONE_RUN, help="of one short run")
    parser.add_argument("--minutes", type=float, help="of a long run")
    parser.add_argument("--engine", choices=("valkey", "redis"), default="valkey", help="redis: redis-server on PATH")
    parser.add_argument(
        "--dynamodb", action="store_true", help=f"DynamoDB Local, by {DIRECTORY_VARIABLE}, instead of moto"
    )
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with the protocol broken so, which has to show")
    parser.add_argument("--directed", action="store_true", help="with the faults that show the mutant soonest")
    parser.add_argument("--json", action="store_true", help="the outcome of each run as one line of JSON")
    return parser.parse_args()


def _again(arguments: argparse.Namespace, plan: Plan) -> str:
    """The command that repeats one run, as far as it can be repeated."""
    command = f"python -m tests.checker --seed {plan.seed} --seconds {plan.seconds:g}"
    command += f" --engine {arguments.engine}" + (" --dynamodb" if arguments.dynamodb else "")
    if arguments.mutant:
        command += f" --mutant {arguments.mutant}" + (" --directed" if arguments.directed else "")
    return command


def _wishes(arguments: argparse.Namespace) -> tuple[Wishes, dict[str, Any]]:
    wishes = Wishes()
    if arguments.engine == "redis":
        found = shutil.which("redis-server")
        if found is None:
            sys.exit("redis-server is not installed")
        wishes = replace(wishes, binary=Path(found))
    if arguments.dynamodb:
        emulator = DynamoLocal.find(os.environ.get(DIRECTORY_VARIABLE))
        if emulator is None:
            sys.exit(INSTALL_HINT)
        wishes = replace(wishes, dynamodb=emulator)
    if arguments.mutant is None:
        return wishes, {}
    mutant = MUTANTS[arguments.mutant]
    wishes = replace(wishes, parts=mutant.parts, until_lost=True)
    return wishes, dict(mutant.directed) if arguments.directed else {}


def _no_configuration() -> None:
    """Nothing that whoever runs this has configured counts, and no credentials of theirs are used."""
    harmless = without_server_settings(os.environ)
    kept = {name: value for name, value in harmless.items() if not name.startswith("SALTCTL_")}
    os.environ.clear()
    os.environ.update(kept | dummy_credentials())
    nowhere = "/nonexistent"
    os.environ.update(AWS_CONFIG_FILE=nowhere, AWS_SHARED_CREDENTIALS_FILE=nowhere, XDG_CONFIG_HOME=nowhere)
    preload_boto3()


def _say(outcome: Outcome, *, as_json: bool) -> None:
    shown = outcome.as_json()
    if as_json:
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        sys.stdout.write(f"seed {outcome.seed}, {outcome.seconds:g} s: {len(outcome.violations)} violations\n")
        sys.stdout.write(f"  operations: {_counts(outcome.operations)}\n  faults: {_counts(outcome.faults)}\n")
        for violation in outcome.violations[:10]:
            sys.stdout.write(f"  {violation.check} in {violation.conversation}: {violation.text}\n")
    sys.stdout.flush()


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


if __name__ == "__main__":
    sys.exit(main())
