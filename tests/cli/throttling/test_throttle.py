"""``saltctl throttle``: scans of tables that are good, bad and hostile, and alarms that are saltctl's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from saltctl.cli.throttling.view import columns, rows
from saltctl.local.environment import LocalEnvironment
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.aws.messages_table import MessagesTable
from tests.cli.conftest import Runner
from tests.support.stubs import AwsStub

TOPIC = "arn:aws:sns:us-east-1:123456789012:oncall"
HOSTILE = "conv\x1b[2J\u202e[bold]"


@pytest.fixture
def stub(seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStub]:
    """AWS as the commands see it."""
    with AwsStub(seeded.moto.url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.settings(seeded.settings).aws_endpoint_url or "")
        yield server


def table(name: str, *indexes: str) -> tuple[int, dict[str, Any]]:
    """DescribeTable's answer."""
    described = {"TableName": name, "GlobalSecondaryIndexes": [{"IndexName": index} for index in indexes]}
    return 200, {"Table": described}


class World:
    """A CloudWatch with one value a metric, in the third minute of whatever range is asked for.

    ``values``: by (metric, index). ``keys``: what Contributor Insights says; None where it is off.
    """

    def __init__(self, *indexes: str, keys: dict[str, float] | None = None, **values: float) -> None:
        self.indexes = indexes
        self.keys = keys
        self.values: dict[tuple[str, str | None], float] = {(name, None): value for name, value in values.items()}
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, operation: str, request: dict[str, Any]) -> Any:
        """Answer as a rule of the stub."""
        if operation == "DescribeTable":
            return table("messages", *self.indexes)
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
        self.asked.append(key)
        value = None if "Operation" in dimensions else self.values.get(key)
        points = {"Timestamps": [], "Values": []} if value is None else {"Timestamps": [at], "Values": [value]}
        return {"Id": query["Id"], "StatusCode": "Complete", **points}


def test_a_table_with_twenty_indexes(stub: AwsStub, saltctl: Runner) -> None:
    """Every metric of every index is asked for; one hot index among twenty is the verdict, and N is left alone."""
    world = World(*(f"index-{number}" for number in range(20)), ConsumedWriteCapacityUnits=100)
    world.values["WriteKeyRangeThroughputThrottleEvents", "index-13"] = 70.0
    stub.rule = world
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert (outcome.json["verdict"], outcome.json["total"]) == ("index", 70)
    assert outcome.json["indexes"] == {"index-13": 70}
    assert len({key for key in world.asked if key[1]}) == 20 * 10
    assert not any("registry set" in command for command in outcome.json["advice"])


def test_hot_keys_are_joined_with_the_registry(stub: AwsStub, saltctl: Runner) -> None:
    """Salted keys are one conversation with its max_n, most throttled first, and the advice doubles it."""
    keys = {"conv_hot_12#3": 40.0, "conv_hot_12#4": 50.0, "conv_0001": 30.0}
    stub.rule = World(keys=keys, WriteKeyRangeThroughputThrottleEvents=120)
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert [(k["conversation_id"], k["partition_key"], k["throttles"], k["max_n"]) for k in outcome.json["keys"]] == [
        ("conv_hot_12", "conv_hot_12#4", 90, 16),
        ("conv_0001", "conv_0001", 30, 1),
    ]
    assert outcome.json["verdict"] == "hot-partition-service-down"
    assert "saltctl registry set conv_hot_12 32 --dry-run" in outcome.json["advice"]


def test_hostile_names_reach_no_terminal(stub: AwsStub, saltctl: Runner) -> None:
    """Keys and indexes with escapes, markup and overrides are shown harmless, in every format."""
    world = World(HOSTILE, keys={HOSTILE: 9.0, "a#b#1": 8.0, "": 1.0}, WriteKeyRangeThroughputThrottleEvents=90)
    world.values["ReadThrottleEvents", HOSTILE] = 7.0
    stub.rule = world
    for form in ("table", "json", "jsonl", "tsv"):
        outcome = saltctl("throttle", "scan", "-o", form)
        assert outcome.code == 3, outcome.err
        assert "\x1b" not in outcome.out + outcome.err
        assert "\u202e" not in outcome.out + outcome.err
    assert [key["max_n"] for key in saltctl("throttle", "scan", "-o", "json").json["keys"]] == [1, None, None]


