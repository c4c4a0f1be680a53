"""Waiting while AWS throttles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from saltctl.errors import ThrottledError

_T = TypeVar("_T")
_PATIENCE = 40
"""Times that a call is made, a few seconds apart: about two minutes and a half."""


def retry_while_throttled(call: Callable[[], _T], sleep: Callable[[float], None]) -> _T:
    """Repeat a call that AWS throttles, which may run twice, for up to about two minutes.

    botocore's retry quota runs dry after some ten throttled calls; a job must outlast a throttled minute.
    """
    for attempt in range(_PATIENCE):
        try:
            return call()
        except ThrottledError:
            sleep(min(4.0, 0.1 * 2**attempt))
    return call()
