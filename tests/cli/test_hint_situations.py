"""Every hint in the situation that printed it: pasted into a shell, in its order, it mends what failed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto
from saltctl.salting import bucket_of
from saltctl.stores.aws.backup_table import BackupTable
from tests.cli.conftest import seeded_tables
from tests.support.aws_cli import check_aws_command
from tests.support.lost_tables import delete_backup, restore_backup
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow
CONVERSATION = "conv_hot_12"
MOST_STEPS = 12
needs_redis_cli = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
SHELL = f'saltctl() {{ {shlex.quote(sys.executable)} -m saltctl "$@"; }}\n'
"""The command that users have on their PATH."""


def paste(command: str) -> subprocess.CompletedProcess[str]:
    """Paste a command into a shell without a terminal."""
    return subprocess.run(
        ["/bin/bash", "-c", SHELL + command],
        text=True,
        capture_output=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def commands_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the commands that a command printed as hints, in their order."""
    return re.findall(r"^  try: (.*)$", done.stderr, re.MULTILINE)


@dataclass
class Followed:
    """What was pasted after a command, hints of hints included, with the exit codes."""

    first: subprocess.CompletedProcess[str]
    steps: list[tuple[str, int]]


def follow(command: str) -> Followed:
    """Run a command, and then what it says; what a hint says itself comes right after it, each command once."""
    first = paste(command)
    todo, steps = commands_of(first), list[tuple[str, int]]()
    while todo and len(steps) < MOST_STEPS:
        step = todo.pop(0)
        if step in (done for done, _ in steps):
            continue
        done = paste(step)
        steps.append((step, done.returncode))
        todo = commands_of(done) + todo
    return Followed(first, steps)


@pytest.fixture
def world(moto: LocalMoto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEnvironment]:
    """A seeded environment of this test alone, in its environment variables."""
    with seeded_tables(moto, "hints") as environment:
        for name, value in environment.variables().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SALTCTL_BREAKER_SECONDS", "0")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield environment


def redis(world: LocalEnvironment, *words: str | int) -> Any:
    """Send one command to Redis, past the protocol."""
    with plain_client(world.redis) as client:
        return client.execute_command(*words)


def bucket(world: LocalEnvironment, conversation_id: str = CONVERSATION) -> str:
    """Return the key of a conversation's bucket."""
    return f"salt:r:{bucket_of(conversation_id, world.settings.buckets)}"


def _flush(world: LocalEnvironment) -> None:
    redis(world, "FLUSHALL")


def _restart(world: LocalEnvironment) -> None:
    world.redis.kill()
    world.redis.start()


def _lose_group(world: LocalEnvironment) -> None:
    redis(world, "XGROUP", "DESTROY", "salt:heat", "saltctl")


def _lose_stream(world: LocalEnvironment) -> None:
    redis(world, "DEL", "salt:heat")