@pytest.mark.parametrize("name", ["no\x1b[2Jtable", "x", "../../x", "t" * 2000, "a b", "nope-123"])
def test_a_table_that_is_none(name: str, saltctl: Runner, seeded: LocalEnvironment) -> None:
    """78 with what to check, whatever the name is made of; nothing raw on the terminal."""
    outcome = saltctl("throttle", "scan", "--table", name)
    assert outcome.code == 78, outcome.err
    assert "try:" in outcome.err
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    "args",
    [
        ("--since", "2999-01-01T00:00:00Z"),
        ("--until", "2999-01-01T00:00:00Z"),
        ("--since", "1h", "--until", "2h"),
        ("--since", "yesterday"),
        ("--since", "30d", "--period", "1m"),
        ("--since", "999d"),
        ("--period", "90s"),
        ("--period", "500ms"),
        ("--threshold", "0"),
    ],
    ids=" ".join,
)
def test_ranges_that_cannot_be_answered(args: tuple[str, ...], saltctl: Runner, seeded: LocalEnvironment) -> None:
    """2, with what to type instead."""
    outcome = saltctl("throttle", "scan", *args, "-o", "json")
    assert outcome.code == 2, outcome.err
    assert outcome.error["hint"]


def test_thirty_days_of_data(stub: AwsStub, saltctl: Runner) -> None:
    """The period is what is kept for so long; the range is whole periods."""
    stub.rule = World(ConsumedReadCapacityUnits=5)
    outcome = saltctl("throttle", "scan", "--since", "30d", "-o", "json")
    assert outcome.code == 0, outcome.err
    assert (outcome.json["verdict"], outcome.json["period_s"]) == ("quiet", 3600)
    start, end = (datetime.fromisoformat(outcome.json[name]) for name in ("start", "end"))
    assert (end - start).total_seconds() % 3600 == 0


def test_a_period_that_does_not_divide_the_range(stub: AwsStub, saltctl: Runner) -> None:
    """Fifty minutes in periods of twenty: the range is widened to whole ones, and says so in start and end."""
    stub.rule = World(ConsumedReadCapacityUnits=5)
    document = saltctl("throttle", "scan", "--since", "50m", "--period", "20m", "-o", "json").json
    start, end = (datetime.fromisoformat(document[name]) for name in ("start", "end"))
    assert (start.timestamp() % 1200, end.timestamp() % 1200) == (0, 0)
    assert (end - start).total_seconds() in (3600, 4800)


def test_an_account_without_metrics(stub: AwsStub, saltctl: Runner) -> None:
    """no-data, exit 0, and it says that this is no sign of health."""
    stub.rule = World()
    outcome = saltctl("throttle", "scan", "-o", "table")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("no-data")
    assert "no sign of health" in " ".join(outcome.out.split())


def test_redis_down_during_the_scan(stub: AwsStub, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is about the partitions; the service is unknown, and max_n comes from the backup."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")
    stub.rule = World(keys={"conv_hot_12#1": 60.0}, WriteKeyRangeThroughputThrottleEvents=60)
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 3, outcome.err
    assert outcome.json["verdict"] == "hot-partition"
    assert outcome.json["service"] == {"verdict": None, "lag": None, "alive": None}
    assert outcome.json["keys"][0]["max_n"] == 16


def test_bars_show_whatever_is_there() -> None:
    """A single event beside a million is still a block; the bars' sum is that of the values."""
    top, middle, bottom = rows([1_000_000.0, 1.0, 0.0])
    assert (top[0], middle[0], bottom) == ("█", "█", ["█", "▁", " "])
    bars, each = columns([1.0] * 1441, 72)
    assert (len(bars) <= 72, sum(bars), each) == (True, 1441, 21)


