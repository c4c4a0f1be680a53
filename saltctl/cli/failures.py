"""How an exception ends a command: its exit code, and the error that is shown. The only place that decides it."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass, replace
from typing import Any

import typer

from saltctl.cli.formats.text import without_passwords
from saltctl.cli.hints import in_force
from saltctl.cli.signals import Terminated, option_value, rerun_hint
from saltctl.commands import hint_of, join_words
from saltctl.errors import ExitCode, RaiseIncompleteError, SaltctlError
from saltctl.masking import without_secrets
from saltctl.stores.bounded.errors import OPEN_FILES_HINT, open_files_problem

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Failure:
    """An error as it is shown: the keys of the JSON on stderr, in their order."""

    code: str
    message: str
    hint: str
    exit_code: int


def failure_of(exc: BaseException) -> Failure:
    """Return how a command ends that raised the exception."""
    if isinstance(exc, RaiseIncompleteError):
        return Failure(exc.code, exc.message, _with_confirm(exc.hint), exc.exit_code)
    if isinstance(exc, SaltctlError):
        return Failure(exc.code, exc.message, exc.hint, exc.exit_code)
    if isinstance(exc, typer.TyperException):
        missing = help_without_command(exc) is not None
        message = "a command is missing" if missing else exc.format_message().rstrip(".")
        context = getattr(exc, "ctx", None)
        return Failure("usage", message, f"{context.command_path if context else 'saltctl'} --help", ExitCode.USAGE)
    if isinstance(exc, KeyboardInterrupt | typer.Abort):
        return Failure("interrupted", "interrupted", rerun_hint(), ExitCode.INTERRUPTED)
    if isinstance(exc, Terminated):
        return Failure("terminated", f"ended by {signal.Signals(exc.signum).name}", rerun_hint(), 128 + exc.signum)
    if isinstance(exc, OSError) and exc.errno in _NO_SPACE:
        return output_failure(exc)
    if too_many := open_files_problem(exc):
        return Failure(
            "configuration", f"cannot open a file or connection: {too_many}", OPEN_FILES_HINT, ExitCode.CONFIGURATION
        )
    message = f"internal error: {type(exc).__name__}: {exc}"
    return Failure(
        "internal", message, "run it with --verbose before the command and report the traceback", ExitCode.INTERNAL
    )


def _with_confirm(hint: str) -> str:
    """Put ``--confirm`` of the running command into the one that completes its raise: without it that is refused."""
    name = option_value("--confirm")
    if name is None:
        return hint
    return hint.replace("saltctl registry set ", f"saltctl registry set --confirm {join_words([name])} ")


def shown_failure(failure: Failure) -> Failure:
    """Return the error without passwords and secrets, its hint with the root options in force."""
    message = without_secrets(without_passwords(failure.message))
    return replace(failure, message=message, hint=in_force(without_passwords(failure.hint)))


def exit_code_of(exc: BaseException | None) -> int:
    """Return the exit code of a command that raised the exception; None if it raised nothing."""
    if exc is None or isinstance(exc, BrokenPipeError):
        return ExitCode.DONE
    if isinstance(exc, typer.Exit):
        return exc.exit_code
    return failure_of(exc).exit_code


def output_failure(exc: OSError) -> Failure:
    """Return how a command ends that cannot write its output."""
    cause = "do not close stdout (>&-)" if exc.errno == errno.EBADF else "free some space on the target of stdout"
    hint = hint_of(cause, rerun_hint())
    return Failure("output", f"cannot write output: {exc.strerror}", hint, ExitCode.INCOMPLETE)


def help_without_command(exc: BaseException) -> str | None:
    """Return the help of a group that was called without a command: typer raises a usage error then."""
    context: Any = getattr(exc, "ctx", None)
    if context is None or not isinstance(exc, typer.TyperException):
        return None
    text: str = context.get_help()
    return text if exc.format_message() in ("", text) else None
