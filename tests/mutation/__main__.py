"""``python -m tests.mutation [TEXT]``: mutate the modules that keep the promise, and print what no test notices."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.mutation.run import STAGES, BaselineError, Copy, Outcome, run
from tests.mutation.survivors import known_survivors
from tests.mutation.targets import TARGETS, Target


def main() -> int:
    """Run, and return 0 if every survivor is known, 3 if there are others, 1 if tests fail without a mutation."""
    arguments = _arguments()
    chosen = [target for target in TARGETS if arguments.text in target.path]
    if arguments.list:
        for mutant in (mutant for target in chosen for mutant in target.mutants()):
            _print(f"{mutant.line:>4} {mutant.key}")
        return 0
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="saltctl-mutation-") as directory:
        copies = [Copy(Path(directory) / str(number)) for number in range(arguments.jobs)]
        for target in chosen:
            try:
                outcomes += _run_target(target, copies, arguments)
            except BaselineError as exc:
                _print(str(exc))
                return 1
    if arguments.json:
        with arguments.json.open("w", encoding="utf-8") as file:
            for one in outcomes:
                line = {"key": one.mutant.key, "line": one.mutant.line, "killed_by": one.killed_by}
                file.write(json.dumps(line) + "\n")
    return _summarize(outcomes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("text", nargs="?", default="", help="only modules whose path contains this")
    parser.add_argument("--match", default="", help="only mutants whose name contains this")
    parser.add_argument(
        "--every", type=int, default=1, help="a sample: every second mutant of each module, every third, …"
    )
    parser.add_argument("--jobs", type=int, default=2, help="test runs at the same time; each has its own servers")
    parser.add_argument("--fast", action="store_true", help="run the fast tests alone")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--json", type=Path, help="write the outcome of each mutant to this file")
    return parser.parse_args()


def _run_target(target: Target, copies: list[Copy], arguments: argparse.Namespace) -> list[Outcome]:
    mutants = [mutant for mutant in target.mutants() if arguments.match in mutant.key][:: arguments.every]
    if not mutants:
        return []
    started, known = time.monotonic(), known_survivors()
    outcomes = []
    for outcome in run(target, mutants, copies, STAGES[:1] if arguments.fast else STAGES):
        outcomes.append(outcome)
        if not outcome.killed_by and outcome.mutant.key not in known:
            _print(f"survived in line {outcome.mutant.line}: {outcome.mutant.key}")
    survived = sum(not outcome.killed_by for outcome in outcomes)
    seconds = time.monotonic() - started
    _print(f"{target.path}: {len(outcomes)} mutants, {len(outcomes) - survived} killed, {seconds:.0f} s")
    return outcomes


def _summarize(outcomes: list[Outcome]) -> int:
    known = known_survivors()
    survivors = [outcome.mutant.key for outcome in outcomes if not outcome.killed_by]
    new = [key for key in survivors if key not in known]
    for key in (outcome.mutant.key for outcome in outcomes if outcome.killed_by and outcome.mutant.key in known):
        _print(f"known as a survivor, but killed: {key}")
    killed = len(outcomes) - len(survivors)
    _print(
        f"{len(outcomes)} mutants, {killed} killed, {len(survivors) - len(new)} known survivors, {len(new)} new ones"
    )
    return 3 if new else 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
