"""The one exit of the process: every outcome has its exit code, and errors show neither passwords nor escapes."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import typer

from saltctl.cli.main import run
from saltctl.cli.signals import Terminated, wants_json
from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    DeadlineExceededError,
    IncompleteError,
    LeaseHeldError,
    RedisUnavailableError,
    RefusedError,
    UsageError,
)


class Command:
    """A command tree that raises an exception when it is invoked."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    @contextmanager
    def make_context(self, name: str, args: list[str]) -> Iterator[None]:
        """Return the context."""
        yield

    def invoke(self, context: Any) -> None:
        """Raise the exception."""
        raise self._exc


OUTCOMES: list[tuple[BaseException, int, str]] = [
    (UsageError("x"), 2, "usage"),
    (typer.BadParameter("x"), 2, "usage"),
    (IncompleteError("x"), 4, "incomplete"),
    (RefusedError("x"), 6, "refused"),
    (RedisUnavailableError("x"), 69, "redis_unavailable"),
    (LeaseHeldError("x"), 75, "lease_held"),
    (AccessDeniedError("x"), 77, "access_denied"),
    (ConfigurationError("x"), 78, "configuration"),
    (DeadlineExceededError("x"), 124, "timeout"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (typer.Abort(), 130, "interrupted"),
    (Terminated(signal.SIGHUP), 129, "terminated"),
    (Terminated(signal.SIGQUIT), 131, "terminated"),
    (Terminated(signal.SIGTERM), 143, "terminated"),
    (OSError(errno.ENOSPC, "No space left on device"), 4, "output"),
    (OSError(errno.EIO, "I/O error"), 1, "internal"),
    (ValueError("x"), 1, "internal"),
]


@pytest.mark.parametrize(("exc", "code", "name"), OUTCOMES, ids=lambda value: getattr(type(value), "__name__", ""))
def test_each_exception_has_its_exit_code(
    exc: BaseException, code: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code of the process is the one in the JSON error on stderr."""
    assert run(["compare", "-o", "json"], command=Command(exc)) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    error = json.loads(line)["error"]
    assert list(error) == ["code", "message", "hint", "exit_code"]
    assert (error["code"], error["exit_code"]) == (name, code)


def test_an_exit_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that found something exits with its code and adds no error."""
    assert run(["compare"], command=Command(typer.Exit(3))) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("exc", "shown"),
    [
        (ValueError("at redis://u:hunter2@h"), "error: internal error: ValueError: at redis://u:***@h\n"),
        (
            ConfigurationError("\x1b[2J", hint="a\rb\nls f"),
            "error: \\x1b[2J\n  a\\rb\n  try: ls f\n",
        ),
        (RefusedError("no"), "error: no\n"),
    ],
    ids=["password", "escape", "no hint"],
)
def test_errors_are_safe_to_print(exc: Exception, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Passwords in URLs are masked, control characters are escaped, an empty hint is left out."""
    run(["compare"], command=Command(exc))
    assert capsys.readouterr().err.startswith(shown)


VERBOSE: dict[str, tuple[BaseException, bool]] = {
    "an internal error": (ValueError("x"), True),
    "an error of ours": (ConfigurationError("x"), True),
    "a usage error": (typer.BadParameter("x"), False),
    "an interrupt": (KeyboardInterrupt(), False),
}


@pytest.mark.parametrize("case", VERBOSE)
def test_verbose_shows_the_traceback(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--verbose`` shows a traceback if it can help; it is off after ``--``, where it belongs to another command."""
    exc, traceback = VERBOSE[case]
    run(["--verbose", "compare"], command=Command(exc))
    assert ("Traceback" in capsys.readouterr().err) is traceback
    run(["local", "run", "--", "x", "--verbose"], command=Command(exc))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["x", "-o", "json"], True),
        (["x", "-ojson"], True),
        (["x", "--output", "jsonl"], True),
        (["x", "--output=json"], True),
        (["x", "-o", "table"], False),
        (["x"], False),
        (["x", "-o"], False),
        (["local", "run", "--", "x", "-o", "json"], False),
        (["registry", "get", "json"], False),
    ],
)
def test_json_errors_are_wanted_with_json_output(args: list[str], wanted: bool) -> None:
    """The raw arguments decide, since usage errors occur before they are parsed."""
    assert wants_json(args) is wanted
