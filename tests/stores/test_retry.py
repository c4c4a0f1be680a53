"""Retries with exponential backoff."""

from __future__ import annotations

import pytest

from saltctl.errors import ThrottledError
from saltctl.stores.retry import backoff_seconds, retry_while_throttled
from saltctl.stores.throttle_notes import throttled_call


class ThrottledCall:
    """A call that is throttled a number of times before it succeeds."""

    def __init__(self, times: int) -> None:
        self.calls = 0
        self._times = times

    def __call__(self) -> str:
        """Raise ThrottledError, or succeed."""
        self.calls += 1
        if self.calls <= self._times:
            raise ThrottledError("AWS throttles")
        return "done"


def no_pause(seconds: float) -> None:
    """Fail instead of waiting."""
    pytest.fail(f"a pause of {seconds} s")


@pytest.mark.parametrize(("attempt", "longest"), [(0, 0.1), (1, 0.2), (5, 3.2), (6, 4.0), (10_000, 4.0)])
def test_the_backoff_doubles_up_to_its_limit(attempt: int, longest: float) -> None:
    """Jitter shortens each pause by up to a half, and pauses differ."""
    pauses = {backoff_seconds(attempt) for _ in range(100)}
    assert len(pauses) > 1
    assert longest / 2 <= min(pauses) <= max(pauses) <= longest


def test_a_throttled_call_is_repeated() -> None:
    """After pauses that grow to about four seconds."""
    pauses: list[float] = []
    call = ThrottledCall(times=10)
    assert retry_while_throttled(call, pauses.append) == "done"
    assert call.calls == 11
    assert pauses[0] <= 0.1
    assert 2.0 <= pauses[-1] <= 4.0


def test_a_throttled_call_is_noted_until_it_ends() -> None:
    """With its message, and for how long."""
    seen: list[tuple[str, str]] = []
    retry_while_throttled(ThrottledCall(times=1), lambda _: seen.append((throttled_call(), throttled_call(3600))))
    assert seen == [("AWS throttles", "")]
    assert throttled_call() == ""


def test_endless_throttling_raises_the_error() -> None:
    """After one to two and a half minutes of pauses."""
    pauses: list[float] = []
    with pytest.raises(ThrottledError):
        retry_while_throttled(ThrottledCall(times=1000), pauses.append)
    assert 60 <= sum(pauses) <= 150


def test_a_caller_that_stops_gets_the_error_at_once() -> None:
    """No pause and no further call."""
    call = ThrottledCall(times=1)
    with pytest.raises(ThrottledError):
        retry_while_throttled(call, no_pause, stopped=lambda: True)
    assert call.calls == 1


def test_other_errors_are_not_retried() -> None:
    """Only throttling ends by itself."""

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        retry_while_throttled(fail, no_pause)
