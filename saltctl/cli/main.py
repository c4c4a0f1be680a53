"""The one place where the process ends: every outcome becomes an exit code and, on stderr, a message.

Nothing else in saltctl exits, installs signal handlers, or decides how an error looks.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import FrameType
from typing import Any, NoReturn

from saltctl.cli.text import clean, clean_json, command_line, without_passwords
from saltctl.errors import DeadlineExceededError, SaltctlError


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Not an Exception, so that nothing takes it for a failed request."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _Alarm(BaseException):
    """``--timeout`` is over. No Exception: botocore takes those for failed requests, and tries again."""


_AGAIN_AFTER = 0.05
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_arguments: ContextVar[Sequence[str]] = ContextVar("_arguments", default=())
"""What is being run, for the messages that name it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    _harden_streams()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _on_terminate)
    code = run(args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as exc:
        _forget_stdout()
        code = _fail_output(exc, as_json=wants_json(args))
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run one command line in this process and return its exit code."""
    import typer

    as_json = wants_json(args)
    _arguments.set(tuple(args))
    if "_SALTCTL_COMPLETE" in os.environ:
        from saltctl.cli.app import build

        build(completion=True)(prog_name="saltctl")
    command = _tree_for(args)
    verbose = "--verbose" in args[: args.index("--") if "--" in args else len(args)]
    try:
        with _heard(), command.make_context("saltctl", list(args)) as context:
            command.invoke(context)
    except typer.Exit as exc:
        return exc.exit_code
    except SaltctlError as exc:
        return _fail(exc.code, exc.message, exc.hint, exc.exit_code, as_json=as_json, trace=verbose)
    except typer.TyperException as exc:
        return _fail_usage(exc, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", "interrupted", _again(), 130, as_json=as_json, trace=False)
    except Terminated as exc:
        name = signal.Signals(exc.signum).name
        return _fail("terminated", f"ended by {name}", _again(), 128 + exc.signum, as_json=as_json, trace=False)
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in _NO_ROOM:
            return _fail_output(exc, as_json=as_json)
        # A defect: say so in one line, whatever it is.
        return _fail(
            "internal",
            f"a defect of saltctl's own: {type(exc).__name__}: {exc}",
            "run it with --verbose before the command and report the traceback",
            1,
            as_json=as_json,
            trace=verbose,
        )
    return 0


def _tree_for(args: Sequence[str]) -> Any:
    """The command tree, as much of it as a command line needs: its first word may tell, and root options may not."""
    from saltctl.cli.app import COMMANDS

    alone = args[0] if args and (args[0] in COMMANDS or list(args) == ["--version"]) else None
    return _command(alone)


@cache
def _command(only: str | None) -> Any:
    """The command tree. Made once a process: it takes longer than most of what is run."""
    import typer

    from saltctl.cli.app import build

    return typer.main.get_command(build(only=only))


def wants_json(args: Sequence[str]) -> bool:
    """Whether errors are to be JSON: told from the raw arguments, since usage errors need it, too."""
    formats = {"json", "jsonl"}
    for position, argument in enumerate(args):
        if argument == "--":
            return False
        if argument in ("-o", "--output") and position + 1 < len(args) and args[position + 1] in formats:
            return True
        if argument.removeprefix("--output=") in formats and argument.startswith("--output="):
            return True
        if argument.startswith("-o") and argument[2:].removeprefix("=") in formats:
            return True
    return False


def _fail(code: str, message: str, hint: str, exit_code: int, *, as_json: bool, trace: bool) -> int:
    message, hint = without_passwords(message), without_passwords(hint)
    if trace:
        import traceback

        sys.stderr.write(clean(without_passwords(traceback.format_exc()), keep_newlines=True))
    if as_json:
        error = {"code": code, "message": message, "hint": hint, "exit_code": exit_code}
        sys.stderr.write(clean_json(json.dumps({"error": error}, ensure_ascii=False)) + "\n")
    else:
        sys.stderr.write(f"error: {clean(message)}\n")
        if hint:
            sys.stderr.write(f"  try: {clean(hint)}\n")
    return exit_code


def _fail_output(exc: OSError, *, as_json: bool) -> int:
    message = f"what was to be printed cannot be written: {exc.strerror}"
    return _fail("output", message, "make room where stdout leads to; " + _again(), 4, as_json=as_json, trace=False)


def _again(how: str = "") -> str:
    return f"what was done is kept; run it again{' ' + how if how else ''}: {command_line(*_arguments.get())}"


def _fail_usage(exc: Exception, *, as_json: bool) -> int:
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "saltctl"
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    if context is not None and message in ("", context.get_help()):
        # No command at all: typer raises with its help or with nothing to say.
        if not as_json:
            sys.stderr.write(context.get_help() + "\n")
            return 2
        message = "a command is missing"
    return _fail("usage", message.rstrip("."), f"{path} --help", 2, as_json=as_json, trace=False)


def _on_terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """In the block SIGTERM, SIGINT and SIGHUP set the event, so that a loop drains; a second one ends at once."""
    stop = threading.Event()
    before = {}

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise Terminated(signum)
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before[signum] = signal.signal(signum, on_signal)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _heard() -> Iterator[None]:
    """In the block no end of the process goes unheard.

    What a signal handler raises is lost where it happens to interrupt a finalizer: Python prints it, and goes on. It
    is raised again a moment later, by SIGALRM, whose own deadline does not matter any more then.
    """
    hook_before, alarm_before = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    lost: list[BaseException] = []

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, _Alarm | Terminated | KeyboardInterrupt):
            lost.append(unraisable.exc_value)
            signal.signal(signal.SIGALRM, again)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)
        else:
            hook_before(unraisable)

    def again(signum: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is hook.__code__:  # not through with the one before: this one would be lost, too
                signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)
                return
            frame = frame.f_back
        raise type(lost[-1])(*lost[-1].args)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        if lost:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm_before)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """End the block with DeadlineExceededError after ``seconds``; None or 0 means never. Main thread only."""
    if not seconds:
        yield
        return

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with _heard():
            yield
    except _Alarm:
        raise DeadlineExceededError(
            f"not done after {seconds:g} s (--timeout)", hint=_again("with more time")
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _harden_streams() -> None:
    # Started with a stream closed (>&-), Python has none, and the next file or socket would take its number.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  until the end
    # A terminal in a poor locale gets escapes instead of an UnicodeEncodeError at 3 a.m.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    # The reader of the pipe left, which is its right; the interpreter must not complain at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
