"""``saltctl throttle scan`` on healthy, throttled, missing and hostile tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from saltctl.local.environment import LocalEnvironment
from tests.cli.conftest import Runner
from tests.support.aws_stub import AwsStub

TOPIC = "arn:aws:sns:us-east-1:123456789012:oncall"
HOSTILE = "conv\x1b[2J\u202e[bold]"


@pytest.fixture
def stub(seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStub]:
    """Put a stub in front of AWS."""
    with AwsStub(seeded.moto.url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.settings(seeded.settings).aws_endpoint_url or "")
        yield server


def table(name: str, *indexes: str) -> tuple[int, dict[str, Any]]:
    """Build an answer of DescribeTable."""
    described = {"TableName": name, "GlobalSecondaryIndexes": [{"IndexName": index} for index in indexes]}
    return 200, {"Table": described}


class FakeCloudWatch:
    """A CloudWatch with one value for each metric, three minutes before the end of the requested range.

    ``values``: by (metric, index). ``keys``: the answer of Contributor Insights; None if it is off.
    """

    def __init__(self, *indexes: str, keys: dict[str, float] | None = None, **values: float) -> None:
        self.indexes = indexes
        self.keys = keys
        self.values: dict[tuple[str, str | None], float] = {(name, None): value for name, value in values.items()}
        self.requested: list[tuple[str, str | None]] = []

    def __call__(self, operation: str, request: dict[str, Any]) -> Any:
        """Answer as a rule of the stub."""
        if operation == "DescribeTable":  # that of the backup table passes through
            return None if request["TableName"].endswith("-backup") else table(request["TableName"], *self.indexes)
        if operation == "DescribeContributorInsights":
            rules = ["DynamoDBContributorInsights-PKT-messages-1"]
            status = "DISABLED" if self.keys is None else "ENABLED"
            return 200, {"ContributorInsightsStatus": status, "ContributorInsightsRuleList": rules}
        if operation == "GetInsightRuleReport":
            found = (self.keys or {}).items()
            return 200, {
                "Contributors": [{"Keys": [k], "ApproximateAggregateValue": v, "Datapoints": []} for k, v in found]
            }
        if operation == "GetMetricData":
            at = request["EndTime"] - 3 * 60
            return 200, {"MetricDataResults": [self._series(q, at) for q in request["MetricDataQueries"]]}
        return None

    def _series(self, query: dict[str, Any], at: float) -> dict[str, Any]:
        metric = query["MetricStat"]["Metric"]
        dimensions = {d["Name"]: d["Value"] for d in metric["Dimensions"]}
        key = (metric["MetricName"], dimensions.get("GlobalSecondaryIndexName"))
        self.requested.append(key)
        value = None if "Operation" in dimensions else self.values.get(key)
        points = {"Timestamps": [], "Values": []} if value is None else {"Timestamps": [at], "Values": [value]}
        return {"Id": query["Id"], "StatusCode": "Complete", **points}


@pytest.mark.slow
def test_a_table_with_twenty_indexes(stub: AwsStub, saltctl: Runner) -> None:
    """Every metric of every index is requested. One hot index of twenty gives the verdict, and no command raises N."""
    cloudwatch = FakeCloudWatch(*(f"index-{number}" for number in range(20)), ConsumedWriteCapacityUnits=100)
    cloudwatch.values["WriteKeyRangeThroughputThrottleEvents", "index-13"] = 70.0
    stub.rule = cloudwatch
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert (outcome.json["verdict"], outcome.json["total"]) == ("index", 70)
    assert outcome.json["indexes"] == {"index-13": 70}
    assert len({key for key in cloudwatch.requested if key[1]}) == 20 * 10
    assert not any("registry set" in command for command in outcome.json["advice"])


@pytest.mark.slow
def test_hot_keys_are_joined_with_the_registry(stub: AwsStub, saltctl: Runner) -> None:
    """Salted keys are one conversation with its max_n, most throttled first; the command doubles max_n, there."""
    keys = {"conv_hot_12#3": 40.0, "conv_hot_12#4": 50.0, "conv_0001": 30.0}
    stub.rule = FakeCloudWatch(keys=keys, WriteKeyRangeThroughputThrottleEvents=120)
    outcome = saltctl("--key-prefix", "salt", "throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert [(k["conversation_id"], k["partition_key"], k["throttles"], k["max_n"]) for k in outcome.json["keys"]] == [
        ("conv_hot_12", "conv_hot_12#4", 90, 16),
        ("conv_0001", "conv_0001", 30, 1),
    ]
    assert outcome.json["verdict"] == "hot-partition-service-down"
    assert "saltctl --key-prefix salt registry set conv_hot_12 32 --dry-run" in outcome.json["advice"]


@pytest.mark.slow
def test_hostile_names_are_escaped(stub: AwsStub, saltctl: Runner) -> None:
    """Keys and indexes with escapes, markup and overrides are printed escaped."""
    cloudwatch = FakeCloudWatch(
        HOSTILE, keys={HOSTILE: 9.0, "a#b#1": 8.0, "": 1.0}, WriteKeyRangeThroughputThrottleEvents=90
    )
    cloudwatch.values["ReadThrottleEvents", HOSTILE] = 7.0
    stub.rule = cloudwatch
    for form in ("table", "json", "jsonl", "tsv", "csv"):
        outcome = saltctl("throttle", "scan", "-o", form)
        assert outcome.code == 3, outcome.err
        assert "\x1b" not in outcome.out + outcome.err
        # An override is data of TSV in a pipe.
        assert "\u202e" not in outcome.err + (outcome.out if form not in ("tsv", "csv") else "")
    assert [key["max_n"] for key in saltctl("throttle", "scan", "-o", "json").json["keys"]] == [1, None, None]


@pytest.mark.slow
def test_contributor_insights_that_failed(stub: AwsStub, saltctl: Runner) -> None:
    """They are not called off: the reason that DynamoDB gives is printed, escaped."""
    fake = FakeCloudWatch(WriteKeyRangeThroughputThrottleEvents=90)
    failure = {"ExceptionName": "LimitExceededException", "ExceptionDescription": "too many\x1b[2J rules"}
    answer = 200, {"ContributorInsightsStatus": "FAILED", "FailureException": failure}
    stub.rule = lambda operation, request: (
        answer if operation == "DescribeContributorInsights" else fake(operation, request)
    )
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert outcome.json["insights"] == "failed"
    assert "Contributor Insights failed, so the hot keys are unknown: LimitExceededException: too many" in outcome.err
    assert "\x1b" not in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"), [("no\x1b[2Jtable", 2), ("t" * 2000, 2), ("a b", 2), ("x", 78), ("../../x", 78), ("nope-123", 78)]
)
def test_a_missing_table(name: str, code: int, saltctl: Runner, seeded: LocalEnvironment) -> None:
    """Exit 78 with a hint, and 2 for what no table is called; no raw control character reaches the terminal."""
    outcome = saltctl("throttle", "scan", "--table", name)
    assert outcome.code == code, outcome.err
    assert "try:" in outcome.err
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    "args",
    [
        ("--since", "2999-01-01T00:00:00Z"),
        ("--until", "2999-01-01T00:00:00Z"),
        ("--since", "1h", "--until", "2h"),
        ("--since", "tomorrow"),
        ("--since", "20261126"),
        ("--since", "9999999d"),
        ("--until", "12hr"),
        ("--since", "30d", "--period", "1m"),
        ("--since", "999d"),
        ("--period", "90s"),
        ("--period", "500ms"),
        ("--threshold", "0"),
    ],
    ids=" ".join,
)
def test_unusable_ranges(args: tuple[str, ...], saltctl: Runner, seeded: LocalEnvironment) -> None:
    """Exit 2, and the hint says what to type."""
    outcome = saltctl("throttle", "scan", *args, "-o", "json")
    assert outcome.code == 2, outcome.err
    assert outcome.error["hint"]


@pytest.mark.slow
def test_thirty_days_of_data(stub: AwsStub, saltctl: Runner) -> None:
    """The period is the finest that CloudWatch keeps for 30 days; the range is whole periods."""
    stub.rule = FakeCloudWatch(ConsumedReadCapacityUnits=5)
    outcome = saltctl("throttle", "scan", "--since", "30d", "-o", "json")
    assert outcome.code == 0, outcome.err
    assert (outcome.json["verdict"], outcome.json["period_s"]) == ("quiet", 3600)
    start, end = (datetime.fromisoformat(outcome.json[name]) for name in ("start", "end"))
    assert (end - start).total_seconds() % 3600 == 0


@pytest.mark.slow
def test_a_period_that_does_not_divide_the_range(stub: AwsStub, saltctl: Runner) -> None:
    """A range of 50 minutes in periods of 20 is widened to whole periods; start and end show it."""
    stub.rule = FakeCloudWatch(ConsumedReadCapacityUnits=5)
    document = saltctl("throttle", "scan", "--since", "50m", "--period", "20m", "-o", "json").json
    start, end = (datetime.fromisoformat(document[name]) for name in ("start", "end"))
    assert (start.timestamp() % 1200, end.timestamp() % 1200) == (0, 0)
    assert (end - start).total_seconds() in (3600, 4800)


@pytest.mark.slow
def test_an_account_without_metrics(stub: AwsStub, saltctl: Runner) -> None:
    """The verdict is no-data with exit 0, and the reason says that this does not mean healthy."""
    stub.rule = FakeCloudWatch()
    outcome = saltctl("throttle", "scan", "-o", "table")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("no-data")
    assert "no data does not mean healthy" in " ".join(outcome.out.split())


@pytest.mark.slow
def test_redis_is_down_during_the_scan(stub: AwsStub, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is hot-partition, the service is unknown, and max_n comes from the backup."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")
    stub.rule = FakeCloudWatch(keys={"conv_hot_12#1": 60.0}, WriteKeyRangeThroughputThrottleEvents=60)
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert outcome.json["verdict"] == "hot-partition"
    assert outcome.json["service"] == {"verdict": None, "lag": None, "alive": None}
    assert outcome.json["keys"][0]["max_n"] == 16


def test_foreign_json_is_not_a_table_without_throttling(stub: AwsStub, saltctl: Runner) -> None:
    """Another server's 200 ends a scan with 69."""
    stub.rule = lambda operation, request: (200, {"status": "ok"})
    result = saltctl("throttle", "scan")
    assert result.code == 69
    assert "does not come from AWS" in result.err
