"""The client under trial: a process of its own that answers requests, a line of JSON each.

Nothing that it does is trusted: its lines and its stderr are bounded, each answer has a time limit, and at the end its
whole process group is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from saltctl.errors import UsageError
from saltctl.local.servers import command_bound_to_parent

START_SECONDS = 30.0
"""Time for the first answer: some languages start slowly."""
MAX_LINE = 1 << 20
"""Bytes of one answer."""
MAX_STDERR = 2000
"""Bytes of stderr that are kept, the last ones."""
SHOWN = 300
"""Characters of an answer that a message quotes."""
Answer = Mapping[str, Any]


class ClientGoneError(Exception):
    """The client gave no answer that can be judged, and is not asked again. ``rule`` is the one that it broke."""

    def __init__(self, problem: str, rule: str = "9.2") -> None:
        super().__init__(problem)
        self.problem, self.rule = problem, rule


class Client(Protocol):
    """A client that can be asked."""

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Return the answer to a request. Raises ClientGoneError."""

    def pause(self) -> bool:
        """Stop the client, as a suspended machine would; return whether that is possible."""

    def resume(self) -> None:
        """Let it go on."""

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request without waiting."""

    def receive(self) -> Answer:
        """Return the answer to the request that was sent. Raises ClientGoneError."""

    def end(self) -> None:
        """Wait for the end after ``close``. Raises ClientGoneError if there is none, or with a code other than 0."""

    def kill(self) -> None:
        """End it in any case."""


class ClientProcess:
    """A client that is a process, in a session and process group of its own.

    Args:
        command: the command and its arguments.
        variables: its environment.
        answer_timeout: seconds that an answer may take.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], answer_timeout: float) -> None:
        self._answer_timeout = answer_timeout
        self._first = True
        self._read = bytearray()
        self._stderr = bytearray()
        try:
            self._process = subprocess.Popen(
                command_bound_to_parent(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(variables),
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:  # a null byte in an argument
            raise UsageError(f"cannot start {command[0]!r:.100}: {exc}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._errors = self._process.stderr
        for stream in (self._stdin, self._stdout, self._errors):
            os.set_blocking(stream.fileno(), False)

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Return the answer to a request."""
        self.send(request)
        return self.receive()

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request. A client that prints something that was not asked for is not asked again."""
        self._drain(0.0)
        if self._read:
            raise ClientGoneError(f"it printed {_quoted(self._read)} without a request", "9.1")
        # A pipe takes 64 kB at once, and there is one request at a time.
        line = json.dumps(request).encode() + b"\n"
        try:
            written = os.write(self._stdin.fileno(), line)
        except BlockingIOError:
            written = 0
        except OSError:
            raise self._ended() from None
        if written < len(line):
            raise ClientGoneError("it does not read its stdin")

    def receive(self) -> Answer:
        """Return the answer to the request that was sent."""
        limit = max(START_SECONDS, self._answer_timeout) if self._first else self._answer_timeout
        deadline = time.monotonic() + limit
        while b"\n" not in self._read:
            if len(self._read) > MAX_LINE:
                raise ClientGoneError(f"it printed {len(self._read):,} bytes without a line break", "9.1")
            left = deadline - time.monotonic()
            if left <= 0:
                shown = f", only {_quoted(self._read)}" if self._read else ""
                raise ClientGoneError(f"no answer within {limit:g} s{shown}")
            if not self._drain(left):
                raise self._ended()
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        self._first = False
        return _parse(line)

    def pause(self) -> bool:
        """Stop the processes of the group; return whether the first one has stopped."""
        self._signal(signal.SIGSTOP)
        with suppress(OSError):
            return os.WIFSTOPPED(os.waitpid(self._process.pid, os.WUNTRACED)[1])
        return False

    def resume(self) -> None:
        """Let the group go on."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Wait for the end of the client, which has to be with exit code 0."""
        self._stdin.close()
        deadline = time.monotonic() + self._answer_timeout
        while self._drain(max(deadline - time.monotonic(), 0.0)):
            if len(self._read) > MAX_LINE or time.monotonic() >= deadline:
                raise self._lasting()
        try:
            code = self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise self._lasting() from None
        if self._read:
            raise ClientGoneError(f"it printed {_quoted(self._read)} without a request", "9.1")
        if code != 0:
            raise self._ended()

    def kill(self) -> None:
        """Kill the process group, and wait for the client."""
        self._signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._errors):
            with suppress(OSError):
                stream.close()

    def _signal(self, signum: signal.Signals) -> None:
        # The group has the pid of the client until the client is waited for; descendants may outlive it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signum)

    def _drain(self, seconds: float) -> bool:
        """Read what the client prints, for at most that long; return whether its stdout is still open."""
        ready, _, _ = select.select([self._stdout, self._errors], [], [], seconds)
        if self._errors in ready:
            with suppress(BlockingIOError):
                text = os.read(self._errors.fileno(), 1 << 16)
                self._stderr = (self._stderr + text)[-MAX_STDERR:]
                if not text and self._stdout not in ready:  # closed: it is always ready
                    ready, _, _ = select.select([self._stdout], [], [], seconds)
        if self._stdout in ready:
            with suppress(BlockingIOError):
                text = os.read(self._stdout.fileno(), 1 << 16)
                self._read += text
                return bool(text)
        return True

    def _lasting(self) -> ClientGoneError:
        """Return the error of a client that does not end, or whose children outlive it."""
        if self._process.poll() is None:
            return ClientGoneError(f"it does not end within {self._answer_timeout:g} s after `close`")
        return ClientGoneError(
            f"it ended, but a process that it started holds its stdout {self._answer_timeout:g} s later"
        )

    def _ended(self) -> ClientGoneError:
        """Return the error of a client that has closed its stdout, or ended."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ClientGoneError("it closed its stdout", "9.1")
        with suppress(OSError):
            while select.select([self._errors], [], [], 0.1)[0] and (text := os.read(self._errors.fileno(), 1 << 16)):
                self._stderr = (self._stderr + text)[-MAX_STDERR:]
        how = f"it ended with exit code {code}" if code >= 0 else f"signal {-code} ended it"
        last = self._stderr.decode(errors="replace").strip()
        if self._first and code == 2 and last.startswith("error: cannot run "):
            raise UsageError(last.removeprefix("error: "))
        return ClientGoneError(how + (f"; the end of its stderr: {last[-SHOWN:]}" if last else ""), "9.1")


def _parse(line: bytes) -> Answer:
    try:
        answer = json.loads(line)
        json.dumps(answer)  # it can be compared: not too deep
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ClientGoneError(f"its answer is no JSON object: {_quoted(line)}", "9.1")
    return answer


def _quoted(text: bytes | bytearray) -> str:
    return repr(bytes(text[:SHOWN]).decode(errors="replace"))
