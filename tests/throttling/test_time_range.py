"""Tests of time ranges: whole periods, default periods, and ranges without data."""

from __future__ import annotations

import pytest

from saltctl.errors import UsageError
from saltctl.throttling.analysis import time_range
from tests.throttling.series import NOW


def test_a_range_is_widened_to_whole_periods() -> None:
    """If the period does not divide the range, the first and the last period are whole."""
    over = time_range(NOW - 1000, NOW, 300, NOW)
    assert (over.start % 300, over.end % 300) == (0, 0)
    assert over.start <= NOW - 1000
    assert over.end >= NOW
    assert over.end - over.start <= 1000 + 2 * 300


@pytest.mark.parametrize(("days", "period"), [(0.04, 60), (1, 60), (14, 900), (30, 3600), (400, 86_400)])
def test_the_default_period_is_the_finest_available(days: float, period: int) -> None:
    """A series has at most 1,440 points, and the period is never finer than CloudWatch keeps at that age."""
    over = time_range(NOW - days * 86_400, NOW, None, NOW)
    assert over.period_s == period
    assert (over.end - over.start) / over.period_s <= 1441


@pytest.mark.parametrize(
    ("since", "until", "period", "word"),
    [
        (NOW + 60, NOW + 3600, None, "future"),
        (NOW - 60, NOW + 3600, None, "future"),
        (NOW, NOW, None, "is empty"),
        (NOW - 60, NOW - 3600, None, "before it begins"),
        (NOW - 3600, NOW, 90, "multiple of a minute"),
        (NOW - 30 * 86_400, NOW, 60, "300 s"),
        (NOW - 500 * 86_400, NOW, None, "455 days"),
    ],
)
def test_an_unusable_range_is_refused(since: float, until: float, period: int | None, word: str) -> None:
    """The error says why, and its hint is a command or a value to type."""
    with pytest.raises(UsageError, match=word) as caught:
        time_range(since, until, period, NOW)
    assert caught.value.hint
