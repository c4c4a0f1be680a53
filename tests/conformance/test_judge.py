"""The judge compares without Python's leniency, and ends a check that has found something and goes on for long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from saltctl.conformance.client import SHOWN
from saltctl.conformance.judge import MOST_FINDINGS, SECONDS_AFTER, EnoughError, Judge, answer_of, shown
from saltctl.conformance.python_client import Answer
from saltctl.conformance.stage import Stage
from tests.conformance.variants import Direct


class Says(Direct):
    """A client that always gives the same answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Return the answer."""
        return self.answer


def judge(answer: Answer) -> Judge:
    """A judge of that client, which needs no servers."""
    return Judge(cast(Stage, None), Says(answer))


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        ({}, True),
        ({"source": "redis"}, True),
        ({"max_n": True}, False),
        ({"max_n": "1"}, False),
        ({"max_n": 1.0}, False),
        ({"write_n": None}, False),
        ({"boundary": ""}, False),
        ({"read_set": []}, False),
        ({"read_set": ["c", "c"]}, False),
        ({"read_set": "c"}, False),
    ],
)
def test_an_answer_must_be_exact(change: dict[str, Any], fine: bool) -> None:
    """More keys are allowed; a value of another type is another value, and a missing one is not null."""
    judging = judge(answer_of("c", 1) | change)
    judging.lookup("2.3", "c", answer_of("c", 1))
    assert (judging.findings == []) is fine


def test_a_missing_key_is_a_finding() -> None:
    """A boundary that is not there is not one that is null."""
    judging = judge({name: value for name, value in answer_of("c", 1).items() if name != "boundary"})
    judging.lookup("2.3", "c", answer_of("c", 1))
    assert [finding.rule for finding in judging.findings] == ["2.3"]


def test_an_error_must_say_something() -> None:
    """An empty or a null error is none."""
    for error in ("", None, False):
        judging = judge({"error": error})
        judging.refused("1.1", "lookup", conversation_id="a#1", since=None)
        assert [finding.rule for finding in judging.findings] == ["1.1"]


def test_findings_are_few_and_short() -> None:
    """Two of each rule are kept, and each is cut."""
    judging = judge({"error": "x" * 10_000})
    for rule in ("2.1", "2.1", "2.1", "8.1"):
        judging.lookup(rule, "c", answer_of("c", 1))
    assert [finding.rule for finding in judging.findings] == ["2.1"] * MOST_FINDINGS + ["8.1"]
    assert max(len(finding.answered) for finding in judging.findings) < SHOWN + 40
    assert shown("\ud800") == "\ud800"


def test_a_check_with_findings_ends() -> None:
    """A slow client that is right is asked everything; one that is wrong, for some seconds more."""
    judging, now = judge({}), [0.0]
    judging.clock = lambda: now[0]
    now[0] = 10 * SECONDS_AFTER
    judging.ask("lookup")
    judging.found("2.1", "a", "b", "c")
    now[0] += SECONDS_AFTER / 2
    judging.ask("lookup")
    now[0] += SECONDS_AFTER
    with pytest.raises(EnoughError):
        judging.ask("lookup")
