"""Tests of the analysis: events are counted once, by cause, and spikes are compared with their baseline."""

from __future__ import annotations

from saltctl.throttling.analysis import ThrottleAnalysis, analyse
from tests.throttling.series import OVER, events


def test_events_are_counted_once() -> None:
    """WriteThrottleEvents is the sum of its causes, and ThrottledRequests counts requests: they are not added."""
    found = analyse(
        [
            events("WriteThrottleEvents", 50),
            events("WriteKeyRangeThroughputThrottleEvents", 50),
            events("ThrottledRequests", 20, operation="PutItem"),
            events("WriteThrottleEvents", 7, index="i"),
            events("WriteProvisionedThroughputThrottleEvents", 7, index="i"),
        ],
        OVER,
        1.0,
    )
    assert found.total == 57
    assert sum(found.events_per_period()) == 57
    assert found.index_events == {"i": 7.0}


def test_a_spike_is_compared_with_the_baseline_of_its_series() -> None:
    """A steady level is not a spike, however high; the same level after quiet is. A missing point counts as 0."""

    def spikes(*values: float) -> list[float]:
        found: ThrottleAnalysis = analyse([events("WriteThrottleEvents", *values)], OVER, 1.0)
        return [spike.events for spike in found.spikes]

    steady = [500.0 + i % 7 for i in range(119)]
    assert spikes(*steady) == []
    assert spikes(*steady[:-1], 2000) == [2000]
    assert spikes(*[0.0] * 40, 12) == [12]
