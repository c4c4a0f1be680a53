"""What the fuzzed commands run against, and what their output must not be.

A real Valkey, and moto in this process: an input costs some milliseconds, so that many of them can be tried.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltctl.cli.main import run
from saltctl.local.servers import LocalRedis, dummy_credentials
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry

FORMATS = ("table", "json", "jsonl", "tsv")
SECRET = "Tr0ub4dor-and-3"  # noqa: S105  made up, and looked for in all output
NOWHERE = "http://127.0.0.1:9"
"""Where a request ends that nobody has intercepted: on this machine."""
CAP = 8
"""The cap of these commands: an audit probes salts up to it."""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str


class World:
    """The servers and tables. Use it as a context manager; ``variables`` lead a command to them."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.variables: dict[str, str] = {}
        self.dynamodb: Any = None
        self.redis: Any = None

    def __enter__(self) -> World:
        """Start."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        import boto3
        import redis
        from moto import mock_aws

        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.directory = directory
        server = LocalRedis(directory / "redis", options={"appendonly": "no"}, password=SECRET)
        server.start()
        self._stack.callback(server.kill)
        self.variables = dummy_credentials() | {
            # A key of its own makes a session of its own: one that was made before moto was imported would ask AWS.
            "AWS_ACCESS_KEY_ID": "fuzzed",
            "HTTPS_PROXY": NOWHERE,
            "SALTCTL_REDIS_URL": server.url,
            "SALTCTL_BUCKETS": "16",
            "SALTCTL_MAX_N_CAP": str(CAP),
            "SALTCTL_CONFIG": "",
            "XDG_CONFIG_HOME": str(directory),
            "XDG_STATE_HOME": str(directory),
            "AWS_CONFIG_FILE": str(directory / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(directory / "none"),
        }
        with _environment(self.variables):
            self._stack.enter_context(mock_aws())
            self.dynamodb = boto3.client("dynamodb")
            self.redis = self._stack.enter_context(redis.Redis.from_url(server.url))
            for args in (("setup", "--messages"), ("rebuild",), ("registry", "set", "conv", "4", "--yes")):
                outcome = self.call(*args)
                assert outcome.code == 0, outcome
            self.settings = Settings(redis_url=server.url, buckets=16, max_n_cap=CAP)
            self.backup = BackupTable(self.settings)
            self.registry = RedisRegistry(self.settings)
            self._stack.callback(self.registry.close)

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stack.close()

    def call(self, *args: str, variables: dict[str, str] | None = None) -> Outcome:
        """One command line in this process, its streams caught."""
        out, err = io.StringIO(), io.StringIO()
        with (
            _environment(self.variables | (variables or {})),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(args)
        return Outcome(args, code, out.getvalue(), err.getvalue())

    def checked(
        self, args: Sequence[str], allowed: Collection[int], *, variables: dict[str, str] | None = None
    ) -> Outcome:
        """One command line, and the assertion that its outcome is one of those that are documented for it."""
        outcome = self.call(*args, variables=variables)
        assert outcome.code in allowed, f"exit {outcome.code} of {outcome.args!r}: {outcome.err!r}"
        check_output(outcome)
        return outcome


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name.startswith(("SALTCTL_", "AWS_")):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def check_output(outcome: Outcome) -> None:
    """Nothing raw, no secret, no traceback; JSON where JSON was asked for."""
    for text in (outcome.out, outcome.err):
        raw = {c for c in text if not c.isprintable() and c not in "\n\t"}
        assert not raw, f"{raw!r} raw in what {outcome.args!r} printed"
        assert SECRET not in text, f"{outcome.args!r} shows a password"
        assert "Traceback (most recent call last)" not in text, outcome
    form = _format_of(outcome.args)
    if form == "json" and outcome.out:
        json.loads(outcome.out)
    if form == "jsonl":
        for line in outcome.out.splitlines():
            json.loads(line)
    if outcome.code not in (0, 3, 4):
        assert outcome.err, f"{outcome.args!r} failed without a word"
        if form in ("json", "jsonl"):
            error = json.loads(outcome.err.splitlines()[-1])["error"]
            assert error["exit_code"] == outcome.code


def _format_of(args: Sequence[str]) -> str:
    """The format that the caller asked for, where it did so in front of everything hostile."""
    place = args.index("-o") + 1 if "-o" in args[:4] else len(args)
    return args[place] if place < len(args) else ""
