"""Runners of the command line: in this process to check its output, as a process to check its behaviour."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from saltctl.cli.main import run
from saltctl.cli.signals import arguments
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from tests.support.redis_servers import quick_starts

__all__ = ["quick_starts"]


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def told(self) -> str:
        """The messages and the lines of the hints on stderr, which with ``-o json`` is lines of JSON."""
        lines = [json.loads(line) for line in self.err.splitlines()]
        return "".join(f"{part}\n" for line in lines for part in (line["message"], line.get("hint")) if part)

    @property
    def error(self) -> dict[str, Any]:
        """The one JSON line that it wrote to stderr last."""
        error: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return error


Runner = Callable[..., Outcome]


@pytest.fixture
def saltctl(capsys: pytest.CaptureFixture[str]) -> Runner:
    """``saltctl("registry", "get", "x")`` in this process; stdout is a pipe to it."""

    def call(*args: str) -> Outcome:
        capsys.readouterr()
        code = run(args)
        arguments.set(())  # of this command, not of what the test calls afterwards
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables that lead saltctl to the servers of these settings."""
    return {
        "SALTCTL_REDIS_URL": settings.require_redis_url(),
        "SALTCTL_BUCKETS": str(settings.buckets),
        "SALTCTL_BACKUP_TABLE": settings.backup_table,
        "SALTCTL_MESSAGES_TABLE": settings.messages_table,
        "SALTCTL_BREAKER_SECONDS": "0",
        "AWS_ENDPOINT_URL": settings.aws_endpoint_url or "",
    }


@pytest.fixture
def configured(settings: Settings, backup: BackupTable, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The test's own Redis (not verified yet) and empty backup table, in the environment."""
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)
    return settings


_numbers = count(1)


class _SharedMoto(LocalMoto):
    """A server that runs already, and goes on when an environment ends that borrowed it."""

    def __init__(self, lender: LocalMoto) -> None:
        self.port = lender.port

    def launch(self) -> None:
        """It runs."""

    def wait(self) -> None:
        """It is ready."""

    def stop(self) -> None:
        """Others use it."""


class _Environment(LocalEnvironment):
    """A local environment with a Redis of its own, and tables of its own on the moto of the tests."""

    def __init__(self, moto: LocalMoto, name: str) -> None:
        super().__init__()
        self.moto = _SharedMoto(moto)
        # xdist can run a module's tests in two goes, each with a new fixture of the module. The tables of the first
        # stay, and seeding them twice gives each message twice.
        self.name = f"{name}-{next(_numbers)}"

    @property
    def settings(self) -> Settings:
        """The settings, with the tables of this environment."""
        return replace(super().settings, backup_table=f"{self.name}-backup", messages_table=f"{self.name}-messages")


@contextmanager
def seeded_tables(moto: LocalMoto, name: str) -> Iterator[LocalEnvironment]:
    """A seeded environment on this moto; the environment variables of this process stay unchanged."""
    with ExitStack() as stack:
        with patch.dict(os.environ):
            environment = stack.enter_context(_Environment(moto, name))
            environment.seed()
        yield environment


@pytest.fixture(scope="session")
def seeded_environment(moto: LocalMoto) -> Iterator[LocalEnvironment]:
    """One seeded local environment for all tests that only read, or change data that no other test reads."""
    with seeded_tables(moto, "seeded") as environment:
        yield environment


@pytest.fixture(scope="session")
def scratch_environment(moto: LocalMoto) -> Iterator[LocalEnvironment]:
    """Another seeded environment, for the examples of help texts, which change data."""
    with seeded_tables(moto, "scratch") as environment:
        yield environment


@pytest.fixture
def scratch(scratch_environment: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> LocalEnvironment:
    """The environment for examples, in the environment variables of this test."""
    for name, value in scratch_environment.variables().items():
        monkeypatch.setenv(name, value)
    return scratch_environment


@pytest.fixture
def seeded(seeded_environment: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> LocalEnvironment:
    """The seeded environment, in the environment variables of this test."""
    for name, value in seeded_environment.variables().items():
        monkeypatch.setenv(name, value)
    return seeded_environment


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port on which connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []
        server.settimeout(0.1)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    connections.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()
        for connection in connections:
            connection.close()


@pytest.fixture
def hanging_redis(silent_server: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """``hanging_redis()`` makes commands wait for a Redis that never answers, until their ``--timeout``."""

    def hang() -> None:
        monkeypatch.setenv("SALTCTL_REDIS_URL", f"redis://127.0.0.1:{silent_server}")
        monkeypatch.setenv("SALTCTL_REDIS_TIMEOUT", "60")

    return hang


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``process("registry", "list", stdin="…")``: the command as a process of its own."""

    def call(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "saltctl", *args], capture_output=True, text=True, timeout=60, check=False, **options
        )

    return call
