"""Verdicts on throttling, from what AWS publishes about its metrics: which cause is which, and what helps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saltctl.errors import UsageError
from saltctl.stores.contracts import Contributors, MetricKey, MetricSeries
from saltctl.throttling.analysis import (
    Diagnosis,
    HotKey,
    ServiceStatus,
    ThrottleAnalysis,
    TimeRange,
    analyse,
    diagnose,
    group_by_conversation,
    time_range,
)

NOW = 1_800_000_000
OVER = TimeRange(NOW - 3600, NOW, 60)
ALIVE = ServiceStatus("ok", 0, 2)
STOPPED = ServiceStatus("stopped", 500, 0)
UNKNOWN = ServiceStatus(None, None, None, "Redis at cache:6379 cannot be reached")
TRAFFIC = MetricSeries(MetricKey("ConsumedWriteCapacityUnits", "t"), ((NOW - 600, 5000.0),))


def events(metric: str, *values: float, index: str | None = None, operation: str | None = None) -> MetricSeries:
    """A series of the last minutes."""
    first = NOW - 60 * len(values)
    points = tuple((first + 60 * i, float(value)) for i, value in enumerate(values) if value)
    return MetricSeries(MetricKey(metric, "t", index, operation), points)


def verdict(
    *series: MetricSeries, service: ServiceStatus = ALIVE, keys: Sequence[HotKey] = (), threshold: float = 1.0
) -> Diagnosis:
    """The diagnosis of a used table with these series."""
    return diagnose(analyse([TRAFFIC, *series], OVER, threshold), service, keys, "t")


@pytest.mark.parametrize("way", ["Read", "Write"])
@pytest.mark.parametrize(
    ("stem", "cause", "expected"),
    [
        ("KeyRangeThroughput", "key_range", "hot-partition"),
        ("ProvisionedThroughput", "provisioned", "capacity"),
        ("AccountLimit", "account", "capacity"),
        ("MaxOnDemandThroughput", "on_demand_max", "capacity"),
    ],
)
def test_each_published_cause_has_its_verdict(way: str, stem: str, cause: str, expected: str) -> None:
    """Only a key range is a hot partition; the other causes are of capacity, which salting does not give."""
    found = analyse([TRAFFIC, events(f"{way}{stem}ThrottleEvents", 30, 40)], OVER, 1.0)
    assert {name: value for name, value in found.causes.items() if value} == {cause: 70.0}
    diagnosis = diagnose(found, ALIVE, (), "t")
    assert diagnosis.verdict == expected
    if expected == "capacity":
        assert any("raising N does not help" in reason for reason in diagnosis.reasons)
        assert not any("registry set" in command for command in diagnosis.advice)


@pytest.mark.parametrize("stem", ["KeyRangeThroughput", "ProvisionedThroughput"])
def test_a_hot_index_is_no_reason_to_raise(stem: str) -> None:
    """Whatever throttles an index, it is the index: N of the table's conversations does not matter to it."""
    diagnosis = verdict(events(f"Write{stem}ThrottleEvents", 90, index="by_user"), service=STOPPED)
    assert diagnosis.verdict == "index"
    assert any("'by_user'" in reason for reason in diagnosis.reasons)
    assert any("do not raise N" in reason for reason in diagnosis.reasons)
    assert not any("registry set" in command for command in diagnosis.advice)


def test_throttled_and_unsalted_and_a_silent_service_means_that_the_service_is_down() -> None:
    """The reasons name the conversation and the service, and the first command looks at what it left undone."""
    keys = [HotKey("conv_1", "conv_1", 80.0, 1, 1)]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=STOPPED, keys=keys)
    assert diagnosis.verdict == "hot-partition-service-down"
    assert any("unsalted" in reason and "conv_1" in reason for reason in diagnosis.reasons)
    assert diagnosis.advice[0] == "saltctl stream replay --dry-run"
    assert "saltctl registry set conv_1 2 --dry-run" in diagnosis.advice


def test_throttled_with_eight_salts_means_that_n_is_too_low() -> None:
    """The next command doubles N."""
    keys = [HotKey("conv_1", "conv_1#3", 80.0, 4, 8)]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), keys=keys)
    assert diagnosis.verdict == "hot-partition"
    assert any("max_n 8: N is too low" in reason for reason in diagnosis.reasons)
    assert "saltctl registry set conv_1 16 --dry-run" in diagnosis.advice


def test_a_service_that_cannot_be_seen_is_not_called_down() -> None:
    """With Redis down the verdict is about the partition alone, and says why it knows no more."""
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=UNKNOWN)
    assert diagnosis.verdict == "hot-partition"
    assert any("unknown: Redis at cache:6379" in reason for reason in diagnosis.reasons)


def test_a_stalled_service_is_as_good_as_down() -> None:
    """Instances that sign in and do nothing raise nothing."""
    stalled = ServiceStatus("stalled", 500, 2)
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=stalled)
    assert diagnosis.verdict == "hot-partition-service-down"


