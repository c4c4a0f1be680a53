"""Each kind of hint in its situation, in this process: it is printed, pasted, and what failed succeeds.

Every command that the source writes into a hint is in a situation, or its reason is in ``hint_places.py``.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from tests.support.aws_cli import check_aws_command
from tests.support.redis_servers import plain_client

PASSWORD = "geheim"  # noqa: S105  of a server that ends with its test
needs_redis_cli = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")


@pytest.fixture
def redis_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis process of the test's own, with a password, which no hint may show."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary, password=PASSWORD)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def world(
    configured: Settings,
    registry: Registry,
    rebuild: Rebuilder,
    backup: BackupTable,
    redis_server: LocalRedis,
    saltctl: Runner,
    hanging_redis: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[World]:
    """A registry of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALTCTL_LOOKUP_TIMEOUT", str(configured.lookup_timeout))
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "16")  # an audit looks no further
    registry.raise_to(CONVERSATION, 4)
    rebuild()
    with plain_client(redis_server) as client:
        client.xgroup_create("salt:heat", "saltctl", mkstream=True)
        yield World(configured, redis_server, client, backup, registry, saltctl, monkeypatch.setenv, hanging_redis)


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
BROKEN = [
    pytest.param(
        case, id=f"{case.place} {case.hint}", marks=needs_redis_cli if case.hint.startswith("REDISCLI") else ()
    )
    for case in CASES
    if case not in MEANT
]


def check(world: World, case: Case) -> None:
    """Assert that a command fails and prints the hint, and that what failed succeeds after it."""
    hint = case.hint.format(id=world.backup.registry.layout()[2]) if "{id}" in case.hint else case.hint
    failed = paste(world, case.command)
    assert failed.code == case.code, (case, failed)
    assert PASSWORD not in failed.out + failed.err
    assert not case.says or f"  {case.says}\n" in failed.err, (case, failed)
    hint = next((line for line in printed(failed) if line == hint or (hint[-1] in " =" and line.startswith(hint))), "")
    assert hint, (case, failed)
    case.mend(world)
    done = follow(world, hint)
    assert done.code == case.hint_code, (case, done)
    if case.onward:
        assert case.onward in printed(done), (case, done)
        assert follow(world, case.onward).code == 0, (case, done)
    then = case.then or case.command
    if then != "true" and (case.code != 2 or case.then):
        again = paste(world, then)
        assert again.code == 0, (case, again)


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
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


def hints_of(outcome: Outcome) -> list[str]:
    """Return the commands of the hints alone."""
    return re.findall(r"^  try: (.*)$", outcome.err, re.MULTILINE)


def in_shell(command: str) -> subprocess.Popen[str]:
    """Begin a command in a real shell, which has saltctl on its PATH."""
    run = f'saltctl() {{ {shlex.quote(sys.executable)} -m saltctl "$@"; }}\n{command}'
    pipe, path = subprocess.PIPE, os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        ["/bin/bash", "-c", run], env=environment, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )


@pytest.mark.slow
@needs_redis_cli
def test_redis_is_down(world: World) -> None:
    """The hints show the state, down to the server's own answer, and rebuild as soon as it is back."""
    world.server.kill()
    down = paste(world, "saltctl stream status")
    look, rebuild = hints_of(down)
    assert (down.code, look, rebuild) == (69, "saltctl doctor --only redis", "saltctl rebuild --wait-redis 15m")
    seen = paste(world, f"{look} -o json")
    (ping,) = {check["fix"] for check in seen.json["checks"] if check["fix"]}
    assert seen.code == 3
    assert PASSWORD not in seen.out
    assert "Connection refused" in paste(world, ping).err
    with socket.create_server(("127.0.0.1", world.server.port)) as listener, in_shell(rebuild) as waiting:
        listener.settimeout(60)
        listener.accept()[0].close()  # it has asked once, in vain
        listener.close()
        world.server.start()  # in this thread: the server ends with the one that started it
        assert waiting.wait(timeout=60) == 0
    assert "PONG" in paste(world, ping).out
    assert paste(world, "saltctl compare").code == 0


@pytest.mark.slow
def test_a_protected_context(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell gets the whole command again, in the context, with the name that confirms it."""
    file = Path("my config.toml").absolute()
    file.write_text(f'[contexts."prod eu"]\nprotected = true\nredis_url = "{world.settings.redis_url}"\n')
    monkeypatch.delenv("SALTCTL_REDIS_URL")
    command = f"saltctl --config '{file}' --context 'prod eu' registry set {CONVERSATION} 8"
    with in_shell(command) as refused:
        _, err = refused.communicate(timeout=60)
    hints = hints_of(Outcome(refused.returncode, "", err))
    assert (refused.returncode, hints) == (6, [f"{command} --confirm 'prod eu'"])
    with in_shell(hints[0]) as confirmed:
        assert confirmed.wait(timeout=60) == 0
    world.redis.flushall()
    found = paste(world, f"saltctl --config '{file}' --context 'prod eu' compare")
    in_context = f"saltctl --context 'prod eu' --config '{file}'"
    assert hints_of(found)[0] == f"{in_context} rebuild"
    status = paste(world, f"saltctl --config '{file}' --context 'prod eu' status")
    assert f"next: {in_context} rebuild && {in_context}" in " ".join(status.out.split())


def test_no_region(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The AWS CLI shows where it looked for one."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    refused = paste(world, f"saltctl registry get {CONVERSATION}")
    assert (refused.code, hints_of(refused)) == (78, ["aws configure list"])
    assert "  set AWS_REGION, such as eu-central-1, or region in the AWS profile\n" in refused.err


def test_aws_is_down(world: World) -> None:
    """The doctor's fix asks the table by the AWS CLI."""
    world.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    world.setenv("AWS_MAX_ATTEMPTS", "1")
    down = paste(world, "saltctl compare")
    assert (down.code, hints_of(down)) == (69, ["saltctl doctor --only backup"])
    seen = paste(world, hints_of(down)[0])
    (ask,) = dict.fromkeys(re.findall(r"^  (aws .*)$", seen.out, re.MULTILINE))
    check_aws_command(ask)
    assert world.settings.backup_table in ask


BUILDERS = ("command_line", "rerun_hint", "rerun_with", "rerun_without", "damage_hint", "redis_cli", ".cure")
"""Functions that build commands of words, which are not in the source as a text, and a property that does."""


def built() -> Iterator[str]:
    """Yield ``file:function`` of each function that builds a command for a hint."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                functions = node.body if isinstance(node, ast.ClassDef) else [node]
                for function in functions:
                    calls = [ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)]
                    calls += [f".{n.attr}" for n in ast.walk(function) if isinstance(n, ast.Attribute)]
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
