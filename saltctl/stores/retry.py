"""Retries with exponential backoff."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from saltctl.errors import ThrottledError
from saltctl.stores.throttle_notes import throttling_noted

_T = TypeVar("_T")


def backoff_seconds(attempt: int, *, first: float = 0.1, longest: float = 4.0) -> float:
    """Compute the pause after a failed attempt, in seconds.

    It doubles from ``first`` (attempt 0) up to ``longest``. Random jitter shortens it by up to a half, so that
    clients that were throttled together do not retry together.
    """
    return random.uniform(0.5, 1) * min(longest, first * 2.0 ** min(attempt, 30))


def retry_while_throttled(
    call: Callable[[], _T], sleep: Callable[[float], object], *, stopped: Callable[[], bool] = lambda: False
) -> _T:
    """Repeat an idempotent call while AWS throttles it, for about two minutes.

    botocore's own retry quota is used up after about ten throttled calls; a job must outlast a throttled minute.
    ``stopped``: whether the caller is stopping, so that another retry is useless.
    """
    with throttling_noted() as note:
        for attempt in range(40):  # about two minutes of pauses
            try:
                return call()
            except ThrottledError as exc:
                if stopped():
                    raise
                note(exc.message)
                sleep(backoff_seconds(attempt))
        return call()