def _evict(world: LocalEnvironment) -> None:
    redis(world, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")


def _redis_behind(world: LocalEnvironment) -> None:
    redis(world, "HSET", bucket(world), CONVERSATION, 2)


def _backup_behind(world: LocalEnvironment) -> None:
    redis(world, "HSET", bucket(world), CONVERSATION, 256)


def _redis_alone(world: LocalEnvironment) -> None:
    redis(world, "HSET", bucket(world, "stranger"), "stranger", 8)


def _delete_backup(world: LocalEnvironment) -> None:
    delete_backup(world.settings)


def _restore_backup(world: LocalEnvironment) -> None:
    restore_backup(world.settings)


def _overwrite_bucket(world: LocalEnvironment) -> None:
    redis(world, "SET", bucket(world), "text")


def _nothing(world: LocalEnvironment) -> None:
    """The command itself is not complete."""


SITUATIONS: dict[str, tuple[Callable[[LocalEnvironment], None], str, int, str, str]] = {
    "flushed": (_flush, "saltctl compare", 3, "saltctl compare", "saltctl setup"),
    "flushed, looked up": (_flush, f"saltctl registry get {CONVERSATION}", 0, "saltctl compare", "saltctl rebuild"),
    "restarted": (_restart, "saltctl compare", 3, "saltctl compare", "saltctl rebuild"),
    "group lost": (_lose_group, "saltctl stream replay", 78, "saltctl doctor --only stream-group", "saltctl setup"),
    "stream lost": (_lose_stream, "saltctl stream replay", 78, "saltctl doctor --only stream-group", "saltctl setup"),
    "redis behind": (_redis_behind, "saltctl compare", 3, "saltctl compare", "saltctl compare --repair --yes"),
    "backup behind": (_backup_behind, "saltctl compare", 3, "saltctl compare", "saltctl compare --repair --yes"),
    "in Redis alone": (
        _redis_alone,
        "saltctl compare",
        3,
        "saltctl compare",
        "saltctl compare --repair --adopt --yes",
    ),
    "backup deleted": (
        _delete_backup,
        f"saltctl registry set {CONVERSATION} 64 --yes",
        78,
        "saltctl compare",
        "saltctl recover --dry-run",
    ),
    "backup restored": (
        _restore_backup,
        f"saltctl registry set {CONVERSATION} 64 --yes",
        78,
        "saltctl compare",
        "saltctl recover",
    ),
    "no confirmation": (
        _redis_behind,
        "saltctl compare --repair",
        6,
        "saltctl compare",
        "saltctl compare --repair --yes",
    ),
    "no checkpoint": (
        _flush,
        "saltctl rebuild --resume",
        6,
        "saltctl compare",
        "saltctl rebuild --restart",
    ),
    "a lower N": (
        _nothing,
        f"saltctl registry set {CONVERSATION} 2",
        6,
        "true",
        f"saltctl registry get {CONVERSATION}",
    ),
    "no power of two": (
        _nothing,
        f"saltctl registry set {CONVERSATION} 200",
        6,
        f"saltctl registry get {CONVERSATION}",
        f"saltctl registry set {CONVERSATION} 256",
    ),
    "not a letter": (_nothing, "saltctl stream dead requeue 1", 2, "true", "saltctl stream dead list"),
    "evicting": pytest.param(_evict, "saltctl rebuild", 78, "saltctl rebuild", "CONFIG SET", marks=needs_redis_cli),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(("broken", "command", "code", "then", "hint"), list(SITUATIONS.values()), ids=list(SITUATIONS))
def test_the_hints_mend_it(
    world: LocalEnvironment,
    broken: Callable[[LocalEnvironment], None],
    command: str,
    code: int,
    then: str,
    hint: str,
) -> None:
    """After them the registry, or the command that asks for the same, is as it should be."""
    broken(world)
    followed = follow(command)
    assert followed.first.returncode == code, followed
    assert any(hint in step for step, _ in followed.steps), followed
    done = paste(then)
    assert done.returncode == 0, (followed, done)


def test_a_bucket_that_was_overwritten(world: LocalEnvironment) -> None:
    """A sentence names what no command can: the key. Once it is deleted, the command mends the rest."""
    _overwrite_bucket(world)
    followed = follow("saltctl rebuild")
    assert (followed.first.returncode, followed.steps) == (69, [("saltctl rebuild", 69)])
    assert "  delete that key, whose name begins with the setting key_prefix\n" in followed.first.stderr
    redis(world, "DEL", bucket(world))
    assert paste("saltctl rebuild").returncode == 0
    assert paste("saltctl compare").returncode == 0


@needs_redis_cli
def test_redis_is_down(world: LocalEnvironment) -> None:
    """The hints show the state, down to the server's own answer, and rebuild as soon as it is back."""
    world.redis.kill()
    down = paste("saltctl stream status")
    look, rebuild = commands_of(down)
    assert (down.returncode, look, rebuild) == (
        69,
        "saltctl doctor --only redis",
        "saltctl rebuild --wait-redis 15m",
    )
    seen = paste(f"{look} -o json")
    (ping,) = {check["fix"] for check in json.loads(seen.stdout)["checks"] if check["fix"]}
    assert seen.returncode == 3
    assert world.redis.password is not None
    assert world.redis.password not in seen.stdout
    assert "Connection refused" in paste(ping).stderr
    with subprocess.Popen(["/bin/bash", "-c", SHELL + rebuild], stdout=subprocess.DEVNULL) as waiting:
        world.redis.start()  # in this thread: the server ends with the one that started it
        assert waiting.wait(timeout=60) == 0
    assert "PONG" in paste(ping).stdout
    assert paste("saltctl compare").returncode == 0


def test_another_process_holds_the_lease(world: LocalEnvironment) -> None:
    """The command waits for it."""
    lease = BackupTable(world.settings).lease
    assert lease.acquire("other", time.time(), host="elsewhere", pid=1, expiry=30.0) is None
    held = paste("saltctl rebuild")
    (wait,) = commands_of(held)
    assert (held.returncode, wait) == (75, "saltctl rebuild --lock-wait 15m")
    lease.release("other")
    assert paste(wait).returncode == 0


def test_a_protected_context(world: LocalEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command is pasted again, in the context, with the name that confirms it."""
    file = tmp_path / "my config.toml"
    file.write_text(f'[contexts."prod eu"]\nprotected = true\nredis_url = "{world.settings.redis_url}"\n')
    monkeypatch.delenv("SALTCTL_REDIS_URL")
    command = f"saltctl --config '{file}' --context 'prod eu' registry set {CONVERSATION} 256"
    refused = paste(command)
    assert (refused.returncode, commands_of(refused)) == (6, [f"{command} --confirm 'prod eu'"])
    assert paste(commands_of(refused)[0]).returncode == 0
    _flush(world)
    found = paste(f"saltctl --config '{file}' --context 'prod eu' compare")
    assert commands_of(found)[0] == f"saltctl --context 'prod eu' --config '{file}' rebuild"
    status = paste(f"saltctl --config '{file}' --context 'prod eu' status")
    assert f"next: saltctl --context 'prod eu' --config '{file}' rebuild && saltctl --context" in " ".join(
        status.stdout.split()
    )


def test_no_region(world: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The AWS CLI shows where it looked for one."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    refused = paste(f"saltctl registry get {CONVERSATION}")
    assert (refused.returncode, commands_of(refused)) == (78, ["aws configure list"])
    assert "  set AWS_REGION, such as eu-central-1, or region in the AWS profile\n" in refused.stderr


def test_aws_is_down(world: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor's fix asks the table by the AWS CLI."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    down = paste("saltctl compare")
    assert (down.returncode, commands_of(down)) == (69, ["saltctl doctor --only backup"])
    seen = paste(commands_of(down)[0])
    (ask,) = dict.fromkeys(re.findall(r"^  (aws .*)$", seen.stdout, re.MULTILINE))
    check_aws_command(ask)
    assert world.settings.backup_table in ask