def test_the_larger_cause_gives_the_verdict_and_the_others_their_reasons() -> None:
    """Both causes at once: the verdict is that of most events, and nothing is kept silent."""
    series = (
        events("WriteProvisionedThroughputThrottleEvents", 500),
        events("WriteKeyRangeThroughputThrottleEvents", 40),
        events("WriteKeyRangeThroughputThrottleEvents", 60, index="by_user"),
    )
    diagnosis = verdict(*series)
    assert diagnosis.verdict == "capacity"
    text = " ".join(diagnosis.reasons)
    assert "provisioned" in text
    assert "by_user" in text
    assert "single partition keys" in text


def test_no_metrics_at_all_is_its_own_verdict() -> None:
    """Neither traffic nor throttling: nothing is known, and that is not called quiet."""
    diagnosis = diagnose(analyse([], OVER, 1.0), ALIVE, (), "t")
    assert diagnosis.verdict == "no-data"
    assert diagnosis.advice


def test_traffic_without_throttle_metrics_is_quiet() -> None:
    """DynamoDB sends throttle metrics only while it throttles; consumed capacity proves that there is data."""
    assert verdict().verdict == "quiet"


def test_the_same_events_are_not_counted_twice() -> None:
    """WriteThrottleEvents is the sum of its causes; ThrottledRequests counts requests. None is added to another."""
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


def test_a_cause_that_is_not_published_is_said_to_be_unknown() -> None:
    """Throttle events without a cause: no guess, but for single keys that stand out."""
    diagnosis = verdict(events("WriteThrottleEvents", 50))
    assert diagnosis.verdict == "capacity"
    assert any("not published" in reason for reason in diagnosis.reasons)
    assert verdict(events("WriteThrottleEvents", 50), keys=[HotKey("c", "c", 50, 1, 1)]).verdict == "hot-partition"


def test_below_the_threshold_is_quiet_with_its_count() -> None:
    """Some events in no period as many as asked for: quiet, and the reason has them."""
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 3, 4), threshold=10)
    assert diagnosis.verdict == "quiet"
    assert "7 events" in diagnosis.reasons[0]


def test_a_spike_is_measured_against_the_past_of_its_own_series() -> None:
    """What was always so is no spike, however high; the same height after quiet is one; missing counts as none."""

    def spikes(*values: float) -> list[float]:
        found: ThrottleAnalysis = analyse([events("WriteThrottleEvents", *values)], OVER, 1.0)
        return [spike.events for spike in found.spikes]

    steady = [500.0 + i % 7 for i in range(119)]
    assert spikes(*steady) == []
    assert spikes(*steady[:-1], 2000) == [2000]
    assert spikes(*[0.0] * 40, 12) == [12]


def test_salted_keys_are_rolled_up_to_their_conversation() -> None:
    """Salts and base partition are one conversation; a '#' before anything but a number is part of the name."""
    insights = Contributors("enabled", (("a#1", 10.0), ("b", 15.0), ("a", 2.0), ("a#0", 8.0), ("odd#x", 1.0)))
    assert group_by_conversation(insights) == [("a", "a#1", 20.0, 3), ("b", "b", 15.0, 1), ("odd#x", "odd#x", 1.0, 1)]


def test_a_key_that_no_shell_may_see_is_quoted() -> None:
    """The command to paste has a hostile id as one harmless word."""
    keys = [HotKey("x; rm -rf ~", "x; rm -rf ~", 80.0, 1, 1)]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), keys=keys)
    assert "saltctl registry set 'x; rm -rf ~' 2 --dry-run" in diagnosis.advice


def test_a_range_is_widened_to_whole_periods() -> None:
    """A period that does not divide the range: the first and the last one are whole."""
    over = time_range(NOW - 1000, NOW, 300, NOW)
    assert (over.start % 300, over.end % 300) == (0, 0)
    assert over.start <= NOW - 1000
    assert over.end >= NOW
    assert over.end - over.start <= 1000 + 2 * 300


@pytest.mark.parametrize(("days", "period"), [(0.04, 60), (1, 60), (14, 900), (30, 3600), (400, 86_400)])
def test_the_default_period_is_the_finest_that_is_kept_and_legible(days: float, period: int) -> None:
    """At most 1,440 points of a series, and never finer than CloudWatch keeps for so long."""
    over = time_range(NOW - days * 86_400, NOW, None, NOW)
    assert over.period_s == period
    assert (over.end - over.start) / over.period_s <= 1441


@pytest.mark.parametrize(
    ("since", "until", "period", "word"),
    [
        (NOW + 60, NOW + 3600, None, "future"),
        (NOW - 60, NOW + 3600, None, "future"),
        (NOW - 60, NOW - 3600, None, "before it begins"),
        (NOW - 3600, NOW, 90, "multiple of a minute"),
        (NOW - 30 * 86_400, NOW, 60, "300 s"),
        (NOW - 500 * 86_400, NOW, None, "455 days"),
    ],
)
def test_a_range_that_cannot_be_answered_is_refused(since: float, until: float, period: int | None, word: str) -> None:
    """The error says why, and its hint is a command or a value to type."""
    with pytest.raises(UsageError, match=word) as caught:
        time_range(since, until, period, NOW)
    assert caught.value.hint
