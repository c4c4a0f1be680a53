"""The judge compares without Python's leniency, and ends a check that has found something and goes on for long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from saltctl.conformance.client import SHOWN
from saltctl.conformance.judge import (
    DEEPEST,
    MOST_CHARACTERS,
    MOST_FINDINGS,
    SECONDS_AFTER,
    EnoughError,
    Judge,
    answer_of,
    shown,
)
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
    assert judging.more == 1
    assert {len(finding.answered) for finding in judging.findings} == {MOST_CHARACTERS}
    assert {finding.cut for finding in judging.findings} == {("answered",)}
    assert len(shown(judging.findings[0].answered)) < SHOWN + 40
    assert shown("\ud800") == "\ud800"


def test_a_value_of_a_finding_is_json() -> None:
    """An object stays one; what JSON has no word for becomes text, and that is said."""
    judging = judge({})
    judging.found("2.1", {"op": "lookup"}, {"max_n": float("nan")}, {"max_n": 4})
    [finding] = judging.findings
    assert (finding.asked, finding.expected) == ({"op": "lookup"}, {"max_n": 4})
    assert (finding.answered, finding.cut) == ("{'max_n': nan}", ("answered",))
    deep: Any = []
    for _ in range(DEEPEST):
        deep = [deep]
    judging.found("2.1", "a", deep, deep[0])
    assert judging.findings[1].cut == ("answered",)


@pytest.mark.parametrize(("change", "rule"), [({"read_set": ["c#0"]}, "8.1"), ({"read_set": [], "max_n": 3}, "1.2")])
def test_a_wrong_read_set_alone_is_a_matter_of_reads(change: dict[str, Any], rule: str) -> None:
    """Whatever rule the lookup was to try."""
    judging = judge(answer_of("c", 2) | change)
    judging.lookup("1.2", "c", answer_of("c", 2))
    assert [finding.rule for finding in judging.findings] == [rule]


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
