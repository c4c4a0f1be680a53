"""Runs the fuzzed commands against servers, and checks their output.

The servers are a real Valkey, and moto in this process, so that one input takes only some milliseconds.
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
from unicodedata import category

from saltctl.cli.main import run as run_command
from saltctl.local.servers import LocalRedis, dummy_credentials
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry

FORMATS = ("table", "json", "jsonl", "tsv", "csv")
SECRET = "Tr0ub4dor-and-3"  # noqa: S105  a dummy; no output may contain it
CLOSED_PORT = "http://127.0.0.1:9"
"""The proxy for requests that moto does not intercept: they fail on this machine."""
CAP = 8
"""The cap of N for all commands. It is low because an audit reads all salts up to it."""


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str


class CommandRunner:
    """The servers and tables, as a context manager; ``variables`` is the environment of the commands."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.variables: dict[str, str] = {}
        self.dynamodb: Any = None
        self.redis: Any = None

    def __enter__(self) -> CommandRunner:
        """Start the servers."""
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
            # A separate key makes a separate session: one that was created before moto was imported would call AWS.
            "AWS_ACCESS_KEY_ID": "fuzzed",
            "HTTPS_PROXY": CLOSED_PORT,
            "SALTCTL_REDIS_URL": server.url,
            "SALTCTL_BUCKETS": "16",
            "SALTCTL_MAX_N_CAP": str(CAP),
            "SALTCTL_CONFIG": "",
            "XDG_CONFIG_HOME": str(directory),
            "AWS_CONFIG_FILE": str(directory / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(directory / "none"),
        }
        with _environment(self.variables):
            self._stack.enter_context(mock_aws())
            self.dynamodb = boto3.client("dynamodb")
            self.redis = self._stack.enter_context(redis.Redis.from_url(server.url))
            for args in (("setup", "--messages"), ("rebuild",), ("registry", "set", "conv", "4", "--yes")):
                outcome = self.run(*args)
                assert outcome.code == 0, outcome
            self.settings = Settings(redis_url=server.url, buckets=16, max_n_cap=CAP)
            self.backup = BackupTable(self.settings)
            self.registry = RedisRegistry(self.settings, registry_id=self.backup.registry.id)
            self._stack.callback(self.registry.close)

    def __exit__(self, *_: object) -> None:
        """Stop the servers."""
        self._stack.close()

    def run(self, *args: str, variables: dict[str, str] | None = None) -> Outcome:
        """Run one command line in this process, and capture its output."""
        out, err = io.StringIO(), io.StringIO()
        with (
            _environment(self.variables | (variables or {})),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run_command(args)
        return Outcome(args, code, out.getvalue(), err.getvalue())

    def run_checked(
        self, args: Sequence[str], allowed: Collection[int], *, variables: dict[str, str] | None = None
    ) -> Outcome:
        """Run one command line, and check its exit code and its output."""
        outcome = self.run(*args, variables=variables)
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
    """Check that output has no raw character, no secret and no traceback, and is JSON if that was requested."""
    output_format = _format_of(outcome.args)
    for output in (outcome.out, outcome.err):
        # TSV and CSV are exact in a pipe: control characters alone are escaped there.
        exact = output_format in ("", "tsv", "csv") and output is outcome.out
        # A joiner within an emoji is shown as it is: saltctl/cli/formats/text.py has tests of that.
        raw = {c for c in output if not c.isprintable() and c not in "\n\t\u200d"}
        raw = {c for c in raw if category(c) in ("Cc", "Cs")} if exact else raw
        assert not raw, f"{outcome.args!r} prints {raw!r} unescaped"
        assert SECRET not in output, f"{outcome.args!r} shows a password"
        assert "Traceback (most recent call last)" not in output, outcome
    if output_format == "json" and outcome.out:
        json.loads(outcome.out)
    if output_format == "jsonl":
        for line in outcome.out.splitlines():
            json.loads(line)
    if outcome.code not in (0, 3, 4):
        assert outcome.err, f"{outcome.args!r} failed without an error message"
        if output_format in ("json", "jsonl"):
            error = json.loads(outcome.err.splitlines()[-1])["error"]
            assert error["exit_code"] == outcome.code


def _format_of(args: Sequence[str]) -> str:
    """Return the output format that the command requests before any hostile argument, or an empty string."""
    place = args.index("-o") + 1 if "-o" in args[:4] else len(args)
    return args[place] if place < len(args) else ""
