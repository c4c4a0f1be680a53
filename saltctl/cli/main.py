"""The one place where the process exits: every outcome becomes an exit code and, on stderr, an error.

:mod:`saltctl.cli.failures` maps exceptions to exit codes, :mod:`saltctl.cli.signals` turns signals into exceptions.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from typing import Any, NoReturn

import typer

from saltctl.cli.failures import Failure, exit_code_of, failure_of, help_without_command, output_failure, shown_failure
from saltctl.cli.formats.text import printable, without_passwords
from saltctl.cli.hints import aws_options_in_force, hint_lines, root_options
from saltctl.cli.output import write_json_line, write_log_line, write_to_stderr
from saltctl.cli.signals import (
    Terminated,
    arguments,
    raise_on_signals,
    reraise_lost_signals,
    runs_from_cron,
    wants_json,
)
from saltctl.errors import ExitCode, SaltctlError
from saltctl.masking import without_secrets

_STDERR = 2


def main(args: Sequence[str] | None = None, *, command: Any = None) -> NoReturn:
    """Run the command line and exit. ``command`` replaces the command tree, for tests."""
    args = list(sys.argv[1:] if args is None else args)
    _harden_streams()
    try:
        with raise_on_signals():
            code = run(args, command=command)
    except (Terminated, KeyboardInterrupt) as exc:  # just before the command, or while its error was printed
        code = _fail(exc, args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    except OSError as exc:
        _discard_stdout()
        code = _show(output_failure(exc), as_json=wants_json(args))
    sys.exit(code)


def run(args: Sequence[str], *, command: Any = None) -> int:
    """Run one command line in this process and return its exit code. ``command`` replaces the command tree."""
    arguments.set(tuple(args))
    root_options.set(())
    aws_options_in_force.set({})
    _ignore_impossible_sizes()
    if os.environ.get("_SALTCTL_COMPLETE"):  # PowerShell leaves it set and empty
        return _complete(args)
    try:
        with reraise_lost_signals():
            tree = _build(args) if command is None else command
            with tree.make_context("saltctl", list(args)) as context:
                tree.invoke(context)
    except (typer.Exit, BrokenPipeError) as exc:
        if isinstance(exc, BrokenPipeError):
            _discard_stdout()
        return exit_code_of(exc)
    except (Exception, Terminated, KeyboardInterrupt) as exc:
        return _fail(exc, args)
    return 0


def _complete(args: Sequence[str]) -> int:
    """Print what a shell asks for at a Tab. An error must not be printed between the words that somebody types."""
    from saltctl.cli.guide.completion import answer_shell

    try:
        answer_shell(_build(args, completion=True))
    except Exception:
        return ExitCode.INTERNAL
    return ExitCode.DONE


def _build(args: Sequence[str], *, completion: bool = False) -> Any:
    """Build the command tree; only one branch of it if the first argument names the command."""
    from saltctl.cli.app import COMMANDS, build

    if completion:
        return build(completion=True)
    return build(only=args[0] if args and (args[0] in COMMANDS or list(args) == ["--version"]) else None)


def _fail(exc: BaseException, args: Sequence[str]) -> int:
    """Print the error, after a traceback if ``--verbose`` is set and the error is not the user's doing."""
    failure, as_json = failure_of(exc), wants_json(args)
    if isinstance(exc, OSError) and _stdout_raises(exc.errno):
        failure = output_failure(exc)
    help_text = help_without_command(exc)
    if help_text is not None and not as_json:
        sys.stderr.write(help_text + "\n")
        return failure.exit_code
    if isinstance(exc, typer.TyperException) and help_text is None:
        failure = _explained(failure, exc, args)
    if "--verbose" in takewhile("--".__ne__, args) and (isinstance(exc, SaltctlError) or failure.code == "internal"):
        import traceback

        text = without_secrets(without_passwords(traceback.format_exc()))
        sys.stderr.write(printable(text, keep_newlines=True))
    return _show(failure, as_json=as_json)


def _explained(failure: Failure, exc: typer.TyperException, args: Sequence[str]) -> Failure:
    """Return the failure of a usage error in our own words; it takes the whole command tree to find what was meant."""
    from saltctl.cli.app import build
    from saltctl.cli.guide.usage import describe_usage_error

    message, hint = describe_usage_error(exc, build(), args)
    return replace(failure, message=message, hint=hint)


def _show(failure: Failure, *, as_json: bool) -> int:
    """Print an error to stderr and return its exit code."""
    failure = shown_failure(failure)
    if as_json:
        write_json_line({"error": asdict(failure)}, sys.stderr)
    elif runs_from_cron():
        record = {"outcome": failure.code, "exit_code": failure.exit_code}
        write_log_line("error", record | {"message": failure.message, "hint": failure.hint})
    else:
        lines = [f"error: {failure.message}", *hint_lines(failure.hint)]
        write_to_stderr("\n".join(map(printable, lines)))
    return failure.exit_code


def _ignore_impossible_sizes() -> None:
    """Forget a width or height that no terminal has: rich fails on a long number, and takes digits of other scripts."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "1")):
            del os.environ[name]


class _LossyFile(io.FileIO):
    def write(self, data: Any) -> int:
        """Write data, or take it for written."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _harden_streams() -> None:
    # Started with a stream closed (>&-), Python has none, and the next file or socket would take its number.
    # A result that cannot be written is an error, so that stdout is opened for reading.
    for name, mode, access in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, access)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  until the process exits
    # What cannot be written to stderr (a full disk, a closed pipe) is lost. It changes no outcome, and no exit code.
    if (stderr := sys.__stderr__) is not None and stderr is sys.stderr and stderr.fileno() == _STDERR:
        raw = io.BufferedWriter(_LossyFile(_STDERR, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, stderr.encoding, line_buffering=True)
    # A terminal in a poor locale gets escapes instead of a UnicodeEncodeError.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _stdout_raises(number: int | None) -> bool:
    """Return whether stdout is what raised an error, such as EBADF; then discard what is left of the output."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        _discard_stdout()
        return exc.errno == number
    return False


def _discard_stdout() -> None:
    # The reader of the pipe closed it, which is not an error; the interpreter must not complain at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
