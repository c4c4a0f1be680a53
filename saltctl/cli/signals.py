"""Signals and ``--timeout``: everything that ends or drains a command from outside."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import pairwise, takewhile
from types import FrameType

from saltctl.commands import command_line, hint_of
from saltctl.errors import DeadlineExceededError
from saltctl.stores.throttle_notes import throttled_call


class Terminated(BaseException):
    """SIGTERM, SIGHUP or SIGQUIT arrived. Not an Exception, so that no driver takes it for a failed request."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _TimeoutExpired(BaseException):
    """``--timeout`` is over. Not an Exception: botocore takes those for failed requests, and retries.

    Its argument is a cause, if AWS throttled a call; else empty.
    """


_RERAISE_SECONDS = 0.05
arguments: ContextVar[Sequence[str]] = ContextVar("arguments", default=())
"""The arguments of the running command, for :func:`rerun_hint` and those below."""


def runs_from_cron() -> bool:
    """Return whether the running command has ``--cron``. Reads the raw arguments, as usage errors need it."""
    return "--cron" in takewhile("--".__ne__, arguments.get())


def option_value(name: str) -> str | None:
    """Return the value of an option in the raw arguments of the running command; None without it."""
    words = list(takewhile("--".__ne__, arguments.get()))
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return next((value for word, value in pairwise(words) if word == name), next(iter(joined), None))


def wants_json(args: Sequence[str]) -> bool:
    """Return whether errors are printed as JSON. Reads the raw arguments, for usage errors are JSON, too."""
    words = list(takewhile("--".__ne__, args))
    words += [f"{name}={value}" for name, value in pairwise(words)]
    return any(f"{name}{form}" in words for name in ("-o", "-o=", "--output=") for form in ("json", "jsonl"))


def writes_json_lines() -> bool:
    """Return whether each line that the running command writes to stderr is JSON: for a program that reads it."""
    return runs_from_cron() or wants_json(arguments.get())


_KEEPING = {"rebuild", "recover", "replay", "import", "set", "cool", "setup", "requeue", "drop", "load"}
_KEEPING |= {"--apply", "--repair", "--checkpoint"}
"""Words of commands that change something, and so keep what they have done."""


def rerun_hint(how: str = "", *, without: str = "") -> str:
    """Return the hint of an interrupted command: how to run it again, and that its work is kept if it did any.

    ``without``: an option that is left out with its value.
    """
    # --restart would discard what is kept.
    words = _without_value([word for word in arguments.get() if word != "--restart"], without)
    kept = "finished work is kept; " if _KEEPING & {*words} and "--dry-run" not in words else ""
    return hint_of(f"{kept}run it again{' ' + how if how else ''}", command_line(*words))


def _without_value(words: list[str], option: str) -> list[str]:
    """Return the words without an option and its value, which is the next word, or stands behind ``=``."""
    kept, rest = list[str](), list(words)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if word == option:
            del rest[:1]
        elif not option or not word.startswith(f"{option}="):
            kept.append(word)
    return kept + rest


def rerun_without(option: str) -> str:
    """Return the running command without a flag, such as a dry run that was a look before the real one."""
    return command_line(*(word for word in arguments.get() if word != option))


def rerun_with(*options: str) -> str:
    """Return the running command with more options, which come before ``--``."""
    words = list(arguments.get())
    at = words.index("--") if "--" in words else len(words)
    return command_line(*words[:at], *options, *words[at:])


def _heeded(*signums: signal.Signals) -> list[signal.Signals]:
    """Return those that are not ignored: nohup ignores SIGHUP, a script's ``&`` SIGINT, and that must stay so."""
    return [signum for signum in signums if signal.getsignal(signum) is not signal.SIG_IGN]


_notices: list[tuple[int, bytes]] = []
"""The file descriptor and the line that the next signal prints: the last one of them."""


@contextmanager
def announce_stop(*, erase_line: bool = False) -> Iterator[None]:
    """Let the first signal in the block print ``stopping…`` to stderr at once: a job still has to finish its batch.

    ``erase_line``: a line is drawn on the terminal that changes, and the notice takes its place. There is none where
    stderr is lines of JSON: the error says it.
    """
    if writes_json_lines():
        yield
        return
    before = len(_notices)
    with suppress(AttributeError, OSError, ValueError):  # stderr is closed, or it is not a file
        descriptor, text = sys.stderr.fileno(), "\r\x1b[2K" * erase_line + "stopping…\n"
        try:
            encoded = text.encode(sys.stderr.encoding)
        except UnicodeEncodeError:
            encoded = text.replace("…", "...").encode()
        _notices.append((descriptor, encoded))
    try:
        yield
    finally:
        del _notices[before:]


def _print_notice() -> None:
    """Print the notice, once. Runs in a signal handler: no buffered stream, and no wait for a reader that hangs."""
    if _notices:
        descriptor, line = _notices[-1]
        _notices.clear()
        with suppress(OSError, ValueError):
            if select.select((), (descriptor,), (), 0)[1]:
                os.write(descriptor, line)


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Make SIGTERM, SIGHUP and SIGQUIT raise Terminated in the main thread, and SIGINT KeyboardInterrupt.

    Those that the process ignores stay ignored. Afterwards the handlers of before are back.
    """

    def on_signal(signum: int, frame: FrameType | None) -> None:
        """Raise the exception of the signal, after the notice of a job that takes a while to end."""
        _print_notice()
        raise KeyboardInterrupt if signum == signal.SIGINT else Terminated(signum)

    signums = _heeded(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {signum: signal.getsignal(signum) for signum in signums}
    try:
        for signum in signums:
            signal.signal(signum, on_signal)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Let SIGTERM, SIGINT and SIGHUP set the event, so that a loop can drain; a second signal raises Terminated."""
    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        """Set the event at the first signal."""
        if stop.is_set():
            raise Terminated(signum)
        stop.set()

    signums = _heeded(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {signum: signal.signal(signum, on_signal) for signum in signums}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def reraise_lost_signals() -> Iterator[None]:
    """Re-raise signals lost in finalizers.

    If a signal handler raises while a finalizer runs, Python prints the exception and continues. This block
    raises it again a moment later, by SIGALRM; the deadline that SIGALRM may carry no longer matters then.
    """
    hook_before, alarm_before = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    lost: list[BaseException] = []

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        """Start the timer for an exception that a finalizer lost."""
        if isinstance(unraisable.exc_value, _TimeoutExpired | Terminated | KeyboardInterrupt):
            lost.append(unraisable.exc_value)
            signal.signal(signal.SIGALRM, reraise)
            signal.setitimer(signal.ITIMER_REAL, _RERAISE_SECONDS)
        else:
            hook_before(unraisable)

    def reraise(signum: int, frame: FrameType | None) -> None:
        """Raise the lost exception, unless the hook is still running."""
        while frame is not None:
            if frame.f_code is hook.__code__:  # the hook still runs: this exception would be lost, too
                signal.setitimer(signal.ITIMER_REAL, _RERAISE_SECONDS)
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
    """End the block with DeadlineExceededError after ``seconds``; None and 0 set no deadline. Main thread only."""
    if not seconds:
        yield
        return

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        """End the block."""
        raise _TimeoutExpired(throttled_call())

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with reraise_lost_signals():
            yield
    except _TimeoutExpired as exc:
        cause = "".join(f"; {text}" for text in exc.args if text)
        raise DeadlineExceededError(
            f"not done after {seconds:g} s (--timeout){cause}",
            hint=rerun_hint("with a longer --timeout, or with none", without="--timeout"),
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