@pytest.fixture
def free_table(seeded: LocalEnvironment) -> str:
    """A table whose alarms nobody else looks at."""
    settings = replace(seeded.settings, messages_table="alarmed")
    messages = MessagesTable(settings)
    if not messages.exists():
        messages.create()
    store = CloudWatchMetrics(settings)
    store.delete_alarms([alarm.name for alarm in store.alarms("saltctl/alarmed/")])
    return "alarmed"


def test_alarms_come_stay_and_go(free_table: str, saltctl: Runner) -> None:
    """A dry run changes nothing; creating twice is once; another topic is an update; removing removes them all."""

    def alarms(command: str, *args: str) -> list[str | None]:
        outcome = saltctl("throttle", "alarms", command, "--table", free_table, *args, "-o", "json")
        assert outcome.code == 0, outcome.err
        return sorted({record["action"] for record in outcome.json}, key=str)

    assert alarms("create", "--sns", TOPIC, "--dry-run") == ["create"]
    assert alarms("list") == []
    assert alarms("create", "--sns", TOPIC) == ["create"]
    assert alarms("create", "--sns", TOPIC) == ["unchanged"]
    assert alarms("create", "--sns", TOPIC, "--sns", TOPIC + "2") == ["update"]
    listed = saltctl("throttle", "alarms", "list", "--table", free_table, "-o", "json").json
    assert all(record["actions"] == [TOPIC, TOPIC + "2"] for record in listed)
    assert all(f"saltctl throttle scan --table {free_table}" in record["description"] for record in listed)
    assert alarms("remove", "--dry-run") == ["remove"]
    assert len(alarms("list")) == 1
    assert saltctl("throttle", "alarms", "remove", "--table", free_table).code == 6
    assert alarms("remove", "--yes") == ["remove"]
    assert alarms("list") == []


def test_an_alarm_of_somebody_else_is_left_alone(free_table: str, seeded: LocalEnvironment, saltctl: Runner) -> None:
    """One that has our name and not our tag is neither changed nor listed nor removed."""
    name = f"saltctl/{free_table}/ThrottledRequests-PutItem"
    cloudwatch = create_client(seeded.settings, "cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=name,
        MetricName="m",
        Namespace="n",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        Statistic="Sum",
        ComparisonOperator="GreaterThanThreshold",
    )
    (found,) = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
    # moto remembers the tags of an alarm of that name that was deleted; CloudWatch does not.
    cloudwatch.untag_resource(ResourceARN=found["AlarmArn"], TagKeys=["saltctl"])
    outcome = saltctl("throttle", "alarms", "create", "--table", free_table, "--sns", TOPIC, "-o", "json")
    assert outcome.code == 6
    assert name in outcome.error["message"]
    assert saltctl("throttle", "alarms", "list", "--table", free_table, "-o", "json").json == []
    assert saltctl("throttle", "alarms", "remove", "--table", free_table, "--yes").code == 0
    assert [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]] == [name]


@pytest.mark.parametrize("sns", [(), ("--sns", "oncall"), ("--sns", "arn:aws:sqs:us-east-1:123456789012:q")], ids=str)
def test_an_alarm_needs_a_topic(sns: tuple[str, ...], saltctl: Runner, seeded: LocalEnvironment) -> None:
    """2, before anything is asked."""
    assert saltctl("throttle", "alarms", "create", *sns, "-o", "json").code == 2


def test_a_protected_context_wants_its_name(
    free_table: str, saltctl: Runner, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 without --confirm, for creating and for removing."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nprotected = true\n")
    monkeypatch.setenv("SALTCTL_CONFIG", str(file))
    create = ("--context", "prod", "throttle", "alarms", "create", "--table", free_table, "--sns", TOPIC)
    remove = ("--context", "prod", "throttle", "alarms", "remove", "--table", free_table, "--yes")
    assert saltctl(*create).code == 6
    assert saltctl(*create, "--confirm", "prod").code == 0
    assert saltctl(*remove).code == 6
    assert saltctl(*remove, "--confirm", "prod").code == 0
