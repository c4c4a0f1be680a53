"""Sources of credentials: processes that end with this one, and documents and keys of which the shape is checked."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from saltctl.forks import PerProcess
from saltctl.stores.bounded.errors import UnusableCredentialsError

LONGEST_PROCESS = 60.0
"""Seconds after which a ``credential_process`` that hangs is ended once another one starts."""
LONGEST_OUTPUT = 1 << 20
"""Bytes that a ``credential_process`` may print. Credentials have a few thousand."""
LONGEST_TOKEN = 1 << 20
"""Bytes of a file with a token. Tokens have a few thousand."""
LONGEST_KEY = 1 << 16
"""Characters of a key or a session token. Servers refuse headers of this length."""
_ENDING_SECONDS = 1.0
"""Seconds to wait for the end of a killed process: one that runs as another user cannot be killed."""
_LONGEST_REASON = 120
"""Characters of each quoted member of a document."""


class _Process(subprocess.Popen[bytes]):
    """A ``credential_process`` with the processes that it starts: a group, which a signal reaches as a whole."""

    def __init__(self, command: Sequence[str], **pipes: Any) -> None:
        super().__init__(command, process_group=0, **pipes)
        self.began = monotonic()

    def communicate(self, *args: Any, **more: Any) -> Any:
        """Return what it printed, once that was checked. Raises UnusableCredentialsError."""
        try:
            output = self._read()
            self.wait()
        except BaseException:
            _kill(self)
            raise
        finally:
            self._close()
        if self.returncode == 0:
            check_document(output[0], ("AccessKeyId", "SecretAccessKey"))
        return output

    def _read(self) -> list[bytes]:
        """Read its output and its errors to their ends: ``communicate`` of the base has no bound."""
        printed = {pipe: bytearray() for pipe in (self.stdout, self.stderr) if pipe is not None}
        with selectors.DefaultSelector() as selector:
            for pipe, parts in printed.items():
                selector.register(pipe, selectors.EVENT_READ, parts)
            while selector.get_map():
                for key, _ in selector.select():
                    part = os.read(key.fd, 1 << 16)
                    key.data.extend(part)
                    if not part:
                        selector.unregister(key.fileobj)
                    if sum(map(len, printed.values())) > LONGEST_OUTPUT:
                        raise UnusableCredentialsError(f"credential_process printed more than {LONGEST_OUTPUT:,} bytes")
        return [bytes(parts) for parts in printed.values()]

    def _close(self) -> None:
        """Close the pipes, so that no process that still holds them can write, and wait for the end."""
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self.wait(_ENDING_SECONDS)
        _running.get().discard(self)


_running: PerProcess[set[_Process]] = PerProcess(set)


def credential_process(command: Sequence[str], **pipes: Any) -> _Process:
    """Start a ``credential_process`` that ends with this process. Raises UnusableCredentialsError for no command."""
    if not any(command[:1]):
        raise UnusableCredentialsError("credential_process has no command")
    end_processes(monotonic() - LONGEST_PROCESS)
    process = _Process(command, **pipes)
    _running.get().add(process)
    return process


def end_processes(began_before: float = inf) -> None:
    """Kill the processes that began before a time, in monotonic seconds, and that this process started."""
    for process in list(_running.get()):
        if process.began < began_before:
            _kill(process)


def _kill(process: _Process) -> None:
    # One that was not waited for keeps its id: the system has not given it to another one.
    if process.returncode is None:
        with suppress(OSError):  # it has just ended, or runs as another user
            os.killpg(process.pid, signal.SIGKILL)


atexit.register(end_processes)


def check_token_file(path: str) -> None:
    """Check a file before it is read as a token; one that does not exist is left to the reader.

    Raises:
        UnusableCredentialsError: it is a device or a pipe, which may never end, or far too long.
    """
    with suppress(FileNotFoundError):
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LONGEST_TOKEN:
            raise UnusableCredentialsError(
                f"{path!r} is not a token: no file, or one of more than {LONGEST_TOKEN:,} bytes"
            )


def read_token(path: str) -> str:
    """Return the token in a file. Raises OSError, and as :func:`check_token_file`."""
    check_token_file(path)
    return Path(path).read_text()


def check_document(body: bytes, members: Sequence[str], *, quoted: Sequence[str] = ()) -> None:
    """Check that JSON is an object of strings. botocore reports what is not JSON itself.

    Args:
        body: what a provider returned.
        members: those that it must have.
        quoted: those that say in words why it lacks some, and hold no secrets.

    Raises:
        UnusableCredentialsError: it is something else, or has not all of them.
    """
    try:
        document = json.loads(body)
    except ValueError:
        return
    if not isinstance(document, dict):
        raise UnusableCredentialsError("its credentials are other JSON than an object")
    for name in members:
        if name not in document:
            words = [str(document.get(member, ""))[:_LONGEST_REASON] for member in quoted]
            reason = "".join(one if one.isprintable() else " " for one in ": ".join(filter(None, words)))
            raise UnusableCredentialsError(f"its credentials have no {name}{reason and f' ({reason})'}")
    for name in ("AccessKeyId", "SecretAccessKey", "Token", "SessionToken", "Expiration"):
        if not isinstance(value := document.get(name, ""), str) and (value is not None or name in members):
            raise UnusableCredentialsError(f"its {name} is not a string")


def check_keys(key_id: Any, secret: Any, token: Any, whose: str = "") -> None:
    """Check that requests can be signed with credentials: printable ASCII without blanks, which headers can carry.

    Raises:
        UnusableCredentialsError: one of them is damaged, for example by a line break at its end.
    """
    for name, value in (("access key id", key_id), ("secret access key", secret), ("session token", token or "-")):
        if not isinstance(value, str) or not value:
            raise UnusableCredentialsError(f"the {whose}{name} is missing, or is not a string")
        if len(value) > LONGEST_KEY:
            raise UnusableCredentialsError(f"the {whose}{name} has more than {LONGEST_KEY:,} characters")
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise UnusableCredentialsError(
                f"the {whose}{name} holds a line break, a blank or another character that no key has"
            )
