"""Tests of planned changes of alarms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saltctl.errors import RefusedError, UsageError
from saltctl.throttling.alarms import AlarmOptions, alarm_specs, apply_changes, name_prefix, owned_alarms, plan_changes
from tests.throttling.fake_store import FakeMetricsStore

TOPIC = "arn:aws:sns:us-east-1:123456789012:oncall"
OPTIONS = AlarmOptions("t", (TOPIC, TOPIC + "2"))


def test_changes_are_planned_from_the_existing_alarms() -> None:
    """Missing alarms are created, equal ones are unchanged in any order of topics, and others are updated."""
    store = FakeMetricsStore()
    changes = plan_changes(store, OPTIONS)
    assert {action for action, _ in changes} == {"create"}
    apply_changes(store, changes)
    assert len(owned_alarms(store, "t")) == len(changes)
    assert {action for action, _ in plan_changes(store, AlarmOptions("t", OPTIONS.sns[::-1]))} == {"unchanged"}
    assert {action for action, _ in plan_changes(store, replace(OPTIONS, threshold=5.0))} == {"update"}


def test_an_alarm_of_another_owner_is_refused() -> None:
    """An alarm with the same name and without the tag stops the plan."""
    store = FakeMetricsStore()
    apply_changes(store, plan_changes(store, OPTIONS))
    name = alarm_specs(OPTIONS)[0].name
    store.existing[name] = replace(store.existing[name], owned=False)
    with pytest.raises(RefusedError, match="without the tag"):
        plan_changes(store, OPTIONS)


@pytest.mark.parametrize("sns", [(), ("oncall",), (TOPIC, "arn:aws:sqs:us-east-1:123456789012:q")])
def test_every_action_is_an_sns_topic(sns: tuple[str, ...]) -> None:
    """A missing or wrong ARN is a usage error."""
    with pytest.raises(UsageError):
        alarm_specs(AlarmOptions("t", sns))


def test_names_of_alarms_are_short_enough() -> None:
    """CloudWatch allows 255 characters; the names of two long tables stay different."""
    names = [
        spec.name
        for table in ("t" * 254 + "1", "t" * 254 + "2")
        for spec in alarm_specs(AlarmOptions(table, OPTIONS.sns))
    ]
    assert max(map(len, names)) <= 255
    assert len(set(names)) == len(names)
    assert name_prefix("t") == "saltctl/t/"
