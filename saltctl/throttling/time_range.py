"""The time range of a throttle scan, in whole CloudWatch periods."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.errors import UsageError

DAY = 86_400
RETENTION = ((15 * DAY, 60), (63 * DAY, 300), (455 * DAY, 3600))
"""(age of the data, its finest period), in seconds, as CloudWatch documents its retention."""
PERIODS = (60, 300, 900, 3600, 21_600, DAY)
"""Default periods to choose from, in seconds."""
MAX_POINTS = 1440
"""Most points of a series in the default period: one day, minute by minute."""
MIN_BASELINE = 3600
"""Shortest baseline before a range, in seconds."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of whole periods. Times are seconds since the epoch; ``end`` is excluded."""

    start: int
    end: int
    period_s: int

    @property
    def baseline_start(self) -> int:
        """Start of the data that spikes are compared with: the range's length before it, an hour to a day."""
        baseline = min(max(self.end - self.start, MIN_BASELINE), DAY)
        return self.start - -(-baseline // self.period_s) * self.period_s


def time_range(since: float, until: float, period_s: int | None, now: float) -> TimeRange:
    """Widen a range to whole periods. Times are in seconds since the epoch.

    A ``period_s`` of None chooses the finest period that CloudWatch keeps, at most 1,440 points in the range.

    Raises:
        UsageError: the range is in the future, empty or too old, or CloudWatch has no data of this period.
    """
    if since >= now:
        raise UsageError("the range is in the future: no data yet", hint="saltctl throttle scan --since 1h")
    if until > now + 60:
        raise UsageError("the end of the range is in the future", hint="omit --until: the default is now")
    if until <= since:
        raise UsageError("the range ends before it begins", hint="saltctl throttle scan --since 2h --until 1h")
    period_s = _period(since, until, period_s, now)
    start = int(since // period_s) * period_s
    return TimeRange(start, start + -int((start - until) // period_s) * period_s, period_s)


def _period(since: float, until: float, period_s: int | None, now: float) -> int:
    finest = next((period for age, period in RETENTION if now - since <= age), None)
    if finest is None:
        raise UsageError("CloudWatch keeps metrics for 455 days", hint="saltctl throttle scan --since 455d --period 1d")
    if period_s is None:
        least = max((until - since) / MAX_POINTS, finest)
        return next((period for period in PERIODS if period >= least), DAY)
    if period_s < 60 or period_s % 60:
        raise UsageError(f"the period must be a multiple of a minute, not {period_s} s", hint="write 1m, 5m, 15m or 1h")
    if period_s % finest:
        kept = f"CloudWatch keeps data of this age in periods of {finest} s, not of {period_s} s"
        raise UsageError(kept, hint=f"saltctl throttle scan --period {finest}s")
    return period_s
