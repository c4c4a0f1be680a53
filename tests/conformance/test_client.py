"""A client that hangs, ends, floods or lies is told apart, within its time, and leaves no process behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from saltctl.conformance.client import MAX_LINE, SHOWN, ClientGoneError, ClientProcess
from saltctl.errors import UsageError

SHORT, LONG = 0.4, 20.0
"""Seconds that an answer may take: of a client that gives none, and of one that does on a busy machine."""
OPENED = "import sys, time, os; sys.stdin.readline(); print('{}', flush=True); sys.stdin.readline();"
"""A client that answers its first request, and reads a second one."""


@contextmanager
def started(code: str, seconds: float = LONG) -> Iterator[ClientProcess]:
    """A client that runs Python code."""
    client = ClientProcess([sys.executable, "-I", "-S", "-c", code], dict(os.environ), seconds)
    try:
        yield client
    finally:
        client.kill()


@pytest.mark.parametrize(
    ("code", "problem", "rule"),
    [
        ("time.sleep(60)", "no answer within 0.4 s", "9.2"),
        ("print('{\"a\"', end='', flush=True); time.sleep(60)", "only '{\"a\"'", "9.2"),
        ("print('hello')", "no JSON object: 'hello'", "9.1"),
        ("print('[1]')", "no JSON object", "9.1"),
        ("print('[' * 100000)", "no JSON object", "9.1"),
        ("print('{\"a\": ' + '9' * 5000 + '}')", "no JSON object", "9.1"),
        ("sys.stdout.buffer.write(b'\\xff\\x1b[31m\\n')", "'\ufffd\\x1b[31m'", "9.1"),
        ("\nwhile True: sys.stdout.write('x' * 65536)", "without a line break", "9.1"),
        ("sys.stderr.write('it broke'); sys.exit(7)", "exit code 7; the end of its stderr: it broke", "9.1"),
        ("\nsys.stderr.write('e' * 10**6 + 'last'); sys.exit(7)", "elast", "9.1"),
        ("os.kill(os.getpid(), 9)", "signal 9 ended it", "9.1"),
        ("os.close(1); time.sleep(60)", "it closed its stdout", "9.1"),
    ],
)
def test_an_answer_that_is_none(code: str, problem: str, rule: str) -> None:
    """The problem names it, in few characters."""
    with started(OPENED + code, SHORT if rule == "9.2" else LONG) as client:
        assert client.ask({"op": "open"}) == {}
        with pytest.raises(ClientGoneError) as gone:
            client.ask({"op": "lookup"})
    assert problem in gone.value.problem
    assert gone.value.rule == rule
    assert len(gone.value.problem) < 3 * SHOWN


def test_more_than_was_asked_for() -> None:
    """A second line is not taken for the answer to the next request."""
    with started("import time; input(); print('{}\\n{}', flush=True); time.sleep(60)") as client:
        assert client.ask({"op": "open"}) == {}
        with pytest.raises(ClientGoneError, match="without a request"):
            client.ask({"op": "lookup"})


def test_a_long_answer_and_a_flood_on_stderr() -> None:
    """Neither fills a pipe for ever."""
    code = f"sys.stderr.write('e' * 10**6); print('{{\"a\": \"' + 'x' * {MAX_LINE - 100} + '\"}}', flush=True)"
    with started(OPENED + code) as client:
        client.ask({"op": "open"})
        assert len(str(client.ask({"op": "read"})["a"])) == MAX_LINE - 100


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("", ""),
        ("time.sleep(60)", "does not end within"),
        ("\nif not os.fork(): time.sleep(60)", "it ended, but a process that it started holds its stdout"),
        ("sys.exit(1)", "exit code 1"),
        ("print('x')", "without a request"),
        ("\nwhile True: print('x' * 65536)", "does not end within"),
    ],
)
def test_the_end_after_close(code: str, problem: str) -> None:
    """It must come, soon, quietly and with exit code 0."""
    seconds = SHORT if "not end" in problem or "holds" in problem else LONG
    with started(OPENED + "print('{}', flush=True);" + "time.sleep(0.05);" + code, seconds) as client:
        client.ask({"op": "open"})
        client.ask({"op": "close"})
        if problem:
            with pytest.raises(ClientGoneError, match=problem):
                client.end()
        else:
            client.end()


def test_its_children_are_killed() -> None:
    """Those that ignore signals, too, and also if the client was stopped."""
    code = (
        "import os, signal, time; input(); child = os.fork(); signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('{\"pid\": %d}' % os.getpid(), flush=True) if not child else None; time.sleep(60)"
    )
    with started(code) as client:
        pid = client.ask({"op": "open"})["pid"]
        assert client.pause()
    deadline = time.monotonic() + 10
    with suppress(ProcessLookupError, FileNotFoundError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # killed; nobody has waited for it
            time.sleep(0.01)
        pytest.fail(f"the child {pid} lives on")


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    """That is a mistake of the caller, and not of the client."""
    broken = tmp_path / "client"
    broken.write_text("neither a script nor a program")
    broken.chmod(0o755)
    client = ClientProcess([str(broken)], dict(os.environ), LONG)
    try:
        with pytest.raises(UsageError, match="cannot run"):
            client.ask({"op": "open"})
    finally:
        client.kill()
    with pytest.raises(UsageError):
        ClientProcess([sys.executable, "a\0b"], dict(os.environ), LONG)
