"""Runs the tests of a target on copies of the tree, in which one file is mutated at a time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.mutant import Mutant
from tests.mutation.targets import ROOT, Target
from tests.support.dynamodb_local import DIRECTORY_VARIABLE

STAGES = ("not slow and not long", "slow and not long")
"""The fast tests first: they notice most mutants."""
SHORTEST_TIMEOUT = 30.0
_NO_TESTS = 5
_FIRST_FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class BaselineError(Exception):
    """The tests of a target fail without a mutation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the tests took a mutant: the test that failed, ``timeout``, or an empty string if all of them passed."""

    mutant: Mutant
    killed_by: str


class Copy:
    """A copy of the tree. Each file that is written gets a time of its own, so that no old bytecode is used for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._written = time.time()
        for name in ("saltctl", "tests", "completions"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
            shutil.copy(ROOT / name, directory / name)

    def write(self, path: str, source: str) -> None:
        """Replace a file."""
        file = self.directory / path
        file.write_text(source, encoding="utf-8")
        self._written += 2
        os.utime(file, (self._written, self._written))

    def test(self, target: Target, stage: str, timeout: float) -> str:
        """Run the tests of a stage; return the first that failed, ``timeout``, or an empty string."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command += ["--hypothesis-seed=0", "-m", stage, "-k", target.expression, *target.tests]
        environment = {name: value for name, value in os.environ.items() if name != DIRECTORY_VARIABLE}
        with subprocess.Popen(
            command,
            cwd=self.directory,
            env=environment | {"PYTHONPATH": str(self.directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                return "timeout"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # also the servers of the tests
        if process.returncode in (0, _NO_TESTS):
            return ""
        failed = _FIRST_FAILURE.search(output)
        return failed[1] if failed else output[-200:].strip() or f"exit code {process.returncode}"


def run(target: Target, mutants: list[Mutant], copies: list[Copy], stages: Sequence[str]) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the mutants. Raises BaselineError."""
    timeouts = {}
    for stage in stages:
        started = time.monotonic()
        if failed := copies[0].test(target, stage, 600):
            raise BaselineError(f"the tests of {target.path} fail without a mutation: {failed}")
        timeouts[stage] = max(4 * (time.monotonic() - started), SHORTEST_TIMEOUT)
    free: SimpleQueue[Copy] = SimpleQueue()
    for one in copies:
        free.put(one)
    with ThreadPoolExecutor(len(copies)) as pool:
        yield from pool.map(partial(_try, target, timeouts, free), mutants)


def _try(target: Target, timeouts: dict[str, float], free: SimpleQueue[Copy], mutant: Mutant) -> Outcome:
    copy = free.get()
    try:
        copy.write(mutant.path, mutant.source)
        for stage, timeout in timeouts.items():
            if killed_by := copy.test(target, stage, timeout):
                return Outcome(mutant, killed_by)
        return Outcome(mutant, "")
    finally:
        copy.write(mutant.path, (ROOT / mutant.path).read_text(encoding="utf-8"))
        free.put(copy)
