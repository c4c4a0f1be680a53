"""``saltctl throttle alarms``: creating, updating, listing and removing the alarms that saltctl owns."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from saltctl.local.environment import LocalEnvironment
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from tests.cli.conftest import Runner

TOPIC = "arn:aws:sns:us-east-1:123456789012:oncall"


@pytest.fixture
def free_table(seeded: LocalEnvironment) -> str:
    """Create a table of the test's own, without alarms."""
    name = f"alarmed-{uuid.uuid4().hex[:8]}"
    MessagesTable(replace(seeded.settings, messages_table=name)).create()
    return name


@pytest.mark.slow
def test_create_list_and_remove(free_table: str, saltctl: Runner) -> None:
    """A dry run changes nothing, create is idempotent, a new topic is an update, and remove removes all."""

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


@pytest.mark.slow
def test_an_alarm_without_the_tag_is_not_touched(free_table: str, seeded: LocalEnvironment, saltctl: Runner) -> None:
    """An alarm with saltctl's name but without its tag is not changed, listed or removed."""
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
    outcome = saltctl("throttle", "alarms", "create", "--table", free_table, "--sns", TOPIC, "-o", "json")
    assert outcome.code == 6
    assert name in outcome.error["message"]
    assert saltctl("throttle", "alarms", "list", "--table", free_table, "-o", "json").json == []
    assert saltctl("throttle", "alarms", "remove", "--table", free_table, "--yes").code == 0
    assert [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]] == [name]


@pytest.mark.parametrize("sns", [(), ("--sns", "oncall"), ("--sns", "arn:aws:sqs:us-east-1:123456789012:q")], ids=str)
def test_an_alarm_needs_an_sns_topic(sns: tuple[str, ...], saltctl: Runner, seeded: LocalEnvironment) -> None:
    """Exit 2 before any request, if the ARN of an SNS topic is missing or wrong."""
    assert saltctl("throttle", "alarms", "create", *sns, "-o", "json").code == 2


def test_a_protected_context_needs_confirm(
    free_table: str, saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 6 without --confirm, for create and remove."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nprotected = true\n")
    monkeypatch.setenv("SALTCTL_CONFIG", str(file))
    create = ("--context", "prod", "throttle", "alarms", "create", "--table", free_table, "--sns", TOPIC)
    remove = ("--context", "prod", "throttle", "alarms", "remove", "--table", free_table, "--yes")
    assert saltctl(*create).code == 6
    assert saltctl(*create, "--confirm", "prod").code == 0
    assert saltctl(*remove).code == 6
    assert saltctl(*remove, "--confirm", "prod").code == 0
