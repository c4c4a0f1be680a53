"""Child processes by fork(2). The parent has imported everything."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable

from tests.checker.log import Log

_PR_SET_PDEATHSIG = 1


def fork(log: Log, child: Callable[[], None]) -> int:
    """Run ``child`` in a new process and return its pid. The process dies with its parent.

    An exception in the child is logged as a crash.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _die_with(parent)
        child()
        code = 0
    except BaseException as exc:
        if not getattr(exc, "exit_code", 0):  # the role has logged an error of saltctl already
            log.note("crash", "".join(traceback.format_exception(exc)[-3:]))
    finally:
        os._exit(code)


def reap(pid: int) -> int:
    """Wait for a child and return its status, as waitpid(2) does."""
    return os.waitpid(pid, 0)[1]


def _die_with(parent: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
