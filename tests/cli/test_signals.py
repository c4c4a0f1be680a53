"""Signals and deadlines: none is lost, not even in a finalizer."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from saltctl.cli.signals import (
    Terminated,
    announce_stop,
    arguments,
    deadline,
    raise_on_signals,
    rerun_hint,
    stop_on_signals,
)
from saltctl.errors import DeadlineExceededError
from saltctl.stores.throttle_notes import throttling_noted


class Finalized:
    """An object whose finalizer is interrupted by a signal."""

    def __init__(self, signum: signal.Signals) -> None:
        self._signum = signum

    def __del__(self) -> None:
        """Raise the signal."""
        signal.raise_signal(self._signum)
        time.sleep(0)  # Python runs the handler here at the latest


def test_a_timeout_in_a_finalizer_is_raised_again() -> None:
    """Python continues after a finalizer that raised; the deadline ends the block all the same."""
    handlers = signal.getsignal(signal.SIGALRM), sys.unraisablehook

    def interrupted() -> None:
        found = Finalized(signal.SIGALRM)
        del found
        for _ in range(2000):  # twenty seconds, if the deadline is lost
            time.sleep(0.01)

    with pytest.raises(DeadlineExceededError), deadline(3600):
        interrupted()
    assert (signal.getsignal(signal.SIGALRM), sys.unraisablehook) == handlers
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_timeout_names_the_throttling() -> None:
    """It says what AWS throttled at that moment, and only that."""
    ended = "not done after 3600 s (--timeout)"
    for note, message in (("AWS throttles 't'", f"{ended}; AWS throttles 't'"), ("", ended)):
        with throttling_noted() as throttled:
            throttled(note)
            with pytest.raises(DeadlineExceededError) as raised, deadline(3600):
                signal.raise_signal(signal.SIGALRM)
        assert raised.value.message == message


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_finalizer_ends_the_process(signum: signal.Signals, code: int) -> None:
    """A process that lost its SIGTERM in a finalizer would have to be killed."""
    program = f"""
        import signal, sys, time
        from saltctl.cli.main import main
        from tests.cli.test_signals import Finalized
        class Command:
            def make_context(self, *_): return self
            def __enter__(self): return self
            def __exit__(self, *_): pass
            def invoke(self, _):
                found = Finalized(signal.Signals({int(signum)}))
                del found
                while True:
                    time.sleep(0.01)
        main(["compare"], command=Command())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == code, done.stderr
    assert "run it again\n  try: saltctl compare" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["typer", "saltctl.cli.app", "saltctl.cli.registry.registry"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(module: str) -> None:
    """The imports are most of the time that a short command takes."""
    program = f"""
        import runpy, signal, sys
        class Interrupting:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    signal.raise_signal(signal.SIGINT)
        sys.meta_path.insert(0, Interrupting())
        sys.argv = ["saltctl", "registry", "list"]
        runpy.run_module("saltctl", run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr.startswith("error: interrupted\n")
    assert "Traceback" not in done.stderr


_AT_A_CALL = """
import atexit, signal, sys
from saltctl.__main__ import main

at, signum = int(sys.argv[1]), int(sys.argv[2])
sys.argv = ["saltctl", *sys.argv[3:]]
calls = 0

def count(frame, event, argument):
    global calls
    # Before our first line Python itself would print, and nothing can be done.
    if event == "call" and (calls or callable(signal.getsignal(signal.SIGQUIT))):
        calls += 1
        if calls == at:
            sys.setprofile(None)
            signal.raise_signal(signum)

if at == 0:
    atexit.register(lambda: sys.stderr.write(f"calls: {calls}\\n"))
sys.setprofile(count)
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "signum"),
    [
        (["--version"], signal.SIGHUP),
        (["registry", "list"], signal.SIGINT),
        (["registry", "nope"], signal.SIGTERM),
    ],
    ids=["version", "list", "usage"],
)
def test_a_signal_at_any_moment_is_no_traceback(args: list[str], signum: signal.Signals) -> None:
    """From the first function that saltctl calls to the last one: imports, errors being printed, and the exit."""

    def run_until(call: int) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", _AT_A_CALL, str(call), str(int(signum)), *args]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SALTCTL_")}
        return subprocess.run(program, capture_output=True, text=True, check=False, env=environ)

    calls = int(run_until(0).stderr.rpartition("calls: ")[2])
    assert calls > 1000
    for call in [1, 2, *range(3, calls, calls // 8), *range(calls - 100, calls - 20, 20)]:
        done = run_until(call)
        assert done.returncode == 128 + signum, (call, done)
        assert "error: " in done.stderr
        assert "Traceback" not in done.stderr


def test_the_hint_does_not_start_over() -> None:
    """What was done is kept; to run a job again with --restart would discard it."""
    token = arguments.set(("rebuild", "--restart", "--segments", "2"))
    try:
        assert rerun_hint() == "finished work is kept; run it again\nsaltctl rebuild --segments 2"
    finally:
        arguments.reset(token)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handlers that the test replaces."""
    before = {
        signum: signal.getsignal(signum) for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    }
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_ignored_signals_stay_ignored(handlers: None) -> None:
    """Those that nohup, or a script's ``&``, ignores are ignored by commands and by the service's loop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raise_on_signals(), stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with raise_on_signals(), pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)


def test_a_child_inherits_an_ignored_signal(handlers: None) -> None:
    """A child of a command under nohup ignores SIGHUP, too."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    code = "import signal; print(signal.getsignal(signal.SIGHUP).name)"
    with raise_on_signals():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "SIG_IGN\n"


@pytest.mark.parametrize(
    ("words", "keeps"),
    [
        ("history read conv --timeout 1ms", False),
        ("compare --sample 1/2", False),
        ("compare --repair", True),
        ("compare --repair --dry-run", False),
        ("registry discover", False),
        ("registry discover --apply", True),
        ("rebuild --dry-run", False),
        ("recover", True),
    ],
)
def test_a_command_that_only_reads_keeps_nothing(words: str, keeps: bool) -> None:
    """Its hint promises no finished work."""
    token = arguments.set(tuple(words.split()))
    try:
        kept = "finished work is kept; " if keeps else ""
        assert rerun_hint("with more time") == f"{kept}run it again with more time\nsaltctl {words}"
    finally:
        arguments.reset(token)


@pytest.mark.parametrize("words", ["--timeout 1ms --restart", "--timeout=1ms", ""])
def test_a_timeout_that_was_too_short_is_not_repeated(words: str) -> None:
    """The command of the hint has none; words after ``--`` are those of another command."""
    token = arguments.set(("rebuild", "-o", "json", *words.split(), "--", "--timeout", "1ms"))
    try:
        # Long enough that it sleeps by then: in a finalizer Python would report the alarm, too.
        with pytest.raises(DeadlineExceededError) as caught, deadline(0.2):
            time.sleep(30)
    finally:
        arguments.reset(token)
    assert caught.value.hint == (
        "finished work is kept; run it again with a longer --timeout, or with none\n"
        "saltctl rebuild -o json -- --timeout 1ms"
    )


def test_only_the_first_signal_is_announced(capfd: pytest.CaptureFixture[str], handlers: None) -> None:
    """At once, before the job has ended; a stream that is not a file gets no notice."""
    stream = open(2, "w", encoding="ascii", closefd=False)  # noqa: SIM115  a descriptor
    for stderr, notice in (stream, "stopping...\n"), (io.StringIO(), ""):
        with patch("sys.stderr", stderr), raise_on_signals(), announce_stop(), announce_stop():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert capfd.readouterr().err == notice
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)
        with raise_on_signals(), pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        assert capfd.readouterr().err == ""
