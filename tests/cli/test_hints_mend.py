"""Each kind of hint in its situation, in this process: it is printed, pasted, and what failed succeeds.

Every command that the source writes into a hint is in a situation, or its reason is in ``hint_places.py``.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from saltctl.commands import is_command
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from tests.cli.conftest import Outcome, Runner
from tests.cli.hint_cases import CASES, CONVERSATION, Case, World, create_messages, nothing
from tests.cli.hint_places import NOT_RUN_HERE
from tests.cli.test_hints import LINES, PACKAGE, VALUE
from tests.support import Rebuilder
from tests.support.redis_servers import plain_client


@pytest.fixture
def world(
    configured: Settings,
    registry: Registry,
    rebuild: Rebuilder,
    backup: BackupTable,
    redis_server: LocalRedis,
    saltctl: Runner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[World]:
    """A registry of the test's own."""
    monkeypatch.chdir(tmp_path)
    registry.raise_to(CONVERSATION, 4)
    rebuild()
    with plain_client(redis_server) as client:
        client.xgroup_create("salt:heat", "saltctl", mkstream=True)
        yield World(configured, client, backup, registry, saltctl, monkeypatch.setenv)


def paste(world: World, line: str) -> Outcome:
    """Run a line as a shell does. saltctl runs in this process, and variables are those of this process."""
    done = Outcome(0, "", "")
    for part in line.split(" && "):
        command, _, file = part.partition(" > ")
        words = shlex.split(command)
        if words[0] == "export":
            for assignment in words[1:]:
                world.setenv(*assignment.split("=", 1))
        elif words[0] == "unset":
            for name in words[1:]:
                os.environ.pop(name, None)
        elif words[0] == "saltctl":
            done = world.saltctl(*words[1:])
        else:
            shell = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
            done = Outcome(shell.returncode, shell.stdout, shell.stderr)
        if file:
            Path(file).write_text(done.out)
        if done.code:
            break
    return done


def printed(outcome: Outcome) -> list[str]:
    """Return the commands that a command printed: as hints, and at the end of a note or a warning."""
    lines = outcome.err.splitlines()
    noted = [line.rpartition(": ")[2] for line in lines if ": saltctl " in line]
    return [line.removeprefix("  try: ") for line in lines if line.startswith("  try: ")] + noted


def follow(world: World, hint: str) -> Outcome:
    """Paste a hint. If it is refused until it is confirmed, paste what it says then."""
    done = paste(world, hint)
    confirmed = next((line for line in printed(done) if line == f"{hint} --yes"), "")
    return paste(world, confirmed) if confirmed else done


MEANT = [case for case in CASES if case.code == 2 and not case.then and case.broken in (nothing, create_messages)]
"""Cases that change nothing: the hint is the command that was meant."""
BROKEN = [case for case in CASES if case not in MEANT]


def check(world: World, case: Case) -> None:
    """Assert that a command fails and prints the hint, and that what failed succeeds after it."""
    hint = case.hint.format(id=world.backup.registry.layout()[2]) if "{id}" in case.hint else case.hint
    failed = paste(world, case.command)
    assert failed.code == case.code, (case, failed)
    hint = next((line for line in printed(failed) if line == hint or (hint[-1] == " " and line.startswith(hint))), "")
    assert hint, (case, failed)
    case.mend(world)
    done = follow(world, hint)
    assert done.code == case.hint_code, (case, done)
    then = case.then or case.command
    if then != "true" and (case.code != 2 or case.then):
        again = paste(world, then)
        assert again.code == 0, (case, again)


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.place} {case.hint}")
def test_the_hint_mends_it(world: World, case: Case) -> None:
    """After the hint, and what its sentence says, what failed succeeds."""
    case.broken(world)
    check(world, case)


@pytest.mark.slow
def test_the_hint_is_the_command_that_was_meant(world: World) -> None:
    """Each in the same registry, since they change nothing."""
    create_messages(world)
    for case in MEANT:
        check(world, case)


BUILDERS = ("command_line", "rerun_hint", "rerun_with", "rerun_without")
"""Functions that build commands of words, which are not in the source as a text."""


def built() -> Iterator[str]:
    """Yield ``file:function`` of each function that builds a command for a hint."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                functions = node.body if isinstance(node, ast.ClassDef) else [node]
                for function in functions:
                    calls = [ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)]
                    if isinstance(function, ast.FunctionDef) and {*BUILDERS} & {*calls}:
                        yield f"{file.relative_to(PACKAGE)}:{function.name}"


def is_run(place: str, line: str) -> bool:
    """Return whether a case prints and pastes this line of this file. VALUE stands for any text."""
    pattern = re.escape(line).replace(VALUE, ".+")
    return any(case.place == place and re.fullmatch(pattern, case.hint) for case in CASES)


def test_every_hint_has_its_situation_or_a_reason() -> None:
    """A new hint needs a case. A reason for a hint that is gone, or that a case runs, is refused, too.

    Commands of the AWS CLI need AWS: test_hints.py holds them against botocore's models.
    """
    written = {f"{place.rpartition(':')[0]} | {line}" for place, line in LINES if is_command(line)}
    left = {key for key in written if " | aws " not in key and not is_run(*key.split(" | ", 1))}
    left |= {place for place in built() if not any(case.place == place for case in CASES)}
    assert sorted(left) == sorted(NOT_RUN_HERE)
    assert {case.place for case in CASES} <= {key.split(" | ")[0] for key in written} | set(built())
