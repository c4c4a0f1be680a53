"""How an exception ends a command: its exit code, and the error that is shown. The only place that decides it."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

import typer

from saltctl.cli.signals import Terminated, rerun_hint
from saltctl.errors import ExitCode, SaltctlError

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
    if isinstance(exc, SaltctlError):
        return Failure(exc.code, exc.message, exc.hint, exc.exit_code)
    if isinstance(exc, typer.TyperException):
        return _usage_failure(exc)
    if isinstance(exc, KeyboardInterrupt | typer.Abort):
        return Failure("interrupted", "interrupted", rerun_hint(), ExitCode.INTERRUPTED)
    if isinstance(exc, Terminated):
        return Failure("terminated", f"ended by {signal.Signals(exc.signum).name}", rerun_hint(), 128 + exc.signum)
    if isinstance(exc, OSError) and exc.errno in _NO_SPACE:
        return output_failure(exc)
    message = f"internal error: {type(exc).__name__}: {exc}"
    return Failure(
        "internal", message, "run it with --verbose before the command and report the traceback", ExitCode.INTERNAL
    )


def exit_code_of(exc: BaseException | None) -> int:
    """Return the exit code of a command that raised the exception; None if it raised nothing."""
    if exc is None or isinstance(exc, BrokenPipeError):
        return ExitCode.DONE
    if isinstance(exc, typer.Exit):
        return exc.exit_code
    return failure_of(exc).exit_code


def output_failure(exc: OSError) -> Failure:
    """Return how a command ends that cannot write its output."""
    hint = f"free some space on the target of stdout; {rerun_hint()}"
    return Failure("output", f"cannot write output: {exc.strerror}", hint, ExitCode.INCOMPLETE)


def _usage_failure(exc: typer.TyperException) -> Failure:
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "saltctl"
    message = exc.format_message()
    if context is not None and message in ("", context.get_help()):
        message = "a command is missing"  # typer puts the whole help into the message, or nothing
    return Failure("usage", message.rstrip("."), f"{command} --help", 2)
