"""A child that is forked while threads use the clients: parent and child never read each other's responses."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Self

from saltctl.canary.checks.outcomes import HOST_ERRORS, Broken, Skipped, Unjudged
from saltctl.canary.clients import Client
from saltctl.canary.new_rows import NewRow
from saltctl.canary.operations import LookupAnswer, Put, Read
from saltctl.canary.round import Round
from saltctl.errors import SaltctlError

_SECONDS = 20.0
"""Time after which a child is killed: more than its requests take."""
_CHILDREN = 2
_CHUNK = 1 << 16
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end a process."""


def fork(on: Round) -> str:
    """Fork children, one after another; each writes and reads, and two threads of the parent do at the same time.

    Before a fork all connections are idle, so that a client that shares them takes the same ones in both processes.
    """
    if not on.servers.forks or not hasattr(os, "fork"):
        raise Skipped("this platform cannot fork")
    conversation = on.use(on.raised or on.steady)
    on.by_redis.read(conversation)  # so that there are connections
    failed: Exception | None = None
    for _ in range(_CHILDREN):
        try:
            _serve_with_child(on, conversation)
        except (SaltctlError, Unjudged) as exc:
            if failed is not None:
                break
            failed = exc
    if failed is not None:
        raise failed
    return f"{_CHILDREN} children, with two threads beside each"


def _serve_with_child(on: Round, conversation: str) -> None:
    rows = {name: on.row(conversation) for name in ("child", "thread 1", "thread 2")}
    failures = list[Exception]()

    def work(name: str) -> None:
        """Serve in a thread of the parent."""
        try:
            _serve(on.by_redis, conversation, rows[name])
        except Exception as exc:
            failures.append(exc)

    with _Child(lambda: _served(on, conversation, rows["child"])) as child:
        threads = [threading.Thread(target=work, args=(name,)) for name in rows if name != "child"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answer = child.answer()
    _record(on, answer)
    for exc in failures:
        if not isinstance(exc, (SaltctlError, *HOST_ERRORS)):
            raise Broken(f"a thread that used a client after a fork ended with {exc!r:.200}")
        raise exc


def _serve(client: Client, conversation: str, row: NewRow) -> None:
    client.put(conversation, row)
    client.read(conversation)


def _served(on: Round, conversation: str, row: NewRow) -> dict[str, Any]:
    """Serve in the child; return what was recorded, or the error."""
    operations, error, code = on.recorder.operations, "", ""
    for recorded in (operations.puts, operations.reads, operations.lookups):
        recorded.clear()  # the parent has its own
    try:
        _serve(on.by_redis, conversation, row)
    except SaltctlError as exc:
        error, code = exc.message, exc.code
    except HOST_ERRORS as exc:
        error, code = repr(exc), "host"
    except Exception as exc:
        error = repr(exc)
    return {
        "puts": operations.puts,
        "reads": operations.reads,
        "lookups": operations.lookups,
        "error": error,
        "code": code,
    }


def _record(on: Round, answer: dict[str, Any]) -> None:
    """Add the operations of the child to those of the round; raise what ended it."""
    operations = on.recorder.operations
    operations.puts += [Put(*put) for put in answer["puts"]]
    operations.reads += [Read(*read)._replace(messages=tuple(read[4])) for read in answer["reads"]]
    operations.lookups += [LookupAnswer(*lookup) for lookup in answer["lookups"]]
    if answer["code"]:
        raise Unjudged(f"in the child: {answer['error']}")
    if answer["error"]:
        raise Broken(f"a child that used a client of its parent ended with {answer['error']:.200}")


class _Child:
    """A forked child that runs a function. At the end of the block it is killed, if it has not ended, and reaped."""

    def __init__(self, work: Callable[[], dict[str, Any]]) -> None:
        self._reading, writing = os.pipe()
        # A handler of the parent must not run in the child, where its exception would unwind the parent's code.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
                self._pid = os.fork()
            if self._pid == 0:
                _run(writing, work)
        except BaseException:
            os.close(self._reading)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reading)
        os.kill(self._pid, signal.SIGKILL)  # it has not been waited for, so the id is its own
        os.waitpid(self._pid, 0)

    def answer(self) -> dict[str, Any]:
        """Return the result of the function.

        Raises Unjudged if there is none in time: a lock of another library may have been held at the fork.
        """
        deadline, parts = time.monotonic() + _SECONDS, list[bytes]()
        while (left := deadline - time.monotonic()) > 0 and select.select([self._reading], [], [], left)[0]:
            if not (part := os.read(self._reading, _CHUNK)):
                break
            parts.append(part)
        try:
            answer: dict[str, Any] = json.loads(b"".join(parts))
        except ValueError:
            raise Unjudged(f"a forked child did not answer within {_SECONDS:.0f} s") from None
        return answer


def _run(writing: int, work: Callable[[], dict[str, Any]]) -> None:
    """Send the result, and end; handlers, buffers and threads of the parent are not touched."""
    try:
        for signum in (signal.SIGALRM, *_ENDS):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)  # also if the parent dies
        left = memoryview(json.dumps(work()).encode())
        while left:
            left = left[os.write(writing, left) :]
    finally:
        os._exit(0)
